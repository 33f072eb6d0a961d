"""A busy peer is not kept busy with copies of what is on its way (pbft.core.pushes)."""

from pbft.core.effects import Send
from pbft.core.shares import UNDER_WAY_BYTES
from pbft.crypto.digest import batch_digest
from pbft.limits import MIB, LocalLimits
from pbft.messages import Checkpoint, CommittedBatch, NewView
from tests.harness.core_forge import INTERVAL, Forge
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


def wide() -> Forge:
    """Of a cluster whose new-views are large."""
    return Forge(4, interval=16, window=32)


def test_the_first_large_one_of_each_kind_goes() -> None:
    """A new-view that is of no use to the peer without a decided batch comes before that."""
    forge = wide()
    solo = Solo(forge=forge, limits=LocalLimits(healing_bytes_per_status=10_000))
    batch = forge.batch(forge.request(1, LARGE))
    digests = [batch_digest(batch), *(bytes([n]) * 32 for n in range(2, 33))]
    proofs = [forge.proof(n, digest) for n, digest in enumerate(digests, 1)]
    changes = [forge.view_change(peer, 2, proofs) for peer in (0, 2, 3)]
    solo.cluster.tell(1, forge.new_view(2, changes))
    solo.cluster.tell(1, forge.committed(1, batch, view=2, signers=(0, 2, 3)))
    kinds = [type(item) for item in pushed(solo, peer=3, view=0, executed=0)]
    assert kinds == [NewView, CommittedBatch]


def test_no_more_of_what_left_the_log_is_under_way_than_a_peer_can_take() -> None:
    """Nobody fetches a state, but the durable one is far behind."""
    solo = Solo(forge=wide())
    solo.node.holds_merges = True
    for sequence in range(1, 33):
        request = solo.forge.request(sequence, bytes(900_000))
        solo.decide(sequence, solo.forge.batch(request))
        if sequence % 16 == 0:
            solo.stabilise(sequence)
    assert solo.node.core.tail.memory_bytes > UNDER_WAY_BYTES and not solo.node.core.holds
    sent = [item.batch for _ in range(16) for item in batches(solo)]
    assert MIB < sum(map(len, set(sent))) <= UNDER_WAY_BYTES


def test_a_later_view_change_of_the_same_signer_does_not_wait() -> None:
    solo = Solo()
    for replica in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(replica, 6))
    assert len(pushed(solo, peer=0)) == 3
    later = solo.forge.view_change(2, 7)
    solo.cluster.tell(1, later)
    effects = solo.node.receive(0, solo.forge.status(0, missing=(bytes(32),)))
    assert [effect.item for effect in effects if isinstance(effect, Send)] == [later]
