"""State transfer (protocol.md section 9): which of several checkpoints is fetched."""

from dataclasses import replace

from pbft.errors import Reason
from pbft.messages import StableCertificate, StateChunk, StateLeaves
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL
from tests.harness.core_transfer import FAR, Target, answer_to, serve_all


def test_a_source_that_stalled_does_not_decide_what_is_fetched() -> None:
    """A liar that always answers first must not win the race for ever."""
    target = Target()
    target.serve(1, most=1)
    target.solo.cluster.advance(SECOND)
    target.tell_leaves(1)
    assert target.solo.rejected(Reason.UNWANTED) == 1
    assert not target.transfer.sources
    serve_all(target, peer1=lambda a: replace(a, records=()) if isinstance(a, StateChunk) else a)
    target.expect_state()
    assert not target.solo.rejected(Reason.BAD_SNAPSHOT)


def test_a_checkpoint_that_only_the_first_source_holds_is_left_for_what_more_hold() -> None:
    """T3: such a source may be as slow as a source may be, and nobody else could take its share."""
    target = Target()
    target.tell_leaves(1)
    target.donor.run(INTERVAL, first=FAR + 1)
    target.tell_leaves(0)
    assert target.transfer.sources == {1}, "one against one: no reason to begin again"
    target.tell_leaves(2)
    assert target.transfer.sources == {0, 2}
    assert set(target.transfer.fetching) == {0, 2}
    assert target.transfer.slow == {1}
    for peer in (0, 2):
        target.node.receive(peer, answer_to(target, target.requests(peer)[-1]))
    target.expect_state()
    assert target.node.core.executed == FAR + INTERVAL


def test_a_lie_that_more_sources_tell_is_worth_no_more() -> None:
    target = Target()
    target.tell_leaves(1)
    target.donor.run(INTERVAL, first=FAR + 1)
    target.tell_leaves(0)
    snapshot = target.snapshot()
    leaf, *rest = snapshot.leaves()
    wrong = StateLeaves(
        StableCertificate(snapshot.certificate), (replace(leaf, count=leaf.count + 1), *rest)
    )
    target.node.receive(2, wrong)
    assert target.transfer.demoted == {2}
    assert not target.transfer.sources
    target.solo.cluster.advance(2 * SECOND)
    serve_all(target)
    target.expect_state()


def test_who_had_to_take_an_older_state_takes_it_in_the_next_round_too() -> None:
    """Where no disk is quick enough for a younger one, a source that stalls makes none so."""
    target = Target()
    assert target.requests(0)[-1].at_least > target.node.core.executed + 1
    target.solo.cluster.advance(3 * SECOND)
    assert target.requests(0)[-1].at_least == target.node.core.executed + 1
    target.tell_leaves(0)
    assert target.transfer.sources == {0}
    asked = len(target.requests(1))
    target.solo.cluster.advance(5 * SECOND)
    assert target.transfer.sources == set() and target.transfer.certificate is None
    rounds = [request for request in target.requests(1)[asked:] if request.sequence == 0]
    assert {request.at_least for request in rounds} == {target.node.core.executed + 1}


def test_a_source_that_says_the_same_again_is_no_source() -> None:
    """With every answer it would begin its time anew."""
    target = Target()
    target.tell_leaves(1)
    request = target.requests(1)[-1]
    sequence = request.sequence
    target.node.receive(1, StateChunk(sequence, (), b"k", request.number))
    assert not target.transfer.demoted
    target.node.receive(1, StateChunk(sequence, (), b"k", target.requests(1)[-1].number))
    assert target.transfer.demoted == {1}
