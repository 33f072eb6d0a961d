"""Healing (protocol.md section 8): each missing thing is pushed to who lacks it, within budgets."""

from dataclasses import replace

import pytest

from pbft.core.effects import Effect, Send
from pbft.core.settings import Timers
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import (
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    NewView,
    Prepare,
    Proposal,
    Signed,
    StableCertificate,
    Status,
    ViewChange,
)
from tests.harness.core_cluster import SECOND, Message
from tests.harness.core_forge import INTERVAL, WALL_EPOCH_US
from tests.harness.core_solo import Solo

FAST_US = 100_000


def pushed(solo: Solo, peer: int = 2, **status: object) -> list[object]:
    """What it sends to a peer on this status, an interval after everything else."""
    solo.cluster.advance(FAST_US)
    effects = solo.node.receive(peer, solo.forge.status(peer, **status))  # type: ignore[arg-type]
    return sent_to(peer, effects)


def sent_to(peer: int, effects: list[Effect]) -> list[object]:
    """The statements and items that go to one peer."""
    items = [e.item for e in effects if isinstance(e, Send) and e.to == peer]
    return [Message(1, peer, item).body for item in items]


def test_nothing_is_pushed_to_who_lacks_nothing() -> None:
    solo = Solo()
    solo.decide(1)
    assert pushed(solo, executed=1) == []


def test_a_decided_batch_goes_with_its_certificate() -> None:
    solo = Solo()
    batch = solo.batch()
    digest = solo.decide(1, batch)
    (item,) = pushed(solo)
    assert isinstance(item, CommittedBatch)
    assert item.batch == batch
    assert len(item.commits) == solo.thresholds.quorum
    assert batch_digest(batch) == digest
    assert pushed(solo, committed=1) == [], "whether it voted for it or not"


def test_decided_batches_below_its_h_go_in_order_or_not_at_all() -> None:
    """A peer that is behind its h and fetches the state could do nothing with later ones."""
    solo = Solo()
    for last in range(INTERVAL, 4 * INTERVAL + 1, INTERVAL):
        solo.decide_to(last, first=last - INTERVAL + 1)
        solo.stabilise(last)
    first = min(slot.sequence for slot in solo.node.core.log)
    assert 2 < first <= 4 * INTERVAL, "what it still has begins later than the peer needs"
    far = 5 * INTERVAL
    assert pushed(solo, executed=1, stable_sequence=far) == []
    count = 4 * INTERVAL - first + 1
    items = pushed(solo, executed=first - 1, stable_sequence=far)
    assert [type(item) for item in items] == [CommittedBatch] * count
    items = pushed(solo, executed=1, stable_sequence=first - 1)
    decided = [item for item in items if isinstance(item, CommittedBatch)]
    assert len(decided) == count, "above its h, it keeps them"


def test_a_decided_null_batch_goes_without_a_body() -> None:
    solo = Solo(me=2)
    changes = [solo.forge.view_change(i, 1, [solo.forge.proof(2, bytes(32))]) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    solo.cluster.tell(2, solo.forge.committed(1, b"", view=1))
    (item,) = [i for i in pushed(solo, peer=3, view=1) if isinstance(i, CommittedBatch)]
    assert item.batch == b""


@pytest.mark.parametrize(
    ("accepted", "prepared", "kinds"),
    [(0, 0, [Proposal, Prepare]), (1, 0, [Prepare]), (1, 1, [])],
)
def test_pre_prepare_and_own_prepare(accepted: int, prepared: int, kinds: list[type]) -> None:
    solo = Solo()
    solo.propose(1)
    items = pushed(solo, accepted=accepted, prepared=prepared)
    assert [type(item) for item in items] == kinds


def test_own_commit() -> None:
    solo = Solo()
    digest = solo.propose(1)
    solo.prepare(1, digest)
    items = pushed(solo, accepted=1, prepared=1)
    assert items == [Commit(0, 1, digest)]


def test_votes_of_others_are_not_relayed() -> None:
    solo = Solo()
    digest = solo.propose(1)
    solo.prepare(1, digest)
    items = pushed(solo, accepted=1)
    signers = [e.item.signer for e in solo.node.effects if isinstance(e, Send) and e.to == 2
               and isinstance(e.item, Signed)]  # fmt: skip
    assert [type(item) for item in items] == [Prepare, Commit]
    assert set(signers) == {1}


def test_slots_in_the_middle_of_their_phases_are_left_alone() -> None:
    """The normal case is under way: only what stays is a gap."""
    solo = Solo()
    solo.propose(1)
    effects = solo.node.receive(2, solo.forge.status(2))
    assert sent_to(2, effects) == []


def test_a_body_that_somebody_lacks_goes_by_digest() -> None:
    solo = Solo()
    batch = solo.batch()
    digest = solo.propose(1, batch)
    items = pushed(solo, accepted=1, prepared=1, missing=(bytes(32), digest))
    assert items == [BatchBytes(batch)]


def test_the_stable_certificate_and_own_checkpoint_votes() -> None:
    solo = Solo()
    solo.decide_to(2 * INTERVAL)
    solo.stabilise(INTERVAL)
    items = pushed(solo, executed=2 * INTERVAL)
    assert {type(item) for item in items} == {StableCertificate, Checkpoint}
    assert [item.sequence for item in items if isinstance(item, Checkpoint)] == [2 * INTERVAL]
    again = pushed(solo, executed=2 * INTERVAL, stable_sequence=2 * INTERVAL)
    assert again == []


def test_view_changes_that_the_peer_lacks() -> None:
    solo = Solo()
    for replica in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(replica, 6))
    items = pushed(solo, peer=0, view=6, normal=False, view_changes=0b0001)
    assert sorted(item.replica for item in items if isinstance(item, ViewChange)) == [1, 2, 3]
    items = pushed(solo, peer=2, view=6, normal=False, view_changes=0b1000)
    assert [item.replica for item in items if isinstance(item, ViewChange)] == [1]
    assert pushed(solo, peer=2, view=7, normal=False) == []


def test_view_changes_that_the_peer_has_for_another_view_are_not_those_for_mine() -> None:
    solo = Solo()
    for replica in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(replica, 6))
    items = pushed(solo, peer=0, view=5, normal=False, view_changes=0b1111)
    assert sorted(item.replica for item in items if isinstance(item, ViewChange)) == [1, 2, 3]


def test_the_new_view_goes_to_who_is_not_in_it() -> None:
    solo = Solo()
    solo.enter(2)
    for view, normal in ((0, True), (1, False), (2, False)):
        items = pushed(solo, peer=3, view=view, normal=normal)
        assert [type(item) for item in items] == [NewView]
    assert pushed(solo, peer=3, view=2) == []
    assert pushed(solo, peer=3, view=3, normal=False) == []


# Budgets.


def test_each_item_goes_once_per_interval() -> None:
    """Statuses in quick succession get nothing twice."""
    solo = Solo()
    for replica in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(replica, 6))
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, bytes(32)))
    solo.cluster.advance(SECOND)
    first, second = (
        sent_to(2, solo.node.receive(2, solo.forge.status(2, missing=(bytes([k]) * 32,))))
        for k in (1, 2)
    )
    assert len(first) == 3
    assert second == []
    solo.cluster.advance(FAST_US)
    assert len(pushed(solo)) == 3


def test_bodies_go_once_per_interval() -> None:
    solo = Solo()
    digest = solo.propose(1)
    wants = {"accepted": 1, "prepared": 1, "missing": (digest,)}
    assert len(pushed(solo, **wants)) == 1
    effects = solo.node.receive(2, solo.forge.status(2, **(wants | {"executed": 1})))
    assert sent_to(2, effects) == []


def test_bytes_per_status_are_bounded() -> None:
    solo = Solo(limits=LocalLimits(healing_bytes_per_status=4000))
    solo.decide_to(INTERVAL)
    batches = [item for item in pushed(solo) if isinstance(item, CommittedBatch)]
    assert 1 <= len(batches) < INTERVAL
    assert sum(len(item.batch) + 1024 for item in batches) <= 4000
    assert [
        item for item in pushed(solo, executed=len(batches)) if isinstance(item, CommittedBatch)
    ]


def test_an_item_larger_than_the_budget_goes_all_the_same() -> None:
    """Otherwise a large batch, or a large new-view, could never be healed."""
    solo = Solo(limits=LocalLimits(healing_bytes_per_status=10))
    solo.decide_to(2)
    first = pushed(solo)
    assert [type(item) for item in first] == [CommittedBatch]


def test_statuses_are_looked_at_at_a_bounded_rate() -> None:
    solo = Solo()
    for k in range(100):
        solo.node.receive(2, solo.forge.status(2, executed=k))
    assert solo.rejected(Reason.RATE_LIMIT) >= 80
    solo.cluster.advance(SECOND)
    before = solo.rejected(Reason.RATE_LIMIT)
    solo.node.receive(2, solo.forge.status(2, executed=1000))
    assert solo.rejected(Reason.RATE_LIMIT) == before


def test_a_status_is_never_relayed() -> None:
    solo = Solo()
    solo.node.receive(3, solo.forge.status(2))
    assert solo.rejected(Reason.SENDER_MISMATCH) == 1
    assert 2 not in solo.node.core.peers


def test_one_liar_that_claims_to_be_ahead_makes_nobody_ask_more_often() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.status(2, executed=2**63))
    before = len(solo.node.sent(Status))
    solo.cluster.advance(10 * SECOND)
    assert len(solo.node.sent(Status)) - before <= 11


def test_odd_bitmaps_and_numbers_are_harmless() -> None:
    solo = Solo()
    solo.decide_to(3)
    for changes in (
        {"stable_sequence": 2**63, "executed": 0},
        {"executed": 2**64 - 1, "committed": 2**64 - 1},
        {"view": 2**64 - 1, "view_changes": 2**31 - 1},
        {"clock_us": 2**64 - 1},
        {"missing": tuple(bytes([k]) * 32 for k in range(255))},
    ):
        pushed(solo, **changes)
    assert solo.node.core.view == 0
    assert solo.node.core.executed == 3


# Telling.


def test_the_status_tells_what_is_here_and_what_is_missing() -> None:
    solo = Solo()
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.propose(2)
    solo.decide(3)
    waits = batch_digest(solo.batch(9))
    solo.cluster.tell(1, solo.forge.pre_prepare(5, waits))
    solo.cluster.advance(SECOND)
    status = solo.node.sent(Status)[-1]
    assert (status.view, status.normal, status.stable_sequence, status.executed) == (0, True, 0, 0)
    assert (status.accepted, status.prepared, status.committed) == (0b111, 0b101, 0b100)
    assert status.missing == (waits,)


def test_bodies_beyond_the_high_water_mark_are_not_asked_for() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.pre_prepare(solo.window + 1, batch_digest(solo.batch())))
    solo.cluster.advance(SECOND)
    assert solo.node.sent(Status)[-1].missing == ()
    solo.node.receive(2, BatchBytes(solo.batch()))
    assert solo.rejected(Reason.UNWANTED) == 1


def test_statuses_come_often_while_something_is_missing_else_rarely() -> None:
    solo = Solo()
    solo.cluster.advance(2 * SECOND)
    before = len(solo.node.sent(Status))
    solo.cluster.advance(10 * SECOND)
    rarely = len(solo.node.sent(Status)) - before
    solo.propose(1)
    before = len(solo.node.sent(Status))
    solo.cluster.advance(10 * SECOND)
    assert 9 <= rarely <= 11
    assert 90 <= len(solo.node.sent(Status)) - before <= 110


def test_the_number_of_bodies_asked_for_is_bounded() -> None:
    solo = Solo(limits=LocalLimits(fetch_digests=2))
    for sequence in range(1, 5):
        digest = batch_digest(solo.batch(sequence))
        solo.cluster.tell(1, solo.forge.pre_prepare(sequence, digest))
    solo.cluster.advance(SECOND)
    assert len(solo.node.sent(Status)[-1].missing) == 2


def test_clocks_of_peers_are_noted_unless_they_are_absurd() -> None:
    solo = Solo()
    now_us = solo.node.now().wall_us
    solo.cluster.tell(1, solo.forge.status(2, clock_us=now_us + 5))
    assert solo.node.core.clock_offsets_us == {2: 5}
    solo.cluster.advance(SECOND)
    solo.cluster.tell(1, solo.forge.status(2, clock_us=WALL_EPOCH_US * 2))
    assert solo.node.core.clock_offsets_us == {}


def test_a_diverged_replica_pushes_nothing() -> None:
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL, bytes(32))
    assert solo.node.core.diverged
    assert pushed(solo) == []


def test_what_is_pushed_is_what_was_sent_byte_for_byte() -> None:
    solo = Solo()
    solo.propose(1)
    before = {
        e.item for e in solo.node.effects if hasattr(e, "item") and isinstance(e.item, Signed)
    }
    pushed(solo, accepted=1)
    after = {e.item for e in solo.node.effects if isinstance(e, Send) and e.to == 2
             and isinstance(e.item, Signed)}  # fmt: skip
    assert after <= before
    assert replace(next(iter(after))) in before


def after_a_status(solo: Solo) -> int:
    """Lets time pass until it has just told its status; how often it has by then."""
    before = len(solo.node.sent(Status))
    while len(solo.node.sent(Status)) == before:
        solo.cluster.advance(FAST_US // 10)
    return before + 1


def test_what_goes_missing_is_asked_for_soon() -> None:
    """Not only when the next status was due anyway."""
    solo = Solo()
    solo.cluster.advance(SECOND)
    told = after_a_status(solo)
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, bytes(32)))
    solo.cluster.advance(FAST_US)
    assert len(solo.node.sent(Status)) == told + 1


def test_who_was_stopped_asks_for_status_first() -> None:
    solo = Solo(timers=Timers(request_timeout_us=3 * FAST_US))
    solo.cluster.advance(SECOND)
    told = after_a_status(solo)
    solo.node.submit(solo.forge.request(9, client=1))
    solo.node.replica.next_deadline_us()
    solo.cluster.now_us += 5 * FAST_US
    solo.node.tick()
    assert len(solo.node.sent(Status)) == told + 1
    assert not solo.node.core.suspicion.mine
