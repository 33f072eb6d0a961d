"""What a replica that asks at its start is told of its own votes (protocol.md section 10): what its
peers keep to themselves it may have lost without knowing."""

import pytest

from pbft.messages import Commit, Prepare, PrePrepare, Recall, Recalled, Vote
from tests.harness.core_solo import Solo

A = b"a" * 32


def told(solo: Solo, peer: int) -> Recalled:
    """The answer to the recall of a peer."""
    solo.cluster.tell(solo.me, solo.forge.sign(peer, Recall(peer, A)))
    (answer,) = solo.node.sent(Recalled)
    return answer


def votes_told(solo: Solo, peer: int) -> list[Vote]:
    """Its votes in the answer."""
    return [solo.forge.vote(signed) for signed in told(solo, peer).votes]


def test_commits_that_came_in_a_certificate_are_told() -> None:
    """They were never counted one by one."""
    solo = Solo()
    committed = solo.forge.committed(1, solo.batch(1), signers=(0, 2, 3))
    solo.cluster.tell(1, committed, sender=0)
    digest = solo.forge.vote(committed.commits[0]).digest
    assert votes_told(solo, 2) == [Commit(0, 1, digest)]


@pytest.mark.parametrize(("peer", "kind"), [(0, PrePrepare), (2, Prepare)])
def test_votes_in_a_prepared_certificate_are_told_in_later_views_too(
    peer: int, kind: type[Vote]
) -> None:
    """Those that were counted in the view that was left are gone; the certificate stays."""
    solo = Solo()
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.enter(3)
    assert votes_told(solo, peer) == [kind(0, 1, digest)]


def test_votes_of_later_views_than_mine_are_told() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.prepare(2, 1, A, view=5), solo.forge.commit(2, 1, A, view=4))
    assert votes_told(solo, 2) == [Prepare(5, 1, A), Commit(4, 1, A)]


def test_a_pre_prepare_that_waits_for_its_body_is_told() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.pre_prepare(1, A))
    assert votes_told(solo, 0) == [PrePrepare(0, 1, A)]


def test_a_view_change_that_came_in_a_new_view_only_is_told() -> None:
    solo = Solo()
    solo.enter(3)
    peer = solo.others[0]
    assert told(solo, peer).view_change == solo.forge.view_change(peer, 3)
