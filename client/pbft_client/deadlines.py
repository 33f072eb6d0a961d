"""Deadlines of calls: thousands of them cost one timer, and a call that ends in time leaves no
trace.

A timer per call would cost more than everything else about the call. Deadlines are rounded up to
slots that are at most 1/64 of the timeout long, so one timeout has at most 129 slots with calls in
them at any time.
"""

import heapq
from typing import Generic, TypeVar

from pbft.types import Micros
from pbft_client.errors import InvalidCall

_SLOT_BITS_MIN = 13
"""Slots of about 8 ms at least."""
_PRECISION_BITS = 7

Item = TypeVar("Item")


def timeout_us(seconds: float) -> Micros:
    """A timeout in microseconds; 0 for what is below. Raises InvalidCall if it is no finite
    number."""
    try:
        return max(0, int(seconds * 1_000_000))
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidCall(f"timeout must be a finite number of seconds, not {seconds}") from error


class Deadlines(Generic[Item]):
    """A set of hashable items, each with a deadline in microseconds of one monotonic clock."""

    def __init__(self) -> None:
        self._slots: dict[Micros, set[Item]] = {}
        self._order: list[Micros] = []

    def add(self, item: Item, now_us: Micros, timeout_us: Micros) -> Micros:
        """Adds the item; returns the slot, which `discard` needs."""
        bits = max(_SLOT_BITS_MIN, timeout_us.bit_length() - _PRECISION_BITS)
        slot = -(-(now_us + timeout_us) >> bits) << bits
        items = self._slots.get(slot)
        if items is None:
            items = self._slots[slot] = set()
            heapq.heappush(self._order, slot)
        items.add(item)
        return slot

    def discard(self, item: Item, slot: Micros) -> None:
        """Takes the item out; nothing happens if it is not there."""
        items = self._slots.get(slot)
        if items is not None:
            items.discard(item)

    def expire(self, now_us: Micros) -> list[Item]:
        """Takes out the items whose deadline has passed."""
        expired: list[Item] = []
        while self._order and self._order[0] <= now_us:
            expired += self._slots.pop(heapq.heappop(self._order))
        return expired

    def take_all(self) -> list[Item]:
        """Takes out everything."""
        items = [item for slot in self._slots.values() for item in slot]
        self._slots.clear()
        self._order.clear()
        return items

    def next_us(self) -> Micros | None:
        """The earliest deadline, None if there is none."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] if self._order else None
