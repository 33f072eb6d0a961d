"""Suspicion, withdrawal, own stalls and unreachable primaries (protocol.md section 7)."""

import pytest

from pbft.core.effects import EventName, Send
from pbft.core.settings import Timers
from pbft.core.suspicion import BACKOFF_VIEWS_MAX
from pbft.limits import LocalLimits
from pbft.messages import NewView, Proposal, Request, Status, ViewChange
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_solo import Solo

T_US = 2 * SECOND
MILLISECOND = 1000
SIZES = pytest.mark.parametrize("n", [4, 5, 6, 7])


def waiting(n: int = 4, **settings: object) -> Solo:
    """A backup with a pending request of client 1."""
    solo = Solo(n, **settings)
    solo.node.submit(solo.forge.request(1, client=1))
    return solo


def test_suspicion_is_told_at_once() -> None:
    solo = waiting()
    solo.cluster.advance(T_US - 1)
    before = len(solo.node.sent(Status))
    solo.cluster.advance(1)
    (status, *_) = solo.node.sent(Status)[before:]
    assert status.suspects


def test_suspicion_is_withdrawn_at_once_when_the_request_settles() -> None:
    solo = waiting()
    solo.cluster.advance(T_US + SECOND)
    before = len(solo.node.sent(Status))
    solo.decide(1, solo.batch(1, client=1))
    assert not solo.node.core.suspicion.mine
    assert [status.suspects for status in solo.node.sent(Status)[before:]] == [False]


@pytest.mark.parametrize("how", ["acknowledged", "closed", "another operation"])
def test_every_way_of_settling_cancels_the_timer(how: str) -> None:
    solo = waiting()
    forge = solo.forge
    other = {
        "acknowledged": forge.request(2, client=1, acknowledged=1),
        "closed": forge.request(2, client=1, acknowledged=0, close=True),
        "another operation": forge.request(1, b"other", client=1),
    }[how]
    solo.decide(1, forge.batch(other))
    solo.cluster.advance(2 * T_US)
    assert not solo.node.events(EventName.SUSPECTED)
    assert solo.node.core.pool.count == 0


@SIZES
def test_f_plus_one_must_suspect_the_same_view(n: int) -> None:
    solo = waiting(n)
    solo.cluster.advance(T_US)
    others = [peer for peer in solo.others if peer != 0]
    for peer in others:
        solo.cluster.tell(1, solo.forge.status(peer, view=3, suspects=True))
        solo.cluster.tell(1, solo.forge.status(peer, normal=False, suspects=True))
    assert not solo.node.sent(ViewChange)
    for peer in others[: solo.thresholds.faulty]:
        solo.cluster.tell(1, solo.forge.status(peer, suspects=True))
    assert solo.node.sent(ViewChange)


@SIZES
def test_others_suspicion_without_my_own_signs_nothing(n: int) -> None:
    solo = Solo(n)
    for peer in solo.others:
        solo.cluster.tell(1, solo.forge.status(peer, suspects=True))
    assert not solo.node.sent(ViewChange)


def test_a_suspicion_that_was_withdrawn_counts_no_more() -> None:
    solo = waiting()
    solo.cluster.tell(1, solo.forge.status(2, suspects=True))
    solo.cluster.advance(SECOND)
    solo.cluster.tell(1, solo.forge.status(2, suspects=False))
    solo.cluster.advance(T_US)
    assert solo.node.core.suspicion.mine
    assert not solo.node.sent(ViewChange)


def test_a_peer_that_left_the_view_still_counts() -> None:
    """It signed for a higher view: it holds what it held when it was here."""
    solo = waiting()
    solo.cluster.tell(1, solo.forge.status(2, suspects=True), solo.forge.view_change(2, 1))
    solo.cluster.tell(1, solo.forge.status(2, view=1, normal=False))
    solo.cluster.advance(T_US)
    assert solo.node.core.view == 1


def test_a_peer_that_left_the_view_still_finds_the_primary_unreachable() -> None:
    solo = Solo()
    solo.node.link(0, False)
    solo.cluster.tell(1, solo.forge.view_change(2, 1), solo.forge.status(2, view=1, normal=False))
    solo.cluster.tell(1, solo.forge.status(3, primary_unreachable=True))
    solo.cluster.advance(SECOND)
    assert solo.node.core.view == 1


def test_no_request_timer_runs_during_a_view_change() -> None:
    solo = Solo(4, me=2)
    for replica in (0, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 5))
    solo.node.submit(solo.forge.request())
    solo.cluster.advance(T_US // 2)
    assert not [e for e in solo.node.effects if isinstance(e, Send) and e.item.kind == 1]
    assert not solo.node.events(EventName.SUSPECTED)


def test_entering_a_view_settles_all_suspicion() -> None:
    solo = waiting()
    solo.cluster.advance(T_US)
    assert solo.node.core.suspicion.mine
    solo.enter(2)
    assert not solo.node.core.suspicion.mine
    solo.cluster.advance(T_US - 1)
    assert not solo.node.core.suspicion.mine
    solo.cluster.advance(1)
    assert solo.node.core.suspicion.mine


def test_after_a_stall_of_its_own_a_replica_starts_its_timers_afresh() -> None:
    """It was stopped: what looks overdue is its own doing. It asks for status first."""
    solo = waiting()
    solo.node.replica.next_deadline_us()
    solo.cluster.now_us += 10 * T_US
    before = len(solo.node.sent(Status))
    solo.node.tick()
    assert not solo.node.core.suspicion.mine
    assert len(solo.node.sent(Status)) == before + 1
    solo.cluster.advance(T_US - 1)
    assert not solo.node.core.suspicion.mine
    solo.cluster.advance(1)
    assert solo.node.core.suspicion.mine


def test_a_frozen_replica_does_not_leave_the_view_when_it_resumes() -> None:
    """Frozen for ten timeouts while the others work, then everything comes at once."""
    cluster = Cluster(4)
    frozen = cluster.nodes.pop(3)
    for number in range(1, 4):
        cluster.submit(cluster.forge.request(number))
        cluster.advance(7 * SECOND)
    cluster.nodes[3] = frozen
    cluster.advance(3 * SECOND)
    assert cluster.views() == {0}
    assert cluster.executed() == {3}
    assert not frozen.sent(ViewChange)


def test_a_new_view_timer_is_no_reason_to_move_on_after_a_stall() -> None:
    solo = Solo(4, me=2)
    for replica in (0, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 1))
    assert solo.node.core.view_change.deadline_us is not None
    solo.node.replica.next_deadline_us()
    solo.cluster.now_us += 10 * T_US
    solo.node.tick()
    assert solo.node.core.view == 1


# Unreachable primary.


def test_a_broken_stream_is_reported_after_the_grace() -> None:
    solo = Solo(4)
    solo.node.link(0, False)
    solo.cluster.advance(100 * MILLISECOND - 1)
    assert not solo.node.sent(Status)[-1].primary_unreachable
    solo.cluster.advance(1)
    assert solo.node.sent(Status)[-1].primary_unreachable
    solo.node.link(0, True)
    assert not solo.node.sent(Status)[-1].primary_unreachable


def test_a_stream_to_a_backup_is_nobodys_concern() -> None:
    solo = Solo(4)
    solo.node.link(2, False)
    solo.cluster.advance(SECOND)
    assert not solo.node.sent(Status)[-1].primary_unreachable


@SIZES
def test_a_primary_that_a_quorum_cannot_reach_is_replaced_even_when_idle(n: int) -> None:
    cluster = Cluster(n)
    cluster.fail_primary()
    cluster.advance(400 * MILLISECOND)
    assert cluster.views() == {1}


@SIZES
def test_fewer_than_a_quorum_cannot_replace_a_primary(n: int) -> None:
    """One liar or one bad link does nothing: here q - 1, I among them."""
    solo = Solo(n)
    solo.node.link(0, False)
    for peer in solo.others[1 : solo.thresholds.quorum - 1]:
        solo.cluster.tell(1, solo.forge.status(peer, primary_unreachable=True))
    solo.cluster.advance(10 * SECOND)
    assert not solo.node.core.suspicion.mine


def test_whoever_cannot_reach_the_primary_of_another_view_says_nothing_about_mine() -> None:
    solo = Solo(4)
    solo.node.link(0, False)
    for peer in (2, 3):
        solo.cluster.tell(1, solo.forge.status(peer, view=2, primary_unreachable=True))
    solo.cluster.advance(SECOND)
    assert not solo.node.core.suspicion.mine


@SIZES
def test_the_short_timer_runs_while_a_quorum_finds_it_unreachable(n: int) -> None:
    solo = Solo(n)
    solo.node.link(0, False)
    for peer in solo.others[1 : solo.thresholds.quorum]:
        solo.cluster.tell(1, solo.forge.status(peer, primary_unreachable=True))
    solo.cluster.advance(300 * MILLISECOND - 1)
    assert not solo.node.core.suspicion.mine
    solo.cluster.advance(1)
    assert solo.node.core.suspicion.mine
    solo.node.link(0, True)
    assert not solo.node.core.suspicion.mine


def test_the_short_timer_backs_off_with_failed_views() -> None:
    """Each view that failed doubles it, up to a bound."""
    solo = Solo(4)
    for failed, factor in ((0, 1), (2, 4), (100, 1 << BACKOFF_VIEWS_MAX)):
        solo.node.core.view_change.failed_views = failed
        solo.node.link(0, False)
        for peer in (2, 3):
            solo.cluster.tell(1, solo.forge.status(peer, primary_unreachable=True))
        solo.cluster.advance((100 + 200 * factor) * MILLISECOND - 1)
        assert not solo.node.core.suspicion.mine
        solo.cluster.advance(1)
        assert solo.node.core.suspicion.mine
        solo.node.link(0, True)


def test_views_that_failed_long_ago_hold_nobody_up() -> None:
    """The short timer backs off while views fail in a row; one in which all went well ends that."""
    cluster = Cluster(4)
    cluster.drop(lambda m: m.says(NewView) or m.sender == 0)
    cluster.submit(cluster.forge.request(), to=range(4))
    cluster.advance(70 * SECOND)
    cluster.drop(None)
    cluster.advance(120 * SECOND)
    cluster.run(2, first=2)
    (view,) = cluster.views()
    assert min(node.core.view_change.failed_views for node in cluster.up) >= 2
    cluster.fail_primary()
    cluster.advance(SECOND // 2)
    assert cluster.views() == {view + 1}


def test_the_short_timer_starts_afresh_after_a_stall_of_ones_own() -> None:
    solo = Solo(4)
    solo.node.link(0, False)
    for peer in (2, 3):
        solo.cluster.tell(1, solo.forge.status(peer, primary_unreachable=True))
    solo.cluster.advance(150 * MILLISECOND)
    solo.node.replica.next_deadline_us()
    solo.cluster.now_us += 10 * T_US
    solo.node.tick()
    solo.cluster.advance(200 * MILLISECOND - 1)
    assert not solo.node.core.suspicion.mine
    solo.cluster.advance(1)
    assert solo.node.core.suspicion.mine


def test_one_good_view_ends_the_back_off() -> None:
    """Views that failed before the last good one do not slow the next view change down."""
    solo = Solo(4)
    for view in (2, 6):
        for peer in (2, 3):
            solo.cluster.tell(1, solo.forge.view_change(peer, view))
    solo.enter(6)
    solo.decide(1, view=6)
    for peer in (0, 3):
        solo.cluster.tell(1, solo.forge.view_change(peer, 7))
    solo.enter(7)
    solo.node.link(3, False)
    for peer in (0, 2):
        solo.cluster.tell(1, solo.forge.status(peer, view=7, primary_unreachable=True))
    solo.cluster.advance(300 * MILLISECOND)
    assert solo.node.core.suspicion.mine


def test_what_earlier_views_executed_is_no_merit_of_this_one() -> None:
    """A view in which nothing of what was pending was executed failed."""
    solo = Solo(4)
    solo.decide(1)
    solo.enter(2)
    solo.node.submit(solo.forge.request(2))
    for peer in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(peer, 3))
    assert solo.node.core.view == 3
    assert solo.node.core.timeout_us == 2 * T_US


def test_views_in_which_something_was_executed_did_not_fail() -> None:
    cluster = Cluster(4)
    for round_ in range(1, 4):
        cluster.submit(cluster.forge.request(round_), to=[node.id for node in cluster.up])
        failed = cluster.fail_primary()
        cluster.advance(SECOND)
        cluster.bring_back(failed)
        cluster.advance(SECOND)
    assert cluster[3].core.view == 3
    assert cluster[3].core.view_change.failed_views == 0
    assert cluster[3].core.timeout_us == T_US


def test_idle_view_changes_do_not_slow_the_next_ones_down() -> None:
    """The primary of an idle cluster restarts again and again: T stays what it is."""
    cluster = Cluster(4)
    for _ in range(3):
        failed = cluster.fail_primary()
        cluster.advance(SECOND)
        cluster.bring_back(failed)
        cluster.advance(SECOND)
    assert cluster.views() == {3}
    assert cluster[3].starts == 1, "it remembers all three"
    assert cluster[3].core.timeout_us == T_US


# Relays and deadlines under load.


def test_deadlines_do_not_run_away_from_a_busy_replica() -> None:
    """Events more often than any deadline's distance: what is due is done all the same."""
    timers = Timers()
    solo = waiting(timers=timers)
    for step in range(3000):
        solo.cluster.now_us += 700
        due_us = solo.node.replica.next_deadline_us()
        assert due_us is not None
        if due_us <= solo.cluster.now_us:
            solo.node.tick()
        elif step % 2:
            solo.node.receive(2, solo.forge.commit(2, 5, bytes(32)))
    relayed = [e for e in solo.node.effects if isinstance(e, Send) and e.item == relayed_item(solo)]
    assert {send.to for send in relayed} == {0, 2, 3}
    assert solo.node.core.suspicion.mine


def relayed_item(solo: Solo) -> object:
    """The pending request as it travels."""
    return solo.forge.request(1, client=1)


@SIZES
def test_a_request_is_forwarded_once_and_relayed_once(n: int) -> None:
    """A backup amplifies what a client sends by a constant."""
    solo = waiting(n)
    for _ in range(20):
        solo.node.submit(solo.forge.request(1, client=1))
    solo.cluster.advance(T_US - 1)
    sends = [
        e.to for e in solo.node.effects if isinstance(e, Send) and e.item == relayed_item(solo)
    ]
    assert sorted(sends) == sorted([0, *solo.others])


def test_a_forwarded_request_is_not_forwarded_again() -> None:
    solo = Solo(4)
    solo.cluster.tell(1, solo.forge.request(1), sender=2)
    assert solo.node.core.pool.count == 1
    assert not [e for e in solo.node.effects if isinstance(e, Send)]


def test_a_primary_proposes_what_was_forwarded_and_refuses_what_is_settled() -> None:
    solo = Solo(4, me=0)
    solo.cluster.tell(0, solo.forge.request(1), sender=2)
    assert len(solo.node.sent(Proposal)) == 1
    solo.prepare(1, solo.slot(1).pre_prepare.message.digest)  # type: ignore[union-attr]
    solo.commit(1, solo.slot(1).pre_prepare.message.digest)  # type: ignore[union-attr]
    solo.cluster.tell(0, solo.forge.request(1), sender=2)
    assert len(solo.node.sent(Proposal)) == 1
    assert solo.node.core.pool.count == 0
    assert not solo.node.sent(Request)


def test_a_client_that_fills_its_place_at_the_primary_has_nobody_suspected() -> None:
    """It sends as much again to two backups only, which the primary has no place for until the
    first are executed."""
    share, hop_us = 96, 5_000
    limits = LocalLimits(pending_requests_per_client=share)
    cluster = Cluster(4, pipeline_depth=3, limits=limits)
    cluster.hold(lambda message: True)
    for session, nodes in ((1, (0,)), (2, (1, 2))):
        for number in range(1, share + 1):
            request = cluster.forge.request(number, session=session)
            for node in nodes:
                cluster[node].submit(request)
    for _ in range(3 * SECOND // hop_us):
        held, cluster.network.held = cluster.network.held, []
        for message in held:
            cluster.deliver(message)
        cluster.advance(hop_us)
    assert not any(node.events(EventName.SUSPECTED) for node in cluster.up)
    assert [node.core.pool.count for node in cluster.up] == [0] * 4
