"""Q1 to Q11 and K1 to K6: crimes with prepares, commits and checkpoints (adversary.md 2.3, 2.4)."""

from dataclasses import replace
from random import Random

import pytest

from pbft.core.effects import EventName
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.messages import Checkpoint, Commit, Kind, Prepare
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

SIZES = pytest.mark.parametrize("n", [4, 5, 6, 7])
A, B = b"a" * 32, b"b" * 32


@SIZES
def test_q1_the_first_of_two_prepares_counts(n: int) -> None:
    solo = Solo(n)
    digest = solo.propose(1)
    liar = solo.other_backups()[0]
    solo.cluster.tell(1, solo.forge.prepare(liar, 1, A), solo.forge.prepare(liar, 1, digest))
    for backup in solo.other_backups()[1 : solo.thresholds.prepares - 1]:
        solo.cluster.tell(1, solo.forge.prepare(backup, 1, digest))
    assert not solo.committed_to()
    assert solo.rejected(Reason.DIGEST_CONFLICT) == 1
    assert len(solo.node.core.evidence) == 1


@SIZES
@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_q2_one_signer_however_often_is_one_vote(n: int, phase: str) -> None:
    solo = Solo(n)
    digest = solo.propose(1)
    if phase == "commit":
        solo.prepare(1, digest)
    vote = getattr(solo.forge, phase)
    for _ in range(3 * n):
        solo.cluster.tell(1, vote(3, 1, digest))
    if phase == "prepare":
        assert bool(solo.committed_to()) is (solo.thresholds.prepares == 2)
    assert not solo.decided()


def test_q3_votes_in_anothers_name_are_refused() -> None:
    """The envelope's signer is who is counted, and its signature must be theirs."""
    solo = Solo(7)
    digest = solo.propose(1)
    own = solo.forge.prepare(2, 1, digest)
    for victim in (3, 4, 5, 6, 30):
        solo.cluster.tell(1, replace(own, signer=victim), sender=2)
    assert solo.rejected(Reason.BAD_SIGNATURE) == 4
    assert solo.rejected(Reason.UNKNOWN_SENDER) == 1
    assert not solo.committed_to()


def test_q3_relayed_votes_stand_on_their_own_signature() -> None:
    solo = Solo()
    digest = solo.propose(1)
    solo.cluster.tell(
        1, solo.forge.prepare(2, 1, digest), solo.forge.prepare(3, 1, digest), sender=0
    )
    assert len(solo.committed_to()) == 1


@SIZES
def test_q4_commits_without_prepare_decide_only_as_a_certificate(n: int) -> None:
    """A vote alone executes nothing; q of them with the body do, prepared here or not."""
    solo = Solo(n)
    digest = batch_digest(solo.batch())
    for replica in solo.others[: solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.commit(replica, 1, digest))
    assert not solo.decided()
    solo.cluster.tell(1, solo.forge.commit(solo.others[-1], 1, digest))
    missing = solo.thresholds.quorum - len(solo.others)
    if missing > 0:
        assert not solo.decided()
        solo.propose(1, solo.batch())
        solo.prepare(1, digest)
    assert solo.decided() == [1]
    assert len(solo.node.journal) == (missing > 0)


def test_q4_commits_for_what_was_never_proposed_execute_nothing() -> None:
    solo = Solo()
    for replica in solo.others:
        solo.cluster.tell(1, solo.forge.commit(replica, 1, A))
    solo.cluster.advance(10 * SECOND)
    assert solo.node.core.executed == 0
    assert not solo.node.answers


def test_q4_votes_of_other_views_are_stale_or_wait() -> None:
    solo = Solo(me=2)
    solo.enter(1)
    solo.cluster.tell(2, solo.forge.commit(3, 1, A, view=0), solo.forge.commit(3, 1, A, view=5))
    assert solo.rejected(Reason.VIEW_STALE) == 1
    solo.cluster.tell(2, solo.forge.commit(3, 1, B, view=4))
    assert solo.rejected(Reason.VIEW_FUTURE) == 1
    assert [v.message.view for v in solo.slot(1).commits.later.values()] == [5]


@SIZES
def test_q5_the_primarys_prepare_is_none(n: int) -> None:
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest, count=solo.thresholds.prepares - 2)
    solo.cluster.tell(1, solo.forge.prepare(0, 1, digest))
    assert not solo.committed_to()
    assert solo.rejected(Reason.NOT_PRIMARY) == 1


@SIZES
def test_q6_every_threshold_is_exact(n: int) -> None:
    """One vote fewer does nothing, the next one does: prepares, commits and checkpoints."""
    solo = Solo(n)
    digests = {}
    for sequence in range(1, INTERVAL + 1):
        digest = digests[sequence] = solo.propose(sequence)
        solo.prepare(sequence, digest, count=solo.thresholds.prepares - 2)
        assert len(solo.committed_to()) == sequence - 1
        solo.prepare(sequence, digest)
        assert len(solo.committed_to()) == sequence
        solo.commit(sequence, digest, count=solo.thresholds.quorum - 2)
        assert solo.node.core.executed == sequence - 1
        solo.commit(sequence, digest)
        assert solo.node.core.executed == sequence


@pytest.mark.parametrize(
    ("signed_as", "sent_as"),
    [("prepare", Kind.COMMIT), ("commit", Kind.PREPARE), ("prepare", Kind.PRE_PREPARE)],
)
def test_q7_a_signature_of_one_kind_is_none_of_another(signed_as: str, sent_as: Kind) -> None:
    """The kind is in the signed bytes."""
    solo = Solo()
    digest = solo.propose(1)
    for replica in solo.others:
        vote = getattr(solo.forge, signed_as)(replica, 1, digest)
        solo.cluster.tell(1, replace(vote, kind=sent_as))
    assert not solo.committed_to()
    assert not solo.decided()


def test_q8_commit_equivocation() -> None:
    """d to some and d' to others, then silence: no replica decides d', the others go on."""
    cluster = Cluster(4, live=range(3))
    forge = cluster.forge
    cluster.submit(forge.request(1))
    digest = cluster[0].core.log.slot(1).pre_prepare.message.digest  # type: ignore[union-attr]
    for node in cluster.up:
        cluster.tell(node.id, forge.commit(3, 1, digest if node.id == 0 else A))
    assert cluster.executed() == {1}
    assert cluster.agree()
    late = Solo()
    late.cluster.tell(1, late.forge.commit(3, 1, A), late.forge.commit(3, 1, B))
    assert len(late.node.core.evidence) == 1


@SIZES
def test_q9_selective_silence(n: int) -> None:
    """f replicas answer a quorum only: the victim fetches what it misses."""
    cluster = Cluster(n)
    liars = range(n - cluster.thresholds.faulty, n)
    victim = 1
    cluster.drop(lambda m: m.sender in liars and m.to == victim)
    for number in range(1, 12):
        cluster.submit(cluster.forge.request(number))
    cluster.advance(5 * SECOND)
    assert cluster.executed() == {11}
    assert cluster.agree()
    assert cluster.views() == {0}


@pytest.mark.parametrize("seed", range(3))
def test_q10_messages_again_and_in_any_order_change_nothing(seed: int) -> None:
    random = Random(seed)
    cluster = Cluster(4)
    cluster.hold(lambda m: True)
    for number in range(1, INTERVAL):
        cluster.submit(cluster.forge.request(number, acknowledged=0))
    seen = []
    while cluster.network.held:
        message = cluster.network.held.pop(random.randrange(len(cluster.network.held)))
        seen.append(message)
        cluster.deliver(message)
    cluster.hold(None)
    journals = [node.journal for node in cluster.up]
    replies = [len(node.answers) for node in cluster.up]
    for message in random.sample(seen, len(seen)) * 3:
        cluster.deliver(message)
    cluster.settle()
    assert [node.journal for node in cluster.up] == journals
    assert [len(node.answers) for node in cluster.up] == replies
    assert cluster.agree()


def test_q11_votes_for_random_sequences_are_one_per_signer_and_slot() -> None:
    random = Random(1)
    solo = Solo()
    for _ in range(2000):
        sequence = random.randrange(1, 2 * WINDOW + 3)
        digest = bytes([random.randrange(256)]) * 32
        vote = random.choice([Prepare, Commit])(random.randrange(3), sequence, digest)
        solo.node.receive(2, solo.forge.sign(2, vote))
    votes = sum(
        len(votes.current) + len(votes.later)
        for slot in solo.node.core.log
        for votes in (slot.prepares, slot.commits)
    )
    assert votes <= 2 * WINDOW * 2 * 2
    assert not solo.decided()


# Checkpoints.


@SIZES
def test_k1_a_lie_about_the_state_is_not_counted(n: int) -> None:
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    liars = solo.others[: solo.thresholds.faulty]
    for liar in liars:
        solo.cluster.tell(1, solo.forge.checkpoint(liar, INTERVAL, A))
    digest = solo.node.core.sealed[INTERVAL]
    honest = solo.others[solo.thresholds.faulty :]
    for replica in honest[: solo.thresholds.quorum - 2]:
        solo.cluster.tell(1, solo.forge.checkpoint(replica, INTERVAL, digest))
    assert solo.node.core.low_water_mark == 0
    solo.cluster.tell(1, solo.forge.checkpoint(honest[-1], INTERVAL, digest))
    assert solo.node.core.low_water_mark == INTERVAL
    assert not solo.node.core.diverged


def test_k1_a_quorum_against_my_state_stops_me() -> None:
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL, A)
    assert solo.node.core.diverged
    known = len(solo.prepared_for()), len(solo.node.answers)
    solo.decide(INTERVAL + 1)
    assert (len(solo.prepared_for()), len(solo.node.answers)) == known
    assert len(solo.node.events(EventName.STATE_DIVERGED)) == 1


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        (INTERVAL + 1, Reason.BAD_CHECKPOINT),
        (2 * WINDOW + INTERVAL, Reason.SEQUENCE_HIGH),
        (2**62, Reason.SEQUENCE_HIGH),
    ],
)
def test_k2_checkpoints_off_the_grid_or_far_ahead(sequence: int, reason: Reason) -> None:
    solo = Solo()
    for replica in solo.others:
        solo.cluster.tell(1, solo.forge.checkpoint(replica, sequence, A))
    assert solo.rejected(reason) == 3
    assert not solo.node.core.checkpoints


@SIZES
def test_k3_fewer_than_a_quorum_do_not_drag_h(n: int) -> None:
    solo = Solo(n)
    for replica in solo.others[: solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.checkpoint(replica, INTERVAL, A))
    assert solo.node.core.low_water_mark == 0
    solo.cluster.advance(5 * SECOND)
    assert not solo.node.events(EventName.STATE_TRANSFER_STARTED)


@SIZES
def test_k4_f_replicas_that_never_send_checkpoints_stop_nothing(n: int) -> None:
    cluster = Cluster(n)
    liars = range(n - cluster.thresholds.faulty, n)
    cluster.drop(lambda m: m.sender in liars and m.says(Checkpoint))
    cluster.run(3 * WINDOW)
    assert cluster.executed() == {3 * WINDOW}
    assert {node.core.low_water_mark for node in cluster.up} == {3 * WINDOW}
    assert all(not node.log.load().decided for node in cluster.up)


@SIZES
@pytest.mark.parametrize("crime", ["twice", "mixed", "too few", "stranger", "torn"])
def test_k5_a_stable_certificate_must_be_one(n: int, crime: str) -> None:
    solo = Solo(n)
    good = solo.forge.checkpoints(INTERVAL, A)
    last = {
        "twice": [good[0]],
        "mixed": [solo.forge.checkpoint(n - 1, INTERVAL, B)],
        "too few": [],
        "stranger": [replace(good[-1], signer=n)],
        "torn": [replace(good[-1], signature=bytes(64))],
    }[crime]
    certificate = replace(solo.forge.stable(INTERVAL, A), checkpoints=(*good[:-1], *last))
    solo.cluster.tell(1, certificate)
    assert solo.rejected(Reason.BAD_CERTIFICATE) == 1
    assert solo.node.core.low_water_mark == 0
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, A))
    assert solo.node.core.low_water_mark == INTERVAL


def test_k6_withheld_checkpoints_stop_a_replica_but_cost_it_no_memory() -> None:
    """Nobody's checkpoints reach it for a long time: bounded by the window, and it asks."""
    cluster = Cluster(4)
    cluster.drop(lambda m: m.to == 3 and m.says(Checkpoint))
    cluster.run(10)
    assert cluster[3].core.low_water_mark == 0
    assert len(cluster[3].core.log) <= 2 * WINDOW
    cluster.run(20, first=11)
    cluster.advance(2 * SECOND)
    assert cluster.executed() == {30}
    assert cluster[3].core.low_water_mark == 28
