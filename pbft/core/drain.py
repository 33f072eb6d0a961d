"""How much a replica lets wait: what it executes in half a timeout (protocol.md section 5).

Whatever waits for longer than a request's timer has the primary suspected, be it ever so honest.
So a pool that does not run empty takes no more than it lately drained in time; what it refuses, the
client sends again later.
"""

from pbft.messages import Request
from pbft.types import Micros

WORK_AT_FIRST = 8_192
"""So much waits at most while the pool runs empty now and then: how fast it is, is not known."""
WORK_MIN = 1_024
OPERATIONS_PER_WORK = 16
"""So many operations take as long as a request does beside."""
WINDOWS_PER_TIMEOUT = 4
"""The drain is measured over a quarter of the timeout ..."""
WINDOWS_WAITING = 2
"""... and what waits takes about so many of these. With less a pipeline over long links runs dry:
what is under way waits, too."""


def work_of(request: Request) -> int:
    """What ordering and executing a request is reckoned to take, in requests of one operation."""
    return 1 + len(request.operations) // OPERATIONS_PER_WORK


class DrainBound:
    """The work that a pool may hold; the times are those of one clock."""

    def __init__(self) -> None:
        self.work = WORK_AT_FIRST
        self._since_us: Micros | None = None
        self._drained = 0
        self._was_empty = True

    def note_empty(self) -> None:
        """Nothing waits that could be proposed."""
        self._was_empty = True

    def note_executed(self, work: int, now_us: Micros, timeout_us: Micros) -> None:
        """So much was executed. What passed since then is looked at when a window is
        full; one in which nothing was executed for long, as in a view change, says nothing."""
        window_us = timeout_us // WINDOWS_PER_TIMEOUT
        if self._since_us is not None and now_us >= self._since_us + window_us:
            took_us = now_us - self._since_us
            if self._was_empty:
                self.work = WORK_AT_FIRST
            elif took_us < 2 * window_us:
                rate = WINDOWS_WAITING * self._drained * window_us // took_us
                self.work = max(WORK_MIN, rate)
            self._since_us = None
        if self._since_us is None:
            self._since_us, self._drained, self._was_empty = now_us, 0, False
        self._drained += work
