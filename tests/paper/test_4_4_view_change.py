"""Section 4.4, view changes: leaving a view. Departures: f + 1 replicas must suspect before one
signs, and the join rule moves to the (f + 1)-th highest view."""

from itertools import pairwise

import pytest

from pbft.core.effects import EventName
from pbft.core.state import Mode
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    Request,
    Status,
    ViewChange,
)
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo

T_US = 2 * SECOND


def silence_primary(cluster: Cluster) -> None:
    """The primary of view 0 proposes nothing that anybody hears."""
    cluster.drop(lambda m: m.sender == 0)


def test_a_timer_runs_while_a_backup_waits_for_a_request(n: int) -> None:
    """A backup starts a timer when it receives a valid request and the timer is not running; when
    it expires, it suspects."""
    solo = Solo(n)
    solo.node.submit(solo.forge.request())
    solo.cluster.advance(T_US - 1)
    assert not solo.node.core.suspicion.mine
    solo.cluster.advance(1)
    assert solo.node.core.suspicion.mine
    assert solo.node.sent(Status)[-1].suspects


def test_the_timer_stops_when_the_request_is_executed(n: int) -> None:
    """It stops the timer when it is no longer waiting to execute the request."""
    solo = Solo(n)
    solo.node.submit(solo.forge.request())
    solo.cluster.advance(T_US - 1)
    solo.decide(1)
    solo.cluster.advance(T_US)
    assert not solo.node.events(EventName.SUSPECTED)


def test_no_timer_runs_for_an_idle_primary(n: int) -> None:
    """Without a request nobody waits."""
    cluster = Cluster(n)
    cluster.drop(lambda m: m.sender == 0 and not m.says(Status))
    cluster.advance(20 * SECOND)
    assert cluster.views() == {0}


def test_progress_with_other_requests_moves_no_deadline(n: int) -> None:
    """Departure: the timer belongs to the oldest request and no other progress restarts it, or a
    primary could censor one client for ever. It is later by the time that executing took, only."""
    solo = Solo(n)
    solo.node.submit(solo.forge.request(1, client=1))
    for number in range(1, 5):
        solo.cluster.advance(T_US // 4)
        solo.decide(number)
    solo.cluster.advance(4 * LocalLimits().record_us)
    assert solo.node.core.suspicion.mine


def test_every_request_keeps_the_deadline_of_its_arrival(n: int) -> None:
    """A primary that executes one request of a client shortly before each deadline does not earn
    a new T for the next one."""
    solo = Solo(n)
    for number in (1, 2):
        solo.node.submit(solo.forge.request(number, acknowledged=0))
    solo.cluster.advance(T_US - 1)
    solo.decide(1, solo.forge.batch(solo.forge.request(1, acknowledged=0)))
    solo.cluster.advance(1 + LocalLimits().record_us)
    assert solo.node.core.suspicion.mine


def test_all_honest_replicas_move_when_the_timer_expires(n: int) -> None:
    """If the timer of backup i expires in view v, it starts a view change to view v + 1."""
    cluster = Cluster(n)
    silence_primary(cluster)
    cluster.submit(cluster.forge.request(), to=range(n))
    cluster.advance(T_US + SECOND)
    assert {node.core.view for node in cluster.up[1:]} == {1}
    assert {node.core.mode for node in cluster.up[1:]} == {Mode.NORMAL}


def test_a_request_known_to_one_backup_only_is_relayed_to_all(n: int) -> None:
    """Otherwise the one that knows it would be alone with its suspicion."""
    cluster = Cluster(n)
    silence_primary(cluster)
    cluster.submit(cluster.forge.request(), to=[n - 1])
    cluster.advance(T_US // 2)
    assert all(node.core.pool.count == 1 for node in cluster.up[1:])
    cluster.advance(T_US // 2 + SECOND)
    assert cluster[1].core.view == 1


def test_one_replica_alone_does_not_leave_its_view(n: int) -> None:
    """Departure: f suspicions sign nothing, f + 1 (my own among them) do."""
    solo = Solo(n)
    solo.node.submit(solo.forge.request())
    solo.cluster.advance(T_US)
    liars = solo.others[1 : solo.thresholds.weak]
    for liar in liars[:-1]:
        solo.cluster.tell(1, solo.forge.status(liar, suspects=True))
    assert not solo.node.sent(ViewChange)
    for liar in solo.others[1 : solo.thresholds.weak + 1]:
        solo.cluster.tell(1, solo.forge.status(liar, suspects=True))
    assert {change.view for change in solo.node.sent(ViewChange)} == {1}


def test_a_replica_that_changes_views_stops_accepting_messages(n: int) -> None:
    """It stops accepting messages other than checkpoint, view-change and new-view."""
    solo = Solo(n, me=2)
    digest = solo.propose(1)
    join(solo, 1)
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    solo.prepare(1, digest, count=n)
    assert not solo.committed_to()
    solo.propose(2, view=1)
    assert len(solo.prepared_for()) == 1
    assert solo.rejected(Reason.NOT_NORMAL) == 1
    solo.cluster.tell(2, solo.forge.checkpoint(0, INTERVAL, bytes(32)))
    assert 0 in solo.node.core.checkpoints[INTERVAL]


def join(solo: Solo, view: int) -> None:
    """f + 1 others sign for a view."""
    for replica in solo.others[-solo.thresholds.weak :]:
        solo.cluster.tell(solo.me, solo.forge.view_change(replica, view))


def test_a_view_change_carries_the_stable_checkpoint_with_its_proof(n: int) -> None:
    """<VIEW-CHANGE, v + 1, n, C, P, i>: n is the last stable checkpoint known, C its 2f + 1
    checkpoint messages."""
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    join(solo, 2)
    (change,) = solo.node.sent(ViewChange)
    assert (change.view, change.replica, change.stable_sequence) == (2, 1, INTERVAL)
    assert change.checkpoints == solo.node.core.stable.checkpoints
    assert change.prepared == ()


def test_a_view_change_carries_a_certificate_for_each_prepared_request(n: int) -> None:
    """P holds for each request prepared at i with a higher number the pre-prepare and 2f matching
    prepares; not for one that is only pre-prepared."""
    solo = Solo(n)
    for sequence in (1, 2, 3):
        digest = solo.propose(sequence)
        if sequence != 2:
            solo.prepare(sequence, digest)
    join(solo, 2)
    (change,) = solo.node.sent(ViewChange)
    valid = solo.forge.valid(solo.forge.sign(1, change))
    assert [proof.sequence for proof in valid.prepared] == [1, 3]


def test_a_certificate_of_the_highest_view_replaces_earlier_ones(n: int) -> None:
    """A request prepared again in a later view is carried with that view."""
    solo = Solo(n, me=n - 1)
    batch = solo.batch()
    digest = solo.propose(1, batch)
    solo.prepare(1, digest)
    proof = solo.forge.proof(1, digest)
    signers = solo.others[: solo.thresholds.quorum]
    changes = [solo.forge.view_change(i, 1, [proof]) for i in signers]
    solo.cluster.tell(solo.me, solo.forge.new_view(1, changes))
    solo.prepare(1, digest, view=1)
    join(solo, n)
    (change,) = [c for c in solo.node.sent(ViewChange) if c.view == n]
    valid = solo.forge.valid(solo.forge.sign(solo.me, change))
    assert [(proof.view, proof.digest) for proof in valid.prepared] == [(1, digest)]


# Joining and liveness (section 4.5.2).


def test_f_plus_one_view_changes_take_a_replica_along(n: int) -> None:
    """If a replica receives f + 1 valid view-changes for views greater than its own, it sends one
    too even if its timer has not expired. f are not enough."""
    solo = Solo(n)
    movers = solo.others[-solo.thresholds.weak :]
    for replica in movers[:-1]:
        solo.cluster.tell(1, solo.forge.view_change(replica, 5))
    assert solo.node.core.view == 0
    solo.cluster.tell(1, solo.forge.view_change(movers[-1], 5))
    assert solo.node.core.view == 5
    assert [change.view for change in solo.node.sent(ViewChange)] == [5]


def test_the_join_goes_no_further_than_an_honest_replica_went(n: int) -> None:
    """Of f + 1 one is honest: the lowest view among the f + 1 highest is joined."""
    solo = Solo(n)
    movers = solo.others[-solo.thresholds.weak :]
    for offset, replica in enumerate(movers):
        solo.cluster.tell(1, solo.forge.view_change(replica, 3 + 10 * offset))
    assert solo.node.core.view == 3


def test_a_replica_signs_one_view_change_per_view(n: int) -> None:
    """Whatever makes it move, it signs once for each view."""
    cluster = Cluster(n)
    silence_primary(cluster)
    cluster.submit(cluster.forge.request(), to=range(n))
    cluster.advance(10 * SECOND)
    for node in cluster.up[1:]:
        changes = {change for change in node.sent(ViewChange) if change.replica == node.id}
        assert len({change.view for change in changes}) == len(changes) >= 1


def test_the_timer_for_the_new_view_starts_with_q_view_changes(n: int) -> None:
    """A replica that multicast a view-change waits for 2f + 1 of them before it starts its timer,
    so it does not start the next one too soon."""
    solo = Solo(n, me=2)
    join(solo, 1)
    missing = solo.thresholds.quorum - (solo.thresholds.weak + 1)
    if missing:
        solo.cluster.advance(30 * SECOND)
        assert solo.node.core.view == 1
    for replica in solo.others[:missing]:
        solo.cluster.tell(2, solo.forge.view_change(replica, 1))
    solo.cluster.advance(solo.node.core.timeout_us - 1)
    assert solo.node.core.view == 1
    solo.cluster.advance(1)
    assert solo.node.core.view == 2


def test_whoever_joins_a_higher_view_starts_its_timer_afresh(n: int) -> None:
    """The next primary has all of its time, not what is left of that of the view before."""
    solo = Solo(n, me=2)
    movers = solo.others[: solo.thresholds.quorum]
    solo.cluster.tell(2, *(solo.forge.view_change(replica, 1) for replica in movers))
    due_us = solo.node.core.view_change.deadline_us
    assert due_us is not None
    solo.cluster.advance(due_us - solo.cluster.now_us - 1)
    solo.cluster.tell(2, *(solo.forge.view_change(replica, 3) for replica in movers))
    assert solo.node.core.view == 3
    solo.cluster.advance(solo.node.core.timeout_us - 1)
    assert solo.node.core.view == 3
    solo.cluster.advance(1)
    assert solo.node.core.view == 4


def test_timeouts_double_from_view_to_view(n: int) -> None:
    """If the new view is not there when the timer expires, it starts the view change for v + 2 and
    waits 2T, and so on."""
    cluster = Cluster(n)
    cluster.drop(lambda m: m.says(NewView) or m.sender == 0)
    cluster.submit(cluster.forge.request(), to=range(n))
    moments: dict[int, int] = {}
    for _ in range(60):
        cluster.advance(SECOND // 2)
        moments.setdefault(cluster[n - 1].core.view, cluster.now_us)
    spans = [moments[v + 1] - moments[v] for v in range(1, max(moments)) if v % n]
    assert len(spans) >= 2
    for earlier, later in pairwise(spans):
        assert 1.5 * earlier <= later


def test_the_timeout_is_capped_and_decays_with_progress(n: int) -> None:
    """Departure: T doubles up to a cap and halves at each stable checkpoint, never below T."""
    solo = Solo(n)
    for view in range(2, 40):
        join(solo, view * n + 2)
    timers = solo.node.settings.timers
    assert solo.node.core.timeout_us == timers.request_timeout_cap_us
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, bytes(32)))
    assert solo.node.core.timeout_us == timers.request_timeout_cap_us // 2


def test_faulty_replicas_alone_force_no_view_change(n: int) -> None:
    """f replicas that send view-changes, or suspect, again and again move nobody."""
    solo = Solo(n)
    liars = solo.others[-solo.thresholds.faulty :]
    for round_ in range(1, 20):
        for liar in liars:
            solo.cluster.tell(
                1,
                solo.forge.view_change(liar, round_),
                solo.forge.status(liar, suspects=True, primary_unreachable=True),
            )
        solo.cluster.advance(SECOND)
    assert solo.node.core.view == 0
    assert not solo.node.sent(ViewChange)


def test_view_changes_of_views_left_behind_are_stale(n: int) -> None:
    """Only views above the present one matter."""
    solo = Solo(n)
    solo.enter(n + 2)
    solo.cluster.tell(1, solo.forge.view_change(3, 2), solo.forge.view_change(3, n + 2))
    assert solo.rejected(Reason.VIEW_STALE) == 2


def test_pending_requests_go_to_the_new_primary(n: int) -> None:
    """Backups forward what is pending, so that the client need not."""
    cluster = Cluster(n)
    cluster.drop(lambda m: m.says(Request, Proposal) and (m.to == 1 or m.sender == 0))
    cluster.submit(cluster.forge.request(), to=range(2, n))
    cluster.advance(T_US - 1)
    assert cluster[1].core.pool.count == 0
    cluster.drop(lambda m: m.says(Proposal) and m.sender == 0)
    cluster.advance(2 * SECOND)
    assert cluster[1].core.view == 1
    assert cluster[1].journal == [b"0.1.1"]


@pytest.mark.parametrize("lost", [Prepare, Commit, PrePrepare, Checkpoint, ViewChange, NewView])
def test_any_kind_of_message_may_be_lost_once(n: int, lost: type[object]) -> None:
    """The network may lose messages: everything is retransmitted until it is no longer needed."""
    cluster = Cluster(n)
    seen: set[tuple[object, int]] = set()

    def is_first(message: object) -> bool:
        body, to = message.body, message.to  # type: ignore[attr-defined]
        if not isinstance(body, lost) or (body, to) in seen:
            return False
        seen.add((body, to))
        return True

    cluster.drop(is_first)
    cluster.run(INTERVAL)
    cluster.fail_primary()
    cluster.advance(3 * SECOND)
    for number in range(INTERVAL + 1, 2 * INTERVAL + 1):
        cluster.submit(cluster.forge.request(number), to=range(n))
    cluster.advance(10 * SECOND)
    assert cluster.agree()
    assert len(cluster.up[0].journal) == 2 * INTERVAL
