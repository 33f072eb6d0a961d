"""Virtual time: a heap of things that will happen, in one total, reproducible order."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from pbft.types import Micros

Action = Callable[..., None]


class Scheduler:
    """The clock of a simulated world. Time moves only from one event to the next.

    Events of one instant happen in the order in which they were scheduled, so nothing depends on
    hashes or on the real clock.
    """

    def __init__(self) -> None:
        self.now_us: Micros = 0
        """Virtual microseconds since the world began."""
        self.events = 0
        """How many events have happened."""
        self._heap: list[tuple[Micros, int, Action, tuple[Any, ...]]] = []
        self._scheduled = 0

    def at(self, time_us: Micros, action: Action, *arguments: Any) -> None:
        """Schedules a call; a time gone by means now, after what is already due."""
        self._scheduled += 1
        due_us = max(time_us, self.now_us)
        heappush(self._heap, (due_us, self._scheduled, action, arguments))

    def after(self, delay_us: Micros, action: Action, *arguments: Any) -> None:
        """Schedules a call `delay_us` from now."""
        self.at(self.now_us + delay_us, action, *arguments)

    def run_until(
        self, time_us: Micros, done: Callable[[], bool] | None = None, checked_every: int = 32
    ) -> bool:
        """Lets events happen up to and at `time_us`, or until `done` (asked every so many events).

        Returns whether `done` was seen true; the clock stands at the last event in that case, else
        at `time_us`.
        """
        heap = self._heap
        while heap and heap[0][0] <= time_us:
            self.now_us, _, action, arguments = heappop(heap)
            self.events += 1
            action(*arguments)
            if done is not None and self.events % checked_every == 0 and done():
                return True
        self.now_us = max(self.now_us, time_us)
        return done is not None and done()
