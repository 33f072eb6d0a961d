"""Directories that were copied at an inconvenient moment and come back later: a rollback is noticed
by what the log does not know, or by what peers show (protocol.md section 10)."""

import copy
from dataclasses import replace

import pytest

from pbft.core.effects import EventName
from pbft.core.state import Mode
from pbft.messages import (
    Commit,
    Prepare,
    Proposal,
    Recall,
    Recalled,
    Signed,
    Status,
    ViewChange,
)
from pbft.storage.memory import MemoryBase, MemoryLog
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo
from tests.unit.core.test_amnesia import lose_disk
from tests.unit.core.test_rejoin import SETTLED, certify, execute, rejoining


class Copied:
    """A replica of which a copy was made while it rejoined. The rejoin has ended since, and it
    prepared the batch after it."""

    def __init__(self) -> None:
        self.solo = solo = rejoining()
        node = solo.node
        execute(solo, INTERVAL)
        certify(solo, INTERVAL)
        assert node.core.rejoining is not None
        self._disk = copy.deepcopy(node.log), node.base.copy()
        now_us = node.now().wall_us
        self._decided = [
            solo.forge.committed(n, solo.forge.batch(time_us=now_us))
            for n in range(INTERVAL + 1, SETTLED + 1)
        ]
        self.bring_up_to_date()
        assert node.core.rejoining is None
        self.incarnation = node.core.incarnation
        solo.propose(SETTLED + 1, solo.batch(1))
        (self.vote,) = node.sent(Prepare)
        assert self.vote.sequence == SETTLED + 1

    def restore(self, rejoin: bool = False) -> None:
        """The copy comes back, possibly with a word of the operator."""
        node = self.solo.node
        node.crash()
        node.log, node.base = self._disk
        node.settings = replace(node.settings, rejoin=rejoin)
        node.start()

    def bring_up_to_date(self) -> None:
        """Its peers give it what was decided."""
        for item in self._decided:
            self.solo.cluster.tell(self.solo.me, item, sender=2)
        certify(self.solo, SETTLED)

    def recall(self, change: Signed | None, *votes: Signed) -> None:
        """They answer its recall."""
        solo = self.solo
        (recall,) = solo.node.sent(Recall)[-1:]
        for peer in solo.others[: solo.thresholds.recalls]:
            answer = Recalled(solo.me, recall.nonce, 0, 0, (), change, votes)
            solo.node.receive(peer, solo.forge.sign(peer, answer))

    def require_amnesia(self) -> None:
        """It begins another incarnation, and does not vote."""
        self.bring_up_to_date()
        core = self.solo.node.core
        assert core.rejoining is not None and core.incarnation > self.incarnation
        self.solo.propose(SETTLED + 1, self.solo.batch(2))
        assert not self.solo.node.sent(Prepare)


def test_a_vote_after_the_rejoin_shows_that_it_had_ended() -> None:
    story = Copied()
    story.restore()
    story.bring_up_to_date()
    assert story.solo.node.core.rejoining is not None, "nobody has answered yet"
    forge = story.solo.forge
    story.recall(None, forge.prepare(1, SETTLED + 1, story.vote.digest))
    story.require_amnesia()


def test_a_view_change_of_this_incarnation_shows_that_the_rejoin_had_ended() -> None:
    story = Copied()
    story.restore()
    change = ViewChange(1, 1, story.incarnation, 0, (), ())
    story.recall(story.solo.forge.sign(1, change))
    story.require_amnesia()


def test_votes_from_before_the_loss_do_not_begin_it_anew() -> None:
    story = Copied()
    story.restore()
    story.recall(story.solo.forge.view_change(1, 1), story.solo.forge.prepare(1, 2, b"d" * 32))
    story.bring_up_to_date()
    core = story.solo.node.core
    assert core.rejoining is None and core.incarnation == story.incarnation


def test_the_operator_has_the_last_word() -> None:
    story = Copied()
    story.restore(rejoin=True)
    story.require_amnesia()


def test_among_honest_replicas_it_rejoins_again() -> None:
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    lose_disk(cluster, 2)
    node = cluster[2]
    assert node.core.rejoining is not None
    disk, first = (copy.deepcopy(node.log), node.base.copy()), node.core.incarnation
    cluster.advance(70 * SECOND)
    assert node.core.rejoining is None
    cluster.run(3, first=INTERVAL + 2)
    assert node.sent(Prepare)
    node.crash()
    node.log, node.base = disk
    node.start()
    cluster.advance(150 * SECOND)
    assert node.core.incarnation > first and node.events(EventName.REJOINED)
    assert node.core.is_trusted


def test_a_log_of_before_a_rejoin_is_noticed_although_nobody_shows_a_vote() -> None:
    """In an idle cluster at a checkpoint. Or all its view-changes would be void, and a cluster of
    which one more replica fails could enter no view."""
    cluster = Cluster(4)
    cluster.run(2)
    node = cluster[2]
    disk = copy.deepcopy(node.log), node.base.copy()
    cluster.run(INTERVAL + 1, first=3)
    lose_disk(cluster, 2)
    cluster.advance(70 * SECOND)
    assert node.core.rejoining is None
    first, number = node.core.incarnation, INTERVAL + 4
    while any(it.core.executed % INTERVAL for it in cluster.up):
        cluster.run(1, first=number)
        number += 1
    cluster.advance(10 * SECOND)
    assert cluster.executed() == {it.core.low_water_mark for it in cluster.up}
    node.crash()
    node.log, node.base = disk
    node.start()
    cluster.advance(150 * SECOND)
    assert node.core.incarnation > first and node.core.is_trusted
    before = cluster[1].core.executed
    cluster.fail_primary()
    cluster.submit(cluster.forge.request(number), to=[1, 2, 3])
    cluster.advance(60 * SECOND)
    assert cluster[1].core.executed > before
    assert all(cluster[replica].core.mode is Mode.NORMAL for replica in (1, 2, 3))


def test_an_older_log_beside_the_newer_state_is_noticed() -> None:
    solo = Solo()
    node = solo.node
    older = copy.deepcopy(node.log)
    digest = solo.propose(6, solo.batch(1))
    vote = solo.forge.prepare(1, 6, digest)
    node.crash()
    node.log, node.base = MemoryLog(), MemoryBase()
    solo.cluster.oracles.forged.discard(1)
    node.start()
    solo.recall(vote)
    first, now_us = node.core.incarnation, node.now().wall_us
    for sequence in range(1, INTERVAL + 1):
        requests = [solo.forge.rejoin(1, first)] if sequence == 1 else []
        batch = solo.forge.batch(*requests, time_us=now_us)
        solo.cluster.tell(1, solo.forge.committed(sequence, batch), sender=2)
    certify(solo, INTERVAL)
    assert node.core.state.durable_sequence == INTERVAL
    node.crash()
    node.log = older
    node.start()
    solo.recall(vote)
    assert node.core.rejoining is not None and node.core.incarnation > first
    solo.propose(6, solo.batch(2))
    assert not node.sent(Prepare)


def test_the_peers_checkpoint_is_taken_from_their_answers() -> None:
    """They hold no votes below it any more: this replica must not vote there again."""
    solo = Solo()
    node = solo.node
    disk = copy.deepcopy(node.log), node.base.copy()
    solo.decide_to(INTERVAL)
    digest = solo.stabilise(INTERVAL)
    checkpoints = solo.forge.checkpoints(INTERVAL, digest)
    node.crash()
    node.log, node.base = disk
    node.start()
    (recall,) = node.sent(Recall)[-1:]
    for peer in solo.others[: solo.thresholds.recalls]:
        answer = Recalled(solo.me, recall.nonce, 0, INTERVAL, checkpoints, None, ())
        node.receive(peer, solo.forge.sign(peer, answer))
    assert node.core.is_trusted and node.core.low_water_mark == INTERVAL
    solo.propose(2, solo.batch(77))
    assert not node.sent(Prepare)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_view_change_that_came_in_a_new_view_is_told(restarts: bool) -> None:
    solo = Solo()
    peer = solo.others[0]
    solo.enter(3)
    if restarts:
        solo.restart()
    assert solo.node.core.entered_view == 3
    solo.cluster.tell(solo.me, solo.forge.sign(peer, Recall(peer, b"a" * 32)))
    assert solo.node.sent(Recalled)[-1].view_change is not None


def set_back_primary() -> Cluster:
    """Replica 0 proposed batch 3 to replica 3 alone, and came back with the directory of before it;
    the answer of 3 to its recall got lost."""
    cluster = Cluster(4)
    cluster.run(2)
    cluster.advance(2 * SECOND)
    backup = copy.deepcopy((cluster[0].log, cluster[0].base))
    cluster.drop(
        lambda m: (
            (m.says(Proposal) and m.to != 3)
            or m.says(Prepare, Commit, Status)
            or m.to == 0
            or m.sender == 3
        )
    )
    cluster.submit(cluster.forge.request(3), to=[0])
    cluster[0].crash()
    cluster[0].log, cluster[0].base = backup
    cluster.oracles.forged.add(0)
    cluster.drop(lambda m: m.says(Recalled) and m.sender == 3)
    cluster[0].start()
    cluster.settle()
    return cluster


def test_a_primary_whose_own_proposal_comes_back_unknown_has_lost_votes() -> None:
    cluster = set_back_primary()
    primary = cluster[0]
    assert primary.core.recalling is None and primary.core.rejoining is None
    cluster.drop(None)
    cluster.advance(SECOND)
    assert primary.events(EventName.AMNESIA)
    cluster.submit(cluster.forge.request(4), to=range(4))
    cluster.advance(10 * SECOND)
    assert min(cluster.executed()) >= 4
    assert primary.core.rejoining is None, "it rejoined"


def test_what_comes_back_before_the_recall_is_answered_counts_as_well() -> None:
    solo = Solo(4, me=0)
    solo.node.crash()
    solo.node.start()
    solo.cluster.tell(0, solo.forge.proposal(1, solo.batch(1)), sender=3)
    assert not solo.node.events(EventName.AMNESIA)
    solo.recall()
    assert solo.node.events(EventName.AMNESIA)
