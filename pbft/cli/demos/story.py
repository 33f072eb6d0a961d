"""What every demo does: tell, draw, say why, and check what it claims."""

import shutil
import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbft.cli.demos.diagram import WIDTH_MAX, WIDTH_MIN, Diagram
from pbft.cli.output import show

if TYPE_CHECKING:
    from pbft.cli.supervisor import LocalCluster


@dataclass(frozen=True, slots=True)
class Check:
    """Something that a demo claims, what was found, and whether it held."""

    demo: str
    claim: str
    outcome: str
    held: bool


class Story:
    """Tells one demo after the other, on stdout or (when data goes there) on stderr."""

    def __init__(self, *, to_stderr: bool = False, width: int | None = None) -> None:
        """`width`: of the pictures; by default that of the terminal, 80 to 120 columns."""
        from rich.console import Console

        columns = shutil.get_terminal_size().columns if width is None else width
        self.width = min(max(columns, WIDTH_MIN), WIDTH_MAX)
        self.checks: list[Check] = []
        self._demo = ""
        # Colours only on a terminal without NO_COLOR: rich sees to it.
        self._console = Console(
            file=sys.stderr if to_stderr else sys.stdout,
            width=self.width,
            highlight=False,
            markup=False,
        )

    def begin(self, name: str, title: str) -> None:
        """The next demo."""
        self._demo = name
        self._print(f"\n━━ {title} " + "━" * max(0, self.width - len(title) - 4), "bold cyan")

    def say(self, text: str) -> None:
        """A paragraph."""
        self._print("\n" + textwrap.fill(" ".join(text.split()), self.width))

    def draw(self, diagram: Diagram) -> None:
        """A message diagram."""
        self._print("")
        for line in diagram.render(self.width):
            self._print(line.text, line.style)

    def saw(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """What each replica saw, as a table."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(show(cell)) for cell in row))
        self._print("")
        self._console.print(table)

    def why(self, text: str) -> None:
        """Why it had to come out like that."""
        self.say("Why: " + text)

    def check(self, claim: str, outcome: str, held: bool) -> None:
        """Puts a claim to the test."""
        self.checks.append(Check(self._demo, claim, outcome, held))

    def end(self) -> bool:
        """Prints what was checked in this demo; whether all of it held. Nothing checked is nothing
        shown, and does not hold."""
        mine = [check for check in self.checks if check.demo == self._demo]
        self._print("\nWhat was checked:", "bold")
        for check in mine:
            mark, style = ("✓", "green") if check.held else ("✗", "bold red")
            text = textwrap.fill(
                f"{check.claim}: {check.outcome}", self.width - 4, subsequent_indent="    "
            )
            self._print(f"  {mark} {text}", style)
        return bool(mine) and all(check.held for check in mine)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style or None, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Demo:
    """A scenario: played on a local cluster of processes, or in the simulator."""

    name: str
    title: str
    on_cluster: "Callable[[Story, LocalCluster], Awaitable[None]] | None" = None
    simulated: Callable[[Story], None] | None = None

    @property
    def where(self) -> str:
        """Where it is played."""
        return "simulator" if self.on_cluster is None else "local cluster"


def commas(items: Sequence[object]) -> str:
    """For tables: 0 1 2."""
    return " ".join(map(str, items)) or "-"
