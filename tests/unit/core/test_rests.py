"""Clients whose requests take long share the replicas by time (pbft.core.rests), and nobody is
suspected for it."""

import pytest

from pbft.core.requests import RequestPool
from pbft.core.rests import CLIENTS_MAX, KNOWN_FACTOR, REST_FACTOR, Rests
from pbft.limits import LocalLimits
from pbft.messages import Authenticated, Consistency, ReadRequest, Request
from tests.harness.core_cluster import Cluster
from tests.harness.core_forge import forge
from tests.harness.core_solo import Solo
from tests.harness.journal import Journal

LIMITS = LocalLimits(heavy_request_records=10, record_us=5)
COST_US = 50
"""What ten records are reckoned to take."""
REST_US = REST_FACTOR * COST_US
LONGEST_US = CLIENTS_MAX * REST_US
"""A backup does not know how many clients are heavy for the primary."""
T_US = 1000
A, B = (signer.client for signer in forge(4).clients[:2])


def request(number: int, client: int = 0) -> Authenticated[Request]:
    """A verified request."""
    maker = forge(4)
    return maker.admit(maker.request(number, client=client, acknowledged=0))


def pool_of(*requests: Authenticated[Request]) -> RequestPool:
    """A pool that took these at time 0."""
    pool = RequestPool(LIMITS)
    for item in requests:
        assert pool.add(item, 0, T_US, None) is None
    return pool


def taken(pool: RequestPool) -> list[tuple[int, int]]:
    """(client, number) of one batch."""
    keys = [signer.client for signer in forge(4).clients]
    batch = pool.take(100, 1 << 20, 100) if pool.has_unproposed() else []
    return [(keys.index(p.request.message.client), p.request.message.number) for p in batch]


def execute(pool: RequestPool, item: Authenticated[Request], records: int, now_us: int) -> None:
    """What a replica notes of a request that it executes."""
    pool.note_executed(item.message, records, now_us, T_US)
    pool.settle(item.message, T_US)


# Rests.


def test_a_client_rests_after_a_heavy_request() -> None:
    rests = Rests(LIMITS)
    assert not rests.note(A, 9, 0) and A not in rests
    assert rests.note(A, 10, 0) and rests.is_resting(A) and not rests.is_resting(B)
    assert rests.next_end_us() == REST_US and rests.longest_us(A) == CLIENTS_MAX * REST_US
    assert rests.end(REST_US - 1) == []
    assert rests.end(REST_US) == [A]
    assert rests.end(REST_US) == [] and not rests.is_resting(A)
    assert rests.next_end_us() is None
    assert A in rests
    assert rests.end(KNOWN_FACTOR * REST_US) == [A], "it may have several under way again"
    assert A not in rests and rests.longest_us(A) == 0


def test_several_heavy_clients_rest_longer_each_but_not_without_end() -> None:
    keys = [bytes([number]) * 32 for number in range(2 * CLIENTS_MAX)]
    rests = Rests(LIMITS)
    for key in keys:
        rests.note(key, 10, 0)
        assert rests.longest_us(key) == CLIENTS_MAX * REST_US
    assert rests.end(REST_US) == keys[:1]
    assert rests.end(CLIENTS_MAX * REST_US - 1) == keys[:3], "the first is forgotten now"
    assert rests.end(CLIENTS_MAX * REST_US) == [keys[1], *keys[3:]]


def test_who_rested_long_ago_makes_nobody_rest_longer() -> None:
    rests = Rests(LIMITS)
    rests.note(A, 10, 0)
    rests.note(B, 10, KNOWN_FACTOR * REST_US)
    assert rests.end((KNOWN_FACTOR + 1) * REST_US - 1) == [A, A]
    assert rests.end((KNOWN_FACTOR + 1) * REST_US) == [B]


# Proposing.


def test_a_heavy_client_has_one_request_under_way_and_rests_after_it() -> None:
    pool = pool_of(*(request(number) for number in (1, 2, 3, 4)))
    assert pool.take(1, 1 << 20, 100)
    execute(pool, request(1), 10, 0)
    assert taken(pool) == []
    pool.wake(REST_US - 1)
    assert taken(pool) == [] and pool.next_turn_us() == REST_US
    pool.wake(REST_US)
    assert taken(pool) == [(0, 2)]
    assert taken(pool) == []
    execute(pool, request(2), 1, REST_US)
    assert taken(pool) == [(0, 3)]
    # Its requests were light since then: at some time it is a client like any other.
    pool.wake(KNOWN_FACTOR * REST_US)
    pool.add(request(5), KNOWN_FACTOR * REST_US, T_US, None)
    assert taken(pool) == [(0, 4), (0, 5)]


def test_a_turn_is_not_lost_where_the_rest_of_a_client_is_forgotten() -> None:
    """Its only request under way is executed after that."""
    pool = pool_of(*(request(number) for number in (1, 2, 3)))
    execute(pool, request(1), 10, 0)
    pool.wake(REST_US)
    assert taken(pool) == [(0, 2)]
    assert taken(pool) == []
    pool.wake(KNOWN_FACTOR * REST_US)
    pool.settle(request(2).message, T_US)
    assert taken(pool) == [(0, 3)]


def test_a_turn_is_not_lost_where_another_heavy_one_is_executed_when_a_rest_is_over() -> None:
    pool = pool_of(request(1), request(2), request(1, 1))
    execute(pool, request(1), 10, 0)
    assert taken(pool) == [(1, 1)]
    execute(pool, request(1, 1), 10, REST_US)
    pool.wake(REST_US)
    assert taken(pool) == [(0, 2)]


def test_others_do_not_wait_for_who_rests() -> None:
    pool = pool_of(request(1), request(2), request(1, 1), request(2, 1))
    execute(pool, request(1), 10, 0)
    assert taken(pool) == [(1, 1), (1, 2)]


def test_requests_of_heavy_clients_come_last_in_a_batch() -> None:
    """What a batch has no room for after them has to wait for the next one."""
    pool = pool_of(request(1), request(2), request(1, 1), request(2, 1))
    execute(pool, request(1), 10, 0)
    pool.wake(REST_US)
    assert taken(pool) == [(1, 1), (1, 2), (0, 2)]


def test_what_a_batch_had_no_room_for_is_proposed_again_first() -> None:
    pool = pool_of(*(request(number) for number in (1, 2, 3, 4)))
    batch = pool.take(3, 1 << 20, 100)
    pool.settle(request(1).message, T_US)
    pool.put_back([item.request for item in batch])
    assert taken(pool) == [(0, 2), (0, 3), (0, 4)]


def test_a_batch_has_no_more_operations_than_it_has_room_for() -> None:
    pool = pool_of(*(request(number) for number in (1, 2, 3)))
    assert len(pool.take(10, 1 << 20, 2)) == 2
    assert len(pool.take(10, 1 << 20, 0)) == 1, "one, whatever it asks for"


# Timers.


def test_a_deadline_counts_from_the_end_of_the_rest() -> None:
    pool = pool_of(request(1), request(2))
    execute(pool, request(1), 10, 0)
    pool.add(request(3), 20, T_US, None)
    assert pool.next_deadline_us() == LONGEST_US + T_US + COST_US
    pool.settle(request(2).message, T_US)
    assert pool.next_deadline_us() == LONGEST_US + T_US


def test_a_running_deadline_is_moved_by_the_rest() -> None:
    """Another request than the timed one was heavy."""
    pool = pool_of(request(1), request(2))
    execute(pool, request(2), 10, 500)
    assert pool.overdue(500 + LONGEST_US + T_US - 1) == []
    assert pool.overdue(500 + LONGEST_US + T_US + COST_US) != []


@pytest.mark.parametrize(("records", "later_us"), [(3, 15), (199, 995), (200, T_US), (999, T_US)])
def test_the_time_that_execution_takes_is_no_fault_of_the_primary(
    records: int, later_us: int
) -> None:
    """But it must not leave a request out for ever, and have others executed."""
    pool = pool_of(request(1))
    pool.note_busy(records)
    assert pool.overdue(T_US + later_us - 1) == []
    assert pool.next_deadline_us() == T_US + later_us
    assert len(pool.overdue(T_US + later_us)) == 1


def test_only_what_was_executed_since_a_request_arrived_moves_its_deadline() -> None:
    pool = RequestPool(LIMITS)
    pool.note_busy(100)
    pool.add(request(1), 0, T_US, None)
    assert len(pool.overdue(T_US)) == 1
    pool.note_busy(20)
    pool.rearm(T_US, T_US)
    assert len(pool.overdue(2 * T_US)) == 1


# Replicas.


def heavy_cluster(weight: int) -> Cluster:
    """Every operation looks at so many records."""
    cluster = Cluster(limits=LocalLimits(record_us=10))
    for node in cluster.up:
        assert isinstance(node.core.service, Journal)
        node.core.service.weight = weight
    return cluster


def test_the_primary_lets_a_heavy_client_rest_and_nobody_suspects_it() -> None:
    """Twenty requests of half a second each, which their client sends at once."""
    cluster = heavy_cluster(50_000)
    for number in range(1, 21):
        cluster.submit(cluster.forge.request(number, acknowledged=0), range(4))
    rest_us = REST_FACTOR * 500_000
    assert len(cluster[1].journal) == 1
    for executed in range(2, 21):
        cluster.advance(rest_us - 1)
        assert len(cluster[1].journal) == executed - 1
        cluster.advance(1)
        assert len(cluster[1].journal) == executed
    assert all(node.core.view == 0 and not node.core.suspicion.mine for node in cluster.up)


def test_another_client_is_served_while_a_heavy_one_rests() -> None:
    cluster = heavy_cluster(50_000)
    for number in range(1, 4):
        cluster.submit(cluster.forge.request(number, b"heavy", acknowledged=0))
    for node in cluster.up:
        node.core.service.weight = 1  # type: ignore[attr-defined]
    for number in range(1, 4):
        cluster.submit(cluster.forge.request(number, b"light", client=1, acknowledged=0))
    assert cluster[1].journal == [b"heavy", b"light", b"light", b"light"]


def test_a_step_that_executes_for_long_is_no_stall() -> None:
    """Deadlines start afresh after a stall: a primary whose batches take long would never be
    suspected, whatever it leaves out."""
    solo = Solo(me=2)
    core = solo.node.core
    assert isinstance(core.service, Journal)
    core.service.weight = 150_000
    solo.node.submit(solo.forge.request(1, client=1))
    deadline_us = core.pool.next_deadline_us()
    solo.node.replica.next_deadline_us()
    solo.decide(1, solo.batch(1))
    core.service.weight = 1
    solo.node.replica.next_deadline_us()
    solo.cluster.now_us += 1_600_000
    solo.node.tick()
    assert core.pool.next_deadline_us() == deadline_us
    solo.node.replica.next_deadline_us()
    solo.cluster.now_us += 1_200_000
    solo.node.tick()
    assert core.pool.next_deadline_us() != deadline_us, "a stall"


def test_a_long_read_is_no_fault_of_the_primary_either() -> None:
    solo = Solo()
    core = solo.node.core
    busy_us = core.pool.busy_us
    solo.read(ReadRequest(1, (b"all", b"all"), Consistency.LINEARIZABLE, True))
    assert core.pool.busy_us == busy_us + 2 * LocalLimits().record_us


def test_looking_at_many_records_is_work_for_a_step() -> None:
    """After a restart hundreds of batches wait, and each may look at as many as it likes."""
    solo = Solo(me=2, limits=LocalLimits(operations_per_step=100))
    core = solo.node.core
    assert isinstance(core.service, Journal)
    core.service.weight = 100
    solo.decide_to(3, first=2)
    solo.decide(1)
    assert core.executed == 1 and core.execution_due
