"""Looks at the core and at its service from outside: they are wrapped, and know nothing of it.

Fed from here: the event stream (the core's events, and the votes that it sends and receives), the
agreement on checkpoint digests, and what takes time or work per request. A named misbehaviour acts
after this, so the stream of a liar tells what the protocol wanted; what it really sent, its peers
tell.
"""

from collections import Counter
from collections.abc import Sequence

from pbft.codec import decode_message
from pbft.codec.replies import decode_replies
from pbft.core.effects import Answer, Broadcast, DecidedRecord, Effect, Event, EventName
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Commit,
    Inbound,
    Kind,
    Prepare,
    ReadRequest,
    Request,
    Signed,
    StateChunk,
    ViewChange,
)
from pbft.node.event_stream import EventStream
from pbft.node.metrics import Metrics
from pbft.node.runtime import Steps
from pbft.service.api import Room, Service
from pbft.types import ClientKey, Digest, Instant, Micros, ReplicaId, SequenceNumber
from pbft.wire import kv_pb2

DIGEST_SHOWN_BYTES = 6
"""Of a vote's digest: enough to see which votes are for the same thing."""
SAMPLE_EVERY_US = 20_000
"""Requests timed: one at a time, and one in this long at most, because to find a reply costs its
decoding."""
SAMPLE_US_MAX = 60_000_000
"""A request without a reply for this long is no longer waited for."""

_OWN_VOTES = frozenset({Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT})
_OPERATIONS = {
    field.number: field.name.removeprefix("request_")
    for field in kv_pb2.RequestOp.DESCRIPTOR.fields
}
_ERROR_FIELD = kv_pb2.Result.DESCRIPTOR.fields_by_name["error"].number


class RequestTimer:
    """How long a request waits here for its reply: samples, so that it costs next to nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sampled: Request | None = None
        self._since_us: Micros = -SAMPLE_US_MAX

    def begin(self, request: Request, now_us: Micros) -> None:
        """A request arrived."""
        waited_us = now_us - self._since_us
        if waited_us > (SAMPLE_EVERY_US if self._sampled is None else SAMPLE_US_MAX):
            self._sampled = request
            self._since_us = now_us

    def end(self, answer: Answer, now_us: Micros) -> None:
        """Replies to a client leave the core."""
        request = self._sampled
        if request is None or answer.client != request.client:
            return
        if answer.replies.kind is not Kind.REPLIES:
            return
        wanted = (request.session, request.number)
        replies = decode_replies(answer.replies.payload).replies
        if any((reply.session, reply.number) == wanted for reply in replies):
            self._metrics.on_reply((now_us - self._since_us) / 1_000_000)
            self._sampled = None


class ObservedCore:
    """The steps of a core, watched (pbft.node.runtime.Steps)."""

    def __init__(
        self, core: Steps, replica: ReplicaId, events: EventStream, metrics: Metrics
    ) -> None:
        self._core = core
        self._replica = replica
        self._events = events
        self._metrics = metrics
        self._timer = RequestTimer(metrics)

    def start(self, now: Instant, nonce: bytes) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.start(now, nonce), now)

    def receive(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> list[Effect]:
        """See Steps."""
        if isinstance(inbound, Authenticated):
            self._on_statement(inbound)
        elif isinstance(inbound, StateChunk):
            size = sum(len(record.key) + len(record.value) for record in inbound.records)
            self._metrics.on_state_chunk(len(inbound.records), size)
        return self._watch(self._core.receive(sender, inbound, now), now)

    def submit(
        self, request: Authenticated[Request], full_results: bool, now: Instant
    ) -> list[Effect]:
        """See Steps."""
        self._timer.begin(request.message, now.monotonic_us)
        return self._watch(self._core.submit(request, full_results, now), now)

    def take_read(self, client: ClientKey, request: ReadRequest, now: Instant) -> None:
        """See Steps."""
        self._core.take_read(client, request, now)

    def answer_reads(self, now: Instant) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.answer_reads(now), now)

    def link(self, peer: ReplicaId, up: bool, now: Instant) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.link(peer, up, now), now)

    def sealed(self, sequence: SequenceNumber, digest: Digest, now: Instant) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.sealed(sequence, digest, now), now)

    def merged(self, sequence: SequenceNumber, now: Instant) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.merged(sequence, now), now)

    def installed(self, sequence: SequenceNumber, now: Instant) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.installed(sequence, now), now)

    def read_back(
        self, peer: ReplicaId, records: Sequence[DecidedRecord], now: Instant
    ) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.read_back(peer, records, now), now)

    def tick(self, now: Instant) -> list[Effect]:
        """See Steps."""
        return self._watch(self._core.tick(now), now)

    def next_deadline_us(self) -> Micros | None:
        """See Steps."""
        return self._core.next_deadline_us()

    def _watch(self, effects: list[Effect], now: Instant) -> list[Effect]:
        batches = 0
        for effect in effects:
            if isinstance(effect, Event):
                self._events.on_event(effect)
                batches += effect.name is EventName.EXECUTED
            elif isinstance(effect, Broadcast):
                if isinstance(effect.item, Signed) and effect.item.kind in _OWN_VOTES:
                    message = decode_message(effect.item.kind, effect.item.payload)
                    self._on_vote(self._replica, message)
            elif isinstance(effect, Answer):
                self._timer.end(effect, now.monotonic_us)
        if batches:
            self._metrics.on_executed(batches)
        return effects

    def _on_statement(self, inbound: Authenticated[object]) -> None:
        """Votes and view-changes are for the stream; of requests and other statements, none."""
        message = inbound.message
        if isinstance(message, ViewChange):
            self._events.add("view_change_vote", message.view, 0, message.replica, "")
        elif isinstance(message, Prepare | Commit | Checkpoint):
            self._on_vote(inbound.signer, message)

    def _on_vote(self, signer: ReplicaId, message: object) -> None:
        add = self._events.add
        if isinstance(message, Checkpoint):
            shown = message.digest[:DIGEST_SHOWN_BYTES].hex()
            add("checkpoint_vote", 0, message.sequence, signer, shown)
            self._metrics.on_checkpoint(signer, message.sequence, message.digest)
        elif isinstance(message, Prepare | Commit):
            kind = "prepare_vote" if isinstance(message, Prepare) else "commit_vote"
            shown = message.digest[:DIGEST_SHOWN_BYTES].hex()
            add(kind, message.view, message.sequence, signer, shown)


class ObservedService:
    """The replicated service, counted (pbft.service.api.Service)."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    @property
    def touched(self) -> int:
        """See Service."""
        return self._service.touched

    def execute_all(
        self, operations: Sequence[bytes], agreed_time_us: Micros, client: ClientKey, room: Room
    ) -> list[bytes]:
        """See Service."""
        results = self._service.execute_all(operations, agreed_time_us, client, room)
        # The first bytes tell, and mostly they are all alike: counting each by itself would cost as
        # much as a fifth of executing it.
        kinds = {operation[:1] for operation in operations}
        outcomes = {result[:1] for result in results}
        if len(kinds) == len(outcomes) == 1:
            firsts = {(*kinds, *outcomes): len(results)}
        else:
            firsts = Counter((o[:1], r[:1]) for o, r in zip(operations, results, strict=True))
        for (kind, outcome), count in firsts.items():
            self._metrics.on_operations(kind_of_operation(kind), is_error(outcome), count)
        return results

    def exhausted(self) -> bytes:
        """See Service.exhausted."""
        return self._service.exhausted()

    def query(self, query: bytes, agreed_time_us: Micros) -> bytes:
        """See Service."""
        result = self._service.query(query, agreed_time_us)
        self._metrics.on_query(is_error(result))
        return result


def kind_of_operation(operation: bytes) -> str:
    """The name of an encoded RequestOp as a metric label, read off its first tag: whatever a
    client sends, it is one of ours."""
    return _OPERATIONS.get(operation[0] >> 3, "malformed") if operation else "malformed"


def is_error(result: bytes) -> bool:
    """Whether an encoded Result of ours is an error."""
    return bool(result) and result[0] >> 3 == _ERROR_FIELD
