"""Clients whose requests take long to execute share the replicas by time, not by number.

A request may look at `records_per_request` records, which takes most of a second, and thousands of
a client's requests may wait. Were they proposed one after the other, the requests of all others
would wait for each of them, and their own timers would have honest primaries suspected. So such a
client rests after each of them: the primary proposes its next one when it has rested, one at a
time, and every replica counts the time of that one from then.
"""

from dataclasses import dataclass

from pbft.limits import LocalLimits
from pbft.types import ClientKey, Micros

REST_FACTOR = 4
"""For so many times what a heavy request is reckoned to take, its client rests, from the beginning
of its execution; of two such clients each rests twice as long: together they have a quarter of
the time at most."""
KNOWN_FACTOR = 2
"""For so many times its rest a client is known to be heavy."""


@dataclass(slots=True)
class _Rest:
    until_us: Micros
    known_until_us: Micros
    is_over: bool = False


class Rests:
    """The clients that rest, or have rested a short while ago; a few at most, for each has had the
    replicas busy. What replicas reckon here is their own view: it decides what a primary proposes
    and when a backup suspects it, and nothing that is replicated."""

    def __init__(self, limits: LocalLimits) -> None:
        self._limits = limits
        self._rests: dict[ClientKey, _Rest] = {}

    def __contains__(self, client: ClientKey) -> bool:
        """Whether the client is known to be heavy."""
        return client in self._rests

    def note(self, client: ClientKey, records: int, now_us: Micros) -> bool:
        """A request of this client has looked at so many records; whether that was heavy."""
        if records < self._limits.heavy_request_records:
            return False
        self.end(now_us)
        self._rests.pop(client, None)
        cost_us = records * self._limits.record_us
        rest_us = REST_FACTOR * cost_us * (len(self._rests) + 1)
        self._rests[client] = _Rest(now_us + rest_us, now_us + KNOWN_FACTOR * rest_us)
        return True

    def until_us(self, client: ClientKey) -> Micros:
        """Until when the client rests, or did; 0 if it is not known."""
        rest = self._rests.get(client)
        return 0 if rest is None else rest.until_us

    def is_resting(self, client: ClientKey) -> bool:
        """Whether the client's rest has not been ended yet."""
        rest = self._rests.get(client)
        return rest is not None and not rest.is_over

    def end(self, now_us: Micros) -> list[ClientKey]:
        """Ends the rests that are over, returns whose they are, and forgets those long over."""
        ended = []
        for client, rest in list(self._rests.items()):
            if rest.until_us <= now_us and not rest.is_over:
                rest.is_over = True
                ended.append(client)
            if rest.known_until_us <= now_us:
                del self._rests[client]
        return ended

    def next_end_us(self) -> Micros | None:
        """When the next rest is over."""
        ends = [rest.until_us for rest in self._rests.values() if not rest.is_over]
        return min(ends, default=None)
