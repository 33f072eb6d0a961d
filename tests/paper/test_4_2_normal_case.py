"""Section 4.2, normal-case operation: pre-prepare, prepare, commit. Departures: batches, their
bodies beside the pre-prepare, q = ceil((n + f + 1) / 2) in place of 2f + 1."""

from random import Random

import pytest

from pbft.core.effects import AcceptedRecord, Broadcast, Persist, PreparedRecord
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.errors import Reason
from pbft.messages import Commit, Kind, Prepare, Proposal, Signed, Status
from tests.harness.core_cluster import Cluster
from tests.harness.core_solo import Solo

# Pre-prepare.


def test_the_primary_assigns_consecutive_sequence_numbers(n: int) -> None:
    """The primary assigns n to the request and multicasts a pre-prepare with m."""
    cluster = Cluster(n)
    cluster.run(3)
    proposals = cluster[0].sent(Proposal)
    votes = [cluster.forge.vote(proposal.pre_prepare) for proposal in proposals]
    assert [(vote.view, vote.sequence) for vote in votes] == [(0, 1), (0, 2), (0, 3)]
    assert [vote.digest for vote in votes] == [batch_digest(p.batch) for p in proposals]


def test_a_backup_accepts_a_good_pre_prepare_and_multicasts_a_prepare(n: int) -> None:
    """It enters the prepare phase with <PREPARE, v, n, d, i> to all and logs both."""
    solo = Solo(n)
    digest = solo.propose(1)
    assert solo.prepared_for() == [Prepare(0, 1, digest)]
    assert any(isinstance(e, Broadcast) for e in solo.node.effects)
    (record,) = solo.accepted_records()
    assert (record.view, record.sequence, record.digest) == (0, 1, digest)


def test_clause_signature_of_the_pre_prepare(n: int) -> None:
    """Accepted provided the signature of the pre-prepare is correct."""
    solo = Solo(n)
    good = solo.forge.proposal(1, solo.batch())
    vote = good.pre_prepare
    forged = Signed(vote.kind, vote.signer, vote.payload, bytes(64))
    solo.cluster.tell(1, Proposal(forged, good.batch))
    assert not solo.prepared_for()
    assert solo.rejected(Reason.BAD_SIGNATURE) == 1


def test_clause_digest_of_the_body(n: int) -> None:
    """Accepted provided d is the digest of m."""
    solo = Solo(n)
    good = solo.forge.proposal(1, solo.batch(1))
    solo.cluster.tell(1, Proposal(good.pre_prepare, solo.batch(2)))
    assert not solo.prepared_for()
    assert solo.rejected(Reason.BAD_BODY) == 1


def test_clause_signatures_of_the_requests(n: int) -> None:
    """Accepted provided the signatures in the request are correct."""
    solo = Solo(n)
    good, bad = solo.forge.request(1), solo.forge.request(2)
    forged = Signed(bad.kind, bad.signer, bad.payload, bytes(64))
    solo.propose(1, solo.forge.batch(good, forged))
    assert not solo.prepared_for()
    assert solo.rejected(Reason.BAD_BODY) == 1


@pytest.mark.parametrize(("view", "reason"), [(1, Reason.VIEW_STALE), (6, Reason.VIEW_FUTURE)])
def test_clause_same_view(n: int, view: int, reason: Reason) -> None:
    """Accepted provided it is in view v."""
    solo = Solo(n, me=3)
    solo.enter(2)
    solo.propose(1, view=view)
    assert not solo.prepared_for()
    assert solo.rejected(reason) == 1
    solo.propose(1, view=2)
    assert len(solo.prepared_for()) == 1


def test_clause_primary_of_the_view(n: int) -> None:
    """The pre-prepare comes from the primary of v, p = v mod n, and from nobody else."""
    solo = Solo(n)
    solo.cluster.tell(1, solo.forge.proposal(1, solo.batch(), signer=2))
    assert not solo.prepared_for()
    assert solo.rejected(Reason.NOT_PRIMARY) == 1


def test_clause_no_other_digest_for_this_view_and_sequence(n: int) -> None:
    """Accepted provided it has not accepted one for v and n with a different digest."""
    solo = Solo(n)
    first = solo.propose(1, solo.batch(1))
    solo.propose(1, solo.batch(2))
    assert solo.prepared_for() == [Prepare(0, 1, first)]
    assert solo.rejected(Reason.DIGEST_CONFLICT) == 1


def test_clause_low_water_mark(n: int) -> None:
    """Accepted provided n is above h."""
    solo = Solo(n)
    solo.decide_to(4)
    solo.stabilise(4)
    assert solo.node.core.low_water_mark == 4
    votes = len(solo.prepared_for())
    solo.propose(4, solo.batch(50))
    assert len(solo.prepared_for()) == votes
    assert solo.rejected(Reason.SEQUENCE_LOW) == 1


def test_clause_high_water_mark(n: int) -> None:
    """Accepted provided n is not above H: one at H is, one above is not yet."""
    solo = Solo(n)
    high = solo.node.core.high_water_mark
    solo.propose(high)
    assert [vote.sequence for vote in solo.prepared_for()] == [high]
    solo.propose(high + 1)
    assert [vote.sequence for vote in solo.prepared_for()] == [high]
    solo.propose(high + solo.window + 1)
    assert solo.rejected(Reason.SEQUENCE_HIGH) == 1


def test_clause_null_only_in_a_new_view(n: int) -> None:
    """The null request exists in a new-view's O only."""
    solo = Solo(n)
    solo.cluster.tell(1, solo.forge.pre_prepare(1, NULL_DIGEST))
    assert not solo.prepared_for()
    assert solo.rejected(Reason.BAD_BODY) == 1


def test_a_pre_prepare_without_its_body_waits_for_it(n: int) -> None:
    """Bodies may travel separately, but without m in the log nothing is prepared."""
    solo = Solo(n)
    batch = solo.batch()
    digest = batch_digest(batch)
    solo.cluster.tell(1, solo.forge.pre_prepare(1, digest))
    solo.prepare(1, digest, count=n - 2)
    assert not solo.prepared_for()
    assert not solo.committed_to()
    solo.cluster.tell(1, Proposal(solo.forge.pre_prepare(1, digest), batch))
    assert solo.prepared_for() == [Prepare(0, 1, digest)]
    assert solo.committed_to() == [Commit(0, 1, digest)]


# Prepare.


def test_prepared_needs_q_minus_one_prepares_of_different_backups(n: int) -> None:
    """prepared(m, v, n, i): pre-prepare and 2f prepares from different backups match it; my own
    counts. Not one fewer."""
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest, count=solo.thresholds.prepares - 2)
    assert not solo.committed_to()
    solo.prepare(1, digest)
    assert solo.committed_to() == [Commit(0, 1, digest)]
    (record,) = solo.prepared_records()
    assert len(record.proof.prepares) == solo.thresholds.prepares


def test_prepared_at_the_primary_needs_q_minus_one_backups(n: int) -> None:
    """The primary sends no prepare: its pre-prepare stands for it."""
    solo = Solo(n, me=0)
    solo.node.submit(solo.forge.request())
    digest = solo.slot(1).pre_prepare.message.digest  # type: ignore[union-attr]
    assert not solo.prepared_for()
    solo.prepare(1, digest, count=solo.thresholds.prepares - 1)
    assert not solo.committed_to()
    solo.prepare(1, digest)
    assert solo.committed_to() == [Commit(0, 1, digest)]


def test_the_primarys_prepare_is_not_counted(n: int) -> None:
    """2f prepares from different backups: one signed by the primary is none of them."""
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest, count=solo.thresholds.prepares - 2)
    solo.cluster.tell(1, solo.forge.prepare(0, 1, digest))
    assert not solo.committed_to()
    assert solo.rejected(Reason.NOT_PRIMARY) == 1


def test_one_backup_repeating_itself_counts_once(n: int) -> None:
    """From different backups."""
    solo = Solo(n)
    digest = solo.propose(1)
    for _ in range(n):
        solo.cluster.tell(1, solo.forge.prepare(2, 1, digest))
    assert bool(solo.committed_to()) is (solo.thresholds.prepares == 2)
    assert solo.rejected(Reason.DUPLICATE) + solo.rejected(Reason.UNWANTED) == n - 1


@pytest.mark.parametrize("other", ["view", "sequence", "digest"])
def test_prepares_must_match_view_sequence_and_digest(n: int, other: str) -> None:
    """The prepares match the pre-prepare if they have the same view, sequence and digest."""
    solo = Solo(n)
    digest = solo.propose(1)
    for backup in solo.other_backups():
        vote = {
            "view": solo.forge.prepare(backup, 1, digest, view=n),
            "sequence": solo.forge.prepare(backup, 2, digest),
            "digest": solo.forge.prepare(backup, 1, bytes(32)),
        }[other]
        solo.cluster.tell(1, vote)
    assert not solo.committed_to()


def test_prepares_that_come_before_the_pre_prepare_count(n: int) -> None:
    """Messages may be delivered out of order."""
    solo = Solo(n)
    batch = solo.batch()
    solo.prepare(1, batch_digest(batch))
    assert not solo.committed_to()
    solo.propose(1, batch)
    assert len(solo.committed_to()) == 1


def test_a_replica_commits_once(n: int) -> None:
    """It multicasts the commit when prepared becomes true, and only then."""
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest, count=n - 2)
    assert solo.committed_to() == [Commit(0, 1, digest)]


# Commit.


def test_committed_local_needs_q_matching_commits(n: int) -> None:
    """committed-local: prepared and 2f + 1 commits (possibly with its own) that match. Not one
    fewer."""
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.commit(1, digest, count=solo.thresholds.quorum - 2)
    assert not solo.decided()
    assert not solo.node.answers
    solo.commit(1, digest)
    assert solo.decided() == [1]
    assert len(solo.node.replies()) == 1


def test_commits_must_match_and_be_of_distinct_replicas(n: int) -> None:
    """Same view, sequence and digest, each signer once."""
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    for replica in solo.others:
        solo.cluster.tell(1, solo.forge.commit(replica, 1, digest, view=1))
    for _ in range(n):
        solo.cluster.tell(1, solo.forge.commit(0, 1, digest))
    for replica in solo.others[1 : solo.thresholds.quorum]:
        solo.cluster.tell(1, solo.forge.commit(replica, 1, bytes(32)))
    assert not solo.decided()


def test_votes_of_the_wrong_kind_do_not_count(n: int) -> None:
    """A prepare is no commit: the kind is in the signed bytes."""
    solo = Solo(n)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    for replica in solo.others:
        prepare = solo.forge.prepare(replica, 1, digest)
        renamed = Signed(Kind.COMMIT, replica, prepare.payload, prepare.signature)
        solo.cluster.tell(1, renamed)
    assert not solo.decided()
    assert solo.rejected(Reason.BAD_SIGNATURE) == len(solo.others)


@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_votes_outside_the_watermarks_are_not_kept(n: int, phase: str) -> None:
    """Accepted provided h < n <= H; one window beyond H is kept, because a primary may stabilise
    first."""
    solo = Solo(n)
    solo.decide_to(4)
    solo.stabilise(4)
    vote = solo.forge.prepare if phase == "prepare" else solo.forge.commit
    known = len(solo.node.core.log)
    solo.cluster.tell(1, vote(2, 4, bytes(32)), vote(2, 4 + 2 * solo.window + 1, bytes(32)))
    assert solo.rejected(Reason.SEQUENCE_LOW) == 1
    assert solo.rejected(Reason.SEQUENCE_HIGH) == 1
    assert len(solo.node.core.log) == known


# Execution.


def test_execution_waits_for_every_lower_sequence(n: int) -> None:
    """It executes m after committed-local(m, v, n, i) is true and its state reflects all requests
    with lower numbers."""
    solo = Solo(n)
    solo.decide(2)
    assert solo.decided() == [2]
    assert solo.node.journal == []
    solo.decide(1)
    assert solo.node.journal == [b"0.1.1", b"0.1.2"]
    assert [reply.sequence for reply in solo.node.replies()] == [1, 2]


def test_replicas_execute_the_same_whatever_the_order_of_delivery(n: int) -> None:
    """Safety does not rely on ordered delivery: each message at random, some twice."""
    random = Random(n)
    cluster = Cluster(n)
    cluster.hold(lambda m: True)
    for number in range(1, 7):
        cluster.submit(cluster.forge.request(number, acknowledged=0))
    while cluster.network.held:
        held = cluster.network.held
        message = held.pop(random.randrange(len(held)))
        if random.random() < 0.2:
            held.append(message)
        cluster.deliver(message)
    assert cluster.executed() == {6}
    assert cluster.agree()


def test_a_request_is_executed_at_most_once_in_however_many_batches(n: int) -> None:
    """Exactly-once semantics: the second batch with it changes nothing and gives the same
    reply."""
    solo = Solo(n)
    batch = solo.forge.batch(solo.forge.request(1), solo.forge.request(1))
    solo.decide(1, batch)
    solo.decide(2, solo.forge.batch(solo.forge.request(1), time_us=0))
    assert solo.node.journal == [b"0.1.1"]
    assert len(set(solo.node.replies())) == 1


def test_log_goes_to_disk_before_the_vote_that_rests_on_it(n: int) -> None:
    """Replicas record what they accepted and prepared before they say so."""
    solo = Solo(n)
    solo.node.effects.clear()
    digest = solo.propose(1)
    solo.prepare(1, digest)
    order: list[type[object]] = []
    for effect in solo.node.effects:
        if isinstance(effect, Persist):
            order.append(type(effect.record))
        elif isinstance(effect, Broadcast) and isinstance(effect.item, Signed):
            order.append(type(solo.node.verifier.decode(effect.item)))
    order = [kind for kind in order if kind is not Status]
    assert order == [AcceptedRecord, Prepare, PreparedRecord, Commit]
