"""The one task that owns the core (architecture.md, style 3).

A turn takes a bounded share of what waits, from every sender in turn, verifies it, steps the core,
and hands the effects over to the outbox; then the event loop breathes. Nothing else touches the
core, so a step runs to completion and there are no locks.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pbft.codec import decode_client_item
from pbft.core.effects import (
    Broadcast,
    DecidedRecord,
    Effect,
    Event,
    EventName,
    Halt,
    Merge,
    Rejection,
    Send,
)
from pbft.errors import PbftError, Reason, Rejected
from pbft.faults.api import Behaviour
from pbft.genesis import Genesis
from pbft.messages import Authenticated, Inbound, PeerItem, ReadRequest, Request, Signed, Submit
from pbft.node.event_log import EventLog
from pbft.node.inbox import (
    ClientOrigin,
    Inbox,
    LinkChanged,
    ListenerLost,
    OwnEvent,
    PeerOrigin,
)
from pbft.node.metrics import Metrics
from pbft.node.outbox import Outbox
from pbft.node.read_rest import ReadRest
from pbft.node.sealer import SealFailed, StateSealed
from pbft.node.state_disk import DiskJobFailed, StateDisk
from pbft.node.tail_disk import TailRead
from pbft.types import ClientKey, Digest, Instant, Micros, ReplicaId, SequenceNumber

LANE_SECONDS = 0.005
"""How long one turn serves peers, and how long clients, before the event loop breathes."""
LOGGED_EVENTS = frozenset(
    {
        EventName.SUSPECTED,
        EventName.VIEW_CHANGE_STARTED,
        EventName.VIEW_ENTERED,
        EventName.STATE_TRANSFER_STARTED,
        EventName.STATE_TRANSFER_FINISHED,
        EventName.STATE_DIVERGED,
        EventName.EVIDENCE,
        EventName.AMNESIA,
        EventName.REJOINED,
    }
)
"""What happens rarely enough to be a line in the log; the rest is metrics."""


class ReplicaHalted(PbftError):
    """The core contradicts itself and must not go on; the text says why."""


class Steps(Protocol):
    """The steps of the core (pbft.core.replica.Replica) that the runtime takes."""

    def start(self, now: Instant, nonce: bytes) -> list[Effect]: ...

    def receive(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> list[Effect]: ...

    def submit(
        self, request: Authenticated[Request], full_results: bool, now: Instant
    ) -> list[Effect]: ...

    def take_read(self, client: ClientKey, request: ReadRequest, now: Instant) -> None: ...

    def answer_reads(self, now: Instant) -> list[Effect]: ...

    def link(self, peer: ReplicaId, up: bool, now: Instant) -> list[Effect]: ...

    def sealed(self, sequence: SequenceNumber, digest: Digest, now: Instant) -> list[Effect]: ...

    def merged(self, sequence: SequenceNumber, now: Instant) -> list[Effect]: ...

    def installed(self, sequence: SequenceNumber, now: Instant) -> list[Effect]: ...

    def read_back(
        self, peer: ReplicaId, records: Sequence[DecidedRecord], now: Instant
    ) -> list[Effect]: ...

    def tick(self, now: Instant) -> list[Effect]: ...

    def next_deadline_us(self) -> Micros | None: ...


class Admission(Protocol):
    """The way into the core (pbft.crypto.verifier.Verifier)."""

    def admit_peer(self, sender: ReplicaId, item: bytes) -> Inbound:
        """Raises Rejected."""
        ...

    def admit_request(self, signed: Signed) -> Authenticated[Request]:
        """Raises Rejected."""
        ...


class Complaints(Protocol):
    """Where what was wrong with an item is told (pbft.node.network.Network)."""

    def reject_peer_item(
        self, peer: ReplicaId, message: str, reason: Reason, seconds: float = 0.0
    ) -> None: ...

    def reject_client_item(
        self, stream: int, message: str, reason: Reason, seconds: float = 0.0
    ) -> None: ...


def read_clock() -> Instant:
    """Now, as the core wants it."""
    return Instant(time.monotonic_ns() // 1_000, time.time_ns() // 1_000)


class Runtime:
    """Runs one core until it is stopped."""

    def __init__(
        self,
        core: Steps,
        genesis: Genesis,
        admission: Admission,
        inbox: Inbox,
        outbox: Outbox,
        state_disk: StateDisk,
        complaints: Complaints,
        metrics: Metrics,
        log: EventLog,
        on_turn: Callable[[], None],
        clock: Callable[[], Instant] = read_clock,
    ) -> None:
        """`on_turn` is called after each turn, when the core is at rest."""
        self._core = core
        self._limits = genesis.limits
        self._admission = admission
        self._inbox = inbox
        self._outbox = outbox
        self._state_disk = state_disk
        self._complaints = complaints
        self._metrics = metrics
        self._log = log
        self._on_turn = on_turn
        self._clock = clock
        self._peers = len(genesis.replicas) - 1
        self._read_rest = ReadRest()
        self._stopping = False
        self._reads_taken = False
        """Reads of this turn are to be answered."""
        self._deadline_us: Micros | None = None
        """When the core wants a tick."""
        self.behaviour: Behaviour | None = None
        """A named misbehaviour between core and outbox; only on replicas that allow it."""

    def set_behaviour(self, behaviour: Behaviour | None) -> None:
        """Corrupts the replica, or makes it honest again (None). In the event loop's thread."""
        self.behaviour = behaviour
        self._inbox.wake()

    def stop(self) -> None:
        """Lets `run` return after the present turn."""
        self._stopping = True
        self._inbox.wake()

    async def run(self) -> None:
        """Takes turns until `stop`. Raises ReplicaHalted; an AssertionError is a bug of ours."""
        self._perform(self._core.start(self._clock(), os.urandom(32)))
        while not self._stopping:
            self._turn()
            self._on_turn()
            await self._outbox.wait_for_room()
            await self._inbox.wait(self._seconds_to_deadline())

    def _turn(self) -> None:
        effects: list[Effect] = []
        while (own := self._inbox.take_own()) is not None:
            effects += self._step_own(own)
        until = time.monotonic() + LANE_SECONDS
        while (peer_item := self._inbox.peers.take()) is not None:
            began = time.thread_time()
            effects += self._step_peer(*peer_item)
            self._inbox.peers.spend(time.thread_time() - began)
            if time.monotonic() > until:
                break
        until = time.monotonic() + LANE_SECONDS
        while (client_item := self._inbox.clients.take()) is not None:
            began = time.thread_time()
            effects += self._step_client(*client_item)
            self._inbox.clients.spend(time.thread_time() - began)
            if time.monotonic() > until:
                break
        while (held := self._read_rest.take(time.monotonic())) is not None:
            if self._inbox.has_client(held[0].stream):
                self._take_read(*held)
                break
        now = self._clock()
        if self._reads_taken:
            # One signature for all that came of a client: for many small reads it is most of the
            # work.
            self._reads_taken = False
            effects += self._core.answer_reads(now)
        if self._deadline_us is not None and self._deadline_us <= now.monotonic_us:
            effects += self._core.tick(now)
        self._perform(effects)
        self._deadline_us = self._core.next_deadline_us()

    def _step_own(self, event: OwnEvent) -> list[Effect]:
        if isinstance(event, LinkChanged):
            return self._core.link(event.peer, event.up, self._clock())
        if isinstance(event, SealFailed | DiskJobFailed | ListenerLost):
            raise event.error
        if isinstance(event, StateSealed):
            return self._core.sealed(event.sequence, event.digest, self._clock())
        if isinstance(event, TailRead):
            return self._core.read_back(event.peer, event.records, self._clock())
        self._state_disk.finish(event)
        if isinstance(event.effect, Merge):
            return self._core.merged(event.effect.sequence, self._clock())
        return self._core.installed(event.effect.sequence, self._clock())

    def _step_peer(self, origin: PeerOrigin, item: bytes) -> list[Effect]:
        began = time.thread_time()
        try:
            inbound = self._admission.admit_peer(origin.peer, item)
        except Rejected as rejected:
            took = time.thread_time() - began
            self._complaints.reject_peer_item(origin.peer, "peer_item", rejected.reason, took)
            return []
        self._metrics.on_message("in", kind_of_inbound(inbound))
        now = self._clock()
        if self.behaviour is not None:
            if not self.behaviour.hears(origin.peer):
                return []
            self.behaviour.observe(origin.peer, inbound, now)
        return self._core.receive(origin.peer, inbound, now)

    def _step_client(self, origin: ClientOrigin, item: bytes) -> list[Effect]:
        message, began = "client_item", time.thread_time()
        try:
            decoded = decode_client_item(item, self._limits.operations_per_request)
            match decoded:
                case Submit():
                    message = "request"
                    # Whose stream it is was proven once; this costs nothing, a signature does.
                    if decoded.request.signer != origin.client:
                        raise Rejected(Reason.SENDER_MISMATCH)
                    request = self._admission.admit_request(decoded.request)
                    self._metrics.on_message("in", message)
                    return self._core.submit(request, decoded.full_results, self._clock())
                case ReadRequest():
                    message = "read_request"
                    self._step_read(origin, decoded)
                    return []
                case Signed():
                    raise Rejected(Reason.UNWANTED, "a second Hello")
        except Rejected as rejected:
            took = time.thread_time() - began
            self._complaints.reject_client_item(origin.stream, message, rejected.reason, took)
            return []

    def _step_read(self, origin: ClientOrigin, read: ReadRequest) -> None:
        self._check_read(read)
        self._metrics.on_message("in", "read_request")
        if not self._read_rest.must_wait(origin.client, time.monotonic()):
            self._take_read(origin, read)
        elif not self._read_rest.hold(origin, read):
            raise Rejected(Reason.RATE_LIMIT, "too many reads while its client's long ones rest")

    def _take_read(self, origin: ClientOrigin, read: ReadRequest) -> None:
        began = time.thread_time()
        self._core.take_read(origin.client, read, self._clock())
        self._reads_taken = True
        self._read_rest.note(origin.client, time.thread_time() - began, time.monotonic())

    def _check_read(self, request: ReadRequest) -> None:
        """Reads are not signed and not ordered, so their bounds are checked here. Raises
        Rejected."""
        if not request.queries:
            raise Rejected(Reason.MALFORMED, "a read that asks nothing")
        sizes = [len(query) for query in request.queries]
        if (
            len(sizes) > self._limits.operations_per_request
            or max(sizes) > self._limits.operation_bytes
            or sum(sizes) > self._limits.request_bytes
        ):
            raise Rejected(Reason.OVERSIZE, "a read beyond the limits of a request")

    def _perform(self, effects: list[Effect]) -> None:
        if self.behaviour is not None:
            effects = self.behaviour.rewrite(effects, self._clock())
        if not effects:
            return
        for effect in effects:
            match effect:
                case Event():
                    self._on_event(effect)
                case Rejection():
                    self._on_rejection(effect)
                case Send():
                    self._metrics.on_message("out", kind_of_item(effect.item))
                case Broadcast():
                    self._metrics.on_message("out", kind_of_item(effect.item), self._peers)
                case Halt():
                    self._log.error("halted", why=effect.why)
                    raise ReplicaHalted(effect.why)
        self._outbox.turn(effects)

    def _on_event(self, event: Event) -> None:
        self._metrics.on_event(event)
        if event.name in LOGGED_EVENTS:
            self._log.info(
                event.name.value,
                view=event.view,
                sequence=event.sequence,
                value=event.value,
                detail=event.detail,
            )

    def _on_rejection(self, rejection: Rejection) -> None:
        if rejection.peer is None:
            self._metrics.on_rejection(rejection.message, rejection.reason, None)
        else:
            self._complaints.reject_peer_item(rejection.peer, rejection.message, rejection.reason)

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [self._deadline_us]
        if self.behaviour is not None:
            deadlines.append(self.behaviour.next_deadline_us())
        now_us = self._clock().monotonic_us
        waits = [(deadline - now_us) / 1_000_000 for deadline in deadlines if deadline is not None]
        if (due := self._read_rest.next_due()) is not None:
            waits.append(due - time.monotonic())
        return min(waits, default=None)


def kind_of_item(item: PeerItem) -> str:
    """The name of an outgoing item, as a metric label."""
    return item.kind.name.lower() if isinstance(item, Signed) else type(item).__name__.lower()


def kind_of_inbound(inbound: Inbound) -> str:
    """The name of an admitted item, as a metric label."""
    if isinstance(inbound, Authenticated):
        return inbound.signed.kind.name.lower()
    return type(inbound).__name__.lower().removeprefix("verified")
