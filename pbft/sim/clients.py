"""Simulated clients: honest ones run the client library's own session, Byzantine ones do not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from pbft.codec import decode_gateway_item, encode_client_item
from pbft.core.settings import MILLISECOND
from pbft.crypto.signing import ClientSigner
from pbft.errors import Rejected
from pbft.genesis import Genesis
from pbft.messages import (
    Consistency,
    Outcome,
    ReadReplies,
    Refusal,
    Replies,
    Request,
    Signed,
    Submit,
)
from pbft.sim.checkers.history import Cas, Put, Result
from pbft.sim.invariants import Counters
from pbft.sim.network import Network, Place
from pbft.sim.node import WALL_EPOCH_US
from pbft.sim.scheduler import Scheduler
from pbft.sim.workload import Visit, Wish, decode_result, encode_action, has_changed
from pbft.types import Instant, Micros
from pbft_client.envelope import EnvelopeOpener
from pbft_client.gathering import Call, GatherSettings
from pbft_client.reads import Reads, ReadSettings
from pbft_client.session import RequestSigner, Session, SessionSettings, Settlement

SESSION_SETTINGS = SessionSettings(
    gather=GatherSettings(under_way=8, enough_calls=3, patience_us=2_000),
    request_operations=1,
    retransmission_first_us=200 * MILLISECOND,
    retransmission_cap_us=800 * MILLISECOND,
    full_results_wait_us=20 * MILLISECOND,
)
"""One operation per request, so that a run has many; retransmission is as fast as the timers."""

READ_SETTINGS = ReadSettings(linearizable_wait_us=100 * MILLISECOND)


@dataclass(slots=True)
class Record:
    """One operation of an honest client, from its invocation to what became of it."""

    client: Place
    wish: Wish
    invoked_us: Micros
    completed_us: Micros | None = None
    """None: it is still under way."""
    known: bool = False
    """Whether `result` is one; else it may or may not have taken effect."""
    result: Result = None
    position: tuple[int, int] | None = None
    """Sequence of the batch, and an index that orders the operations within it."""


class _WishCall(Call):
    """A call that remembers which record is to be filled in."""

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        super().__init__(encode_action(record.wish.action))
        self.record = record


class HonestClient:
    """Asks for what its workload says, when it says so, and records the history."""

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network,
        genesis: Genesis,
        signer: RequestSigner,
        place: Place,
        random: Random,
        visits: list[Visit],
        is_authentic: Callable[[Signed], bool],
        counters: Counters,
    ) -> None:
        self.place = place
        self.records: list[Record] = []
        self.requests_settled = 0
        self._scheduler = scheduler
        self._network = network
        self._replicas = len(genesis.replicas)
        self._counters = counters
        now = self._now()
        self._session = Session(genesis, signer, now.wall_us, random.random, SESSION_SETTINGS)
        self._reads = Reads(genesis, random.getrandbits(64), random.random, READ_SETTINGS)
        self._opener = EnvelopeOpener(signer.client, is_authentic)
        self._last_seen: dict[bytes, bytes] = {}
        """Per key the value that it last read or wrote: what it compares with."""
        self._visits_left = len(visits)
        self.waiting = 0
        """Operations that were asked for and are not done."""
        self._wake_us: Micros | None = None
        for visit in visits:
            scheduler.at(visit.at_us, self._visit, visit)
        network.attach(place, self._on_bytes, self._on_link)

    @property
    def is_finished(self) -> bool:
        """Whether everything it ever wanted was done."""
        return self._visits_left == 0 and self.waiting == 0

    def ask(self, wish: Wish) -> None:
        """Asks for one operation now."""
        record = Record(self.place, wish, self._scheduler.now_us)
        self.records.append(record)
        self.waiting += 1
        if wish.fast:
            self._reads.enqueue(_WishCall(record), Consistency.LINEARIZABLE)
        else:
            self._session.enqueue(_WishCall(record))
        self._pump()

    def _visit(self, visit: Visit) -> None:
        self._visits_left -= 1
        for wish in visit.wishes:
            action = wish.action
            if isinstance(action, Cas) and action.key in self._last_seen:
                action = replace(action, expect=self._last_seen[action.key])
            self.ask(replace(wish, action=action))

    def _now(self) -> Instant:
        now_us = self._scheduler.now_us
        return Instant(now_us, WALL_EPOCH_US + now_us)

    def _on_link(self, replica: Place, up: bool) -> None:
        if replica >= self._replicas:
            return
        if up:
            self._session.link_up(replica)
            self._reads.link_up(replica)
        else:
            self._session.link_down(replica)
            for settlement in self._reads.link_down(replica):
                self._settle_read(settlement.calls, None)
        self._pump()

    def _on_bytes(self, origin: Place, data: bytes) -> None:
        try:
            item = decode_gateway_item(data)
            if isinstance(item, Signed):
                self._on_signed(origin, item)
            elif isinstance(item, Refusal):
                self._session.refused(origin, item)
        except Rejected:
            # A Byzantine replica's garbage: the client library would drop the stream.
            return
        self._pump()

    def _on_signed(self, origin: Place, signed: Signed) -> None:
        envelope = self._opener.open(origin, signed)
        if isinstance(envelope.message, Replies):
            for settled in self._session.receive(envelope, self._now()):
                self._settle(settled)
        elif isinstance(envelope.message, ReadReplies):
            for read in self._reads.receive(envelope, self._now()):
                results = None if read.decision is None else read.decision.results
                self._settle_read(read.calls, results)

    def _settle(self, settlement: Settlement) -> None:
        decision = settlement.decision
        self.requests_settled += 1
        for index, call in enumerate(settlement.calls):
            assert isinstance(call, _WishCall)
            record = call.record
            if decision.outcome is Outcome.EXECUTED:
                self._complete(record, decision.results[index], decision.sequence)
            else:
                # Forgotten, expired, or the number of another process: it may have happened.
                record.completed_us = self._scheduler.now_us
                self.waiting -= 1

    def _settle_read(self, calls: list[Call | None], results: tuple[bytes, ...] | None) -> None:
        for index, call in enumerate(calls):
            assert isinstance(call, _WishCall)
            if results is None:
                # Not answered alike or in time: ordered instead, which always works.
                self._session.enqueue(call)
            else:
                self._counters.fast_reads += 1
                self._complete(call.record, results[index], None)

    def _complete(self, record: Record, encoded: bytes, sequence: int | None) -> None:
        action = record.wish.action
        record.completed_us = self._scheduler.now_us
        record.known = True
        self.waiting -= 1
        record.result, revision = decode_result(action, encoded)
        if sequence is not None and revision is not None:
            index = 2 * revision + (not has_changed(action, record.result))
            record.position = (sequence, index)
        seen: bytes | None
        match action:
            case Put() | Cas():
                seen = action.value if record.result is not False else None
            case _:
                seen = record.result if isinstance(record.result, bytes) else None
        if seen is None:
            self._last_seen.pop(action.key, None)
        else:
            self._last_seen[action.key] = seen

    def _pump(self) -> None:
        """Sends what is to be sent, and sees to being called again in time."""
        now = self._now()
        for settlement in self._reads.expire(now):
            self._settle_read(settlement.calls, None)
        for transmission in (*self._session.poll(now), *self._reads.poll(now)):
            for replica in transmission.replicas:
                self._network.send(self.place, replica, transmission.item)
        deadlines = (self._session.next_deadline_us(), self._reads.next_deadline_us())
        due_us = min((due for due in deadlines if due is not None), default=None)
        if due_us is not None and (self._wake_us is None or due_us < self._wake_us):
            self._wake_us = due_us
            self._scheduler.at(due_us, self._wake, due_us)

    def _wake(self, due_us: Micros) -> None:
        if self._wake_us == due_us:
            self._wake_us = None
            self._pump()


class ByzantineClient:
    """Signs what no honest client signs, or does not sign at all (adversary.md 2.1)."""

    ATTEMPTS = 8

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network,
        genesis: Genesis,
        signer: ClientSigner,
        place: Place,
        random: Random,
        crime: str,
        until_us: Micros,
        issued: set[bytes],
    ) -> None:
        self.crime = crime
        self.acted = 0
        self._network = network
        self._replicas = len(genesis.replicas)
        self._signer = signer
        self._place = place
        self._random = random
        self._issued = issued
        """Payloads that somebody really signed; what is executed must be among them."""
        network.attach(place, lambda origin, data: None)
        for number in range(1, self.ATTEMPTS + 1):
            scheduler.at(random.randrange(until_us), self._act, number)

    def _act(self, number: int) -> None:
        self.acted += 1
        if self.crime == "equivocating-client":
            self._equivocate(number)
        else:
            self._forge(number)

    def _sign(self, number: int, value: bytes) -> Signed:
        operation = encode_action(Put(b"byzantine", value))
        signed = self._signer.sign(Request(self._signer.client, 1, number, 0, 0, (operation,)))
        return signed

    def _equivocate(self, number: int) -> None:
        """C3: one number, one operation for the primary and another for the backups."""
        first = self._sign(number, b"one of %d" % number)
        second = self._sign(number, b"two of %d" % number)
        self._issued.update((first.payload, second.payload))
        for replica in range(self._replicas):
            told = first if self._random.random() < 0.5 else second
            self._send(replica, told)

    def _forge(self, number: int) -> None:
        """C1: signatures of nobody, to some or to all; no timer may start for them."""
        signed = self._sign(number, b"forged")
        forged = replace(signed, signature=self._random.randbytes(len(signed.signature)))
        for replica in range(self._replicas):
            if self._random.random() < 0.7:
                self._send(replica, forged)

    def _send(self, replica: Place, signed: Signed) -> None:
        item = encode_client_item(Submit(signed, full_results=True))
        self._network.send(self._place, replica, item)
