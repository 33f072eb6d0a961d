"""Clients whose requests take long to execute share the replicas by time, not by number.

A request may look at `records_per_request` records, which takes most of a second, and thousands of
a client's requests may wait. Were they proposed one after the other, the requests of all others
would wait for each of them, and their own timers would have honest primaries suspected. So such a
client rests after each of them: the primary proposes its next one when it has rested, one at a
time, and backups count the time of that one from when it has rested for the longest.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pbft.limits import LocalLimits
from pbft.types import ClientKey, Micros

REST_FACTOR = 4
"""For so many times what a heavy request is reckoned to take, its client rests, from the beginning
of its execution ..."""
CLIENTS_MAX = 4
"""... and so many times as long, if there are as many such clients: up to that many have a quarter
of the time together."""
KNOWN_FACTOR = 2
"""For so many times its rest a client is known to be heavy."""


@dataclass(slots=True)
class _Rest:
    until_us: Micros
    longest_us: Micros
    known_until_us: Micros
    is_over: bool = False


class Rests:
    """The clients that rest, or have rested a short while ago; a few at most, for each has had the
    replicas busy. What replicas reckon here is their own view: it decides what a primary proposes
    and when a backup suspects it, and nothing that is replicated."""

    def __init__(self, limits: LocalLimits) -> None:
        self._limits = limits
        self._rests: dict[ClientKey, _Rest] = {}
        self._next_us: Micros = 0
        """When `end` has something to do; not later."""

    def __contains__(self, client: ClientKey) -> bool:
        """Whether the client is known to be heavy."""
        return client in self._rests

    def note(self, client: ClientKey, records: int, now_us: Micros) -> bool:
        """A request of this client has looked at so many records; whether that was heavy."""
        if records < self._limits.heavy_request_records:
            return False
        self._rests.pop(client, None)
        known = sum(rest.known_until_us > now_us for rest in self._rests.values())
        unit_us = REST_FACTOR * records * self._limits.record_us
        rest_us = unit_us * min(known + 1, CLIENTS_MAX)
        self._rests[client] = _Rest(
            now_us + rest_us, now_us + unit_us * CLIENTS_MAX, now_us + KNOWN_FACTOR * rest_us
        )
        self._next_us = min(self._next_us, now_us + rest_us)
        return True

    def longest_us(self, client: ClientKey) -> Micros:
        """Until when an honest primary may let the client rest, which may know of others that are
        heavy; 0 if the client is not known."""
        rest = self._rests.get(client)
        return 0 if rest is None else rest.longest_us

    def __iter__(self) -> Iterator[ClientKey]:
        return iter(self._rests)

    def is_resting(self, client: ClientKey) -> bool:
        """Whether the client's rest has not been ended yet."""
        rest = self._rests.get(client)
        return rest is not None and not rest.is_over

    def end(self, now_us: Micros) -> list[ClientKey]:
        """Ends the rests that are over, and forgets those long over; returns whose they are."""
        if now_us < self._next_us:
            return []
        ended = []
        for client, rest in list(self._rests.items()):
            if rest.until_us <= now_us and not rest.is_over:
                rest.is_over = True
                ended.append(client)
            if rest.known_until_us <= now_us:
                del self._rests[client]
                ended.append(client)
        self._next_us = min(
            (
                rest.known_until_us if rest.is_over else rest.until_us
                for rest in self._rests.values()
            ),
            default=0,
        )
        return ended

    def next_end_us(self) -> Micros | None:
        """When the next rest is over."""
        ends = [rest.until_us for rest in self._rests.values() if not rest.is_over]
        return min(ends, default=None)
