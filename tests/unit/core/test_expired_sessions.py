"""Requests of sessions that are over: a peer may replay them, and a client may still send them."""

from pbft.core.effects import Refuse
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import Outcome, Request, Signed
from tests.harness.core_cluster import Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo

CLOSED, OPEN = 1, 10
QUOTA = 20


def with_closed_session(me: int) -> Solo:
    """It executed a request of each of sessions 1 to 10, which closed the first two."""
    limits = LocalLimits(pending_requests_per_client=QUOTA)
    solo = Solo(4, me=me, limits=limits)
    for session in range(CLOSED, OPEN + 1):
        body = solo.forge.batch(solo.forge.request(1, session=session))
        solo.cluster.tell(me, solo.forge.committed(session, body))
        if session % INTERVAL == 0:
            solo.stabilise(session)
    assert solo.node.core.executed == OPEN
    return solo


def old_requests(solo: Solo, count: int) -> list[Signed]:
    """What a client once sent in the session that is closed."""
    return [solo.forge.request(n, session=CLOSED, acknowledged=0) for n in range(1, count + 1)]


def test_replays_of_a_closed_session_do_not_fill_the_clients_quota() -> None:
    solo = with_closed_session(me=0)
    for old in old_requests(solo, 5 * QUOTA):
        solo.node.receive(3, old)
    assert solo.node.core.pool.count == 1
    for number in range(2, QUOTA):
        solo.node.submit(solo.forge.request(number, session=OPEN, acknowledged=1))
    assert not [effect for effect in solo.node.effects if isinstance(effect, Refuse)]
    assert solo.node.core.pool.count == QUOTA - 1


def test_replays_of_many_clients_are_limited_per_peer() -> None:
    solo = with_closed_session(me=0)
    core = solo.node.core
    for old in old_requests(solo, 5 * QUOTA):
        solo.node.receive(3, old)
        core.pool.settle(solo.forge.admit(old).message, core.timeout_us)
    assert solo.rejected(Reason.RATE_LIMIT) >= 4 * QUOTA
    solo.node.receive(2, old_requests(solo, 1)[0])
    assert core.pool.count == 1, "another peer is not harmed"


def test_a_backup_takes_no_replays() -> None:
    solo = with_closed_session(me=1)
    solo.node.receive(3, old_requests(solo, 1)[0])
    assert solo.node.core.pool.count == 0
    assert solo.rejected(Reason.SETTLED) == 1


def test_a_client_that_does_not_reach_the_primary_learns_that_its_session_is_closed() -> None:
    """Its clock went back, say: without the answer it would never open a session above."""
    cluster = Cluster(4)
    for session in range(CLOSED, OPEN + 1):
        cluster.submit(cluster.forge.request(1, session=session))
        cluster.settle()
    cluster[1].submit(cluster.forge.request(1, session=CLOSED, operation=b"late"))
    cluster.settle()
    for node in cluster.up:
        last = node.replies()[-1]
        assert (last.outcome, last.highest_session) == (Outcome.SESSION_EXPIRED, OPEN)
    assert not cluster[0].sent(Request)
