"""The source side of a state transfer (protocol.md section 9)."""

from pbft.core.state import Transfer
from pbft.core.state_source import HASTE_US
from pbft.errors import Reason
from pbft.limits import CHUNK_COST_BYTES, KIB, TRANSFER_FLOOR_RATE, LocalLimits
from pbft.messages import (
    StateChunk,
    StateLeaves,
    StateRequest,
)
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo


def source() -> Solo:
    """A replica with a durable checkpoint."""
    solo = Solo(4)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    return solo


def test_a_source_serves_what_it_pinned_though_its_own_state_moves() -> None:
    solo = source()
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    pinned = solo.node.sent(StateLeaves)[-1]
    solo.decide_to(2 * INTERVAL, first=INTERVAL + 1)
    solo.stabilise(2 * INTERVAL)
    everything = b"\xff\xff"
    solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, everything))
    (chunk,) = solo.node.sent(StateChunk)
    assert chunk.sequence == INTERVAL
    assert len(chunk.records) == sum(leaf.count for leaf in pinned.leaves)
    assert not chunk.cursor


def test_a_source_that_has_nothing_that_new_says_nothing() -> None:
    solo = source()
    solo.node.receive(2, StateRequest(2 * INTERVAL, 0))
    assert solo.rejected(Reason.SEQUENCE_HIGH) == 1
    solo.node.receive(3, StateRequest(INTERVAL, INTERVAL, b"\1"))
    assert solo.rejected(Reason.SEQUENCE_LOW) == 1
    assert not solo.node.sent(StateLeaves, StateChunk)


def test_who_installs_a_state_pins_nothing() -> None:
    """What is on disk is of no checkpoint meanwhile."""
    solo = source()
    solo.node.core.transfer = Transfer(installing=True)
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    assert not solo.node.sent(StateLeaves) and not solo.node.core.snapshots
    assert solo.rejected(Reason.SEQUENCE_HIGH) == 1


def test_a_source_pins_one_snapshot_per_peer_and_for_a_while() -> None:
    solo = Solo(4, limits=LocalLimits(transfer_idle_us=5 * SECOND))
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    for peer in (0, 2, 3, 2, 2):
        solo.node.receive(peer, StateRequest(0, 0))
    assert sorted(solo.node.core.snapshots) == [0, 2, 3]
    solo.cluster.advance(3 * SECOND)
    solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"\xff"))
    solo.cluster.advance(3 * SECOND)
    assert sorted(solo.node.core.snapshots) == [2]


def test_a_peer_that_goes_on_asking_does_not_pin_for_ever() -> None:
    """It gets the time that the state takes at the lowest acceptable rate, and a grace."""
    solo = Solo(4, limits=LocalLimits(transfer_grace_us=20 * SECOND))
    body = b"x" * 1000 * KIB
    for sequence in range(1, INTERVAL + 1):
        solo.decide(sequence, solo.forge.batch(solo.forge.request(sequence, body)))
    solo.stabilise(INTERVAL)
    solo.node.receive(2, StateRequest(0, 0))
    at_least = 20 + INTERVAL * 1000 * KIB // TRANSFER_FLOOR_RATE
    for second in range(at_least + 8):
        assert (2 in solo.node.core.snapshots) >= (second < at_least)
        solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"", bytes([second + 1])))
        solo.cluster.advance(SECOND)
    assert not solo.node.core.snapshots
    assert solo.rejected(Reason.SEQUENCE_LOW) > 0
    solo.node.receive(2, StateRequest(0, 0))
    assert sorted(solo.node.core.snapshots) == [2], "it may begin again, with the newest"


def test_a_flood_of_requests_is_limited_per_peer() -> None:
    """T6: leaves are large, so they are served at a bounded rate; others are not harmed."""
    solo = source()
    for _ in range(100):
        solo.node.receive(2, StateRequest(INTERVAL, 0))
        solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"\xff\xff"))
    assert len(solo.node.sent(StateLeaves)) <= 10
    assert len(solo.node.sent(StateChunk)) <= 10
    assert solo.rejected(Reason.RATE_LIMIT) >= 180
    solo.node.receive(3, StateRequest(INTERVAL, 0))
    assert len(solo.node.sent(StateLeaves)) <= 11


def test_chunks_are_served_at_a_bounded_rate_to_all_together() -> None:
    """Whoever asked first is served first; one request of each waits, the newest."""
    limits = LocalLimits(chunk_bytes_per_second=32 * KIB, chunk_bytes_per_second_busy=8 * KIB)
    solo = Solo(4, limits=limits)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    for peer in (2, 3):
        solo.node.receive(peer, StateRequest(INTERVAL, 0))
    for peer, number in ((2, 1), (3, 2), (2, 3), (2, 4)):
        solo.node.receive(peer, StateRequest(INTERVAL, INTERVAL, b"\xff", number=number))
    assert [chunk.number for chunk in solo.node.sent(StateChunk)] == [1]
    solo.cluster.advance(SECOND)
    assert [chunk.number for chunk in solo.node.sent(StateChunk)] == [1, 2]
    solo.propose(INTERVAL + 1)
    solo.cluster.advance(SECOND)
    assert [chunk.number for chunk in solo.node.sent(StateChunk)] == [1, 2, 4]
    solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"\xff", number=5))
    solo.cluster.advance(3 * SECOND)
    assert [chunk.number for chunk in solo.node.sent(StateChunk)] == [1, 2, 4], "it is busy"
    solo.cluster.advance(SECOND)
    assert [chunk.number for chunk in solo.node.sent(StateChunk)] == [1, 2, 4, 5]


def chunks_in_a_second(solo: Solo) -> int:
    """How many a peer that asks for one after the other is served."""
    before = len(solo.node.sent(StateChunk))
    for number in range(100):
        solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"\xff", number=number))
        solo.cluster.advance(SECOND // 100)
    return len(solo.node.sent(StateChunk)) - before


def test_a_peer_that_has_to_ask_again_is_served_faster_under_load() -> None:
    """What was decided meanwhile may have outgrown what the sources keep: at the same rate it would
    be so the next time, too, and for ever."""
    solo = Solo(4, limits=LocalLimits(chunk_bytes_per_second_busy=4 * CHUNK_COST_BYTES))
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    solo.propose(INTERVAL + 1)
    rates = []
    for _ in range(6):
        solo.node.receive(2, StateRequest(INTERVAL, 0))
        rates.append(chunks_in_a_second(solo))
    assert [round(rate / 4) for rate in rates] == [1, 2, 4, 8, 8, 8]
    # Who only asks for leaves, or comes after a while, is in no hurry.
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    solo.cluster.advance(SECOND)
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    assert round(chunks_in_a_second(solo) / 4) == 1
    solo.cluster.advance(HASTE_US)
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    assert round(chunks_in_a_second(solo) / 4) == 1


def test_who_took_long_for_its_share_may_wait_as_long_for_those_of_others() -> None:
    solo = source()
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    pin = solo.node.core.snapshots[2]
    pin.ends_us += 1000 * SECOND
    idle_us = LocalLimits().transfer_idle_us
    for second in range(3):
        solo.cluster.advance(idle_us - 1)
        solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"", bytes([second + 1])))
    used_us = pin.used_us - pin.begun_us
    solo.cluster.advance(2 * used_us - 2 * SECOND)
    assert 2 in solo.node.core.snapshots
    solo.cluster.advance(4 * SECOND)
    assert not solo.node.core.snapshots


def test_bitmaps_and_cursors_of_a_peer_are_harmless() -> None:
    solo = source()
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"\xff" * 3))
    assert solo.rejected(Reason.OVERSIZE) == 1
    for cursor in (b"\xff" * 100, b"\0", b"../../etc/passwd"):
        solo.node.receive(2, StateRequest(INTERVAL, INTERVAL, b"\xff\xff", cursor))
        solo.cluster.advance(SECOND)
    assert len(solo.node.sent(StateChunk)) == 3


def test_what_is_pinned_anew_or_idle_is_released() -> None:
    """A pin that nobody knows of any more keeps the disk from using anything again."""
    solo = source()
    pinned = solo.node.state._pinned
    for _ in range(4):
        solo.node.receive(2, StateRequest(0, 0))
        solo.cluster.advance(SECOND)
        assert len(pinned) == len(solo.node.core.snapshots) == 1
    solo.cluster.advance(60 * SECOND)
    assert not pinned and not solo.node.core.snapshots


def test_no_records_of_another_checkpoint_are_served() -> None:
    """They would look like a lie."""
    solo = source()
    solo.node.receive(2, StateRequest(0, 0))
    solo.node.receive(2, StateRequest(2 * INTERVAL, 2 * INTERVAL, b"\xff"))
    assert solo.rejected(Reason.SEQUENCE_LOW) == 1
    assert not solo.node.sent(StateChunk)
