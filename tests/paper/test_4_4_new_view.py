"""Section 4.4, view changes: the new view. Departures: V holds exactly q view-changes, O only
digests, and only certificates of the own view's votes decide."""

from collections.abc import Sequence

import pytest

from pbft.core.effects import EventName, NewViewRecord, Persist
from pbft.core.new_view import compute_new_view
from pbft.core.state import Mode
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.errors import Reason
from pbft.messages import (
    BatchBytes,
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    Signed,
    Status,
    ViewChange,
)
from pbft.types import Digest, View
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

A, B, C = (bytes([letter]) * 32 for letter in b"abc")


def planned(solo: Solo, changes: Sequence[Signed]) -> tuple[int, int, tuple[Digest, ...]]:
    """min-s, max-s and the digests that these view-changes demand."""
    plan = compute_new_view([solo.forge.valid(change) for change in changes])
    return plan.min_sequence, plan.max_sequence, plan.digests


def changes_with(solo: Solo, view: View, *prepared: Sequence[PreparedProof]) -> list[Signed]:
    """q view-changes: the first ones with these P, the others empty."""
    signers = solo.others[: solo.thresholds.quorum]
    contents = [*prepared, *([()] * (len(signers) - len(prepared)))]
    return [
        solo.forge.view_change(signer, view, proofs)
        for signer, proofs in zip(signers, contents, strict=True)
    ]


# The primary of the new view.


def test_the_new_primary_needs_q_valid_view_changes(n: int) -> None:
    """When it receives 2f valid view-change messages for v + 1 from others it multicasts
    <NEW-VIEW, v + 1, V, O>; V holds them and its own. Not with one fewer."""
    solo = Solo(n)
    others = solo.others
    for replica in others[: solo.thresholds.quorum - 2]:
        solo.cluster.tell(1, solo.forge.view_change(replica, 1))
    assert not solo.node.sent(NewView)
    for replica in others[solo.thresholds.quorum - 2 : solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.view_change(replica, 1))
    (new_view,) = solo.node.sent(NewView)
    signers = {change.signer for change in new_view.view_changes}
    assert new_view.view == 1
    assert len(signers) == len(new_view.view_changes) == solo.thresholds.quorum
    assert 1 in signers
    assert solo.node.core.mode is Mode.NORMAL


def test_a_view_change_with_a_bad_certificate_is_left_out_and_only_that(n: int) -> None:
    """Only valid view-changes are in V: one invalid certificate voids its message alone."""
    solo = Solo(n)
    short = solo.forge.proof(1, A)
    bad = PreparedProof(short.pre_prepare, short.prepares[:-1])
    first, *rest = solo.others
    solo.cluster.tell(1, solo.forge.view_change(first, 1, [solo.forge.proof(2, B), bad]))
    good = solo.forge.proof(1, C)
    for replica in rest[: solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.view_change(replica, 1, [good]))
    (new_view,) = solo.node.sent(NewView)
    assert first not in {change.signer for change in new_view.view_changes}
    assert [solo.forge.vote(o).digest for o in new_view.pre_prepares] == [C]
    assert solo.node.rejections["view_change", Reason.BAD_VIEW_CHANGE] == 1


def test_the_new_view_is_on_disk_before_it_is_sent(n: int) -> None:
    """The author persists its new-view; the backups persist it on entering."""
    cluster = Cluster(n)
    cluster.drop(lambda m: m.sender == 0)
    cluster.submit(cluster.forge.request(), to=range(n))
    cluster.advance(3 * SECOND)
    for node in cluster.up[1:]:
        saved = node.log.load().new_view
        assert saved is not None and saved.view == 1
    effects = cluster[1].effects
    records = [effect.record if isinstance(effect, Persist) else None for effect in effects]
    written = next(i for i, record in enumerate(records) if isinstance(record, NewViewRecord))
    assert not any("NEW_VIEW" in str(e) for e in effects[:written])


# O.


def test_min_s_is_the_highest_stable_checkpoint_in_v(n: int) -> None:
    """min-s is the sequence of the latest stable checkpoint in V."""
    solo = Solo(n)
    signers = solo.others[: solo.thresholds.quorum]
    changes = [
        solo.forge.view_change(
            signer,
            1,
            [],
            INTERVAL * rank,
            solo.forge.checkpoints(INTERVAL * rank, A) if rank else (),
        )
        for rank, signer in zip((1, 2, 0, 1, 0), signers, strict=False)
    ]
    assert planned(solo, changes) == (2 * INTERVAL, 2 * INTERVAL, ())


def test_max_s_is_the_highest_sequence_prepared_in_v(n: int) -> None:
    """max-s is the highest sequence number in a prepare message in V."""
    solo = Solo(n)
    changes = changes_with(
        solo, 1, [solo.forge.proof(1, A)], [solo.forge.proof(1, A), solo.forge.proof(3, B)]
    )
    assert planned(solo, changes) == (0, 3, (A, NULL_DIGEST, B))


def test_certificates_at_or_below_min_s_are_passed_over(n: int) -> None:
    """O speaks of sequence numbers between min-s and max-s only: here one member of V is behind."""
    solo = Solo(n)
    ahead, behind, *rest = solo.others[: solo.thresholds.quorum]
    proofs = [solo.forge.proof(sequence, A) for sequence in (3, 4, 6)]
    changes = [
        solo.forge.view_change(ahead, 1, [], INTERVAL, solo.forge.checkpoints(INTERVAL, C)),
        solo.forge.view_change(behind, 1, proofs),
        *(solo.forge.view_change(replica, 1) for replica in rest),
    ]
    assert planned(solo, changes) == (INTERVAL, 6, (NULL_DIGEST, A))


def test_the_certificate_of_the_highest_view_wins(n: int) -> None:
    """d is the digest in the pre-prepare for n with the highest view number in V, whatever the
    order of V."""
    solo = Solo(n)
    low, middle, high = (solo.forge.proof(1, digest, view) for view, digest in enumerate((A, B, C)))
    for contents in ([low], [high], [middle]), ([high], [middle], [low]), ([middle], [low], [high]):
        assert planned(solo, changes_with(solo, 5, *contents)) == (0, 1, (C,))


def test_gaps_are_filled_with_the_null_request(n: int) -> None:
    """Otherwise it creates a pre-prepare with the digest of a special null request, whose
    execution is a no-op."""
    solo = Solo(n, me=2)
    batch = solo.batch(2)
    changes = changes_with(solo, 1, [solo.forge.proof(2, batch_digest(batch))])
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    solo.cluster.tell(2, solo.forge.committed(1, b"", view=1))
    assert solo.node.core.executed == 1
    assert solo.node.journal == []
    solo.cluster.tell(2, solo.forge.committed(2, batch, view=1))
    assert solo.node.journal == [b"0.1.2"]


# The backups.


def entered(n: int, new_view: Signed, me: int = 2) -> Solo:
    """A backup that was sent this new-view."""
    solo = Solo(n, me=me)
    solo.cluster.tell(me, new_view)
    return solo


def test_a_backup_enters_with_a_valid_new_view(n: int) -> None:
    """It accepts a new-view for v + 1 if it is signed properly, its view-changes are valid for
    v + 1 and O is correct, and multicasts a prepare for each message in O."""
    maker = Solo(n)
    batch = maker.batch()
    changes = changes_with(maker, 1, [maker.forge.proof(1, batch_digest(batch))])
    solo = Solo(n, me=2)
    digest = solo.propose(1, batch)
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert solo.node.core.entered_view == 1
    assert solo.prepared_for() == [Prepare(0, 1, digest), Prepare(1, 1, digest)]
    assert [event.view for event in solo.node.events(EventName.VIEW_ENTERED)] == [1]


def test_a_replica_that_did_not_sign_for_the_view_enters_it_too(n: int) -> None:
    """The new-view proves by itself that a quorum left the view before."""
    maker = Solo(n)
    solo = entered(n, maker.forge.new_view(n + 1, maker.forge.view_changes(n + 1)), me=3)
    assert solo.node.core.view == n + 1
    assert not solo.node.sent(ViewChange)


def test_a_backup_recomputes_o(n: int) -> None:
    """It verifies O by the computation that the primary used: dropped, changed, added and
    reordered entries are all refused."""
    maker = Solo(n)
    changes = changes_with(maker, 1, [maker.forge.proof(1, A), maker.forge.proof(2, B)])
    for lie in ((A,), (A, NULL_DIGEST), (A, C), (B, A), (A, B, C), ()):
        solo = entered(n, maker.forge.new_view(1, changes, lie))
        assert solo.node.core.entered_view == 0
        assert solo.rejected(Reason.BAD_NEW_VIEW) == 1
    assert entered(n, maker.forge.new_view(1, changes)).node.core.entered_view == 1


def test_v_must_hold_q_distinct_valid_view_changes_for_the_view(n: int) -> None:
    """Fewer, repeated, of another view, or with a bad certificate: the new-view is refused."""
    maker = Solo(n)
    forge, quorum = maker.forge, maker.thresholds.quorum
    good = forge.view_changes(1)
    thin = forge.proof(1, A)
    bad = forge.view_change(0, 1, [PreparedProof(thin.pre_prepare, thin.prepares[1:])])
    torn = Signed(good[0].kind, good[0].signer, good[0].payload, bytes(64))
    for broken in (
        good[:-1],
        [*good[:-1], good[0]],
        [*good[:-1], forge.view_change(quorum - 1, 2)],
        [bad, *good[1:]],
        [torn, *good[1:]],
        [*good, forge.view_change(quorum, 1)] if quorum < n else good[1:],
    ):
        new_view = forge.sign(1, NewView(1, tuple(broken), ()))
        solo = entered(n, new_view)
        assert solo.node.core.entered_view == 0
        assert solo.rejected(Reason.BAD_NEW_VIEW) == 1


def test_only_the_primary_of_the_view_makes_it(n: int) -> None:
    """The new-view is signed by the primary of v + 1."""
    maker = Solo(n)
    solo = entered(n, maker.forge.new_view(1, maker.forge.view_changes(1), signer=3))
    assert solo.node.core.entered_view == 0
    assert solo.rejected(Reason.NOT_PRIMARY) == 1


def test_o_is_signed_by_the_primary_entry_by_entry(n: int) -> None:
    """O's pre-prepares are the proofs of the next view change, so each carries its signature."""
    maker = Solo(n)
    changes = changes_with(maker, 1, [maker.forge.proof(1, A)])
    for entry in (
        maker.forge.sign(2, PrePrepare(1, 1, A)),
        Signed(maker.forge.pre_prepare(1, A, 1).kind, 1,
               maker.forge.pre_prepare(1, A, 1).payload, bytes(64)),
        maker.forge.sign(1, Prepare(1, 1, A)),
    ):  # fmt: skip
        solo = entered(n, maker.forge.sign(1, NewView(1, tuple(changes), (entry,))))
        assert solo.node.core.entered_view == 0
        assert sum(solo.node.rejections.values()) == 1


def test_a_new_view_below_my_own_view_change_is_never_entered(n: int) -> None:
    """Having signed for v', a replica takes part in no view below v': its P there would be
    missing."""
    solo = Solo(n, me=2)
    for replica in solo.others[-solo.thresholds.weak :]:
        solo.cluster.tell(2, solo.forge.view_change(replica, 4))
    assert solo.node.core.view == 4
    solo.cluster.tell(2, solo.forge.new_view(3, solo.forge.view_changes(3)))
    assert solo.node.core.entered_view == 0
    assert solo.rejected(Reason.VIEW_STALE) == 1


def test_min_s_and_its_proof_are_adopted_from_v(n: int) -> None:
    """If min-s is greater than its latest stable checkpoint, it inserts the proof of stability and
    discards what lies below; the state is fetched later."""
    solo = Solo(n, me=2)
    solo.propose(1)
    ahead, *rest = solo.others[: solo.thresholds.quorum]
    state = solo.forge.checkpoints(2 * INTERVAL, C)
    changes = [
        solo.forge.view_change(ahead, 1, [], 2 * INTERVAL, state),
        *(solo.forge.view_change(replica, 1) for replica in rest),
    ]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    core = solo.node.core
    assert (core.entered_view, core.low_water_mark, core.executed) == (1, 2 * INTERVAL, 0)
    assert core.stable.checkpoints == state
    below = core.log.get(1)
    assert below is None or below.pre_prepare is None
    batch = solo.batch(20)
    solo.propose(2 * INTERVAL + 1, batch, view=1)
    assert solo.prepared_for()[-1] == Prepare(1, 2 * INTERVAL + 1, batch_digest(batch))


def test_entries_of_o_at_or_below_my_own_checkpoint_are_skipped(n: int) -> None:
    """V may be of replicas that are behind me."""
    solo = Solo(n, me=2)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    votes = len(solo.prepared_for())
    changes = changes_with(solo, 1, [solo.forge.proof(s, A) for s in range(1, INTERVAL + 1)])
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert solo.node.core.entered_view == 1
    assert len(solo.prepared_for()) == votes


def test_the_protocol_is_redone_but_nothing_is_executed_again(n: int) -> None:
    """Replicas redo the protocol for messages between min-s and max-s, but they avoid re-executing
    client requests."""
    solo = Solo(n, me=2)
    digest = solo.decide(1)
    solo.cluster.tell(
        2, solo.forge.new_view(1, changes_with(solo, 1, [solo.forge.proof(1, digest)]))
    )
    solo.prepare(1, digest, view=1)
    solo.commit(1, digest, view=1)
    assert [vote.view for vote in solo.prepared_for()] == [0, 1]
    assert [vote.view for vote in solo.committed_to()] == [0, 1]
    assert solo.node.journal == [b"0.1.1"]
    assert len(solo.node.replies()) == 1
    solo.decide(2, view=1)
    assert solo.node.journal == [b"0.1.1", b"0.1.2"]


def test_a_new_view_that_contradicts_what_was_executed_halts(n: int) -> None:
    """More than f faults: the replica stops rather than execute two histories."""
    solo = Solo(n, me=2)
    solo.decide(1)
    solo.cluster.tell(2, solo.forge.new_view(1, changes_with(solo, 1, [solo.forge.proof(1, A)])))
    assert "Halt" in {type(effect).__name__ for effect in solo.node.effects}


def test_a_missing_request_is_fetched_from_another_replica(n: int) -> None:
    """A replica may be missing some request m: it obtains it from another one, by digest, and
    votes only then."""
    solo = Solo(n, me=2)
    batch = solo.batch()
    digest = batch_digest(batch)
    solo.cluster.tell(
        2, solo.forge.new_view(1, changes_with(solo, 1, [solo.forge.proof(1, digest)]))
    )
    assert not solo.prepared_for()
    assert digest in solo.node.sent(Status)[-1].missing
    solo.cluster.tell(2, BatchBytes(solo.batch(2)))
    assert solo.rejected(Reason.UNWANTED) == 1
    solo.cluster.tell(2, BatchBytes(batch))
    assert solo.prepared_for() == [Prepare(1, 1, digest)]


def test_votes_that_overtake_the_new_view_count_once_it_is_entered(n: int) -> None:
    """Messages of the new view may arrive first: they wait, and entering drops only those of lower
    views."""
    solo = Solo(n, me=2)
    batch = solo.batch()
    digest = solo.propose(1, batch)
    for replica in solo.others[-solo.thresholds.weak :]:
        solo.cluster.tell(2, solo.forge.view_change(replica, 1))
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    solo.prepare(1, digest, view=1)
    solo.commit(1, digest, view=1)
    solo.cluster.tell(
        2, solo.forge.new_view(1, changes_with(solo, 1, [solo.forge.proof(1, digest)]))
    )
    assert solo.node.journal == [b"0.1.1"]


def test_votes_of_a_later_view_wait_for_it(n: int) -> None:
    """A replica that is still in the old view keeps one vote per signer and kind for a later
    one."""
    solo = Solo(n, me=2)
    batch = solo.batch()
    digest = solo.propose(1, batch)
    solo.prepare(1, digest, view=1)
    solo.commit(1, digest, view=1)
    assert solo.node.journal == []
    solo.cluster.tell(
        2, solo.forge.new_view(1, changes_with(solo, 1, [solo.forge.proof(1, digest)]))
    )
    assert solo.node.journal == [b"0.1.1"]


def test_numbers_continue_above_max_s(n: int) -> None:
    """The new primary proposes next what comes after O."""
    solo = Solo(n)
    for replica in solo.others[: solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.view_change(replica, 1, [solo.forge.proof(5, A)]))
    solo.node.submit(solo.forge.request())
    (proposal,) = solo.node.sent(Proposal)
    assert solo.forge.vote(proposal.pre_prepare).sequence == 6


def test_the_new_primary_does_not_propose_again_what_o_holds(n: int) -> None:
    """Pending requests that O re-proposes stand in a batch of the new view already."""
    solo = Solo(n)
    batch = solo.batch()
    solo.node.submit(solo.forge.request())
    digest = solo.propose(1, batch)
    for replica in solo.others[: solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.view_change(replica, 1, [solo.forge.proof(1, digest)]))
    assert solo.node.core.entered_view == 1
    assert not solo.node.sent(Proposal)


# Across views.


def test_what_committed_anywhere_survives_the_view_change(n: int) -> None:
    """A request that committed at one replica only keeps its sequence number in later views."""
    cluster = Cluster(n)
    lucky = n - 1
    cluster.drop(lambda m: m.says(Commit) and m.to != lucky)
    cluster.submit(cluster.forge.request(1, b"kept"))
    assert cluster[lucky].journal == [b"kept"]
    assert all(node.journal == [] for node in cluster.up[:-1])
    cluster.drop(None)
    cluster[lucky].crash()
    cluster.fail_primary()
    cluster.bring_back(lucky)
    cluster.advance(3 * SECOND)
    cluster.submit(cluster.forge.request(2, b"next"), to=[node.id for node in cluster.up])
    cluster.advance(3 * SECOND)
    assert all(node.journal == [b"kept", b"next"] for node in cluster.up)


def test_unequal_checkpoints_among_the_members_of_v(n: int) -> None:
    """One member of V has a later stable checkpoint than the others: the new view begins there and
    all of them follow."""
    cluster = Cluster(n)
    ahead = n - 1
    cluster.drop(lambda m: m.says(Checkpoint) and m.to != ahead)
    cluster.run(INTERVAL + 2)
    marks = {node.id: node.core.low_water_mark for node in cluster.up}
    assert marks == {i: INTERVAL if i == ahead else 0 for i in range(n)}
    cluster.drop(None)
    cluster.fail_primary()
    cluster.advance(3 * SECOND)
    assert {node.core.low_water_mark for node in cluster.up} == {INTERVAL}
    cluster.submit(cluster.forge.request(7), to=range(n))
    assert cluster.agree()
    assert len(cluster[1].journal) == INTERVAL + 3


@pytest.mark.parametrize("views", [2, 3])
def test_several_view_changes_in_a_row(n: int, views: int) -> None:
    """Primaries fail one after the other, each comes back, and nothing is lost or done twice."""
    cluster = Cluster(n)
    number = 0
    for _ in range(views):
        for _ in range(3):
            number += 1
            cluster.submit(cluster.forge.request(number), to=range(n))
        failed = cluster.fail_primary()
        cluster.advance(4 * SECOND)
        cluster.bring_back(failed)
        cluster.advance(2 * SECOND)
    cluster.advance(10 * SECOND)
    assert cluster.agree()
    assert len(cluster[0].journal) == number
    assert number < WINDOW + views
