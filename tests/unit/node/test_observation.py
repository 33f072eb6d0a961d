"""Core and service are watched from outside, and behave as if they were not."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pbft.codec import encode_message
from pbft.codec.replies import encode_replies
from pbft.core.effects import Answer, Broadcast, Effect, Event, EventName
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Commit,
    Consistency,
    Inbound,
    Kind,
    Outcome,
    Prepare,
    ReadRequest,
    Replies,
    Reply,
    Request,
    Signed,
    StateChunk,
    StateRecord,
    ViewChange,
)
from pbft.node.event_stream import EventStream
from pbft.node.metrics import CHECKPOINTS_COMPARED, Metrics
from pbft.node.observation import (
    SAMPLE_EVERY_US,
    SAMPLE_US_MAX,
    ObservedCore,
    ObservedService,
    RequestTimer,
    is_error,
    kind_of_operation,
)
from pbft.service.api import Room
from pbft.types import ClientKey, Instant, Micros
from pbft.wire import kv_pb2

CLIENT = bytes([7]) * 32
OTHER = bytes([8]) * 32
DIGEST = bytes(range(32))
NOW = Instant(5_000_000, 0)
READ = ReadRequest(1, (b"q",), Consistency.STALE, True)


@dataclass
class Core:
    """Answers every step with the effects it was given."""

    effects: list[Effect] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def _step(self, name: str) -> list[Effect]:
        self.steps.append(name)
        return list(self.effects)

    def start(self, now: Instant, nonce: bytes) -> list[Effect]:
        return self._step("start")

    def receive(self, sender: int, inbound: Inbound, now: Instant) -> list[Effect]:
        return self._step(f"receive {sender}")

    def submit(
        self, request: Authenticated[Request], full_results: bool, now: Instant
    ) -> list[Effect]:
        return self._step("submit")

    def take_read(self, client: ClientKey, request: ReadRequest, now: Instant) -> None:
        self._step("read")

    def answer_reads(self, now: Instant) -> list[Effect]:
        return self._step("answer reads")

    def link(self, peer: int, up: bool, now: Instant) -> list[Effect]:
        return self._step(f"link {peer} {up}")

    def sealed(self, sequence: int, digest: bytes, now: Instant) -> list[Effect]:
        return self._step(f"sealed {sequence}")

    def merged(self, sequence: int, now: Instant) -> list[Effect]:
        return self._step(f"merged {sequence}")

    def installed(self, sequence: int, now: Instant) -> list[Effect]:
        return self._step(f"installed {sequence}")

    def tick(self, now: Instant) -> list[Effect]:
        return self._step("tick")

    def next_deadline_us(self) -> Micros | None:
        return 99


def signed(kind: Kind, signer: int, message: Prepare | Commit | Checkpoint) -> Signed:
    return Signed(kind, signer, encode_message(message), bytes(64))


def vote(kind: Kind, signer: int, message: Prepare | Commit | Checkpoint) -> Inbound:
    return Authenticated(message, signed(kind, signer, message))  # type: ignore[return-value]


def request(number: int, client: bytes = CLIENT) -> Authenticated[Request]:
    message = Request(client, 1, number, 0, 0, (b"op",))
    return Authenticated(message, Signed(Kind.REQUEST, client, b"", bytes(64)))


def answer(*numbers: int, client: bytes = CLIENT) -> Answer:
    replies = tuple(
        Reply(1, number, DIGEST, 9, 0, Outcome.EXECUTED, DIGEST, None) for number in numbers
    )
    payload = encode_replies(Replies(client, 0, replies))
    return Answer(client, Signed(Kind.REPLIES, 0, payload, bytes(64)))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pbft_{name}", labels)


def observed(*effects: Effect) -> tuple[ObservedCore, Core, EventStream, Metrics]:
    core, events, metrics = Core(list(effects)), EventStream(0), Metrics(0, "1")
    return ObservedCore(core, 0, events, metrics), core, events, metrics


def told(events: EventStream) -> list[tuple[str, int, int, int, str]]:
    return [(one.event, one.view, one.sequence, one.value, one.detail) for one in events.read(0)[0]]


def test_every_step_reaches_the_core_and_every_effect_comes_back() -> None:
    event = Event(EventName.SUSPECTED, 3, 0, 0, "request")
    it, core, events, _ = observed(event)
    steps = [
        it.start(NOW, b""),
        it.receive(2, StateChunk(64, (), b""), NOW),
        it.submit(request(1), True, NOW),
        it.answer_reads(NOW),
        it.link(1, True, NOW),
        it.sealed(64, bytes(32), NOW),
        it.merged(64, NOW),
        it.installed(128, NOW),
        it.tick(NOW),
    ]
    assert steps == [[event]] * 9
    it.take_read(CLIENT, READ, NOW)
    assert core.steps == [
        "start",
        "receive 2",
        "submit",
        "answer reads",
        "link 1 True",
        "sealed 64",
        "merged 64",
        "installed 128",
        "tick",
        "read",
    ]
    assert it.next_deadline_us() == 99
    assert told(events) == [("suspected", 3, 0, 0, "request")] * 9


def test_votes_received_and_sent_are_in_the_stream() -> None:
    commit = Commit(2, 7, DIGEST)
    it, _, events, _ = observed(Broadcast(signed(Kind.COMMIT, 0, commit)))
    it.receive(1, vote(Kind.PREPARE, 1, Prepare(2, 7, DIGEST)), NOW)
    change = ViewChange(3, 2, 0, 0, (), ())
    it.receive(2, Authenticated(change, Signed(Kind.VIEW_CHANGE, 2, b"", bytes(64))), NOW)
    shown = DIGEST[:6].hex()
    assert told(events) == [
        ("prepare_vote", 2, 7, 1, shown),
        ("commit_vote", 2, 7, 0, shown),
        ("view_change_vote", 3, 0, 2, ""),
        ("commit_vote", 2, 7, 0, shown),
    ]


def test_a_relayed_vote_counts_for_its_signer() -> None:
    it, _, events, _ = observed()
    it.receive(3, vote(Kind.COMMIT, 1, Commit(0, 5, DIGEST)), NOW)
    assert told(events)[0][3] == 1


def test_checkpoint_digests_are_compared_in_either_order() -> None:
    own = Broadcast(signed(Kind.CHECKPOINT, 0, Checkpoint(64, DIGEST)))
    it, core, _, metrics = observed()
    it.receive(1, vote(Kind.CHECKPOINT, 1, Checkpoint(64, DIGEST)), NOW)
    assert value(metrics, "checkpoint_agreement", peer="1") is None
    core.effects = [own]
    it.tick(NOW)
    core.effects = []
    assert value(metrics, "checkpoint_agreement", peer="1") == 1
    it.receive(2, vote(Kind.CHECKPOINT, 2, Checkpoint(64, bytes(32))), NOW)
    it.receive(3, vote(Kind.CHECKPOINT, 3, Checkpoint(128, bytes(32))), NOW)
    assert value(metrics, "checkpoint_agreement", peer="2") == 0
    assert value(metrics, "checkpoint_agreement", peer="3") is None
    assert value(metrics, "checkpoint_agreement", peer="0") is None


def test_checkpoints_remembered_are_bounded() -> None:
    metrics = Metrics(0, "1")
    for sequence in range(CHECKPOINTS_COMPARED * 3):
        metrics.on_checkpoint(1, sequence, DIGEST)
    assert len(metrics._checkpoints[1]) == CHECKPOINTS_COMPARED


def test_an_old_comparison_is_forgotten() -> None:
    metrics = Metrics(0, "1")
    metrics.on_checkpoint(1, 64, bytes(32))
    for number in range(1, CHECKPOINTS_COMPARED + 1):
        metrics.on_checkpoint(0, 64 * number, DIGEST)
    assert value(metrics, "checkpoint_agreement", peer="1") == 0
    metrics.on_checkpoint(0, 64 * (CHECKPOINTS_COMPARED + 1), DIGEST)
    assert value(metrics, "checkpoint_agreement", peer="1") is None


def test_a_request_is_timed_until_its_reply() -> None:
    it, core, _, metrics = observed()
    it.submit(request(5), True, NOW)
    core.effects = [answer(3, 4), answer(5, client=OTHER)]
    it.tick(Instant(NOW.monotonic_us + 1_000, 0))
    assert value(metrics, "request_duration_seconds_count") == 0
    core.effects = [answer(4, 5)]
    it.tick(Instant(NOW.monotonic_us + 250_000, 0))
    assert value(metrics, "request_duration_seconds_count") == 1
    assert value(metrics, "request_duration_seconds_sum") == 0.25


def test_read_replies_end_no_request() -> None:
    metrics = Metrics(0, "1")
    timer = RequestTimer(metrics)
    timer.begin(request(5).message, 0)
    timer.end(Answer(CLIENT, Signed(Kind.READ_REPLIES, 0, b"not replies", bytes(64))), 10)
    assert value(metrics, "request_duration_seconds_count") == 0


def test_requests_are_sampled() -> None:
    metrics = Metrics(0, "1")
    timer = RequestTimer(metrics)
    timer.begin(request(1).message, 0)
    timer.begin(request(2).message, SAMPLE_EVERY_US * 2)
    timer.end(answer(2), SAMPLE_EVERY_US * 3)
    assert value(metrics, "request_duration_seconds_count") == 0
    timer.end(answer(1), SAMPLE_EVERY_US * 4)
    timer.end(answer(1), SAMPLE_EVERY_US * 5)
    assert value(metrics, "request_duration_seconds_count") == 1
    timer.begin(request(3).message, SAMPLE_EVERY_US)
    timer.end(answer(3), SAMPLE_EVERY_US * 5)
    assert value(metrics, "request_duration_seconds_count") == 1


def test_a_request_that_is_never_answered_does_not_end_the_timing() -> None:
    metrics = Metrics(0, "1")
    timer = RequestTimer(metrics)
    timer.begin(request(1).message, 0)
    late_us = SAMPLE_US_MAX + 1
    timer.begin(request(2).message, late_us)
    timer.end(answer(2), late_us + 10)
    assert value(metrics, "request_duration_seconds_count") == 1


ROOM = Room(999, 999)


def test_operations_are_counted_and_shared_among_the_batches_of_a_step() -> None:
    it, core, _, metrics = observed(Event(EventName.EXECUTED, 0, 9, 1))

    class Service:
        touched = 7

        def execute_all(
            self, operations: Sequence[bytes], time_us: Micros, client: ClientKey, room: Room
        ) -> list[bytes]:
            return [kv_pb2.Result(error=kv_pb2.Error(code=3)).SerializeToString()] * len(operations)

        def exhausted(self) -> bytes:
            return b"exhausted"

        def query(self, query: bytes, agreed_time_us: Micros) -> bytes:
            return kv_pb2.Result(response=kv_pb2.ResponseOp()).SerializeToString()

    service = ObservedService(Service(), metrics)
    put = kv_pb2.RequestOp(request_put=kv_pb2.PutRequest(key=b"k")).SerializeToString()
    for count in (1, 5):
        results = service.execute_all((put,) * count, 0, CLIENT, ROOM)
        assert len(results) == count and all(map(is_error, results))
    it.tick(NOW)
    assert value(metrics, "batch_operations_sum") == 6
    assert value(metrics, "batch_operations_bucket", le="5.0") == 0
    service.execute_all((b"", put), 0, CLIENT, ROOM)
    core.effects *= 2
    it.tick(NOW)
    assert value(metrics, "batch_operations_count") == 3
    assert value(metrics, "batch_operations_sum") == 8
    assert value(metrics, "kv_operations_total", operation="put", outcome="error") == 7
    assert value(metrics, "kv_operations_total", operation="malformed", outcome="error") == 1
    assert metrics.operations == 8
    assert service.exhausted() == b"exhausted"
    assert service.touched == 7
    assert not is_error(service.query(b"q", 0))
    assert value(metrics, "kv_queries_total", outcome="ok") == 1


@pytest.mark.parametrize("name", ["range", "put", "delete_range", "txn"])
def test_operations_are_told_apart_by_their_tag(name: str) -> None:
    operation = kv_pb2.RequestOp()
    getattr(operation, f"request_{name}").SetInParent()
    assert kind_of_operation(operation.SerializeToString()) == name


@pytest.mark.parametrize("operation", [b"", b"\x00", b"\xff\xff"])
def test_what_is_no_operation_has_one_name(operation: bytes) -> None:
    assert kind_of_operation(operation) == "malformed"


def test_what_a_transfer_brings_is_counted() -> None:
    it, _, _, metrics = observed()
    record = StateRecord(2, b"key", 1, b"value")
    it.receive(1, StateChunk(64, (record, record), b""), NOW)
    assert value(metrics, "state_transfer_records_total") == 2
    assert value(metrics, "state_transfer_bytes_total") == 16
