"""What healing pushed to a peer lately, and when it may push it again (protocol.md section 8).

A peer that is busy takes longer than an interval to receive what it was pushed, and says meanwhile
that it lacks it still. Were it sent again each time, it would be busier yet, and what it waits for
would find the queue to it full.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from pbft.limits import KIB
from pbft.types import Micros

PushKey: TypeAlias = tuple[str, int | bytes]
"""What was pushed: ("decided", n), ("body", d), ("proposal v", n), ("view_change v", i) ..."""

DOUBLINGS_MAX = 3
SMALL_BYTES = 16 * KIB
"""What is no larger keeps nobody busy."""


@dataclass(slots=True)
class _Push:
    again_us: Micros
    """Not again before this."""
    doublings: int


@dataclass(slots=True)
class Pushes:
    """To one peer."""

    items: dict[PushKey, _Push] = field(default_factory=dict)

    def allows(self, key: PushKey, now_us: Micros) -> bool:
        """Whether this may go to the peer now."""
        known = self.items.get(key)
        return known is None or now_us >= known.again_us

    def note(self, key: PushKey, size: int, now_us: Micros, interval_us: Micros) -> None:
        """It goes now; again after an interval at the earliest, and what is large then after twice
        as long, up to eight intervals."""
        known = self.items.get(key)
        if known is None:
            self.items[key] = _Push(now_us + interval_us, 0)
        elif now_us >= known.again_us:
            known.doublings = min(known.doublings + (size > SMALL_BYTES), DOUBLINGS_MAX)
            known.again_us = now_us + (interval_us << known.doublings)

    def forget_old(self, now_us: Micros, interval_us: Micros) -> None:
        """Forgets what the peer did not ask for again in as long as it had to wait last."""
        self.items = {
            key: known
            for key, known in self.items.items()
            if now_us < known.again_us + (interval_us << known.doublings)
        }
