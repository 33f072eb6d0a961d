"""What a replica saw and did lately, for `pbft top`, the console and the demos (operations.md
section 5).

A ring of fixed size. The event loop overwrites the oldest entry and never waits for a reader; a
reader that is too slow is told how many entries it missed. Nothing in it is needed for anything
but looking.
"""

import json
import time
from dataclasses import dataclass
from secrets import token_hex

from pbft.core.effects import Event
from pbft.types import Micros, ReplicaId, SequenceNumber, View

EVENTS_KEPT = 8_192
"""Some seconds under full load, about 2 MB, and as much again where somebody reads."""
EVENTS_PER_PAGE = 4_096
"""What one reading answers at most: below 1 MiB of JSON."""


@dataclass(slots=True)
class Entry:
    """One thing that happened. `value` and `detail` are as in pbft.core.effects.Event; of a vote,
    `value` is the signer and `detail` the begin of the digest in hexadecimal."""

    number: int
    at_us: Micros
    """Wall clock of this replica, microseconds since 1970."""
    event: str
    view: View
    sequence: SequenceNumber
    value: int
    detail: str

    _line: str = ""

    def to_json(self) -> str:
        """One line, without its end; spelled once, however many read it."""
        if not self._line:
            self._line = json.dumps(
                {
                    "number": self.number,
                    "at_us": self.at_us,
                    "event": self.event,
                    "view": self.view,
                    "sequence": self.sequence,
                    "value": self.value,
                    "detail": self.detail,
                }
            )
        return self._line


class EventStream:
    """One replica's ring. Written in the event loop, read in any thread, without a lock: both
    sides only exchange references to entries that nobody changes."""

    def __init__(self, replica: ReplicaId, capacity: int = EVENTS_KEPT) -> None:
        self._replica = replica
        self._run = token_hex(8)
        self._ring: list[Entry | None] = [None] * capacity
        self._next = 0

    def add(
        self, event: str, view: View, sequence: SequenceNumber, value: int, detail: str
    ) -> None:
        """Appends an entry; the oldest one goes. In the event loop."""
        now_us = time.time_ns() // 1_000
        entry = Entry(self._next, now_us, event, view, sequence, value, detail)
        self._ring[self._next % len(self._ring)] = entry
        self._next += 1

    def on_event(self, event: Event) -> None:
        """The core reports something. In the event loop."""
        self.add(event.name.value, event.view, event.sequence, event.value, event.detail)

    def read(self, since: int) -> tuple[list[Entry], int, int]:
        """Entries from number `since` on, at most EVENTS_PER_PAGE; the number to read from next;
        and how many of those asked for were overwritten. Any thread."""
        end = self._next
        begin = min(max(since, end - len(self._ring), 0), end)
        found: list[Entry] = []
        for number in range(begin, min(end, begin + EVENTS_PER_PAGE)):
            entry = self._ring[number % len(self._ring)]
            # The writer may have come round meanwhile.
            if entry is not None and entry.number == number:
                found.append(entry)
        following = min(end, begin + EVENTS_PER_PAGE)
        return found, following, max(0, following - max(since, 0) - len(found))

    def page(self, since: int) -> str:
        """The document of /events: a line about the page, then a line per entry, all JSON.

        `run` changes when the process starts again: numbers then begin at 0. Any thread.
        """
        entries, following, missed = self.read(since)
        head = {"replica": self._replica, "run": self._run, "next": following, "missed": missed}
        return "\n".join([json.dumps(head), *(entry.to_json() for entry in entries)]) + "\n"
