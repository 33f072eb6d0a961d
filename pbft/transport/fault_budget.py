"""How much nonsense one sender may send before its stream is closed (protocol.md section 14)."""

import time


class FaultBudget:
    """A token bucket: `burst` faults at once, refilled at `per_second`."""

    __slots__ = ("_burst", "_left", "_per_second", "_then")

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._left = self._burst
        self._then = time.monotonic()

    def spend(self) -> bool:
        """Takes one fault; False once the budget is used up."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._per_second)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
