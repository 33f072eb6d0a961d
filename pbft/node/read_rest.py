"""Long fast reads leave the event loop to the others in between.

A read is answered in one go, and what one may look at takes a good part of a second. Nobody orders
it, so no queue slows it down: clients that kept a few of them under way would keep every replica
from voting in time, and honest primaries would be suspected.
"""

from collections import deque
from dataclasses import dataclass, field

from pbft.limits import MIB
from pbft.messages import Consistency, ReadRequest
from pbft.node.inbox import ClientOrigin
from pbft.types import ClientKey

LONG_SECONDS = 0.05
"""Shorter reads are free."""
REST_FACTOR = 3
"""For so many times what a long one took, the next one of its client waits; of two clients that
read so, twice as long: together they take a third of the time at most."""
HELD_READS = 64
"""Waiting reads of one client: each may take long, whatever it weighs."""
HELD_BYTES_TOTAL = 64 * MIB
"""Waiting reads of all clients."""
QUERY_BYTES = 64
"""What a query weighs beside its own bytes."""

Held = tuple[ClientOrigin, ReadRequest]


@dataclass(slots=True)
class _Rest:
    until: float
    reads: deque[Held] = field(default_factory=deque)


class ReadRest:
    """Clients whose reads rest, and their reads that wait; the times are those of one clock."""

    def __init__(self) -> None:
        self._rests: dict[ClientKey, _Rest] = {}
        self._held_bytes = 0

    def must_wait(self, client: ClientKey, now: float) -> bool:
        """Whether a read of this client has to wait, for its rest or behind another one."""
        rest = self._rests.get(client)
        return rest is not None and (now < rest.until or bool(rest.reads))

    def hold(self, origin: ClientOrigin, read: ReadRequest) -> bool:
        """Lets a read of a client that rests wait; False if too much waits. Of stale reads the last
        one only: they are asked again and again, and what was asked before is not waited for."""
        rest, size = self._rests[origin.client], _size(read)
        if read.consistency is Consistency.STALE:
            self._drop_stale(rest)
        if len(rest.reads) >= HELD_READS or self._held_bytes + size > HELD_BYTES_TOTAL:
            return False
        rest.reads.append((origin, read))
        self._held_bytes += size
        return True

    def _drop_stale(self, rest: _Rest) -> None:
        stale = [held for held in rest.reads if held[1].consistency is Consistency.STALE]
        for held in stale:
            rest.reads.remove(held)
            self._held_bytes -= _size(held[1])

    def take(self, now: float) -> Held | None:
        """A read that has waited for long enough."""
        for rest in self._rests.values():
            if rest.reads and rest.until <= now:
                held = rest.reads.popleft()
                self._held_bytes -= _size(held[1])
                return held
        return None

    def note(self, client: ClientKey, seconds: float, now: float) -> None:
        """A read of this client has just taken so long."""
        if seconds <= LONG_SECONDS:
            return
        self._rests = {
            other: rest for other, rest in self._rests.items() if rest.reads or rest.until > now
        }
        others = len(self._rests.keys() - {client})
        rest = self._rests.setdefault(client, _Rest(now))
        rest.until = now + REST_FACTOR * (1 + others) * seconds

    def next_due(self) -> float | None:
        """When the next waiting read has waited for long enough."""
        return min((rest.until for rest in self._rests.values() if rest.reads), default=None)


def _size(read: ReadRequest) -> int:
    return sum(map(len, read.queries)) + QUERY_BYTES * len(read.queries)
