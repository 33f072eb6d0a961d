"""Each client has a share of the time for its fast reads (pbft.core.held_reads)."""

import pytest

from pbft.core.held_reads import BURST_US, CLIENTS_MAX, HeldRead, HeldReads
from pbft.core.reads import barrier
from pbft.core.settings import Timers
from pbft.limits import LocalLimits
from pbft.messages import Checkpoint, Consistency, ReadRequest, StableCertificate, Status
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo
from tests.unit.core.test_reads import Wide, answers, fast

ONE, TWO = b"one", b"two"
RECORD_US = LocalLimits().record_us
BURST_RECORDS = BURST_US // RECORD_US


def read(client: bytes, nonce: int = 0, barrier: int = 0, since_us: int = 0) -> HeldRead:
    request = ReadRequest(nonce, (b"query",), Consistency.LINEARIZABLE, True)
    return HeldRead(client, request, barrier, since_us, 5)


def holding(*reads: HeldRead, limits: LocalLimits | None = None) -> HeldReads:
    held = HeldReads(limits or LocalLimits())
    for one in reads:
        held.add(one)
    return held


def taken(held: HeldReads, now_us: int = 0) -> list[tuple[bytes, int]]:
    """All that may be answered now: whose, and which."""
    found = []
    while (one := held.take(now_us)) is not None:
        found.append((one.client, one.request.nonce))
    return found


def test_a_read_is_free_once_its_barrier_is_executed() -> None:
    held = holding(read(ONE, 1, barrier=9), read(ONE, 2, barrier=7), read(ONE, 3, barrier=8))
    held.release(6)
    assert taken(held) == [] and held.next_us(0) is None
    held.release(8)
    assert held.next_us(5) == 5
    assert taken(held) == [(ONE, 2), (ONE, 3)]
    assert len(held) == 1


def test_clients_take_turns() -> None:
    held = holding(*(read(ONE, n) for n in range(3)), *(read(TWO, n) for n in range(2)))
    held.release(0)
    assert taken(held) == [(ONE, 0), (TWO, 0), (ONE, 1), (TWO, 1), (ONE, 2)]


def test_who_looked_at_much_waits_and_others_do_not() -> None:
    held = holding(read(ONE), read(TWO))
    held.release(0)
    held.charge(ONE, BURST_RECORDS + 100, 0)
    assert not held.allows(ONE, 0) and held.allows(TWO, 0)
    assert taken(held) == [(TWO, 0)]
    assert held.next_us(0) == 100 * RECORD_US
    assert taken(held, 100 * RECORD_US - 1) == []
    assert taken(held, 100 * RECORD_US) == [(ONE, 0)]


def test_small_reads_add_up() -> None:
    held = holding()
    for _ in range(BURST_RECORDS + 1):
        assert held.allows(ONE, 0)
        held.charge(ONE, 1, 0)
    assert not held.allows(ONE, 0)
    assert held.allows(ONE, RECORD_US)


def test_several_that_read_much_share_the_time_of_one() -> None:
    held = holding()
    for client in (b"a", b"b", b"c", b"d", b"e"):
        held.charge(client, 2 * BURST_RECORDS, 0)
    # Each is charged for those before it, up to a bound.
    for place, client in enumerate((b"a", b"b", b"c", b"d", b"e")):
        until_us = 2 * BURST_US * min(place + 1, CLIENTS_MAX) - BURST_US
        assert not held.allows(client, until_us - 1) and held.allows(client, until_us)
    late_us = 60 * SECOND
    held.charge(ONE, BURST_RECORDS + 1, late_us)
    assert held.allows(ONE, late_us + RECORD_US), "those who have rested do not count"


def test_those_who_read_nothing_any_more_are_forgotten() -> None:
    held = holding()
    for number in range(100):
        held.charge(b"%d" % number, 1, number * SECOND)
    assert len(held._charged_until_us) == 1


def test_what_expired_is_taken_out_and_makes_room() -> None:
    limits = LocalLimits(held_reads=3, held_reads_per_client=2, held_read_bytes=16)
    held = holding(read(ONE, 1), read(ONE, 2, since_us=5), limits=limits)
    assert not held.has_room(ONE, 1) and held.has_room(TWO, 6) and not held.has_room(TWO, 7)
    held.release(0)
    assert [one.request.nonce for one in held.expired(4)] == [1]
    assert held.has_room(ONE, 11)
    assert taken(held) == [(ONE, 2)]
    assert len(held) == 0 and held.next_us(0) is None


def test_what_expired_is_forgotten_though_nothing_is_executed_for_long() -> None:
    held = holding()
    for second in range(100):
        held.add(read(ONE, barrier=9, since_us=second * SECOND))
        held.expired((second - 2) * SECOND)
        assert len(held._blocked) <= 2 * len(held) + 1
    held.release(9)
    assert len(taken(held)) == len(held) + 2 == 2


def test_a_client_that_has_one_free_read_is_behind_it() -> None:
    held = holding(read(ONE, 1))
    assert not held.waits(ONE)
    held.release(0)
    assert held.waits(ONE) and not held.waits(TWO)
    assert taken(held) == [(ONE, 1)]
    assert not held.waits(ONE)


def test_who_lost_its_trust_with_reads_to_answer_is_not_busy_with_them() -> None:
    solo = Solo()
    solo.node.core.service = service = Wide(1)
    service.weight = 4 * BURST_RECORDS
    for nonce in range(2):
        solo.read(fast(nonce))
    assert len(solo.node.core.held_reads) == 1
    solo.cluster.advance(2 * BURST_US)
    solo.node.core.diverged = True
    solo.cluster.advance(Timers().request_timeout_us)
    assert service.asked == 1 and not solo.node.core.held_reads


@pytest.mark.parametrize("behind_a_barrier", [False, True])
def test_long_reads_leave_the_replica_to_others(behind_a_barrier: bool) -> None:
    """Also those that one commit releases together."""
    solo = Solo()
    solo.node.core.service = service = Wide(1)
    service.weight = 4 * BURST_RECORDS
    digest = solo.propose(1)
    if behind_a_barrier:
        solo.prepare(1, digest)
    for nonce in range(5):
        solo.read(fast(nonce))
    if behind_a_barrier:
        solo.prepare(1, digest)
        solo.commit(1, digest)
    assert service.asked == 1 and len(solo.node.core.held_reads) == 4
    due_us = solo.node.replica.next_deadline_us()
    assert due_us is not None and due_us > solo.node.core.now.monotonic_us
    solo.cluster.advance(2 * BURST_US)
    assert service.asked == 1
    solo.cluster.advance(2 * BURST_US)
    assert service.asked == 2
    solo.cluster.advance(Timers().request_timeout_us)
    replies = {reply.nonce: reply.refused for reply in answers(solo)}
    assert replies == {0: False, 1: False, 2: False, 3: False, 4: True}, "it waited for too long"


def test_a_replica_that_answered_all_is_at_rest() -> None:
    """Also if the last one was as much as a step may look at."""
    solo = Solo(limits=LocalLimits(read_records_per_step=10))
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.node.core.service = service = Wide(1)
    service.weight = 10
    solo.read(fast())
    solo.commit(1, digest)
    assert service.asked == 1
    due_us = solo.node.replica.next_deadline_us()
    assert due_us is not None and due_us > solo.node.core.now.monotonic_us


def test_what_expired_in_the_queue_of_a_client_is_not_waited_for() -> None:
    held = holding(read(ONE, 1), read(TWO, 2, since_us=5))
    held.release(0)
    assert [late.client for late in held.expired(0)] == [ONE]
    assert not held.waits(ONE)
    held.expired(5)
    assert held.next_us(9) is None


def test_a_read_does_not_pay_for_those_of_others() -> None:
    """The time that taking one takes is measured, and its client rests for it."""
    solo = Solo()
    solo.node.core.service = service = Wide(1)
    service.weight = 4 * BURST_RECORDS
    for nonce in range(2):
        solo.read(fast(nonce))
    other = solo.forge.clients[1].client
    solo.cluster.now_us += 4 * BURST_US
    solo.node.replica.take_read(other, fast(7), solo.node.now())
    assert list(solo.node.core.read_replies) == [other]
    solo.node.step(solo.node.replica.answer_reads)
    assert [reply.nonce for reply in solo.node.read_replies()] == [0, 7, 1]


def test_a_read_is_never_answered_in_an_older_state_than_its_barrier() -> None:
    """It waits for its turn; the replica finds that its state is wrong, installs an older one, and
    has still to execute up to the barrier."""
    cluster = Cluster(4, limits=LocalLimits(operations_per_step=1))
    late, client = cluster[3], cluster.forge.clients[1].client
    late.state.domain(2).put(b"rotten", 0, b"rotten")
    cluster.oracles.forged.add(3)
    cluster.drop(lambda m: m.to == 3 and m.says(Checkpoint, StableCertificate, Status))
    cluster.run(INTERVAL + 3)
    cluster.advance(SECOND // 5)
    late.core.held_reads.charge(client, BURST_RECORDS + 500, cluster.now_us)
    at = barrier(late.core)
    late.read(client, fast(7))
    assert at == late.core.executed == INTERVAL + 3 and len(late.core.held_reads) == 1
    cluster.drop(None)
    stable = StableCertificate(cluster[0].core.stable.checkpoints)
    late.receive(0, stable)
    assert late.core.diverged
    for _ in range(200):
        due_us = late.replica.next_deadline_us()
        assert due_us is not None
        cluster.advance(max(due_us - cluster.now_us, 0))
        answered = [reply for reply in late.read_replies() if reply.nonce == 7]
        if answered:
            break
    assert not late.core.diverged
    assert answered[0].sequence >= at and not answered[0].refused
