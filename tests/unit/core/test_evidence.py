"""Evidence (protocol.md section 5): two statements that no honest replica makes, and never more."""

from random import Random

import pytest

from pbft.core.effects import EventName
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import ViewChange
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo

A, B, C = (bytes([letter]) * 32 for letter in b"abc")


def accusations(solo: Solo) -> list[tuple[str, int]]:
    """(kind, accused), in order."""
    return [(event.detail, event.value) for event in solo.node.events(EventName.EVIDENCE)]


@pytest.mark.parametrize("kind", ["prepare", "commit"])
def test_two_votes_for_one_view_and_sequence(kind: str) -> None:
    solo = Solo()
    vote = getattr(solo.forge, kind)
    solo.cluster.tell(1, vote(2, 1, A), vote(2, 1, B))
    assert accusations(solo) == [(kind, 2)]
    (evidence,) = solo.node.core.evidence.values()
    assert {evidence.first, evidence.second} == {vote(2, 1, A), vote(2, 1, B)}
    assert solo.node.rejections[kind, Reason.DIGEST_CONFLICT] == 1


@pytest.mark.parametrize("kind", ["prepare", "commit"])
def test_votes_of_a_later_view_convict_too(kind: str) -> None:
    solo = Solo()
    vote = getattr(solo.forge, kind)
    solo.cluster.tell(1, vote(2, 1, A, view=7), vote(2, 1, B, view=7))
    assert accusations(solo) == [(kind, 2)]


def test_two_proposals_for_one_view_and_sequence() -> None:
    solo = Solo()
    solo.propose(1, solo.batch(1))
    solo.propose(1, solo.batch(2))
    assert accusations(solo) == [("pre_prepare", 0)]


def test_two_digests_for_one_checkpoint() -> None:
    solo = Solo()
    solo.cluster.tell(1, *(solo.forge.checkpoint(2, INTERVAL, digest) for digest in (A, B)))
    assert accusations(solo) == [("checkpoint", 2)]


def test_two_new_views_for_one_view() -> None:
    """V8: different V to different replicas."""
    solo = Solo(me=2)
    first = solo.forge.new_view(1, solo.forge.view_changes(1, (0, 1, 3)))
    second = solo.forge.new_view(1, solo.forge.view_changes(1, (0, 1, 2)))
    solo.cluster.tell(2, first, second, second)
    assert accusations(solo) == [("new_view", 1)]
    solo.cluster.tell(2, first)
    assert solo.rejected(Reason.DUPLICATE) >= 1


def test_a_commit_and_a_view_change_that_omits_its_certificate() -> None:
    """Who commits has persisted the certificate, so no honest replica leaves it out."""
    solo = Solo()
    solo.cluster.tell(1, solo.forge.commit(2, 1, A), solo.forge.view_change(2, 2))
    assert accusations(solo) == [("omission", 2)]


@pytest.mark.parametrize("excuse", ["certificate", "later certificate", "checkpoint", "not later"])
def test_a_view_change_that_omits_nothing_convicts_nobody(excuse: str) -> None:
    solo = Solo()
    change = {
        "certificate": solo.forge.view_change(2, 6, [solo.forge.proof(1, A)]),
        "later certificate": solo.forge.view_change(2, 6, [solo.forge.proof(1, B, view=3)]),
        "checkpoint": solo.forge.view_change(
            2, 6, [], INTERVAL, solo.forge.checkpoints(INTERVAL, C)
        ),
        "not later": solo.forge.view_change(2, 6),
    }[excuse]
    view = 7 if excuse == "not later" else 0
    solo.cluster.tell(1, solo.forge.commit(2, 1, A, view=view), change)
    assert accusations(solo) == []


def test_a_commit_in_the_view_of_the_view_change_is_no_omission() -> None:
    """Its signer made it after the view-change, whichever comes first."""
    solo = Solo(me=2)
    solo.cluster.tell(2, solo.forge.view_change(0, 1), solo.forge.view_change(1, 1))
    assert solo.node.core.view == 1
    solo.cluster.tell(2, solo.forge.commit(3, 1, A, view=1), solo.forge.view_change(3, 1))
    assert 3 in solo.node.core.view_change.received
    assert accusations(solo) == []


@pytest.mark.parametrize("kind", ["prepare", "commit"])
def test_votes_for_two_digests_in_two_later_views_convict_nobody(kind: str) -> None:
    """The one of the higher view stays."""
    solo = Solo()
    vote = getattr(solo.forge, kind)
    solo.cluster.tell(1, vote(2, 1, A, view=5), vote(2, 1, B, view=7))
    assert accusations(solo) == []
    slot = solo.slot(1)
    votes = slot.prepares if kind == "prepare" else slot.commits
    assert votes.later[2].message.view == 7


def test_the_same_statement_twice_convicts_nobody() -> None:
    solo = Solo()
    for _ in range(3):
        solo.propose(1, solo.batch(1))
        solo.cluster.tell(1, solo.forge.prepare(2, 1, A), solo.forge.commit(2, 1, A))
    assert accusations(solo) == []


def test_one_accusation_per_signer_view_and_sequence() -> None:
    """More proofs of the same are not worth verifying."""
    solo = Solo()
    for digest in (A, B, C):
        solo.cluster.tell(1, solo.forge.commit(2, 1, digest))
    assert len(solo.node.core.evidence) == 1
    assert solo.node.rejections["verifier", Reason.DIGEST_CONFLICT] == 1
    for number in range(1, 5):
        solo.propose(1, solo.batch(number))
    assert solo.node.rejections["verifier", Reason.DIGEST_CONFLICT] == 3
    assert len(solo.node.core.evidence) == 2


def test_evidence_is_bounded_and_the_oldest_goes() -> None:
    solo = Solo(limits=LocalLimits(evidence=3))
    for sequence in range(1, 6):
        solo.cluster.tell(1, solo.forge.commit(2, sequence, A), solo.forge.commit(2, sequence, B))
    sequences = [sequence for _, _, _, sequence in solo.node.core.evidence]
    assert sequences == [3, 4, 5]


@pytest.mark.parametrize("seed", range(6))
def test_honest_replicas_are_never_accused(seed: int) -> None:
    """Crashes, losses, view changes and power losses at random: the oracles of the cluster fail on
    any accusation (they also see whether votes are repeated byte for byte)."""
    random = Random(seed)
    cluster = Cluster(4 + seed % 2)
    cluster.drop(lambda m: random.random() < 0.1)
    number = 0
    for _ in range(12):
        number += 1
        cluster.submit(cluster.forge.request(number, acknowledged=0), to=range(4))
        cluster.advance(random.randrange(SECOND))
        victim = cluster[random.randrange(4)]
        if random.random() < 0.6:
            victim.crash()
            cluster.advance(random.randrange(3 * SECOND))
            victim.start()
        if random.random() < 0.3:
            failed = cluster.fail_primary()
            cluster.advance(SECOND)
            cluster.bring_back(failed)
    cluster.drop(None)
    for node in cluster.up:
        for peer in cluster.nodes:
            if peer != node.id:
                node.link(peer, True)
    cluster.advance(60 * SECOND)
    assert {len(node.core.evidence) for node in cluster.up} == {0}
    assert cluster.agree()
    assert len(cluster[0].journal) == number
    assert any(node.sent(ViewChange) for node in cluster.up) or cluster.views() == {0}
