"""A client's session: numbered, signed requests until each is decided (protocol.md section 4).

Sans-IO: time and randomness are handed in, transmissions and settlements come out, so the simulator
runs this very code. One loop drives it::

session.enqueue(call) # as often as there are calls send(session.poll(now)) # after any of these,
and at tell(session.receive(envelope, now)) # session.next_deadline_us()

Exactly once: a request keeps its number and its bytes however often it is sent. It leaves only when
f + 1 replicas told its fate, or when all its calls were given up, their outcome reported as
unknown; not before does `acknowledged` pass it. An operation travels in a second request only if
that fate is that it was not executed in the first (`enqueue_again`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pbft.codec import encode_client_item
from pbft.crypto.digest import request_digest
from pbft.genesis import Genesis
from pbft.limits import KIB
from pbft.messages import Outcome, Refusal, Request, Signed, Submit
from pbft.types import ClientKey, Instant, Micros, ReplicaId
from pbft_client.collector import Decision, Ignored, ReplyCollector, ViewHints
from pbft_client.envelope import ReplyEnvelope
from pbft_client.errors import Answers
from pbft_client.gathering import Call, Carrier, GatherSettings, Transmission, WaitingCalls
from pbft_client.reliance import Reliance, came_late

REQUEST_OVERHEAD_BYTES = 256
"""More than all fields of a Request but its operations take."""
OPERATION_OVERHEAD_BYTES = 5
"""Tag and length of one operation, at most."""
OPENING_SPREAD = 1 << 10
"""The first session's number is drawn among so many, in case another process of this key starts at
the same moment. They are microseconds: fewer than connecting takes, so numbers grow over
restarts."""
REOPENING_SPREAD = 1 << 16
"""The number of one that follows another is drawn among so many: other processes of this key may be
told the same highest session at the same time."""

SESSION_LOST = (Outcome.SESSION_EXPIRED, Outcome.SESSION_CLOSED, Outcome.CONFLICT)
"""Outcomes of a request after which its session is of no use any more."""


class RequestSigner(Protocol):
    """Signs as the client (pbft.crypto.signing.ClientSigner)."""

    @property
    def client(self) -> ClientKey:
        """The public key that is the client."""
        ...

    def sign(self, message: Request) -> Signed:
        """Encodes and signs."""
        ...


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Timing and sizes of one client; none of it affects safety (protocol.md section 15)."""

    gather: GatherSettings = field(default_factory=GatherSettings)
    request_operations: int = 1024
    """Operations in one request, if the genesis allows as many."""
    request_bytes: int = 512 * KIB
    """Size at which a request is full, unless a single operation is larger."""
    retransmission_first_us: Micros = 500_000
    retransmission_cap_us: Micros = 5_000_000
    retransmission_jitter: float = 0.25
    """An interval is lengthened by up to this part of itself, so that clients do not march in
    step."""
    full_results_wait_us: Micros = 50_000
    """How long the designated replica may be later than f + 1 digests before all are asked in
    full."""
    source_wait_us: Micros = 2_000_000
    """How long it is waited for nevertheless if f + 1 others have forgotten the results."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of one request."""

    session: int
    number: int
    calls: list[Call | None]
    """Its calls in order; None where a call was given up before."""
    decision: Decision


class Submission(Carrier):
    """One request under way."""

    __slots__ = (
        "_signed",
        "agreed_us",
        "closing",
        "collector",
        "full_due_us",
        "interval_us",
        "number",
        "resend_us",
        "results_from",
        "sent_us",
        "session",
        "source",
        "source_until_us",
        "told_alone",
        "was_resent",
    )

    def __init__(
        self, request: Request, signed: Signed, calls: list[Call], collector: ReplyCollector
    ) -> None:
        super().__init__(calls)
        self._signed = signed
        self.collector = collector
        self.closing = request.close_session
        self.session = request.session
        self.number = request.number
        self.sent_us: Micros = 0
        """When it was sent first."""
        self.interval_us: Micros = 0
        self.resend_us: Micros = 0
        """When it is sent to all again."""
        self.full_due_us: Micros | None = None
        """When all are asked for the results in full; None: no reason to."""
        self.agreed_us: Micros | None = None
        """When f + 1 agreed although the results were lacking; None: they have not."""
        self.results_from: ReplicaId | None = None
        """Who is waited for to send the results in full; None: all were asked."""
        self.source: ReplicaId | None = None
        """Who alone was asked for them at first, and may be the only one that ever had them."""
        self.source_until_us: Micros | None = None
        """Until when it is waited for although f + 1 others have forgotten them."""
        self.told_alone: ReplicaId | None = None
        """The primary that alone was sent it at first; None: all were."""
        self.was_resent = False
        """Whether all were sent it again because nobody had decided it in time."""

    def encode(self, *, full_results: bool) -> bytes:
        """The item to send. The signed request in it is the same bytes every time."""
        return encode_client_item(Submit(self._signed, full_results))


def first_session(wall_us: Micros, random: Callable[[], float]) -> int:
    """The number of the session of a process that starts now."""
    return wall_us + int(random() * OPENING_SPREAD)


class Session:
    """The requests of one client process. Not thread-safe; performs no IO."""

    def __init__(
        self,
        genesis: Genesis,
        signer: RequestSigner,
        session: int,
        random: Callable[[], float],
        settings: SessionSettings | None = None,
    ) -> None:
        """`session`: see `first_session`; `random`: uniform in [0, 1), for jitter and the numbers
        of sessions that follow."""
        self._settings = settings or SessionSettings()
        self._thresholds = genesis.thresholds
        self._window = genesis.limits.requests_in_flight
        self._operations_max = min(
            self._settings.request_operations, genesis.limits.operations_per_request
        )
        self._bytes_max = (
            min(self._settings.request_bytes, genesis.limits.request_bytes) - REQUEST_OVERHEAD_BYTES
        )
        self._signer = signer
        self._random = random
        self.session = session
        """The session that new requests belong to."""
        self._last_number = 0
        self._unsettled: dict[int, None] = {}
        """Numbers of `session` without a fate yet, ascending."""
        self._waiting = WaitingCalls(self._settings.gather)
        self._closing_call: Call | None = None
        self._under_way: dict[tuple[int, int], Submission] = {}
        self._resend_to: set[ReplicaId] = set()
        """Replicas that must be sent everything under way: their stream is new."""
        self._resend_all = False
        self._connected: set[ReplicaId] = set()
        self._designated = Reliance()
        """To send the results."""
        self._primaries = Reliance()
        """To order what no backup was sent."""
        self._unheard: set[ReplicaId] = set()
        """Primaries that alone were sent a request which was given up since the last `poll` before
        f + 1 answered it: they may keep requests to themselves."""
        self.hints = ViewHints(genesis.thresholds)
        self.ignored: Counter[Ignored] = Counter()
        """Replies that did not count, by reason."""

    # What the owner asks for.

    def enqueue(self, call: Call) -> None:
        """Takes a call; a later `poll` sends it."""
        self._waiting.add(call)

    def enqueue_again(self, calls: Sequence[Call]) -> None:
        """Takes calls of a request that was settled; they go next, in halves.

        They get new numbers, so nothing keeps them from being executed once more: the owner must
        know from f + 1 replicas that they had no effect.
        """
        self._waiting.put_back(calls)

    def close(self, call: Call) -> list[Call]:
        """Ends the session: `call` is settled when the closing request is. No `enqueue` afterwards.

        Returns the calls that were waiting, which will never be sent. Nothing is sent if the
        session was never used; `call.carrier` then stays None after the next `poll`.
        """
        dropped = self._waiting.take_all()
        if self._last_number > 0:
            self._closing_call = call
        return dropped

    def abandon(self, call: Call) -> bool:
        """Nobody waits for `call` any more. Returns whether its operation may still take effect.

        The caller must report an outcome it returned True for as unknown: when all calls of a
        request are given up, `acknowledged` may pass its number.
        """
        submission = call.carrier
        if submission is None:
            self._waiting.remove(call)
            return False
        assert isinstance(submission, Submission)
        submission.drop(call)
        if not submission.live:
            told = submission.told_alone
            if told is not None and len(submission.collector.answered) < self._thresholds.weak:
                # A caller who never waits for the retransmission would never tell the backups.
                self._unheard.add(told)
            self._settle(submission)
        return True

    def answers(self, call: Call) -> Answers:
        """Who answered a call so far, for the text of an error."""
        replicas, needed = self._thresholds.replicas, self._thresholds.weak
        submission = call.carrier
        if not isinstance(submission, Submission):
            return Answers(replicas, needed)
        collector = submission.collector
        return submission.answers(replicas, needed, collector.answered, collector.matching)

    def is_forgotten(self, call: Call) -> bool:
        """Whether f + 1 replicas said that a call was executed, and only one may have its
        result."""
        submission = call.carrier
        return isinstance(submission, Submission) and submission.source_until_us is not None

    @property
    def acknowledged(self) -> int:
        """Every number at or below it is settled."""
        return next(iter(self._unsettled), self._last_number + 1) - 1

    @property
    def under_way(self) -> int:
        """Requests that wait for their fate."""
        return len(self._under_way)

    # What happens.

    def link_up(self, replica: ReplicaId) -> None:
        """The stream to `replica` is new: nothing sent before on another one is counted on."""
        self._connected.add(replica)
        self._resend_to.add(replica)

    def link_down(self, replica: ReplicaId) -> None:
        """The stream to `replica` is gone; if it is the primary, everything goes to all."""
        self._connected.discard(replica)
        self._resend_to.discard(replica)
        if replica == self.hints.primary:
            self._resend_all = True

    def refused(self, replica: ReplicaId, refusal: Refusal) -> None:
        """One replica did not take a request. Advice only: retransmission goes on."""
        submission = self._under_way.get((refusal.session, refusal.number))
        if submission is not None:
            submission.note_refusal(replica, refusal)

    def receive(self, envelope: ReplyEnvelope, now: Instant) -> list[Settlement]:
        """Counts the replies of one replica; returns the requests whose fate is known by them."""
        settlements = []
        for reply in envelope.message.replies:
            submission = self._under_way.get((reply.session, reply.number))
            if submission is None:
                self.ignored[Ignored.UNKNOWN_REQUEST] += 1
                continue
            verdict = submission.collector.add(reply, envelope)
            if isinstance(verdict, Decision):
                if self._may_still_come(submission, verdict, now.monotonic_us):
                    continue
                self._judge_designated(submission, now.monotonic_us)
                if submission.told_alone is not None and not submission.was_resent:
                    self._primaries.delivered(submission.told_alone)
                self._settle(submission)
                self._reopen_if_needed(submission, verdict, now)
                settlements.append(
                    Settlement(submission.session, submission.number, submission.calls, verdict)
                )
                continue
            if verdict is not None:
                self.ignored[verdict] += 1
            if submission.collector.lacks_results and submission.full_due_us is None:
                submission.agreed_us = now.monotonic_us
                submission.full_due_us = self._full_due_us(submission, now)
        was_known = self.hints.primary is not None
        if self.hints.add(envelope) and was_known and self.hints.primary in self._connected:
            # The new primary may never have been sent what only the old one was.
            self._resend_to.add(self.hints.primary)
        return settlements

    def poll(self, now: Instant) -> list[Transmission]:
        """What is to be sent now: new requests, retransmissions, requests for full results."""
        now_us = now.monotonic_us
        while self._unheard:
            self._primaries.failed(self._unheard.pop(), now_us)
        transmissions = self._resend(now_us)
        while self._waiting.may_go(len(self._under_way), now_us) and self._is_window_open:
            calls = self._waiting.take(
                self._operations_max, self._bytes_max, OPERATION_OVERHEAD_BYTES
            )
            transmissions += self._first_transmission(self._submit(calls, now_us), now_us)
        if self._closing_call is not None:
            call, self._closing_call = self._closing_call, None
            closing = self._submit([call], now_us, closing=True)
            transmissions += self._first_transmission(closing, now_us)
        return transmissions

    def next_deadline_us(self) -> Micros | None:
        """When to `poll` even if nothing happens before; None: never."""
        deadlines = [submission.resend_us for submission in self._under_way.values()]
        deadlines += [
            submission.full_due_us
            for submission in self._under_way.values()
            if submission.full_due_us is not None
        ]
        patience_us = self._waiting.deadline_us(len(self._under_way))
        if patience_us is not None and self._is_window_open:
            deadlines.append(patience_us)
        return min(deadlines, default=None)

    # Inside.

    @property
    def _is_window_open(self) -> bool:
        return self._last_number - self.acknowledged < self._window

    def _submit(self, calls: list[Call], now_us: Micros, *, closing: bool = False) -> Submission:
        """Numbers and signs a request with these calls."""
        number = self._last_number + 1
        request = Request(
            client=self._signer.client,
            session=self.session,
            number=number,
            acknowledged=self.acknowledged,
            expires_at_us=0,
            operations=() if closing else tuple([call.operation for call in calls]),
            close_session=closing,
        )
        signed = self._signer.sign(request)
        collector = ReplyCollector(
            self._thresholds,
            self.session,
            number,
            request_digest(signed.payload),
            len(request.operations),
        )
        submission = Submission(request, signed, calls, collector)
        self._last_number = number
        self._unsettled[number] = None
        self._under_way[(self.session, number)] = submission
        submission.sent_us = now_us
        self._schedule_resend(submission, now_us)
        return submission

    def _first_transmission(self, submission: Submission, now_us: Micros) -> list[Transmission]:
        """To the primary if f + 1 told which one that is and it is connected, else to all; and to
        all for a while after a request that it alone was sent was given up unanswered."""
        designated = submission.number % self._thresholds.replicas
        primary = self.hints.primary
        if primary not in self._connected or not self._primaries.may_rely_on(primary, now_us):
            primary = None
        if self._may_send_results(designated, now_us):
            submission.results_from = submission.source = designated
            submission.told_alone = primary
            targets = self._connected if primary is None else (primary,)
            return self._to(targets, submission, full_results=False)
        if primary is not None and self._may_send_results(primary, now_us):
            submission.results_from = submission.source = submission.told_alone = primary
            return self._to((primary,), submission, full_results=True)
        return self._to(self._connected, submission, full_results=True)

    def _may_send_results(self, replica: ReplicaId, now_us: Micros) -> bool:
        return replica in self._connected and self._designated.may_rely_on(replica, now_us)

    def _resend(self, now_us: Micros) -> list[Transmission]:
        transmissions: list[Transmission] = []
        for submission in self._under_way.values():
            full_due_us = submission.full_due_us
            if now_us >= submission.resend_us:
                self._schedule_resend(submission, now_us)
                submission.was_resent = True
                transmissions += self._to(self._connected, submission, full_results=True)
            elif full_due_us is not None and now_us >= full_due_us:
                # Asked once; from here on the retransmissions ask.
                submission.full_due_us = submission.resend_us
                if submission.results_from is not None:
                    self._designated.failed(submission.results_from, now_us)
                    submission.results_from = None
                transmissions += self._to(self._connected, submission, full_results=True)
            elif self._resend_all:
                transmissions += self._to(self._connected, submission, full_results=False)
            elif self._resend_to:
                transmissions += self._to(self._resend_to, submission, full_results=False)
        self._resend_all = False
        self._resend_to.clear()
        return transmissions

    @staticmethod
    def _to(
        replicas: Iterable[ReplicaId], submission: Submission, *, full_results: bool
    ) -> list[Transmission]:
        targets = tuple(sorted(replicas))
        if not targets:
            return []
        return [Transmission(targets, submission.encode(full_results=full_results))]

    def _schedule_resend(self, submission: Submission, now_us: Micros) -> None:
        settings = self._settings
        interval_us = submission.interval_us * 2 or settings.retransmission_first_us
        submission.interval_us = min(interval_us, settings.retransmission_cap_us)
        jitter = 1 + settings.retransmission_jitter * self._random()
        submission.resend_us = now_us + int(submission.interval_us * jitter)

    def _full_due_us(self, submission: Submission, now: Instant) -> Micros:
        asked = submission.results_from
        if asked in submission.collector.answered or asked not in self._connected:
            return now.monotonic_us
        return now.monotonic_us + self._settings.full_results_wait_us

    def _judge_designated(self, submission: Submission, now_us: Micros) -> None:
        """The results are there: not to be asked about is not enough to have been in time."""
        asked = submission.results_from
        if asked is None or asked not in submission.collector.answered:
            return
        if came_late(submission.sent_us, submission.agreed_us, now_us):
            self._designated.failed(asked, now_us)
        else:
            self._designated.delivered(asked)

    def _may_still_come(self, submission: Submission, decision: Decision, now_us: Micros) -> bool:
        """Whether results that f + 1 have forgotten may be under way: large ones are kept by nobody
        after they were sent. The retransmissions ask when to look again."""
        source = submission.source
        if decision.outcome is not Outcome.RESULT_FORGOTTEN or source not in self._connected:
            return False
        if submission.source_until_us is None:
            submission.source_until_us = now_us + self._settings.source_wait_us
        is_awaited = source not in submission.collector.answered
        return is_awaited and now_us < submission.source_until_us

    def _settle(self, submission: Submission) -> None:
        del self._under_way[(submission.session, submission.number)]
        if submission.session == self.session:
            self._unsettled.pop(submission.number, None)

    def _reopen_if_needed(self, submission: Submission, decision: Decision, now: Instant) -> None:
        """Goes on in a new session if the present one is closed, or is another process's as
        well."""
        is_lost = decision.outcome in SESSION_LOST
        if submission.closing or submission.session != self.session or not is_lost:
            return
        lowest = max(now.wall_us, decision.highest_session + 1, self.session + 1)
        # Two processes that chose alike would take, and settle, each other's numbers.
        self.session = lowest + int(self._random() * REOPENING_SPREAD)
        self._last_number = 0
        self._unsettled.clear()
