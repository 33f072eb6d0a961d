"""Message diagrams: a lane per participant, time downwards, a row per multicast."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

GUTTER = 13
"""Columns on the left, for what happens to a lane."""
WIDTH_MIN = 80
WIDTH_MAX = 120
LANE, GONE = "│", "┆"
SENDER, TRAITOR = "●", "◆"


@dataclass(frozen=True, slots=True)
class Phase:
    """From here on messages belong to this phase."""

    title: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one or more receivers; `label` tells apart what they were told."""

    sender: int
    receivers: tuple[int, ...]
    label: str = ""
    lost: tuple[int, ...] = ()
    """Those whom it was meant for and does not reach."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happens at these lanes at one time."""

    places: tuple[int, ...]
    text: str
    symbol: str = "■"
    ends: bool = False
    """The lanes end here: their replicas are down."""
    begins: bool = False
    """They are back."""


Row: TypeAlias = Phase | Message | Mark


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the picture and how it is to look (a style of rich)."""

    text: str
    style: str = ""


@dataclass(slots=True)
class Diagram:
    """Participants by their place, and what passed between them."""

    names: Sequence[str]
    traitors: frozenset[int] = frozenset()
    rows: list[Row] = field(default_factory=list)

    def render(self, width: int) -> list[Line]:
        """The picture, at most `width` columns (80 to 120) wide."""
        width = min(max(width, WIDTH_MIN), WIDTH_MAX)
        step = (width - GUTTER) // len(self.names)
        columns = [GUTTER + step * place + step // 2 for place in range(len(self.names))]
        canvas = _Canvas(columns, self.traitors, width)
        lines = [self._header(columns, step)]
        for row in self.rows:
            match row:
                case Phase():
                    lines.append(Line(canvas.phase(row), "cyan"))
                case Message():
                    guilty = row.sender in self.traitors
                    lines.append(Line(canvas.message(row), "red" if guilty else ""))
                case Mark():
                    lines.append(Line(canvas.mark(row), "bold"))
        return lines

    def _header(self, columns: Sequence[int], step: int) -> Line:
        text = ""
        for place, name in enumerate(self.names):
            shown = f"{name}*" if place in self.traitors else name
            shown = shown[: step - 1]
            text = text.ljust(columns[place] - len(shown) // 2) + shown
        return Line(text, "bold")


class _Canvas:
    """Draws single lines; remembers which lanes have ended."""

    def __init__(self, columns: Sequence[int], traitors: frozenset[int], width: int) -> None:
        self._columns = columns
        self._traitors = traitors
        self._width = width
        self._gone: set[int] = set()

    def _blank(self, text: str = "") -> list[str]:
        characters = list(text.ljust(self._width))
        for place, column in enumerate(self._columns):
            characters[column] = GONE if place in self._gone else LANE
        return characters

    def phase(self, phase: Phase) -> str:
        """A dotted line with the name of the phase."""
        characters = list(f"{phase.title} ".ljust(self._columns[-1] + 1, "┄"))
        for place, column in enumerate(self._columns):
            if column > len(phase.title):
                characters[column] = GONE if place in self._gone else "┼"
        return "".join(characters)

    def message(self, message: Message) -> str:
        """A line from the sender through all lanes on the way to the receivers."""
        characters = self._blank()
        begin = self._columns[message.sender]
        ends = [self._columns[place] for place in (*message.receivers, *message.lost)]
        for column in range(min(begin, *ends), max(begin, *ends) + 1):
            characters[column] = "┼" if characters[column] == LANE else "─"
        for place in message.receivers:
            characters[self._columns[place]] = "▶" if self._columns[place] > begin else "◀"
        for place in message.lost:
            characters[self._columns[place]] = "✗"
        characters[begin] = TRAITOR if message.sender in self._traitors else SENDER
        rightwards = max(ends) > begin
        room = self._columns[1] - self._columns[0] - 4
        label = message.label[:room]
        at = begin + 2 if rightwards else begin - 1 - len(label)
        characters[at : at + len(label)] = label
        return "".join(characters).rstrip()

    def mark(self, mark: Mark) -> str:
        """Symbols at the lanes; what they mean stands on the left."""
        characters = self._blank(mark.text[: GUTTER - 1])
        if mark.ends:
            self._gone.update(mark.places)
        if mark.begins:
            self._gone.difference_update(mark.places)
        for place in mark.places:
            characters[self._columns[place]] = mark.symbol
        return "".join(characters).rstrip()
