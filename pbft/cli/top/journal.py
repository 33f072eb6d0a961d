"""What happened, one line per happening however many replicas tell of it."""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

LINES_KEPT = 200


class Tone(Enum):
    """How much a line should catch the eye."""

    QUIET = "quiet"
    GOOD = "good"
    NOTABLE = "notable"
    BAD = "bad"


@dataclass(slots=True)
class Line:
    """One happening."""

    at_us: int
    """When it was first told, wall clock."""
    tone: Tone
    text: str
    replicas: set[int] = field(default_factory=set)
    """Who tells it."""


class Journal:
    """The last lines. A line that comes again (same key) gathers its tellers and stays where it
    is."""

    def __init__(self) -> None:
        self._lines: OrderedDict[tuple[object, ...], Line] = OrderedDict()

    def tell(
        self,
        key: tuple[object, ...],
        at_us: int,
        replica: int,
        tone: Tone,
        text: str,
    ) -> None:
        """A replica tells of something, or something was seen of it."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(at_us, tone, text)
            if len(self._lines) > LINES_KEPT:
                self._lines.popitem(last=False)
        line.at_us = min(line.at_us, at_us)
        line.replicas.add(replica)

    def forget(self, key: tuple[object, ...]) -> None:
        """Drops a line that is no longer news."""
        self._lines.pop(key, None)

    def newest(self, count: int) -> list[Line]:
        """The last lines, the newest first."""
        return sorted(self._lines.values(), key=lambda line: -line.at_us)[:count]
