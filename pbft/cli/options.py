"""Options that several commands share, so that they are spelled and explained alike."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pbft.cli.layout import DEFAULT_CLUSTER_FILE, DEFAULT_DIRECTORY
from pbft.cli.output import FORMATS

Command = TypeVar("Command", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A time above 0 that ends: `inf` and `nan` are numbers too, but no clock gets there."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds. Raises BadParameter, as for any other wrong value."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds * 1e9):
            self.fail(f"{value} seconds are no finite number of nanoseconds.", param, ctx)
        return seconds


def format_option(command: Command) -> Command:
    """-w table|json"""
    return click.option(
        "-w",
        "--write-out",
        "output",
        type=click.Choice(FORMATS),
        default="table",
        envvar="PBFT_WRITE_OUT",
        show_default=True,
        help="How data is printed.",
    )(command)


def cluster_option(command: Command) -> Command:
    """--cluster FILE"""
    return click.option(
        "--cluster",
        "cluster_file",
        type=click.Path(path_type=Path),
        default=DEFAULT_CLUSTER_FILE,
        envvar="PBFT_CLUSTER",
        show_default=True,
        help="The cluster.toml that names the replicas.",
    )(command)


def key_option(command: Command) -> Command:
    """--key FILE"""
    return click.option(
        "--key",
        "key_file",
        type=click.Path(path_type=Path),
        default=None,
        envvar="PBFT_KEY",
        help="The client's private key.  [default: the one cluster.toml names]",
    )(command)


def timeout_option(command: Command) -> Command:
    """--timeout SECONDS"""
    return click.option(
        "--timeout",
        "timeout_seconds",
        type=Seconds(),
        default=10.0,
        envvar="PBFT_TIMEOUT",
        show_default=True,
        metavar="SECONDS",
        help="Give up after this long.",
    )(command)


def directory_option(command: Command) -> Command:
    """--dir DIR"""
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_DIRECTORY,
        envvar="PBFT_DIR",
        show_default=True,
        help="Where the local cluster lives.",
    )(command)
