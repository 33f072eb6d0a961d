"""Reads that are not ordered (protocol.md section 11): one question to all, one round trip.

Sans-IO, like the session. A linearizable read needs q answers alike, a stale one f + 1. When a
linearizable read does not get them, because replicas are at different points of the order or do not
answer, its calls are handed back, and the owner orders them like writes: slower, and always right.
So they are when q replicas are not even connected, but f + 1 are, which is enough for what is
ordered: not at once, because more streams may be about to come up. A stale read is asked anew.

Replicas refuse a linearizable read whose results together are beyond the budget of a request. They
do not say why, and refuse for lack of room, too; but no query is beyond that budget by itself. So
the queries of a read that f + 1 refused are asked again in halves, until one that is alone is
refused, or none is answered in time: then it was not the budget, or not only. A stale read is not
refused: what is beyond the budget has a result that says so, and the owner has it asked again
(`enqueue_again`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pbft.codec import encode_client_item
from pbft.crypto.digest import query_digest
from pbft.genesis import Genesis
from pbft.limits import KIB
from pbft.messages import Consistency, ReadRequest
from pbft.types import Instant, Micros, ReplicaId
from pbft_client.collector import Ignored, ReadCollector, ReadDecision
from pbft_client.envelope import ReadEnvelope
from pbft_client.errors import Answers
from pbft_client.gathering import Call, Carrier, GatherSettings, Transmission, WaitingCalls
from pbft_client.reliance import came_late

QUERY_OVERHEAD_BYTES = 5
STALE_DOUBLINGS_MAX = 7
_NONCES = 2**64


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """Timing and sizes of the reads of one client; none of it affects safety."""

    gather: GatherSettings = field(
        default_factory=lambda: GatherSettings(under_way=4, enough_calls=64, patience_us=5_000)
    )
    queries: int = 256
    """Queries in one ReadRequest, if the genesis allows as many. All of them must match together,
    so not too many."""
    query_bytes: int = 256 * KIB
    linearizable_wait_us: Micros = 200_000
    """After this long a linearizable read is ordered instead; so is each that waits when fewer than
    q replicas, but f + 1, have been connected for so long."""
    stale_wait_us: Micros = 50_000
    """After this long a stale read is asked anew; twice as long with each that fails, up to
    STALE_DOUBLINGS_MAX times."""


@dataclass(frozen=True, slots=True)
class ReadSettlement:
    """A read that is over: answered, or (`decision` None) to be ordered instead."""

    calls: list[Call | None]
    """Its calls in order; None where a call was given up before."""
    decision: ReadDecision | None


class Inquiry(Carrier):
    """One ReadRequest under way."""

    __slots__ = ("agreed_us", "asked_us", "collector", "consistency", "deadline_us", "full_from")

    def __init__(
        self,
        calls: list[Call],
        consistency: Consistency,
        collector: ReadCollector,
        asked_us: Micros,
        deadline_us: Micros,
        full_from: ReplicaId,
    ) -> None:
        super().__init__(calls)
        self.consistency = consistency
        self.collector = collector
        self.asked_us = asked_us
        self.agreed_us: Micros | None = None
        """When as many as needed agreed, but without the results."""
        self.deadline_us = deadline_us
        self.full_from = full_from
        """The replica that was asked for the results themselves."""


class Reads:
    """The fast reads of one client process. Not thread-safe; performs no IO."""

    def __init__(
        self,
        genesis: Genesis,
        first_nonce: int,
        random: Callable[[], float],
        settings: ReadSettings | None = None,
    ) -> None:
        """`first_nonce`: 64 random bits, so that no answer to an earlier process fits; `random`:
        uniform in [0, 1), to spread the clients' reads over the replicas."""
        self._settings = settings or ReadSettings()
        limits = genesis.limits
        self._queries_max = min(self._settings.queries, limits.operations_per_request)
        self._bytes_max = min(self._settings.query_bytes, limits.request_bytes)
        self._thresholds = genesis.thresholds
        self._nonce = first_nonce % _NONCES
        self._waiting = {
            consistency: WaitingCalls(self._settings.gather) for consistency in Consistency
        }
        self._wanted: dict[Call, Consistency] = {}
        """What the waiting calls and those under way want."""
        self._under_way: dict[int, Inquiry] = {}
        self._connected: set[ReplicaId] = set()
        self._only_ordered_since_us: Micros | None = None
        """Since when the replicas connected are enough for ordered reads and too few for
        linearizable ones; None while that is not so."""
        self._full_from = int(random() * self._thresholds.replicas)
        """The replica asked for full results; the next one takes over when it fails."""
        self._stale_failures = 0
        """Stale reads that failed since the last that did not."""
        self.ignored: Counter[Ignored] = Counter()
        """Answers that did not count, by reason."""

    def enqueue(self, call: Call, consistency: Consistency) -> None:
        """Takes a call whose operation is a query; a later `poll` sends it."""
        self._wanted[call] = consistency
        self._waiting[consistency].add(call)

    def enqueue_again(self, calls: Sequence[Call], consistency: Consistency) -> None:
        """Takes calls of a read that was answered, but for these; they go next, in halves."""
        for call in calls:
            self._wanted[call] = consistency
        self._waiting[consistency].put_back(calls)

    def abandon(self, call: Call) -> None:
        """Nobody waits for `call` any more."""
        consistency = self._wanted.pop(call)
        inquiry = call.carrier
        if inquiry is None:
            self._waiting[consistency].remove(call)
            return
        inquiry.drop(call)
        if not inquiry.live:
            assert isinstance(inquiry, Inquiry)
            # It may be what was waited for; impatient callers would never wait to see that.
            self._pass_over(inquiry.full_from)
            self._under_way = {n: other for n, other in self._under_way.items() if other.live}

    def answers(self, call: Call) -> Answers:
        """Who answered a call so far, for the text of an error."""
        needed = self._needed(self._wanted[call])
        inquiry = call.carrier
        if not isinstance(inquiry, Inquiry):
            return Answers(self._thresholds.replicas, needed)
        collector = inquiry.collector
        answered = tuple(sorted(collector.answered))
        return inquiry.answers(self._thresholds.replicas, needed, answered, collector.matching)

    def link_up(self, replica: ReplicaId) -> None:
        """The stream to `replica` is there: it is asked from the next question on."""
        self._connected.add(replica)

    def link_down(self, replica: ReplicaId) -> list[ReadSettlement]:
        """The stream to `replica` is gone: returns the reads that can no longer succeed."""
        self._connected.discard(replica)
        for inquiry in self._under_way.values():
            inquiry.collector.excuse(replica)
        lost = [nonce for nonce, inquiry in self._under_way.items() if self._is_lost(inquiry)]
        settlements = [settlement for nonce in lost for settlement in self._end_lost(nonce)]
        if not self._has_enough_links(Consistency.LINEARIZABLE):
            settlements += self._hand_back_halves()
        return settlements

    def receive(self, envelope: ReadEnvelope, now: Instant) -> list[ReadSettlement]:
        """Counts the answers of one replica; returns the reads that are over by them."""
        settlements = []
        for reply in envelope.message.replies:
            inquiry = self._under_way.get(reply.nonce)
            if inquiry is None:
                self.ignored[Ignored.UNKNOWN_REQUEST] += 1
                continue
            verdict = inquiry.collector.add(reply, envelope)
            if isinstance(verdict, ReadDecision):
                if inquiry.consistency is Consistency.STALE:
                    self._stale_failures = 0
                if came_late(inquiry.asked_us, inquiry.agreed_us, now.monotonic_us):
                    self._pass_over(inquiry.full_from)
                del self._under_way[reply.nonce]
                self._forget(inquiry)
                settlements.append(ReadSettlement(inquiry.calls, verdict))
                continue
            if verdict is not None:
                self.ignored[verdict] += 1
            if inquiry.agreed_us is None and self._is_agreed(inquiry):
                inquiry.agreed_us = now.monotonic_us
            if self._is_lost(inquiry):
                settlements += self._end_lost(reply.nonce)
        return settlements

    def expire(self, now: Instant) -> list[ReadSettlement]:
        """Ends what took too long: linearizable reads are handed back, stale ones wait to be asked
        anew."""
        settlements = self._hand_back_waiting(now.monotonic_us)
        late = [
            n for n, inquiry in self._under_way.items() if inquiry.deadline_us <= now.monotonic_us
        ]
        for nonce in late:
            if self._under_way[nonce].consistency is Consistency.LINEARIZABLE:
                settlements += [self._hand_back(nonce), *self._hand_back_halves()]
                continue
            inquiry = self._take(nonce)
            self._stale_failures += 1
            for call in inquiry.calls:
                if call is not None:
                    call.carrier = None
                    self._waiting[inquiry.consistency].add(call)
        return settlements

    def poll(self, now: Instant) -> list[Transmission]:
        """The questions to be sent now."""
        transmissions = []
        for consistency, waiting in self._waiting.items():
            # Without enough streams a question cannot be answered; the calls wait for one more, or
            # to be handed back.
            while self._has_enough_links(consistency) and waiting.may_go(
                self._asked(consistency), now.monotonic_us
            ):
                calls = waiting.take(self._queries_max, self._bytes_max, QUERY_OVERHEAD_BYTES)
                transmissions += self._ask(calls, consistency, now)
        return transmissions

    def next_deadline_us(self) -> Micros | None:
        """When to `expire` and `poll` even if nothing happens before; None: never."""
        deadlines = [inquiry.deadline_us for inquiry in self._under_way.values()]
        for consistency, waiting in self._waiting.items():
            patience_us = waiting.deadline_us(self._asked(consistency))
            if patience_us is not None and self._has_enough_links(consistency):
                deadlines.append(patience_us)
        since_us = self._only_ordered_since_us
        if since_us is not None and self._waiting[Consistency.LINEARIZABLE]:
            deadlines.append(since_us + self._settings.linearizable_wait_us)
        return min(deadlines, default=None)

    # Inside.

    def _has_enough_links(self, consistency: Consistency) -> bool:
        """Whether a read could be answered by the replicas that are connected."""
        return len(self._connected) >= self._needed(consistency)

    def _asked(self, consistency: Consistency) -> int:
        """Questions of this kind under way: stale ones, which may fail for long, keep no
        linearizable one waiting."""
        return sum(it.consistency is consistency for it in self._under_way.values())

    def _needed(self, consistency: Consistency) -> int:
        if consistency is Consistency.STALE:
            return self._thresholds.weak
        return self._thresholds.quorum

    def _ask(self, calls: list[Call], consistency: Consistency, now: Instant) -> list[Transmission]:
        while self._full_from not in self._connected:
            self._full_from = (self._full_from + 1) % self._thresholds.replicas
        self._advance_nonce()
        queries = tuple([call.operation for call in calls])
        collector = ReadCollector(
            self._needed(consistency),
            self._connected,
            self._nonce,
            query_digest(queries),
            len(queries),
        )
        deadline_us = now.monotonic_us + self._wait_us(consistency)
        inquiry = Inquiry(
            calls, consistency, collector, now.monotonic_us, deadline_us, self._full_from
        )
        self._under_way[self._nonce] = inquiry
        others = tuple(sorted(self._connected - {self._full_from}))
        return [
            Transmission(
                targets,
                encode_client_item(ReadRequest(self._nonce, queries, consistency, full_results)),
            )
            for targets, full_results in (((self._full_from,), True), (others, False))
            if targets
        ]

    def _wait_us(self, consistency: Consistency) -> Micros:
        if consistency is Consistency.LINEARIZABLE:
            return self._settings.linearizable_wait_us
        # An answer that takes longer than this, as large ones do, would be asked for without end.
        return self._settings.stale_wait_us << min(self._stale_failures, STALE_DOUBLINGS_MAX)

    def _advance_nonce(self) -> None:
        """To the next nonce that designates `full_from`: that replica sends full results unasked,
        and no other one does."""
        replicas = self._thresholds.replicas
        following = (self._nonce + 1) % _NONCES
        self._nonce = (following + (self._full_from - following) % replicas) % _NONCES

    def _is_agreed(self, inquiry: Inquiry) -> bool:
        return inquiry.collector.matching >= self._needed(inquiry.consistency)

    def _is_lost(self, inquiry: Inquiry) -> bool:
        # A stale read that failed waits for its time to pass, so that it is not asked in a tight
        # loop.
        collector = inquiry.collector
        if inquiry.consistency is not Consistency.LINEARIZABLE or not collector.is_hopeless:
            return False
        # One refusal may be a liar's. With a replica down it is enough to spoil a read, so the
        # others are heard: whether this read is too much, or only failed.
        is_alone = len(inquiry.calls) == 1
        return is_alone or not collector.may_be_refused_by(self._thresholds.weak)

    def _end_lost(self, nonce: int) -> list[ReadSettlement]:
        """Ends a linearizable read that cannot succeed: what is too much is halved."""
        inquiry = self._under_way[nonce]
        if inquiry.collector.refusals < self._thresholds.weak:
            return [self._hand_back(nonce)]
        if len(inquiry.calls) > 1 and self._has_enough_links(inquiry.consistency):
            del self._under_way[nonce]
            calls = [call for call in inquiry.calls if call is not None]
            self._waiting[inquiry.consistency].put_back(calls)
            return []
        return [self._hand_back(nonce), *self._hand_back_halves()]

    def _hand_back_waiting(self, now_us: Micros) -> list[ReadSettlement]:
        """Gives up waiting for more streams if for long they have been enough only for what is
        ordered."""
        if not self._thresholds.weak <= len(self._connected) < self._thresholds.quorum:
            self._only_ordered_since_us = None
            return []
        if self._only_ordered_since_us is None:
            self._only_ordered_since_us = now_us
        if now_us - self._only_ordered_since_us < self._settings.linearizable_wait_us:
            return []
        waiting = self._waiting[Consistency.LINEARIZABLE].take_all()
        for call in waiting:
            del self._wanted[call]
        return [ReadSettlement([*waiting], None)] if waiting else []

    def _hand_back_halves(self) -> list[ReadSettlement]:
        """Gives up asking in halves: the replicas have no room, or are silent, or too few."""
        halves = self._waiting[Consistency.LINEARIZABLE].take_halves()
        for call in halves:
            del self._wanted[call]
        return [ReadSettlement([*halves], None)] if halves else []

    def _hand_back(self, nonce: int) -> ReadSettlement:
        inquiry = self._take(nonce)
        self._forget(inquiry)
        for call in inquiry.calls:
            if call is not None:
                call.carrier = None
        return ReadSettlement(inquiry.calls, None)

    def _take(self, nonce: int) -> Inquiry:
        """Ends an inquiry that failed; another replica is asked for full results from now on."""
        inquiry = self._under_way.pop(nonce)
        self._pass_over(inquiry.full_from)
        return inquiry

    def _pass_over(self, replica: ReplicaId) -> None:
        """Has another one asked for full results, unless it is already."""
        if replica == self._full_from:
            self._full_from = (replica + 1) % self._thresholds.replicas

    def _forget(self, inquiry: Inquiry) -> None:
        for call in inquiry.calls:
            if call is not None:
                del self._wanted[call]
