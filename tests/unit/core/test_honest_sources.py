"""State transfer (protocol.md section 9): what an honest source may do under load is not held
against it."""

from collections import Counter

import pytest

from pbft.core import state_source, state_transfer
from pbft.core.state import Transfer
from pbft.errors import Reason
from pbft.limits import CHUNK_COST_BYTES
from pbft.messages import StableCertificate
from pbft.storage import transfer
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_transfer import FAR, Target, answer_to


def test_sources_that_stalled_are_asked_again_though_another_is_dead() -> None:
    """Under load honest sources are slow; the one that never answers must not be missed."""
    target = Target()
    for peer in (0, 1):
        target.serve(peer, most=1)
    target.solo.cluster.advance(SECOND * 3 // 2)
    assert target.transfer.slow == {0, 1}
    target.solo.cluster.advance(SECOND)
    assert target.requests(0)[-1].sequence == 0
    target.tell_leaves(0)
    for _ in range(2):
        target.node.receive(0, answer_to(target, target.requests(0)[-1]))
    target.expect_state()
    assert not target.solo.rejected(Reason.BAD_SNAPSHOT)


def test_a_late_chunk_of_an_earlier_round_is_not_held_against_its_source() -> None:
    """The source stalled, its share went to another and it got another one, of the same
    checkpoint; then the answer to the first request arrives."""
    target = Target()
    target.serve(1, most=1)
    late = target.requests(1)[-1]
    assert late.sequence
    target.solo.cluster.advance(2 * SECOND)
    for peer in (2, 0, 1):
        target.tell_leaves(peer)
    assert set(target.transfer.fetching) == {0, 1, 2}
    assert target.requests(1)[-1].buckets != late.buckets
    target.node.receive(1, answer_to(target, late))
    assert target.solo.rejected(Reason.UNWANTED) == 1
    assert not target.transfer.demoted
    for peer in (0, 1, 2):
        target.node.receive(peer, answer_to(target, target.requests(peer)[-1]))
    target.expect_state()
    assert not target.solo.rejected(Reason.BAD_SNAPSHOT)


def test_a_chunk_for_who_ran_here_before_is_not_held_against_its_source() -> None:
    target = Target()
    target.tell_leaves(1)
    late = target.requests(1)[-1]
    target.restart()
    target.solo.cluster.advance(SECOND)
    target.tell_leaves(0)
    target.tell_leaves(1)
    target.node.receive(0, answer_to(target, late))
    target.node.receive(1, answer_to(target, late))
    assert not target.solo.rejected(Reason.BAD_SNAPSHOT)
    assert not target.transfer.demoted


def test_a_chunk_that_comes_twice_is_not_held_against_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "CHUNK_SCAN_RECORDS", 2)
    target = Target()
    target.tell_leaves(1)
    chunk = answer_to(target, target.requests(1)[-1])
    assert chunk.cursor
    target.node.receive(1, chunk)
    target.node.receive(1, chunk)
    assert target.solo.rejected(Reason.UNWANTED) == 1
    assert not target.transfer.demoted
    assert target.transfer.sources == {1}


def test_a_checkpoint_a_little_below_h_will_do() -> None:
    """Under load h moves on before a source has made its own state there durable."""
    target = Target()
    far = FAR + 2 * INTERVAL
    target.solo.cluster.tell(3, StableCertificate(target.solo.forge.checkpoints(far, bytes(32))))
    assert target.node.core.low_water_mark == far
    assert state_transfer.least_useful(target.node.core) == far - WINDOW
    target.serve(1)
    target.serve(1)
    assert target.node.core.executed == FAR
    target.solo.cluster.advance(state_transfer.PATIENCE_AFTER_TRANSFER.wait_us + SECOND)
    assert target.transfer.certificate is None, "it goes on towards h"


def test_a_source_that_pins_another_checkpoint_by_now_is_a_source_of_that() -> None:
    """It answered two requests for leaves, and so unpinned what it showed first."""
    target = Target()
    target.tell_leaves(1)
    target.donor.run(INTERVAL, first=FAR + 1)
    target.tell_leaves(1)
    assert target.transfer.certificate is not None
    assert target.transfer.certificate.sequence == FAR + INTERVAL
    assert target.transfer.sources == {1}
    for _ in range(2):
        target.node.receive(1, answer_to(target, target.requests(1)[-1]))
    target.expect_state()


def test_a_source_that_moved_on_leaves_its_share_to_the_others() -> None:
    target = Target()
    target.tell_leaves(1)
    target.tell_leaves(0)
    target.donor.run(INTERVAL, first=FAR + 1)
    target.tell_leaves(1)
    assert target.transfer.certificate is not None
    assert target.transfer.certificate.sequence == FAR
    assert target.transfer.sources == {0}
    assert set(target.transfer.fetching) == {0}


def test_a_source_has_time_to_look_through_all_of_a_state_for_a_small_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Buckets are scattered over the keys, and under load each look has its price: a source that
    would be late every time could never deliver."""
    monkeypatch.setattr(state_source, "CHUNK_SCAN_RECORDS", 1)
    target = Target()
    target.tell_leaves(0)
    records = sum(leaf.count for leaf in target.pinned[0].leaves())
    assert records > 3
    assert has_time_for_chunks(target, records)


def test_a_source_has_time_to_look_through_all_of_a_state_of_large_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_source, "CHUNK_SCAN_BYTES", 100)
    target = Target()
    target.tell_leaves(0)
    size = sum(leaf.size for leaf in target.pinned[0].leaves())
    assert size > 300
    assert has_time_for_chunks(target, size // 100)


def has_time_for_chunks(target: Target, count: int) -> bool:
    """Whether source 0 may take so long for its share as so many chunks take, with little in them,
    under load and when it serves three at once."""
    now_us = target.node.core.now.monotonic_us
    busy_rate = target.node.core.settings.limits.chunk_bytes_per_second_busy
    needed_us = count * CHUNK_COST_BYTES * SECOND // busy_rate
    left_us = target.transfer.fetching[0].due_us - now_us - state_transfer.RETRY_US
    return left_us > 3 * needed_us


def few_records_per_chunk(monkeypatch: pytest.MonkeyPatch) -> Target:
    """Its sources have told their leaves, answer in many chunks, and have a minute for all."""
    monkeypatch.setattr(transfer, "CHUNK_SCAN_RECORDS", 2)
    target = Target()
    for peer in (0, 1, 2):
        target.tell_leaves(peer)
        target.served[peer] = len(target.requests(peer)) - 1
    for fetch in target.transfer.fetching.values():
        fetch.due_us += 60 * SECOND
    return target


def test_a_source_that_stalled_is_taken_back_while_others_deliver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One hiccup must not leave all of the state to a single source."""
    target = few_records_per_chunk(monkeypatch)
    for _ in range(4):
        target.solo.cluster.advance(SECOND // 4)
        target.serve(0, most=1)
        target.serve(1, most=1)
    assert target.transfer.sources == {0, 1} and set(target.transfer.stalled) == {2}
    assert target.transfer.todo
    for _ in range(4):
        target.solo.cluster.advance(SECOND // 4)
        target.serve(0, most=1)
        target.serve(1, most=1)
    assert target.transfer.sources == {0, 1, 2} and not target.transfer.stalled
    assert target.transfer.fetching[2].patience_us == 2 * state_transfer.RETRY_US
    target.served[2] = len(target.requests(2)) - 1
    for _ in range(10):
        for peer in (0, 1, 2):
            target.serve(peer)
    target.expect_state()


def test_the_patience_with_a_source_is_bounded() -> None:
    moved = Transfer(stalls=Counter({1: 60}))
    assert state_transfer._patience_us(moved, 1) == 16 * state_transfer.RETRY_US
    assert state_transfer._patience_us(moved, 0) == state_transfer.RETRY_US


def test_a_source_much_slower_than_the_others_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It always delivers in time, and its share is due in a minute: meanwhile the others unpin what
    they hold, and then nobody does."""
    target = few_records_per_chunk(monkeypatch)
    for _ in range(3):
        target.solo.cluster.advance(SECOND // 4)
        target.serve(2, most=1)
    target.serve(0)
    target.serve(1)
    assert set(target.transfer.fetching) == {2} and not target.transfer.todo
    for _ in range(8):
        target.solo.cluster.advance(SECOND // 4)
        target.serve(2, most=1)
    assert target.transfer.slow == {2}
    target.serve(0)
    target.serve(1)
    target.expect_state()


def test_a_source_a_little_slower_than_the_others_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = few_records_per_chunk(monkeypatch)
    target.solo.cluster.advance(SECOND // 2)
    target.serve(0)
    target.serve(1)
    target.solo.cluster.advance(SECOND // 2 - 1)
    assert set(target.transfer.fetching) == {2}
    target.serve(2)
    target.expect_state()
    assert target.requests(0)[-1].number and len(target.requests(2)) == target.served[2]


def test_requests_are_numbered_anew_after_a_restart() -> None:
    """A number of before would make the answer to another request look like a lie."""
    target = Target()
    target.tell_leaves(0)
    target.tell_leaves(1)
    late = target.requests(1)[-1]
    target.restart()
    target.solo.cluster.advance(SECOND)
    target.tell_leaves(1)
    target.node.receive(1, answer_to(target, target.requests(1)[-1]))
    assert target.requests(1)[-1].buckets != late.buckets
    target.node.receive(1, answer_to(target, late))
    assert not target.solo.rejected(Reason.BAD_SNAPSHOT)
