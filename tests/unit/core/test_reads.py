"""Reads (protocol.md section 11): the barrier, its bounds, and why answering at once is wrong."""

from dataclasses import replace

import pytest

from pbft.codec import decode_message, encode_message
from pbft.core.effects import Answer
from pbft.core.execution import parts
from pbft.core.reads import barrier
from pbft.crypto.digest import query_digest, results_digest
from pbft.errors import ConfigurationError
from pbft.limits import (
    KIB,
    MESSAGE_BYTES_MAX,
    MIB,
    REPLIES_BYTES_MAX,
    REPLIES_MAX,
    LocalLimits,
    ProtocolLimits,
)
from pbft.messages import Commit, Consistency, Kind, Outcome, ReadReplies, ReadReply, ReadRequest
from pbft.service.api import OperationByOperation
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo


def fast(nonce: int = 1, *queries: bytes, full: bool = True) -> ReadRequest:
    """A linearizable read."""
    return ReadRequest(nonce, queries or (b"all",), Consistency.LINEARIZABLE, full)


def stale(nonce: int = 1) -> ReadRequest:
    """A read without waiting."""
    return ReadRequest(nonce, (b"all",), Consistency.STALE, True)


def answers(solo: Solo) -> list[ReadReply]:
    """Everything that was answered."""
    return solo.node.read_replies()


def test_a_read_is_answered_at_once_when_nothing_is_under_way() -> None:
    solo = Solo()
    solo.decide_to(2)
    solo.read(fast())
    (reply,) = answers(solo)
    assert reply.results == (b"0.1.1|0.1.2",)
    assert reply.results_digest == results_digest(Outcome.EXECUTED, 0, reply.results)
    assert reply.query_digest == query_digest((b"all",))
    assert (reply.nonce, reply.sequence, reply.refused) == (1, 2, False)


def test_answers_go_signed_to_who_asked() -> None:
    solo = Solo()
    solo.read(fast())
    solo.node.read(solo.forge.clients[1].client, fast(2))
    assert [answer.client for answer in solo.node.answers] == [
        solo.forge.clients[0].client,
        solo.forge.clients[1].client,
    ]
    assert all(answer.replies.signer == 1 for answer in solo.node.answers)


def test_the_designated_replica_answers_in_full_the_others_by_digest() -> None:
    solo = Solo()
    for nonce in range(4):
        solo.read(fast(nonce, full=False))
    assert [reply.results is not None for reply in answers(solo)] == [False, True, False, False]
    assert len({reply.results_digest for reply in answers(solo)}) == 1


def test_several_queries_are_one_consistent_answer() -> None:
    solo = Solo()
    solo.decide(1)
    solo.read(fast(1, b"a", b"b"))
    (reply,) = answers(solo)
    assert reply.results == (b"0.1.1", b"0.1.1")


# The barrier.


def test_a_prepared_slot_holds_the_read_until_it_is_executed() -> None:
    solo = Solo()
    digest = solo.propose(1)
    solo.read(fast(1))
    assert len(answers(solo)) == 1, "pre-prepared only: it cannot be committed anywhere"
    solo.prepare(1, digest)
    solo.read(fast(2))
    assert len(answers(solo)) == 1
    solo.commit(1, digest)
    assert [reply.nonce for reply in answers(solo)] == [1, 2]
    assert answers(solo)[-1].sequence == 1


def test_the_barrier_is_taken_on_arrival() -> None:
    """What is prepared later holds up only later reads: the load does not starve a read."""
    solo = Solo()
    first = solo.propose(1)
    solo.prepare(1, first)
    solo.read(fast(1))
    second = solo.propose(2)
    solo.prepare(2, second)
    solo.read(fast(2))
    solo.commit(1, first)
    assert [reply.nonce for reply in answers(solo)] == [1]
    solo.commit(2, second)
    assert [reply.nonce for reply in answers(solo)] == [1, 2]


def test_a_prepared_slot_above_a_gap_holds_it_too() -> None:
    solo = Solo()
    digest = solo.propose(3)
    solo.prepare(3, digest)
    solo.read(fast())
    solo.decide(1)
    solo.decide(2)
    assert answers(solo) == []
    solo.commit(3, digest)
    assert len(answers(solo)) == 1


def test_a_decided_slot_counts_though_it_was_not_prepared_here() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.committed(2, solo.batch(2)))
    solo.read(fast())
    assert answers(solo) == []
    solo.decide(1)
    assert len(answers(solo)) == 1


def test_the_stable_checkpoint_holds_a_laggard() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, bytes(32)))
    assert barrier(solo.node.core) == INTERVAL
    solo.read(fast())
    assert answers(solo) == []


def test_the_new_views_max_s_holds_the_read() -> None:
    """V shows what may have committed below max-s, whether prepared here or not."""
    solo = Solo(me=2)
    changes = [solo.forge.view_change(i, 1, [solo.forge.proof(3, bytes(32))]) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert barrier(solo.node.core) == 3
    solo.read(fast())
    assert answers(solo) == []


def test_a_certificate_of_an_older_view_above_max_s_is_void() -> None:
    """V showed that it cannot commit: it must not hold reads for ever."""
    solo = Solo(me=2)
    for sequence in (1, 2):
        solo.prepare(sequence, solo.propose(sequence))
    assert barrier(solo.node.core) == 2
    changes = [solo.forge.view_change(i, 1, [solo.forge.proof(1, bytes(32))]) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert barrier(solo.node.core) == 1


def test_a_certificate_counts_while_the_view_changes() -> None:
    solo = Solo(me=2)
    solo.prepare(1, solo.propose(1))
    for replica in (1, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 4))
    assert barrier(solo.node.core) == 1


@pytest.mark.parametrize("view", [0, 1])
def test_the_barrier_is_restored_at_a_restart(view: int) -> None:
    solo = Solo(me=2)
    if view:
        solo.enter(1)
    digest = solo.propose(1, view=view)
    solo.prepare(1, digest, view=view)
    solo.restart()
    assert barrier(solo.node.core) == 1
    solo.read(fast())
    assert answers(solo) == []
    solo.commit(1, digest, view=view)
    assert len(answers(solo)) == 1


def test_what_was_decided_by_a_certificate_counts_after_a_restart() -> None:
    solo = Solo(me=2)
    solo.cluster.tell(2, solo.forge.committed(1, solo.batch()))
    assert barrier(solo.node.core) == 1
    solo.restart()
    assert barrier(solo.node.core) == 1


def test_a_void_certificate_stays_void_after_a_restart() -> None:
    solo = Solo(me=2)
    solo.prepare(1, solo.propose(1))
    solo.enter(1)
    assert barrier(solo.node.core) == 0
    solo.restart()
    assert barrier(solo.node.core) == 0


def test_a_stale_read_waits_for_nothing() -> None:
    solo = Solo()
    solo.prepare(1, solo.propose(1))
    solo.read(stale())
    (reply,) = answers(solo)
    assert (reply.results, reply.sequence) == ((b"",), 0)


def test_a_diverged_replica_answers_nothing() -> None:
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL, bytes(32))
    solo.read(fast())
    solo.read(stale(2))
    assert answers(solo) == []


def test_a_replica_that_recalls_answers_nothing() -> None:
    solo = Solo()
    solo.node.restart()
    solo.read(fast())
    solo.read(stale(2))
    assert answers(solo) == []
    solo.recall()
    assert sorted(reply.nonce for reply in answers(solo)) == [1, 2]


# Why it is needed.


def test_answering_at_once_would_not_be_linearizable() -> None:
    """A write is answered by f + 1 replicas while the others have not executed it. q answers to a
    read that begins afterwards, given at once, could all show the state before: with f of the two
    that executed it lying, or slow. With the barrier, one of any q honest answers shows it, or
    waits."""
    cluster = Cluster(4)
    executed = {0, 1}
    cluster.drop(lambda m: m.says(Commit) and m.to not in executed)
    cluster.submit(cluster.forge.request(1, b"w"))
    written = {node.id for node in cluster.up if node.journal}
    assert written == executed, "acknowledged by f + 1: the write is complete"
    for node in cluster.up:
        node.read(cluster.forge.clients[0].client, stale(1))
    before = [node.read_replies()[-1].results for node in cluster.up]
    assert before == [(b"w",), (b"w",), (b"",), (b"",)]
    # A liar that executed it tells the old state: three matching answers, all of them too old.
    naive = [before[3], before[2], (b"",)]
    assert len(set(naive)) == 1 and len(naive) == cluster.thresholds.quorum
    for node in cluster.up:
        node.read(cluster.forge.clients[0].client, fast(2))
    late = [node for node in cluster.up if node.id not in executed]
    assert all(node.read_replies()[-1].nonce == 1 for node in late), (
        "they know that they do not know"
    )
    cluster.drop(None)
    cluster.advance(2 * SECOND)
    answered = [node.read_replies()[-1] for node in cluster.up]
    assert {(reply.nonce, reply.results) for reply in answered} == {(2, (b"w",))}


# Bounds.


def holding(limits: LocalLimits) -> Solo:
    """A replica at which every read has to wait."""
    solo = Solo(limits=limits)
    solo.prepare(1, solo.propose(1))
    return solo


def test_held_reads_are_bounded_in_number() -> None:
    solo = holding(LocalLimits(held_reads=2))
    for nonce in (1, 2, 3):
        solo.read(fast(nonce))
    (refusal,) = answers(solo)
    assert (refusal.nonce, refusal.refused) == (3, True)
    assert refusal.query_digest == query_digest((b"all",))


def test_held_reads_are_bounded_per_client() -> None:
    solo = holding(LocalLimits(held_reads_per_client=1))
    solo.read(fast(1))
    solo.read(fast(2))
    solo.node.read(solo.forge.clients[1].client, fast(3))
    assert [(reply.nonce, reply.refused) for reply in answers(solo)] == [(2, True)]


def test_held_reads_are_bounded_in_bytes() -> None:
    solo = holding(LocalLimits(held_read_bytes=100))
    solo.read(fast(1, b"x" * 60))
    solo.read(fast(2, b"x" * 60))
    solo.read(fast(3, b"x" * 30))
    assert [(reply.nonce, reply.refused) for reply in answers(solo)] == [(2, True)]


def test_a_read_that_waits_too_long_is_refused() -> None:
    """The client falls back to an ordered read."""
    solo = holding(LocalLimits())
    solo.read(fast())
    solo.cluster.advance(4 * SECOND)
    (refusal,) = answers(solo)
    assert refusal.refused
    assert not solo.node.core.held_reads


class Wide(OperationByOperation):
    """A service whose every answer has a given size, and which counts what it is asked."""

    def __init__(self, size: int) -> None:
        self.result = b"x" * size
        self.asked = 0
        self.touched = 0
        self.weight = 1

    def execute(self, operation: bytes, agreed_time_us: int, client: bytes) -> bytes:
        return self.result

    def exhausted(self) -> bytes:
        return b"exhausted"

    def query(self, query: bytes, agreed_time_us: int) -> bytes:
        self.asked += 1
        self.touched += self.weight
        return self.result


def read_messages(solo: Solo) -> list[int]:
    """The size of each message of read answers."""
    payloads = [answer.replies for answer in solo.node.answers]
    return [len(signed.payload) for signed in payloads if signed.kind is Kind.READ_REPLIES]


QUERIES = (b"q",) * ProtocolLimits().operations_per_request


def test_a_fast_read_beyond_the_budget_is_refused() -> None:
    """It answered once with all results in one message, of any size; the client orders it now."""
    solo = Solo()
    solo.node.core.service = service = Wide(MIB)
    solo.read(fast(1, *QUERIES))
    (refusal,) = answers(solo)
    assert (refusal.refused, refusal.results, refusal.nonce) == (True, None, 1)
    assert service.asked == 4, "what is beyond the budget is not even looked at"


def test_a_fast_read_within_the_budget_is_answered() -> None:
    solo = Solo()
    solo.node.core.service = Wide(MIB)
    solo.read(fast(1, *QUERIES[:4]))
    (reply,) = answers(solo)
    assert not reply.refused and reply.results == (b"x" * MIB,) * 4


def test_a_stale_read_beyond_the_budget_is_told_so() -> None:
    solo = Solo()
    solo.node.core.service = service = Wide(ProtocolLimits().result_bytes - 1)
    solo.read(ReadRequest(1, QUERIES, Consistency.STALE, True))
    (reply,) = answers(solo)
    assert reply.results == (service.result,) * 2 + (b"exhausted",) * (len(QUERIES) - 2)
    assert max(read_messages(solo)) < MESSAGE_BYTES_MAX


def test_a_fast_read_that_looks_at_too_many_records_is_refused() -> None:
    solo = Solo()
    solo.node.core.service = service = Wide(1)
    service.weight = ProtocolLimits().records_per_request // 3
    solo.read(fast(1, *QUERIES[:4]))
    solo.cluster.advance(60 * SECOND)
    solo.read(fast(2, *QUERIES))
    assert [(reply.nonce, reply.refused) for reply in answers(solo)] == [(1, False), (2, True)]
    assert service.asked == 8


def test_held_reads_that_look_at_many_records_are_answered_step_by_step() -> None:
    solo = Solo(limits=LocalLimits(read_records_per_step=30))
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.node.core.service = service = Wide(1)
    service.weight = 10
    for nonce in range(5):
        solo.read(fast(nonce))
    solo.commit(1, digest)
    assert service.asked == 3
    solo.node.tick()
    assert [reply.nonce for reply in answers(solo)] == list(range(5))


def test_the_reads_that_one_commit_releases_are_answered_step_by_step() -> None:
    limits = LocalLimits(read_results_bytes_per_step=3 * MIB)
    solo = Solo(limits=limits)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.node.core.service = service = Wide(MIB)
    for nonce in range(20):
        solo.read(fast(nonce))
    solo.commit(1, digest)
    assert service.asked == 3
    assert solo.node.replica.next_deadline_us() == solo.node.core.now.monotonic_us
    solo.node.tick()
    assert service.asked == 6
    for _ in range(5):
        solo.node.tick()
    assert [reply.nonce for reply in answers(solo)] == list(range(20))
    assert not any(reply.refused for reply in answers(solo))
    assert solo.node.replica.next_deadline_us() != solo.node.core.now.monotonic_us
    assert max(read_messages(solo)) <= REPLIES_BYTES_MAX


def test_answers_due_at_once_are_split() -> None:
    """A step may answer one read at once and release others."""
    solo = Solo(limits=LocalLimits(read_results_bytes_per_step=64 * MIB))
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.node.core.service = Wide(MIB - KIB)
    for nonce in range(20):
        solo.read(fast(nonce))
    solo.commit(1, digest)
    assert len(answers(solo)) == 20
    assert len(read_messages(solo)) == 10
    assert max(read_messages(solo)) <= REPLIES_BYTES_MAX


def test_answers_that_are_many_are_split_however_small() -> None:
    """A client refuses a message with more of them."""
    due = [ReadReply(nonce, b"q" * 32, b"", None, 0, True) for nonce in range(2 * REPLIES_MAX + 1)]
    groups = parts(due)
    assert [len(group) for group in groups] == [REPLIES_MAX, REPLIES_MAX, 1]
    assert [reply for group in groups for reply in group] == due
    largest = ReadReplies(b"c" * 32, 0, groups[0])
    assert decode_message(Kind.READ_REPLIES, encode_message(largest)) == largest


def test_a_result_that_no_message_can_carry_is_told_by_its_digest() -> None:
    solo = Solo()
    solo.node.core.service = Wide(MESSAGE_BYTES_MAX)
    solo.read(fast(1))
    (reply,) = answers(solo)
    assert reply.results is None and not reply.refused
    assert reply.results_digest == results_digest(Outcome.EXECUTED, 0, (b"x" * MESSAGE_BYTES_MAX,))


@pytest.mark.parametrize("name", ["results_bytes_per_request", "result_bytes"])
def test_limits_under_which_an_answer_would_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="one message"):
        replace(ProtocolLimits(), **{name: 12 * MIB})


def test_reads_that_came_together_are_answered_with_one_signature_for_each_client() -> None:
    solo = Solo()
    replica, now = solo.node.replica, solo.node.now()
    one, two = (solo.forge.clients[number].client for number in (0, 1))
    for client, nonce in ((one, 1), (two, 2), (one, 3)):
        replica.take_read(client, fast(nonce), now)
    told = []
    for effect in replica.answer_reads(now):
        assert isinstance(effect, Answer)
        message = decode_message(effect.replies.kind, effect.replies.payload)
        assert isinstance(message, ReadReplies) and message.client == effect.client
        told.append((effect.client, [reply.nonce for reply in message.replies]))
    assert told == [(one, [1, 3]), (two, [2])]
    assert replica.answer_reads(now) == []
