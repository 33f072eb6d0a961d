"""Reads that wait: for their barrier to be executed, then for their client's turn.

What a client may look at in one read takes a good part of a second, and nobody orders it. So each
client has a share of the time, whether its reads come one by one or are all released by one commit:
what they look at is charged to it, and beyond a burst its next read waits.
"""

import heapq
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

from pbft.limits import LocalLimits
from pbft.messages import ReadRequest
from pbft.types import ClientKey, Micros, SequenceNumber

BURST_US: Micros = 150_000
"""Reckoned time that a client has at once."""
CLIENTS_MAX = 4
"""A client that reads much is charged as many times as there are such clients, up to so many."""


@dataclass(frozen=True, slots=True)
class HeldRead:
    """A fast read that cannot be answered yet."""

    client: ClientKey
    request: ReadRequest
    barrier: SequenceNumber
    since_us: Micros
    size_bytes: int


class HeldReads:
    """Bounded in number, per client, and in bytes. A step costs what it answers, however many
    wait."""

    def __init__(self, limits: LocalLimits) -> None:
        self._limits = limits
        self._all: OrderedDict[int, HeldRead] = OrderedDict()
        """By the order in which they came."""
        self._blocked: list[tuple[SequenceNumber, int]] = []
        """A heap of those whose barrier is to be executed."""
        self._free: OrderedDict[ClientKey, deque[int]] = OrderedDict()
        """Per client, the next to be served first, those whose barrier is executed."""
        self._of_client: Counter[ClientKey] = Counter()
        self._bytes = 0
        self._added = 0
        self._charged_until_us: dict[ClientKey, Micros] = {}
        """Until when what it read takes, if it takes one after the other."""
        self._forgot_us: Micros = -1
        """When those who are charged for nothing any more were forgotten last."""
        self._eager: set[ClientKey] = set()
        """Clients that have to wait, or had to a short while ago."""

    def __len__(self) -> int:
        return len(self._all)

    def has_room(self, client: ClientKey, size: int) -> bool:
        """Whether one more read is within the bounds."""
        limits = self._limits
        is_few = len(self._all) < limits.held_reads
        is_few &= self._of_client[client] < limits.held_reads_per_client
        return is_few and self._bytes + size <= limits.held_read_bytes

    def add(self, read: HeldRead) -> None:
        """Takes a read, for which there is room."""
        self._added += 1
        self._all[self._added] = read
        self._of_client[read.client] += 1
        self._bytes += read.size_bytes
        heapq.heappush(self._blocked, (read.barrier, self._added))

    def waits(self, client: ClientKey) -> bool:
        """Whether another read of this client waits for its turn."""
        return client in self._free

    def release(self, executed: SequenceNumber) -> None:
        """The barriers up to this one are executed."""
        while self._blocked and self._blocked[0][0] <= executed:
            _, number = heapq.heappop(self._blocked)
            read = self._all.get(number)
            if read is not None:
                self._free.setdefault(read.client, deque()).append(number)

    def restart(self) -> None:
        """Another state is in place: what was executed may be still to come."""
        self._free.clear()
        self._blocked = [(read.barrier, number) for number, read in self._all.items()]
        heapq.heapify(self._blocked)

    def expired(self, before_us: Micros) -> list[HeldRead]:
        """Takes out those that came before this moment."""
        found = []
        while self._all:
            number, read = next(iter(self._all.items()))
            if read.since_us > before_us:
                break
            found.append(self._remove(number))
            self._drop_gone(read.client)
        if len(self._blocked) > 2 * len(self._all):
            # Nothing may be executed for long, and others come and expire all the time.
            self._blocked = [entry for entry in self._blocked if entry[1] in self._all]
            heapq.heapify(self._blocked)
        return found

    def take(self, now_us: Micros) -> HeldRead | None:
        """The next that may be answered; clients take turns."""
        for client, numbers in self._free.items():
            if self.allows(client, now_us):
                self._free.move_to_end(client)
                read = self._remove(numbers[0])
                self._drop_gone(client)
                return read
        return None

    def _drop_gone(self, client: ClientKey) -> None:
        """The first in a client's queue is one that waits, and who has none has no queue."""
        numbers = self._free.get(client)
        while numbers and numbers[0] not in self._all:
            numbers.popleft()
        if numbers is not None and not numbers:
            del self._free[client]

    def _remove(self, number: int) -> HeldRead:
        read = self._all.pop(number)
        self._bytes -= read.size_bytes
        self._of_client[read.client] -= 1
        if not self._of_client[read.client]:
            del self._of_client[read.client]
        return read

    def allows(self, client: ClientKey, now_us: Micros) -> bool:
        """Whether this client has time left."""
        return self._charged_until_us.get(client, 0) <= now_us + BURST_US

    def charge(self, client: ClientKey, records: int, now_us: Micros) -> None:
        """A read of this client has looked at so many records."""
        charged = self._charged_until_us
        if client not in charged and now_us > self._forgot_us:
            self._forgot_us = now_us
            charged = {other: until for other, until in charged.items() if until > now_us}
        others = {other for other in self._eager if not self.allows(other, now_us)} - {client}
        cost_us = records * self._limits.record_us * min(1 + len(others), CLIENTS_MAX)
        charged[client] = max(charged.get(client, 0), now_us) + cost_us
        self._charged_until_us = charged
        self._eager = others if self.allows(client, now_us) else others | {client}

    def next_us(self, now_us: Micros) -> Micros | None:
        """When the next one whose barrier is executed may be answered; None if there is none."""
        until = (self._charged_until_us.get(client, 0) - BURST_US for client in self._free)
        return min((max(now_us, moment) for moment in until), default=None)
