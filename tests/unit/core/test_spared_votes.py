"""Votes that nobody needs are not made: others decide without a replica that fetches state, and
what is decided in this view is decided."""

from pbft.core.effects import EventName
from pbft.core.state_transfer import NEEDED_CAP_US, NEEDED_FIRST_US, SPARED_US
from pbft.crypto.digest import batch_digest
from tests.harness.core_solo import Solo
from tests.harness.core_transfer import FAR, Target

NEXT = FAR + 1


def test_a_replica_that_fetches_state_leaves_the_deciding_to_the_others() -> None:
    target = Target()
    digest = target.solo.propose(NEXT)
    target.solo.cluster.advance(SPARED_US // 2)
    target.solo.commit(NEXT, digest, count=3)
    assert target.solo.decided() == [NEXT]
    target.solo.cluster.advance(SPARED_US)
    for peer in (0, 1, 2):
        target.serve(peer)
    assert target.node.events(EventName.STATE_TRANSFER_FINISHED)
    assert target.node.core.executed == NEXT
    assert not target.solo.prepared_for()
    assert not target.solo.accepted_records()


def test_it_votes_when_they_do_not_decide_and_at_once_from_then_on() -> None:
    target = Target()
    target.solo.propose(NEXT)
    target.solo.cluster.advance(SPARED_US - 1)
    assert not target.solo.prepared_for()
    target.solo.cluster.advance(SPARED_US // 10)
    assert [vote.sequence for vote in target.solo.prepared_for()] == [NEXT]
    target.solo.propose(NEXT + 1)
    assert [vote.sequence for vote in target.solo.prepared_for()] == [NEXT, NEXT + 1]
    target.solo.cluster.advance(NEEDED_FIRST_US)
    assert target.node.core.transfer
    target.solo.propose(NEXT + 2)
    assert len(target.solo.prepared_for()) == 2
    target.solo.cluster.advance(SPARED_US)
    assert len(target.solo.prepared_for()) == 3


def test_where_its_votes_are_needed_again_and_again_it_pauses_ever_more_rarely() -> None:
    target = Target()
    core, cluster = target.node.core, target.solo.cluster
    spans = []
    for sequence in range(NEXT, NEXT + 6):
        target.solo.propose(sequence)
        cluster.advance(SPARED_US)
        assert target.solo.prepared_for()[-1].sequence == sequence
        spans.append(core.votes_needed_span_us)
        cluster.advance(core.votes_needed_until_us - cluster.now_us)
    assert spans == [min(NEEDED_FIRST_US << k, NEEDED_CAP_US) for k in range(6)]
    cluster.advance(NEEDED_CAP_US)
    target.solo.propose(NEXT + 6)
    cluster.advance(SPARED_US)
    assert core.votes_needed_span_us == NEEDED_FIRST_US, "they managed for as long without it"


def test_it_votes_at_once_when_the_state_is_here() -> None:
    target = Target()
    target.solo.propose(NEXT)
    for peer in (0, 1, 2):
        target.serve(peer)
    assert not target.node.core.transfer
    assert [vote.sequence for vote in target.solo.prepared_for()] == [NEXT]


def test_a_batch_decided_in_this_view_is_not_voted_for() -> None:
    solo = Solo()
    batch = solo.batch()
    digest = batch_digest(batch)
    solo.commit(1, digest, count=3)
    assert solo.decided() == [1]
    solo.propose(1, batch)
    assert solo.node.core.executed == 1
    assert not solo.prepared_for()
    assert not solo.accepted_records()


def test_a_batch_that_a_new_view_proposes_again_is_voted_for_though_it_is_decided_here() -> None:
    """The others may have to decide it again."""
    solo = Solo(me=2)
    batch = solo.batch()
    digest = solo.decide(1, batch)
    proof = solo.forge.proof(1, digest)
    changes = [solo.forge.view_change(replica, 1, [proof]) for replica in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert [(vote.view, vote.sequence) for vote in solo.prepared_for()] == [(0, 1), (1, 1)]
