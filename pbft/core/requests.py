"""Verified requests that are not executed yet: the primary's queue and the timers (OSDI'99 4.1,
4.4).

Every replica keeps the same pool; the primary proposes from it, a backup times it. Fairness:
proposals go round-robin over clients; one place per (peer, client) is reserved for a forwarded
request and served first, and each peer has some more; clients whose requests take long rest between
them (`rests`), and what waits is bounded by what is executed (`drain`).
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from pbft.codec import encode_signed
from pbft.core.drain import WORK_AT_FIRST, DrainBound, work_of
from pbft.core.rests import Rests
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import Authenticated, Request
from pbft.types import ClientKey, Micros, ReplicaId

ITEM_FRAMING_BYTES = 8
"""What an item of a batch costs beside its own bytes: tag and length, rounded up."""
STALE_TIMERS = 1024
DISPLACE_US = 20_000
"""From one client that displaces others' requests to the next ..."""
DISPLACED_MAX = 64
"""... and so many at most."""

RequestKey: TypeAlias = tuple[int, int]
"""(session, number) of one client."""


@dataclass(slots=True)
class PendingRequest:
    """One request that waits for execution."""

    request: Authenticated[Request]
    encoded: bytes
    arrived_us: Micros
    busy_before_us: Micros
    """RequestPool.busy_us at that time."""
    due_us: Micros = 0
    """When a timed request is due, were there nothing to execute meanwhile."""
    timeout_us: Micros = 0
    deadline_us: Micros | None = None
    """Live for the one timed request of its client."""
    relay_us: Micros | None = None
    """When a timed request is to be relayed to all; None once that was done."""
    is_repeated: bool = False
    """Whether it was passed on to the primary of the present view once more."""
    reserved_by: ReplicaId | None = None
    """The peer in whose reserved place it stands."""
    wants_results: bool = False
    """Whether the client asked this replica for the results in full, designated or not."""


@dataclass(slots=True)
class ClientQueue:
    """Pending requests of one client in order of arrival."""

    requests: OrderedDict[RequestKey, PendingRequest] = field(default_factory=OrderedDict)
    unproposed: OrderedDict[RequestKey, None] = field(default_factory=OrderedDict)
    """Those that stand in no batch of the present view, in the order in which to propose them."""
    size_bytes: int = 0
    work: int = 0
    reserved: Counter[ReplicaId] = field(default_factory=Counter)
    """How many stand in places reserved for each peer."""
    timed: RequestKey | None = None


class RequestPool:
    """Bounded in count and bytes, in total and per client, which has at most an equal share
    (pbft.limits.LocalLimits)."""

    def __init__(self, limits: LocalLimits) -> None:
        self._limits = limits
        self._clients: OrderedDict[ClientKey, ClientQueue] = OrderedDict()
        self._turns: OrderedDict[ClientKey, None] = OrderedDict()
        """Clients that may have something to propose, in the order of their turns."""
        self._deadlines: list[tuple[Micros, ClientKey, RequestKey]] = []
        self._relays: list[tuple[Micros, ClientKey, RequestKey]] = []
        self._rearmed_us = 0
        """When a view was entered last: no deadline counts from before."""
        self._busy_at_rearm_us = 0
        self.busy_us = 0
        """The time that all requests and reads are reckoned to have taken."""
        self._rests = Rests(limits)
        self._drain = DrainBound()
        self._work = 0
        self._reserved: Counter[ReplicaId] = Counter()
        """Work of requests that each peer passed on and that had no other place, and ..."""
        self._reserved_bytes: Counter[ReplicaId] = Counter()
        """... their bytes."""
        self._displaced_us: Micros | None = None
        self.count = 0
        self.size_bytes = 0

    def get(self, client: ClientKey, key: RequestKey) -> PendingRequest | None:
        """The pending request with this identity."""
        queue = self._clients.get(client)
        return None if queue is None else queue.requests.get(key)

    def __contains__(self, request: Request) -> bool:
        return self.get(request.client, (request.session, request.number)) is not None

    def add(
        self,
        request: Authenticated[Request],
        now_us: Micros,
        timeout_us: Micros,
        forwarded_by: ReplicaId | None,
        *,
        only_reserved: bool = False,
    ) -> Reason | None:
        """Takes a request; a Reason if not. The timer of its client starts if none is running.

        With `only_reserved` it may have no place but the one reserved for the peer that forwarded
        it, which is there though all else is full: what a backup times is known to all."""
        message = request.message
        queue = self._clients.get(message.client) or ClientQueue()
        key = (message.session, message.number)
        if key in queue.requests:
            return Reason.DUPLICATE
        encoded = encode_signed(request.signed)
        size, work = len(encoded), work_of(message)
        reserved, is_first = None, False
        if only_reserved or not self._has_room(queue, size, work, now_us):
            if forwarded_by is None:
                return Reason.QUEUE_FULL
            is_first = not queue.reserved[forwarded_by]
            if not is_first and (only_reserved or not self._may_follow(forwarded_by, queue)):
                return Reason.QUEUE_FULL
            if not self._has_reserved(forwarded_by, size):
                return Reason.QUEUE_FULL
            reserved = forwarded_by
            queue.reserved[reserved] += 1
            self._reserved[reserved] += work
            self._reserved_bytes[reserved] += size
        self._clients[message.client] = queue
        pending = PendingRequest(request, encoded, now_us, self.busy_us, reserved_by=reserved)
        queue.requests[key] = pending
        queue.unproposed[key] = None
        if reserved is not None and is_first:
            queue.unproposed.move_to_end(key, last=False)
        queue.size_bytes += size
        queue.work += work
        self.count += 1
        self.size_bytes += size
        self._work += work
        self._turns[message.client] = None
        if queue.timed is None:
            self._time(message.client, queue, key, timeout_us)
        return None

    def note_busy(self, records: int) -> None:
        """So many records were looked at. The time that took is no fault of the primary: deadlines
        are later by it, by at most their timeout each."""
        self.busy_us += records * self._limits.record_us

    def note_executed(
        self, request: Request, records: int, now_us: Micros, timeout_us: Micros
    ) -> None:
        """A request was executed, and looked at so many records. If that took long, its client
        rests."""
        self.note_busy(records)
        self._drain.note_executed(work_of(request), now_us, timeout_us)
        if self._rests.note(request.client, records, now_us):
            queue = self._clients.get(request.client)
            if queue is not None and queue.timed is not None:
                self._time(request.client, queue, queue.timed, timeout_us)

    def put_back(self, requests: Iterable[Authenticated[Request]]) -> None:
        """The batch in which these stand had no room for them: they are proposed again, first."""
        for request in reversed(list(requests)):
            message = request.message
            queue = self._clients.get(message.client)
            key = (message.session, message.number)
            if queue is not None and key in queue.requests:
                queue.unproposed[key] = None
                queue.unproposed.move_to_end(key, last=False)
                self._turns[message.client] = None

    def note_wanted(self, request: Request) -> None:
        """The client wants the results of a pending request in full from this replica."""
        pending = self.get(request.client, (request.session, request.number))
        if pending is not None:
            pending.wants_results = True

    def settle(self, request: Request, timeout_us: Micros) -> bool:
        """The request (or another with its identity) was decided: forget it, time the client's
        next. Returns whether its results are wanted in full."""
        queue = self._clients.get(request.client)
        key = (request.session, request.number)
        if queue is None or key not in queue.requests:
            return False
        pending = self._remove(queue, key)
        if not queue.requests:
            del self._clients[request.client]
            self._turns.pop(request.client, None)
            return pending.wants_results
        self._turns[request.client] = None
        if queue.timed == key:
            following = next(iter(queue.requests))
            self._time(request.client, queue, following, timeout_us)
        return pending.wants_results

    def note_all_proposed(self) -> None:
        """Nothing waits that could be proposed: either all is, or it rests, or there is nothing."""
        self._drain.note_empty()

    def propose_again(self) -> None:
        """Nothing counts as proposed any more."""
        for client, queue in self._clients.items():
            self._turns[client] = None
            queue.unproposed = OrderedDict.fromkeys(queue.requests)

    def mark_proposed(self, request: Request) -> None:
        """It stands in a batch of the present view: the primary does not propose it again."""
        queue = self._clients.get(request.client)
        if queue is not None:
            queue.unproposed.pop((request.session, request.number), None)

    def enter_view(self, now_us: Micros, timeout_us: Micros) -> None:
        """Nothing is proposed yet in the new view, and every deadline starts afresh."""
        self.rearm(now_us, timeout_us)
        self.propose_again()

    def rearm(self, now_us: Micros, timeout_us: Micros) -> None:
        """All running deadlines start afresh."""
        self._deadlines.clear()
        self._relays.clear()
        self._rearmed_us = now_us
        self._busy_at_rearm_us = self.busy_us
        for client, queue in self._clients.items():
            for pending in queue.requests.values():
                pending.is_repeated = False
            self._time(client, queue, next(iter(queue.requests)), timeout_us)

    def take(self, requests_max: int, bytes_max: int, operations_max: int) -> list[PendingRequest]:
        """Unproposed requests for one batch: one per client and turn, within these bounds. Of a
        client that is known to be heavy at most one, and those come last."""
        taken: list[PendingRequest] = []
        size = operations = 0
        while len(taken) < requests_max and self.has_unproposed():
            client = next(iter(self._turns))
            queue = self._clients[client]
            key = next(iter(queue.unproposed))
            # Each item costs its bytes and a few of framing.
            pending = queue.requests[key]
            size += len(pending.encoded) + ITEM_FRAMING_BYTES
            operations += len(pending.request.message.operations)
            if taken and (size > bytes_max or operations > operations_max):
                break
            del queue.unproposed[key]
            taken.append(pending)
            self._turns.move_to_end(client)
        taken.sort(key=lambda pending: pending.request.message.client in self._rests)
        return taken

    def has_unproposed(self) -> bool:
        """Whether a batch could be proposed. Clients with nothing left, or that rest, lose their
        turn."""
        while self._turns:
            client = next(iter(self._turns))
            queue = self._clients.get(client)
            if queue is not None and queue.unproposed and self._may_propose(client, queue):
                return True
            del self._turns[client]
        return False

    def _may_propose(self, client: ClientKey, queue: ClientQueue) -> bool:
        """A client that is known to be heavy has one request under way at a time, and rests."""
        if client not in self._rests:
            return True
        is_alone = len(queue.unproposed) == len(queue.requests)
        return is_alone and not self._rests.is_resting(client)

    def wake(self, now_us: Micros) -> None:
        """Clients whose rest is over get their turn."""
        self._turns.update(dict.fromkeys(self._rests.end(now_us)))

    def next_turn_us(self) -> Micros | None:
        """When the next client has rested."""
        return self._rests.next_end_us()

    def overdue(self, now_us: Micros) -> list[PendingRequest]:
        """Timed requests past their deadline, earliest first; each stays so until it is settled."""
        earliest_us = self.next_deadline_us()
        if earliest_us is None or earliest_us > now_us:
            return []
        due = sorted(item for item in self._deadlines if item[0] <= now_us and self._is_live(item))
        overdue = []
        for _, client, key in due:
            pending = self._clients[client].requests[key]
            deadline_us = self._deadline_us(pending)
            if deadline_us <= now_us:
                overdue.append(pending)
            else:
                pending.deadline_us = deadline_us
                heapq.heappush(self._deadlines, (deadline_us, client, key))
        return overdue

    def take_relays(self, now_us: Micros) -> list[PendingRequest]:
        """Timed requests that half their time passed over, each once."""
        due = []
        while self._relays and self._relays[0][0] <= now_us:
            relay_us, client, key = heapq.heappop(self._relays)
            pending = self.get(client, key)
            if pending is not None and pending.relay_us == relay_us:
                pending.relay_us = None
                due.append(pending)
        return due

    def take_repeats(self, client: ClientKey, bytes_max: int) -> list[PendingRequest]:
        """What else of a client was passed on only once in this view: each is taken once more."""
        taken = []
        for pending in self._clients[client].requests.values():
            if pending.is_repeated:
                continue
            bytes_max -= len(pending.encoded)
            if bytes_max < 0:
                break
            pending.is_repeated = True
            taken.append(pending)
        return taken

    def next_deadline_us(self) -> Micros | None:
        """The earliest deadline of a timed request."""
        return self._earliest(self._deadlines, "deadline_us")

    def next_relay_us(self) -> Micros | None:
        """When the next timed request is to be relayed."""
        return self._earliest(self._relays, "relay_us")

    def pending(self) -> list[PendingRequest]:
        """All pending requests, clients in the order in which they came."""
        return [item for queue in self._clients.values() for item in queue.requests.values()]

    def _remove(self, queue: ClientQueue, key: RequestKey) -> PendingRequest:
        pending = queue.requests.pop(key)
        queue.unproposed.pop(key, None)
        size, work = len(pending.encoded), work_of(pending.request.message)
        queue.size_bytes -= size
        queue.work -= work
        self.count -= 1
        self.size_bytes -= size
        self._work -= work
        if pending.reserved_by is not None:
            queue.reserved[pending.reserved_by] -= 1
            self._reserved[pending.reserved_by] -= work
            self._reserved_bytes[pending.reserved_by] -= size
        return pending

    def _has_room(self, queue: ClientQueue, size: int, work: int, now_us: Micros) -> bool:
        """Whether one more request of this client has a place. A client has at most an equal share,
        and nothing of the last eighth, so that whoever comes next finds room; or one request,
        however large. If there is no room for that, others have too much."""
        if queue.requests:
            return self._fits(queue, size, work)
        if self._fits_at_all(size):
            return True
        if self._displaced_us is not None and now_us < self._displaced_us + DISPLACE_US:
            return False
        self._displaced_us = now_us
        return self._displace(size)

    def _waiting(self) -> int:
        """The work that waits for nothing but its turn."""
        resting = (self._clients[client].work for client in self._rests if client in self._clients)
        return self._work - sum(resting)

    def _fits_at_all(self, size: int) -> bool:
        limits = self._limits
        fits = self.count < limits.pending_requests
        fits &= self.size_bytes + size <= limits.pending_bytes
        return fits and self._waiting() < self._drain.work

    def _fits(self, queue: ClientQueue, size: int, work: int) -> bool:
        limits, sharers = self._limits, len(self._clients) + 1
        requests_max = min(limits.pending_requests_per_client, limits.pending_requests // sharers)
        bytes_max = min(limits.pending_bytes_per_client, limits.pending_bytes // sharers)
        fits = len(queue.requests) < requests_max and queue.size_bytes + size <= bytes_max
        fits &= queue.work + work <= self._drain.work // sharers
        fits &= self.count < limits.pending_requests * 7 // 8
        fits &= self.size_bytes + size <= limits.pending_bytes * 7 // 8
        return fits and self._waiting() + work <= self._drain.work * 7 // 8

    def _displace(self, size: int) -> bool:
        """Makes room for a client that has nothing here: whoever holds most of what is scarce loses
        its newest request that is neither proposed nor timed, or as many as it takes for the bytes
        of the other, or none. Looking for that takes time, so not often."""
        is_large = self.size_bytes + size > self._limits.pending_bytes
        holders = [queue for queue in self._clients.values() if len(queue.unproposed) > 1]
        largest = max(
            holders, key=lambda queue: queue.size_bytes if is_large else queue.work, default=None
        )
        if largest is None:
            return False
        displaced = [key for key in reversed(largest.unproposed) if key != largest.timed]
        chosen, freed = [], 0
        for key in islice(displaced, DISPLACED_MAX):
            chosen.append(key)
            freed += len(largest.requests[key].encoded)
            if self.size_bytes + size - freed <= self._limits.pending_bytes:
                break
        else:
            return False
        for key in chosen:
            self._remove(largest, key)
        return True

    def _has_reserved(self, peer: ReplicaId, size: int) -> bool:
        """Whether a peer has places left for what it passes on, however many clients it is of."""
        fits = self._reserved_bytes[peer] + size <= self._limits.reserved_bytes_per_peer
        return fits and self._reserved[peer] < WORK_AT_FIRST

    def _may_follow(self, peer: ReplicaId, queue: ClientQueue) -> bool:
        """Whether a peer may pass on another request of this client: half as much as the pool holds
        beside, and an equal share of each client. The peer has a timer for what it passes on."""
        work_max = self._drain.work // 2
        fits = queue.reserved[peer] < work_max // (len(self._clients) + 1)
        return fits and self._reserved[peer] < work_max

    def _time(
        self,
        client: ClientKey,
        queue: ClientQueue,
        key: RequestKey,
        timeout_us: Micros,
    ) -> None:
        """Starts the timer of a request: it counts from the arrival, whatever was settled since, or
        from the end of the longest rest that its client may have."""
        if queue.timed is not None and (before := queue.requests.get(queue.timed)) is not None:
            before.deadline_us = before.relay_us = None
        queue.timed = key
        pending = queue.requests[key]
        since_us = max(pending.arrived_us, self._rearmed_us, self._rests.longest_us(client))
        pending.due_us, pending.timeout_us = since_us + timeout_us, timeout_us
        pending.deadline_us = self._deadline_us(pending)
        pending.relay_us = since_us + timeout_us // 2
        for heap, at_us in (
            (self._deadlines, pending.deadline_us),
            (self._relays, pending.relay_us),
        ):
            heapq.heappush(heap, (at_us, client, key))
            if len(heap) > 4 * len(self._clients) + STALE_TIMERS:
                # Entries of settled requests are dropped lazily, but not without bound.
                live = [item for item in heap if self._is_live(item)]
                heap[:] = live
                heapq.heapify(heap)

    def _deadline_us(self, pending: PendingRequest) -> Micros:
        """Later than due by the time that execution took since it arrived: at most its timeout, for
        a primary might go on with requests that take long and leave this one out."""
        before_us = max(pending.busy_before_us, self._busy_at_rearm_us)
        return pending.due_us + min(self.busy_us - before_us, pending.timeout_us)

    def _is_live(self, item: tuple[Micros, ClientKey, RequestKey]) -> bool:
        at_us, client, key = item
        pending = self.get(client, key)
        return pending is not None and at_us in (pending.deadline_us, pending.relay_us)

    def _earliest(
        self, heap: list[tuple[Micros, ClientKey, RequestKey]], attribute: str
    ) -> Micros | None:
        while heap:
            at_us, client, key = heap[0]
            pending = self.get(client, key)
            if pending is not None and getattr(pending, attribute) == at_us:
                return at_us
            heapq.heappop(heap)
        return None
