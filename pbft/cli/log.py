"""`pbft log inspect`: what a replica has on disk."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from pbft.cli import exit_codes
from pbft.cli.failure import CommandFailed
from pbft.cli.options import format_option
from pbft.cli.output import print_json, print_table, say

READER = (sys.executable, "-P", "-m", "pbft.storage.inspection")
"""Another process: reading a damaged file may kill it."""


@click.group()
def log() -> None:
    """What a replica has on disk."""


@log.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@format_option
def inspect(directory: Path, output: str) -> int:
    """Show what the data directory DIRECTORY holds, and whether it is sound.

    Changes nothing; the replica may be running. Exit code 4 if something is damaged.
    """
    document = read(directory)
    if output == "json":
        print_json(document)
    else:
        print_table(["what", "value"], rows(document))
    for text in document["corruption"]:
        say(f"damaged: {text}")
    return exit_codes.VERIFICATION_FAILED if document["corruption"] else exit_codes.OK


def read(directory: Path) -> dict[str, Any]:
    """The inspection as a JSON document. Raises CommandFailed if it is no data directory."""
    done = subprocess.run([*READER, str(directory)], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return {
            "directory": str(directory),
            "corruption": [f"the files cannot be walked: reading them ends in {name}"],
        }
    if done.returncode > 0:
        raise CommandFailed(f"{directory} cannot be read: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    if "error" in document:
        raise CommandFailed(document["error"])
    return document


def rows(document: dict[str, Any]) -> list[list[object]]:
    """One line per fact; damage is told apart from the facts."""
    found: list[list[object]] = []
    for name, value in document.items():
        if name == "corruption":
            continue
        found.append([name.replace("_", " "), _slots(value) if isinstance(value, dict) else value])
    return found


def _slots(value: dict[str, Any]) -> str:
    span = f" (sequences {value['first']} to {value['last']})" if value["count"] else ""
    return f"{value['count']}{span}"
