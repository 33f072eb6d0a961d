"""Session, reads, links and futures put together: everything of the client but the operations'
meaning.

One future per call, no task and no timer per call: a burst of calls made in one turn of the event
loop is flushed together at its end, and one timer serves all deadlines.
"""

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pbft.codec import encode_client_item
from pbft.crypto.handshake import is_nonce_of
from pbft.crypto.signing import ClientSigner
from pbft.crypto.tls import TlsIdentity, server_name
from pbft.crypto.verifier import ReplicaVerifier
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.messages import (
    Consistency,
    GatewayChallenge,
    GatewayItem,
    Hello,
    Outcome,
    Refusal,
    Role,
    Signed,
)
from pbft.types import Instant, Micros, ReplicaId
from pbft_client.collector import Decision
from pbft_client.deadlines import Deadlines, timeout_us
from pbft_client.envelope import EnvelopeOpener, ReadEnvelope
from pbft_client.errors import (
    Answers,
    Cancellation,
    ClientClosed,
    ClientError,
    InvalidCall,
    OutcomeUnknown,
    RequestRejected,
    ResultForgotten,
    TooFewAnswers,
)
from pbft_client.gathering import Call, Transmission
from pbft_client.link import ReplicaLink
from pbft_client.reads import Reads, ReadSettings, ReadSettlement
from pbft_client.session import (
    REQUEST_OVERHEAD_BYTES,
    SESSION_LOST,
    Session,
    SessionSettings,
    Settlement,
    first_session,
)

_FORGOTTEN = "executed, but the replicas no longer keep the result"

Settled: TypeAlias = Settlement | ReadSettlement
"""What a call's future holds; the call's `index` tells which result is its own."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Everything that may be tuned about one client. None of it affects safety."""

    session: SessionSettings = field(default_factory=SessionSettings)
    reads: ReadSettings = field(default_factory=ReadSettings)
    timeout_seconds: float = 10.0
    """Of a call that names none; finite."""
    close_seconds: float = 1.0
    """How long `close` waits for the closing request to be executed."""


class PendingCall(Call):
    """A call somebody awaits."""

    __slots__ = ("changes", "exhausted", "future", "owner", "slot")

    def __init__(
        self,
        operation: bytes,
        future: "asyncio.Future[Settled]",
        changes: bool,
        exhausted: bytes | None = None,
    ) -> None:
        super().__init__(operation)
        self.future = future
        self.changes = changes
        """Whether it could take effect at all."""
        self.exhausted = exhausted
        """The result that says that it was not executed; None if no result says so for sure."""
        self.owner: Session | Reads | None = None
        """Who has it; None once it is settled."""
        self.slot: Micros = 0
        """Of its deadline."""


class Engine:
    """One client process's end of the protocol. Lives in one event loop."""

    def __init__(
        self,
        genesis: Genesis,
        signer: ClientSigner,
        addresses: Sequence[str],
        settings: ClientSettings,
        identity: TlsIdentity | None,
    ) -> None:
        """`addresses`: of replica i's client listener at position i; `identity` of None means plain
        text."""
        self._loop = asyncio.get_running_loop()
        self._genesis = genesis
        self._signer = signer
        self._settings = settings
        random = secrets.SystemRandom().random
        verifier = ReplicaVerifier(genesis, signer.scheme)
        self.opener = EnvelopeOpener(signer.client, verifier.is_authentic)
        session = first_session(now().wall_us, random)
        self.session = Session(genesis, signer, session, random, settings.session)
        self.reads = Reads(genesis, secrets.randbits(64), random, settings.reads)
        self._deadlines: Deadlines[PendingCall] = Deadlines()
        self._links = [
            ReplicaLink(replica, address, self, identity, server_name(genesis.cluster_id, replica))
            for replica, address in enumerate(addresses)
        ]
        self._link_news = asyncio.Event()
        self._operation_bytes_max = min(
            genesis.limits.operation_bytes, genesis.limits.request_bytes - REQUEST_OVERHEAD_BYTES
        )
        self._flush_scheduled = False
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        """When it is due, of the loop's time: uvloop's handle of one that is due at once does not
        know."""
        self._closing: asyncio.Task[None] | None = None
        """What `close` began; from then on no more calls are taken."""
        self._stopped = False
        """Nothing more is sent."""

    async def start(self, timeout_seconds: float) -> None:
        """Dials all replicas, and waits until a quorum is connected, or until each was tried and f
        + 1 are.

        Raises TooFewAnswers if that is not so in time, or if it never will be because too many
        replicas refuse this client; InvalidCall if the timeout is not finite. Then, and if it is
        cancelled, the engine is closed.
        """
        try:
            end = self._loop.time() + timeout_us(timeout_seconds) / 1_000_000
            for link in self._links:
                link.start()
            await self._wait_until_connected(end)
        except BaseException:
            # Nobody else has the engine, and its links would dial for ever.
            await self.close()
            raise

    async def _wait_until_connected(self, end: float) -> None:
        while not self._is_connected():
            self._link_news.clear()
            remaining = end - self._loop.time()
            if remaining <= 0 or self._is_refused():
                raise TooFewAnswers("cannot connect to the cluster", self._connection_answers())
            try:
                async with asyncio.timeout(remaining):
                    await self._link_news.wait()
            except TimeoutError:
                continue

    async def call(
        self,
        operation: bytes,
        *,
        changes: bool,
        consistency: Consistency | None = None,
        exhausted: bytes | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[Settled, int]:
        """Runs one operation: ordered, or as a fast read if `consistency` is given.

        `exhausted`: the service's result of an operation that it was not even given, because those
        before it in its request asked for too much. It is then sent again, with fewer others.
        Returns what decided it and its index there. Raises a ClientError, or CancelledError with a
        Cancellation as its first argument.
        """
        if self._closing is not None:
            raise ClientClosed("the client is closed")
        if len(operation) > self._operation_bytes_max:
            raise InvalidCall(
                f"the operation has {len(operation)} bytes; at most {self._operation_bytes_max} "
                "are allowed"
            )
        timeout = self._settings.timeout_seconds if timeout_seconds is None else timeout_seconds
        within_us = timeout_us(timeout)
        call = PendingCall(operation, self._loop.create_future(), changes, exhausted)
        call.slot = self._deadlines.add(call, time.monotonic_ns() // 1000, within_us)
        if consistency is None:
            call.owner = self.session
            self.session.enqueue(call)
        else:
            call.owner = self.reads
            self.reads.enqueue(call, consistency)
        if not self._flush_scheduled:
            self._schedule_flush()
        try:
            return await call.future, call.index
        except asyncio.CancelledError as error:
            error.args = (Cancellation(self._give_up(call)), *error.args)
            # What waits may have its place.
            self._schedule_flush()
            raise

    async def close(self) -> None:
        """Ends the session with a closing request, and then the links. Calls under way end as
        unknown, those that wait to be sent as ClientClosed.

        If this is cancelled, it goes on without its caller; a second call waits for the same end.
        """
        if self._closing is None:
            self._closing = self._loop.create_task(self._end(), name="close")
            for pending in self._deadlines.take_all():
                self._fail(pending, self._closed(pending))
        await asyncio.shield(self._closing)

    # What the links tell (LinkOwner).

    def hello(self, replica: ReplicaId, challenge: GatewayChallenge) -> bytes:
        """Answers a challenge of this replica: a Hello for one could be presented to another."""
        if challenge.cluster_id != self._genesis.cluster_id:
            raise Rejected(Reason.WRONG_DOMAIN, "another cluster")
        if not is_nonce_of(challenge.nonce, self._genesis.replicas[replica]):
            raise Rejected(Reason.UNKNOWN_SENDER, "the challenge is another replica's")
        hello = Hello(Role.CLIENT, self._signer.client, challenge.nonce)
        return encode_client_item(self._signer.sign(hello))

    def on_up(self, replica: ReplicaId) -> None:
        """A stream is open."""
        self.session.link_up(replica)
        self.reads.link_up(replica)
        self._link_news.set()
        self._schedule_flush()

    def on_down(self, replica: ReplicaId) -> None:
        """A stream ended, or could not be opened."""
        self.session.link_down(replica)
        self._settle_reads(self.reads.link_down(replica))
        self._link_news.set()
        if self._is_refused():
            for pending in self._deadlines.take_all():
                self._fail(pending, self._unanswered(pending, "the cluster refuses this client"))
        self._schedule_flush()

    def on_item(self, replica: ReplicaId, item: GatewayItem) -> None:
        """What a replica's frame held. Raises Rejected if no honest replica would send it."""
        if isinstance(item, Signed):
            self._on_replies(replica, item)
        elif isinstance(item, Refusal):
            self.session.refused(replica, item)
        else:
            raise Rejected(Reason.UNWANTED, "a second challenge")
        for forger in self.opener.forgers:
            self._links[forger].drop(Rejected(Reason.BAD_SIGNATURE, "sent a wrong signature"))
        self.opener.forgers.clear()
        self._schedule_flush()

    def _on_replies(self, replica: ReplicaId, signed: Signed) -> None:
        envelope = self.opener.open(replica, signed)
        if isinstance(envelope, ReadEnvelope):
            self._settle_reads(self.reads.receive(envelope, now()))
        else:
            self._settle_requests(self.session.receive(envelope, now()))

    # Inside.

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Sends what is due, once per turn of the event loop however much happened in it."""
        self._flush_scheduled = False
        if self._stopped:
            return
        instant = now()
        self._settle_reads(self.reads.expire(instant))
        self._send(self.reads.poll(instant))
        self._send(self.session.poll(instant))
        self._arm(instant.monotonic_us)

    def _send(self, transmissions: Iterable[Transmission]) -> None:
        for transmission in transmissions:
            for replica in transmission.replicas:
                self._links[replica].send(transmission.item)

    def _arm(self, now_us: Micros) -> None:
        """Has `_on_timer` called at the next deadline, or earlier: then it arms again."""
        deadlines = (
            self.session.next_deadline_us(),
            self.reads.next_deadline_us(),
            self._deadlines.next_us(),
        )
        next_us = min((at_us for at_us in deadlines if at_us is not None), default=None)
        if next_us is None:
            return
        at = self._loop.time() + max(0, next_us - now_us) / 1_000_000
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for pending in self._deadlines.expire(time.monotonic_ns() // 1000):
            self._fail(pending, self._unanswered(pending, "no answer in time"))
        self._flush()

    def _settle_requests(self, settlements: list[Settlement]) -> None:
        for settlement in settlements:
            if crowded_out := _crowded_out(settlement.calls, settlement.decision.results):
                self.session.enqueue_again(crowded_out)
            failed = _error_of(settlement.decision) is not None
            for call in settlement.calls:
                # What was enqueued again has no carrier.
                if not isinstance(call, PendingCall) or call.carrier is None:
                    continue
                if failed and self._ask_again(call, settlement.decision):
                    continue
                call.owner = None
                self._deadlines.discard(call, call.slot)
                future = call.future
                if future.done():
                    continue
                if failed and (error := _error_of(settlement.decision)) is not None:
                    # Each has an exception of its own, with its own traceback.
                    future.set_exception(error)
                else:
                    future.set_result(settlement)

    def _ask_again(self, call: PendingCall, decision: Decision) -> bool:
        """Asks anew, until its deadline, a query whose result the replicas no longer keep, or whose
        session was lost; False for what may have changed something, and for any other fate."""
        is_unanswered = decision.outcome in (Outcome.RESULT_FORGOTTEN, *SESSION_LOST)
        is_over = call.future.done() or self._closing is not None
        if not is_unanswered or call.changes or is_over:
            return False
        call.carrier = None
        self.session.enqueue(call)
        return True

    def _settle_reads(self, settlements: list[ReadSettlement]) -> None:
        for settlement in settlements:
            decision = settlement.decision
            if decision and (crowded_out := _crowded_out(settlement.calls, decision.results)):
                # A stale read: a linearizable one is refused.
                self.reads.enqueue_again(crowded_out, Consistency.STALE)
            for call in settlement.calls:
                if not isinstance(call, PendingCall):
                    continue
                if decision is None:
                    # The replicas are at different points of the order: let it have a place there.
                    call.owner = self.session
                    self.session.enqueue(call)
                    continue
                # What was enqueued again has no carrier.
                if call.carrier is None:
                    continue
                call.owner = None
                self._deadlines.discard(call, call.slot)
                if not call.future.done():
                    call.future.set_result(settlement)

    def _give_up(self, call: PendingCall) -> bool:
        """Nobody waits for the call any more; returns whether it may have taken effect, or may
        still."""
        owner, call.owner = call.owner, None
        self._deadlines.discard(call, call.slot)
        if owner is None:
            return call.changes
        was_sent = owner.abandon(call)
        return bool(was_sent) and call.changes

    def _fail(self, call: PendingCall, error: ClientError) -> None:
        self._give_up(call)
        if not call.future.done():
            call.future.set_exception(error)

    def _closed(self, call: PendingCall) -> ClientError:
        """The error of a call that is given up because the client ends."""
        if call.owner is not None and call.carrier is None:
            return ClientClosed("the client was closed before the operation was sent")
        return self._unanswered(call, "the client was closed")

    def _unanswered(self, call: PendingCall, text: str) -> ClientError:
        """The error of a call that is about to be given up."""
        if call.owner is None:
            return OutcomeUnknown(text)
        if call.changes and self.session.is_forgotten(call):
            return ResultForgotten(_FORGOTTEN)
        answers = self._with_troubles(call.owner.answers(call))
        if call.changes and call.carrier is not None:
            return OutcomeUnknown(f"{text}; the operation may have taken effect", answers)
        return TooFewAnswers(text, answers)

    def _with_troubles(self, answers: Answers) -> Answers:
        """Adds what the links know about replicas that did not answer."""
        troubles = dict(answers.troubles)
        for link in self._links:
            if link.trouble is not None:
                troubles.setdefault(link.replica, link.trouble)
        return replace(answers, troubles=troubles)

    def _connection_answers(self) -> Answers:
        connected = tuple(link.replica for link in self._links if link.is_up)
        thresholds = self._genesis.thresholds
        answers = Answers(thresholds.replicas, thresholds.weak, connected, len(connected))
        return self._with_troubles(answers)

    def _is_connected(self) -> bool:
        connected = sum(link.is_up for link in self._links)
        thresholds = self._genesis.thresholds
        if connected >= thresholds.quorum:
            return True
        tried = all(link.is_up or link.attempts for link in self._links)
        return tried and connected >= thresholds.weak

    def _is_refused(self) -> bool:
        """Whether so many replicas refuse this client that f + 1 others are not left."""
        wanted = sum(not link.is_unwanted for link in self._links)
        return wanted < self._genesis.thresholds.weak

    async def _end(self) -> None:
        try:
            await self._close_session()
        finally:
            await self._stop()

    async def _close_session(self) -> None:
        """Sends the closing request and waits for its answer, but not for long."""
        closing = PendingCall(b"", self._loop.create_future(), False)
        self.session.close(closing)
        self._flush()
        if closing.carrier is None:
            return
        try:
            async with asyncio.timeout(self._settings.close_seconds):
                await closing.future
        except (TimeoutError, ClientError):
            # The session ends later, when the client has opened enough others.
            return

    async def _stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(link.close() for link in self._links))


def now() -> Instant:
    """Both clocks, in microseconds."""
    return Instant(time.monotonic_ns() // 1000, time.time_ns() // 1000)


def _crowded_out(calls: Sequence[Call | None], results: Sequence[bytes]) -> list[Call]:
    """The calls that only those before them in their request, or read, kept from being executed.

    f + 1 replicas vouch for their results, so they had no effect, and never will under this number.
    The first one is always executed: if it has this result, the service itself gave it.
    """
    return [
        call
        for call, result in zip(calls, results, strict=False)
        if isinstance(call, PendingCall) and results[0] != result == call.exhausted
    ]


def _error_of(decision: Decision) -> ClientError | None:
    """Why a call of a decided request has no result; None if it has one."""
    if decision.outcome is Outcome.EXECUTED:
        return None
    match decision.outcome:
        case Outcome.RESULT_FORGOTTEN:
            return ResultForgotten(_FORGOTTEN)
        case Outcome.SESSION_EXPIRED:
            return OutcomeUnknown("the session expired before the request was answered")
        case Outcome.CONFLICT:
            return RequestRejected("not executed: another process uses this key and session")
        case Outcome.EXPIRED:
            return RequestRejected("not executed: the request's time was over")
        case Outcome.CLIENT_REFUSED:
            return RequestRejected("not executed: the cluster admits no more clients")
        case Outcome.SESSION_CLOSED:
            return OutcomeUnknown("the session was closed before the request was answered")
