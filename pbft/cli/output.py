"""Data goes to stdout, all else to stderr; JSON is one document per command."""

import json
import sys
from collections.abc import Sequence
from textwrap import indent

import click

from pbft.errors import printable

FORMATS = ("table", "json")
ALIGNED_MAX = 100
"""A longer cell moves the rest of its line only: it would make every line as long as itself."""


def print_json(document: object) -> None:
    """Writes one JSON document and a newline to stdout."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


class JsonList:
    """One JSON document, a list whose items are written to stdout as they come: the same text as
    print_json has for all of them."""

    def __init__(self) -> None:
        self._is_empty = True

    def add(self, items: Sequence[object]) -> None:
        """Writes some more."""
        for item in items:
            sys.stdout.write("[\n" if self._is_empty else ",\n")
            sys.stdout.write(indent(json.dumps(item, indent=2), "  "))
            self._is_empty = False
        sys.stdout.flush()

    def end(self) -> None:
        """Writes the end; without it, the text is no JSON document."""
        sys.stdout.write("[]\n" if self._is_empty else "\n]\n")
        sys.stdout.flush()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, header: bool = True
) -> None:
    """Writes a table to stdout, without its header for rows that follow others; colours only on a
    terminal without NO_COLOR (rich sees to it)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [[show(cell) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        _write_lines([list(columns), *shown], 0 if header else 1)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in columns:
        table.add_column(column, overflow="fold", min_width=None if header else len(column))
    for row in shown:
        table.add_row(*map(Text, row))
    console.print(table, soft_wrap=False)


def _write_lines(lines: Sequence[Sequence[str]], begin: int) -> None:
    """One line per record, however long: a pipe has no width to break it at. Aligned by all lines,
    written from `begin` on."""
    from rich.cells import cell_len

    sizes = [[cell_len(cell) for cell in line] for line in lines]
    widths = [min(max(column), ALIGNED_MAX) for column in zip(*sizes, strict=True)]
    for line, its_sizes in list(zip(lines, sizes, strict=True))[begin:]:
        padded = [
            cell + " " * (width - size)
            for cell, width, size in zip(line, widths, its_sizes, strict=True)
        ]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    sys.stdout.flush()


def show(cell: object) -> str:
    """A cell as text: a missing value is a dash, a list its items, a truth value a word. It holds
    nothing that a terminal would obey, wherever it comes from."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, list | tuple):
        return ", ".join(show(item) for item in cell) or "-"
    return printable(str(cell))


def say(text: str) -> None:
    """Tells the person at the terminal something that is not data: one line on stderr."""
    click.echo(text, err=True)
