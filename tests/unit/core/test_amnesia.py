"""Recall, amnesia and rejoin (protocol.md section 10)."""

from dataclasses import replace

import pytest

from pbft.core.effects import EventName, RejoinRecord
from pbft.core.state import Mode
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.limits import ProtocolLimits
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    Recall,
    Recalled,
    Replies,
    Request,
    Signed,
    ViewChange,
)
from pbft.storage.memory import MemoryBase, MemoryLog
from tests.harness.core_cluster import SECOND, Cluster, lose_disk
from tests.harness.core_forge import INTERVAL, WINDOW, Forge
from tests.harness.core_solo import Solo

VOTES = (Prepare, Commit, Checkpoint, ViewChange, NewView)
A = b"a" * 32


def answer(solo: Solo, **changes: object) -> Recalled:
    """A peer that remembers nothing, or what `changes` make of it."""
    (recall,) = solo.node.sent(Recall)[-1:]
    empty = Recalled(solo.me, recall.nonce, 0, 0, (), None, ())
    return replace(empty, **changes)  # type: ignore[arg-type]


def tell(solo: Solo, peer: int, message: Recalled) -> None:
    """The answer of one peer."""
    solo.node.receive(peer, solo.forge.sign(peer, message))


# Recall.


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_q_minus_one_peers_must_answer(n: int) -> None:
    solo = Solo(n)
    solo.node.restart()
    for peer in solo.others[: solo.thresholds.recalls - 1]:
        for _ in range(3):
            tell(solo, peer, answer(solo))
    assert solo.node.core.recalling is not None
    tell(solo, solo.others[-1], answer(solo))
    assert solo.node.core.recalling is None


def test_only_answers_to_this_nonce_and_this_replica_count() -> None:
    solo = Solo()
    solo.node.restart()
    tell(solo, 0, answer(solo, nonce=bytes(32)))
    tell(solo, 2, answer(solo, replica=3))
    tell(solo, 3, answer(solo))
    assert solo.rejected(Reason.UNWANTED) >= 2
    recalling = solo.node.core.recalling
    assert recalling is not None and recalling.answered == {3}


def test_it_asks_until_it_is_answered() -> None:
    solo = Solo()
    solo.node.restart()
    solo.cluster.advance(SECOND)
    recalls = solo.node.sent(Recall)
    assert len(recalls) >= 9
    assert len(set(recalls)) == 1


def test_recalls_are_answered_even_by_who_is_recalling() -> None:
    """After a power loss all ask at once."""
    solo = Solo()
    digest = solo.propose(1)
    solo.cluster.tell(1, solo.forge.prepare(2, 1, digest), solo.forge.commit(2, 1, digest))
    solo.cluster.tell(1, solo.forge.view_change(2, 1))
    solo.cluster.tell(1, solo.forge.sign(2, Recall(2, A)))
    (told,) = solo.node.sent(Recalled)
    votes = [solo.forge.verifier.decode(vote) for vote in told.votes]
    assert (told.replica, told.nonce) == (2, A)
    assert votes == [Prepare(0, 1, digest), Commit(0, 1, digest)]
    assert told.view_change == solo.forge.view_change(2, 1)
    solo.node.restart()
    solo.node.receive(3, solo.forge.sign(3, Recall(3, A)))
    assert len(solo.node.sent(Recalled)) == 1


def test_a_primary_is_told_its_pre_prepares() -> None:
    solo = Solo()
    solo.propose(1)
    solo.prepare(1, solo.propose(2))
    solo.cluster.tell(1, solo.forge.sign(0, Recall(0, A)))
    (told,) = solo.node.sent(Recalled)
    assert [solo.forge.vote(vote).sequence for vote in told.votes] == [1, 2]


def test_the_highest_view_change_is_told_wherever_it_came_from() -> None:
    """The later one came in V, and its signer's own copy when it was stale."""
    solo = Solo()
    peer = solo.others[0]
    solo.cluster.tell(1, solo.forge.view_change(peer, 2))
    solo.enter(3)
    solo.cluster.tell(1, solo.forge.view_change(peer, 3))
    solo.cluster.tell(1, solo.forge.sign(peer, Recall(peer, b"a" * 32)))
    (told,) = solo.node.sent(Recalled)
    assert told.view_change is not None
    assert solo.forge.verifier.decode(told.view_change).view == 3


def test_a_flood_of_recalls_is_limited() -> None:
    solo = Solo()
    for _ in range(100):
        solo.node.receive(2, solo.forge.sign(2, Recall(2, A)))
    assert solo.rejected(Reason.RATE_LIMIT) >= 80


@pytest.mark.parametrize("forged", ["of another", "torn", "no certificate", "too many"])
def test_a_lie_in_an_answer_voids_it(forged: str) -> None:
    solo = Solo()
    solo.node.restart()
    mine = solo.forge.prepare(1, 1, A)
    many = tuple(solo.forge.prepare(1, k, A) for k in range(1, 1000))
    lie = {
        "of another": {"votes": (solo.forge.prepare(2, 1, A),)},
        "torn": {"votes": (replace(mine, signature=bytes(64)),)},
        "no certificate": {"stable_sequence": INTERVAL},
        "too many": {"votes": many},
    }[forged]
    tell(solo, 0, answer(solo, **lie))
    recalling = solo.node.core.recalling
    assert recalling is not None
    assert recalling.answered == set() and not recalling.lacking


# Amnesia.


def test_a_vote_in_a_later_view_than_the_log_knows_is_amnesia() -> None:
    solo = Solo()
    solo.decide_to(2)
    solo.node.restart()
    solo.recall(solo.forge.prepare(1, 1, A, view=6))
    assert solo.node.core.rejoining is not None
    assert [event.value for event in solo.node.events(EventName.AMNESIA)] == [1]


def primary_that_lacked_a_body() -> tuple[Solo, Signed]:
    """Replica 1 led view 1 without the body of O's only entry, and is in view 2 by now: its
    pre-prepare in view 1, which others prepared, is in none of its records any more."""
    solo = Solo(4, me=1)
    forge = solo.forge
    digest = batch_digest(solo.batch(1))
    changes = [forge.view_change(peer, 1, [forge.proof(1, digest)]) for peer in (0, 2, 3)]
    solo.cluster.tell(1, *changes)
    (mine,) = [signed for new_view in solo.node.sent(NewView) for signed in new_view.pre_prepares]
    proof = forge.proof(1, digest, 1, [0, 2])
    assert proof.pre_prepare == mine and not solo.accepted_records()
    solo.cluster.tell(
        1, forge.new_view(2, [forge.view_change(peer, 2, [proof]) for peer in (0, 2, 3)])
    )
    assert solo.node.core.entered_view == 2
    return solo, mine


def test_an_entry_of_an_earlier_o_without_a_body_is_no_amnesia() -> None:
    solo, mine = primary_that_lacked_a_body()
    solo.node.restart()
    solo.recall(mine)
    assert solo.node.core.rejoining is None


def test_votes_of_an_earlier_view_are_compared_all_the_same() -> None:
    """They stay on disk until the durable checkpoint passes them."""
    for kind in ("prepare", "commit"):
        solo, mine = primary_that_lacked_a_body()
        solo.node.restart()
        solo.recall(mine, getattr(solo.forge, kind)(1, 1, A, view=0))
        assert solo.node.core.rejoining is not None


@pytest.mark.parametrize("view", [1, 5])
def test_a_primary_that_was_rolled_back_within_its_view_is_recognised(view: int) -> None:
    """What it signed after the copy was made is of the copy's view, or of a later one."""
    solo = Solo(4, me=1)
    forge = solo.forge
    solo.cluster.tell(1, *(forge.view_change(peer, 1) for peer in (0, 2, 3)))
    assert solo.node.core.is_primary and solo.node.core.entered_view == 1
    solo.node.restart()
    solo.recall(forge.pre_prepare(1, A, view=view))
    assert solo.node.core.rejoining is not None


def test_a_view_change_that_the_log_lacks_is_amnesia() -> None:
    solo = Solo()
    solo.node.restart()
    for peer in (0, 2):
        tell(solo, peer, answer(solo, view_change=solo.forge.view_change(1, 3)))
    assert solo.node.core.rejoining is not None


def test_an_empty_directory_among_peers_with_a_history_is_amnesia() -> None:
    cluster = Cluster(4)
    cluster.run(INTERVAL)
    lose_disk(cluster, 2)
    assert cluster[2].core.rejoining is not None
    assert cluster[2].replica.summary().mode == "rejoining"


def test_an_empty_directory_of_a_new_cluster_is_none() -> None:
    cluster = Cluster(4)
    assert {node.core.rejoining for node in cluster.up} == {None}
    restarted = cluster[2]
    restarted.restart()
    cluster.settle()
    assert restarted.core.rejoining is None


def test_what_the_durable_checkpoint_settled_is_no_sign_of_a_loss() -> None:
    """Votes at or below it were truncated."""
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    digest = solo.slot(INTERVAL).decision.digest  # type: ignore[union-attr]
    solo.node.restart()
    solo.recall(solo.forge.prepare(1, INTERVAL, digest))
    assert solo.node.core.rejoining is None


def test_the_view_change_that_the_log_holds_is_no_sign_of_a_loss() -> None:
    solo = Solo()
    for peer in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(peer, 3))
    (mine,) = solo.node.sent(ViewChange)
    solo.node.restart()
    for peer in (0, 2):
        tell(solo, peer, answer(solo, view_change=solo.forge.sign(1, mine)))
    assert solo.node.core.recalling is None
    assert solo.node.core.rejoining is None


def test_a_view_change_of_an_earlier_incarnation_is_no_sign_of_a_new_loss() -> None:
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    lose_disk(cluster, 1)
    cluster.advance(10 * SECOND)
    incarnation = cluster[1].core.incarnation
    for peer in (0, 2, 3):
        cluster[peer].core.view_change.highest[1] = cluster.forge.view_change(1, 3)
    cluster[1].restart()
    cluster.settle()
    assert cluster[1].core.recalling is None
    assert cluster[1].core.rejoining is None
    assert cluster[1].core.incarnation == incarnation > 0


@pytest.mark.parametrize(("sequence", "is_lost"), [(WINDOW + 1, False), (WINDOW + 2, True)])
def test_a_vote_at_or_below_s_plus_l_is_no_sign_of_a_new_loss(sequence: int, is_lost: bool) -> None:
    """The rejoin executed at s settled it; any above was signed after that."""
    solo = Solo()
    solo.node.restart()
    solo.node.core.rejoins[1] = 1
    solo.recall(solo.forge.prepare(1, sequence, A))
    assert (solo.node.core.rejoining is not None) is is_lost


def test_the_operator_may_declare_a_rollback() -> None:
    solo = Solo()
    solo.node.settings = replace(solo.node.settings, rejoin=True)
    solo.node.restart()
    assert solo.node.core.rejoining is not None


# Rejoin.


def test_an_amnesiac_replica_is_silent_until_it_has_rejoined() -> None:
    """It asks, is recorded, and votes again at a stable checkpoint at or above s + L, for which
    the idle primary proposes empty batches."""
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    lose_disk(cluster, 2)
    lost = cluster[2]
    assert not lost.sent(*VOTES)
    cluster.advance(10 * SECOND)
    assert lost.core.rejoining is None
    (event,) = lost.events(EventName.REJOINED)
    assert lost.core.low_water_mark >= event.sequence + WINDOW
    assert {node.core.incarnations.get(2) for node in cluster.up} == {lost.core.incarnation}
    votes = [effect for effect in lost.sent(*VOTES)]
    assert all(getattr(vote, "sequence", event.sequence) > event.sequence for vote in votes)
    cluster.run(3, first=INTERVAL + 2)
    assert lost.sent(Commit)
    assert cluster.agree()
    assert cluster.views() == {0}


def test_the_rejoin_is_replicated_state() -> None:
    """It survives restarts and comes with a transfer."""
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    cluster.isolate(3)
    lose_disk(cluster, 2)
    cluster.drop(None)
    cluster.advance(10 * SECOND)
    incarnation = cluster[2].core.incarnation
    assert incarnation > 0
    for replica in (0, 2, 3):
        cluster[replica].restart()
        cluster.settle()
        cluster.advance(SECOND)
    assert {node.core.incarnations.get(2) for node in cluster.up} == {incarnation}
    assert cluster[2].core.rejoining is None
    assert cluster[2].core.incarnation == incarnation


def test_a_crash_while_rejoining_goes_on_with_the_same_incarnation() -> None:
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    cluster.drop(lambda m: m.says(Request) and m.sender == 2)
    lose_disk(cluster, 2)
    incarnation = cluster[2].core.incarnation
    cluster[2].restart()
    cluster.drop(None)
    assert cluster[2].core.incarnation == incarnation
    assert cluster[2].core.rejoining is not None
    cluster.advance(10 * SECOND)
    assert cluster[2].core.rejoining is None
    assert cluster[2].core.incarnation == incarnation
    saved = cluster[2].log.load().rejoin
    assert saved == RejoinRecord(incarnation, done=True)


def test_a_rejoin_is_over_when_the_durable_state_holds_it() -> None:
    """A crash right after it must find the rejoin in the state, or it would seem lost again."""
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    lost = cluster[2]
    cluster.drop(lambda m: m.says(Request) and m.sender == 2)
    lose_disk(cluster, 2)
    lost.holds_merges = True
    cluster.drop(None)
    cluster.advance(10 * SECOND)
    executed_at = lost.core.rejoins[2]
    assert lost.core.low_water_mark >= executed_at + WINDOW
    assert lost.core.state.durable_sequence < executed_at
    assert lost.core.rejoining is not None
    incarnation = lost.core.incarnation
    lost.holds_merges = False
    lost.restart()
    cluster.settle()
    cluster.advance(10 * SECOND)
    assert lost.core.rejoining is None
    assert lost.core.state.durable_sequence >= executed_at
    lost.restart()
    cluster.settle()
    assert lost.core.incarnation == incarnation
    assert lost.core.rejoining is None


def test_the_view_changes_of_an_older_incarnation_are_void() -> None:
    """What it promised there it may not know any more."""
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    lose_disk(cluster, 2)
    cluster.advance(10 * SECOND)
    old = cluster.forge.view_change(2, 1)
    cluster.tell(1, old)
    assert cluster[1].rejections["verifier", Reason.BAD_VIEW_CHANGE] == 1
    changes = [old, *cluster.forge.view_changes(3, (0, 1))]
    cluster.tell(0, cluster.forge.sign(3, NewView(3, tuple(changes), ())))
    assert cluster[0].core.entered_view == 0


def results(solo: Solo) -> list[bytes]:
    """What rejoins were answered."""
    messages = [solo.forge.verifier.decode(answer.replies) for answer in solo.node.answers]
    replies = [reply for m in messages if isinstance(m, Replies) for reply in m.replies]
    return [(reply.results or (b"",))[0] for reply in replies]


@pytest.mark.parametrize(
    ("incarnation", "at", "minutes", "taken"),
    [
        (6, 30, 2, True),
        (5, 30, 2, False),
        (4, 30, 2, False),
        (6, 5, 2, False),
        (6, 30, 0, False),
        # The clocks were ahead at the first one: agreed time stands still for as long.
        (6, 30, -2, True),
    ],
)
def test_one_rejoin_at_a_time_and_one_per_minute(
    incarnation: int, at: int, minutes: int, taken: bool
) -> None:
    """Strictly growing (an earlier one may be ordered late), closed, late enough, or refused."""
    solo = Solo()
    now_us = solo.node.now().wall_us
    solo.decide(1, solo.forge.batch(solo.forge.rejoin(3, 5), time_us=now_us))
    assert solo.node.core.rejoins == {3: 1}
    for sequence in range(2, at):
        solo.decide(sequence, solo.forge.batch(time_us=now_us))
        if sequence % INTERVAL == 0:
            solo.stabilise(sequence)
    again = solo.forge.batch(
        solo.forge.rejoin(3, incarnation), time_us=now_us + minutes * 60 * SECOND
    )
    solo.cluster.tell(1, solo.forge.committed(at, again))
    assert solo.node.core.executed == at
    assert (solo.node.core.rejoins[3] == at) is taken
    assert solo.node.core.incarnations[3] == (incarnation if taken else 5)


def test_clients_that_fill_the_table_bar_no_replica_from_rejoining() -> None:
    solo = Solo(4, forge=Forge(4, ProtocolLimits(clients=1), open_admission=True))
    solo.decide(1)
    solo.decide(2, solo.forge.batch(solo.forge.rejoin(3, 1)))
    assert solo.node.core.rejoins == {3: 2}


def test_a_rejoin_that_is_refused_is_tried_again_with_a_new_incarnation() -> None:
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    for _ in range(2):
        lose_disk(cluster, 2)
        cluster.advance(10 * SECOND)
    first = cluster[2].core.incarnation
    assert cluster[2].core.rejoining is not None, "less than a minute after the last one"
    for second in range(30):
        cluster.submit(cluster.forge.request(INTERVAL + 2 + second, acknowledged=0))
        cluster.advance(6 * SECOND)
    assert cluster[2].core.rejoining is None
    assert cluster[2].core.incarnation > first
    assert cluster[0].core.mode is Mode.NORMAL
    assert cluster.agree()


def test_who_loses_its_votes_again_in_an_idle_cluster_rejoins_again() -> None:
    """Nobody asks for anything that would bring the cluster past the first rejoin."""
    interval = 16
    cluster = Cluster(4, with_forge=Forge(interval=interval, window=2 * interval))
    cluster.run(interval - 1)
    for sequence in (interval, 4 * interval + 1):
        lose_disk(cluster, 2)
        cluster.advance(90 * SECOND)
        assert cluster[2].core.rejoining is None
        assert cluster[0].core.rejoins[2] >= sequence
    assert cluster.agree()
    before = cluster.executed()
    cluster.advance(90 * SECOND)
    assert cluster.executed() == before, "idle again"


def test_a_primary_that_ignores_an_open_rejoin_is_replaced() -> None:
    """An open rejoin counts as a pending request for the timers."""
    solo = Solo()
    solo.decide(1, solo.forge.batch(solo.forge.rejoin(3, 1)))
    solo.cluster.advance(3 * SECOND)
    assert solo.node.core.suspicion.mine


@pytest.mark.parametrize("restarts", [0, 1])
def test_an_empty_directory_is_suspect_until_a_recall_was_answered(restarts: int) -> None:
    """What peers send meanwhile is stored, and the next start finds it."""
    solo = Solo()
    node = solo.node
    node.crash()
    node.log, node.base = MemoryLog(), MemoryBase()
    node.start()
    stable = solo.forge.stable(INTERVAL, b"s" * 32)
    for _ in range(restarts):
        node.receive(0, stable)
        node.restart()
    for peer in (0, 2):
        known = {"stable_sequence": INTERVAL, "checkpoints": stable.checkpoints}
        tell(solo, peer, answer(solo, **known))
    assert node.core.recalling is None
    assert node.core.rejoining is not None
