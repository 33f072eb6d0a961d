"""How much nonsense one sender may send before it is refused for a while (protocol.md section
14)."""

import time

FAULT_SECONDS = 0.001
"""What one fault may take of the event loop: one that takes longer counts as several."""


class FaultBudget:
    """A token bucket: `burst` faults at once, refilled at `per_second`. Whoever uses it up is to be
    refused for `throttle_seconds`, whatever streams it opens."""

    __slots__ = ("_burst", "_left", "_per_second", "_refused_until", "_then", "_throttle_seconds")

    def __init__(self, burst: int, per_second: float, throttle_seconds: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._throttle_seconds = throttle_seconds
        self._left = self._burst
        self._then = time.monotonic()
        self._refused_until = self._then

    def spend(self, seconds: float = 0.0) -> bool:
        """Takes one fault that took so long to find; False once the budget is used up."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._per_second)
        self._then = now
        if self._left < 1:
            self._refused_until = now + self._throttle_seconds
            return False
        self._left -= max(1.0, seconds / FAULT_SECONDS)
        return True

    @property
    def is_refused(self) -> bool:
        """Whether the budget was used up a short while ago."""
        return time.monotonic() < self._refused_until
