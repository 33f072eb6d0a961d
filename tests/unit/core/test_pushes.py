"""A busy peer is not kept busy with copies of what is on its way (pbft.core.pushes)."""

from pbft.core.shares import UNDER_WAY_BYTES
from pbft.limits import MIB, LocalLimits
from pbft.messages import Checkpoint, CommittedBatch
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo
from tests.unit.core.test_healing import FAST_US, pushed

LARGE = bytes(20_000)


def batches(solo: Solo, **status: object) -> list[CommittedBatch]:
    """Those that peer 2 gets on a status, an interval later."""
    items = pushed(solo, **status)  # type: ignore[arg-type]
    return [item for item in items if isinstance(item, CommittedBatch)]


def decide_large(solo: Solo, operation: bytes, last: int) -> None:
    for sequence in range(1, last + 1):
        requests = (solo.forge.request(sequence, operation, client) for client in (0, 1))
        solo.decide(sequence, solo.forge.batch(*requests))


def times(solo: Solo, intervals: int) -> list[int]:
    """At which intervals the peer, which lacks it all the time, gets the only batch."""
    return [n for n in range(intervals) if batches(solo)]


def test_what_is_large_comes_again_after_longer_and_longer() -> None:
    solo = Solo()
    decide_large(solo, LARGE, 1)
    assert times(solo, 32) == [0, 1, 3, 7, 15, 23, 31]


def test_what_is_small_comes_again_after_each_interval() -> None:
    solo = Solo()
    solo.decide(1)
    assert times(solo, 5) == [0, 1, 2, 3, 4]


def test_who_did_not_ask_for_long_begins_anew() -> None:
    solo = Solo()
    decide_large(solo, LARGE, 1)
    assert times(solo, 4) == [0, 1, 3]
    solo.cluster.advance(6 * FAST_US)
    assert times(solo, 2) == [0], "it waits for four intervals, and is forgotten after as many"
    solo.cluster.advance(20 * FAST_US)
    assert times(solo, 2) == [0, 1]


def test_what_was_on_its_way_when_a_link_broke_goes_again_at_once() -> None:
    solo = Solo()
    decide_large(solo, LARGE, 1)
    assert times(solo, 4) == [0, 1, 3]
    for up in (False, True):
        solo.node.link(2, up)
    assert times(solo, 4) == [0, 1, 3]


def test_no_more_is_under_way_than_a_peer_can_take() -> None:
    solo = Solo(limits=LocalLimits(healing_bytes_per_status=64 * MIB))
    decide_large(solo, bytes(3 * MIB // 4), 8)
    first = batches(solo)
    assert sum(len(item.batch) for item in first) <= UNDER_WAY_BYTES
    assert len(first) == 5
    assert len(batches(solo)) == 5, "lost, perhaps"
    assert batches(solo) == []
    assert len(batches(solo, executed=2)) == 5, "three of them again, and two more"


def test_the_first_goes_whatever_its_size() -> None:
    solo = Solo(limits=LocalLimits(healing_bytes_per_status=10))
    decide_large(solo, LARGE, 2)
    assert len(batches(solo)) == 1


def test_the_first_large_one_goes_whatever_small_ones_are_before_it() -> None:
    """A vote for a checkpoint that is not stable yet is among what is pushed each time."""
    solo = Solo(limits=LocalLimits(healing_bytes_per_status=10_000))
    decide_large(solo, LARGE, INTERVAL)
    items = pushed(solo)
    assert [type(item) for item in items] == [Checkpoint, CommittedBatch]
    assert times(solo, 8) == [0, 2, 6], "and again, as any other"
