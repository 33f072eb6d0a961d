"""`pbft demo`: a textbook on PBFT, told by the real protocol (operations.md section 6)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbft.cli.options import format_option
from pbft.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pbft.cli.demos.story import Demo, Story
    from pbft.cli.supervisor import LocalCluster

DEMOS: dict[str, tuple[str, str]] = {
    "normal-case": ("live:normal_case", "Three phases, and f + 1 matching replies"),
    "crashed-backup": ("live:crashed_backup", "A backup crashes"),
    "crashed-primary": ("live:crashed_primary", "The primary crashes: a view change"),
    "lying-replica": ("live:lying_replica", "A replica lies to the client"),
    "equivocating-primary": ("live:equivocating_primary", "The primary tells two stories"),
    "partition": ("live:partition", "The network parts, and heals"),
    "three-generals": ("simulated:three_generals", "Three generals, one of them a traitor"),
    "four-generals": ("simulated:four_generals", "Four generals, one of them a traitor"),
    "too-many-faults": ("simulated:too_many_faults", "More than f faults: what breaks"),
}
"""Where each demo is defined, and its title: only what is played gets imported."""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(DEMOS)), metavar="NAME...")
@click.option("--list", "is_list", is_flag=True, help="The demos that there are.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Play on the cluster there, and leave it up.  [default: a cluster of its own]",
)
@format_option
def demo(names: tuple[str, ...], is_list: bool, directory: Path | None, output: str) -> int:
    """Play scenarios of PBFT and check what they claim.

    Each draws who sent what to whom, tells what each replica saw and why it had to come out so.
    Exit code 1 if a claim does not hold.
    """
    if is_list:
        _print_list(output)
        return 0
    if not names:
        raise click.UsageError("name a demo; `pbft demo --list` shows them")

    import asyncio

    from pbft.cli.demos.story import Story

    story = Story(to_stderr=output == "json")
    held = asyncio.run(play([load(name) for name in names], story, directory))
    if output == "json":
        print_json([asdict(check) for check in story.checks])
    return 0 if held else 1


def load(name: str) -> "Demo":
    """The demo of this name."""
    import importlib

    from pbft.cli.demos.story import Demo

    target, title = DEMOS[name]
    module, function = target.split(":")
    scene = getattr(importlib.import_module(f"pbft.cli.demos.{module}"), function)
    if module == "live":
        from pbft.cli.demos.live import on_stage

        return Demo(name, title, on_cluster=on_stage(scene))
    return Demo(name, title, simulated=scene)


async def play(demos: "list[Demo]", story: "Story", directory: Path | None) -> bool:
    """Plays them one after the other, all on one event loop: gRPC complains when a process has one
    after another. Tells whether all claims of all of them held."""
    held = True
    with _cluster(directory, any(one.on_cluster for one in demos)) as cluster:
        for one in demos:
            story.begin(one.name, one.title)
            if one.simulated is not None:
                one.simulated(story)
            elif one.on_cluster is not None and cluster is not None:
                await one.on_cluster(story, cluster)
            held = story.end() and held
    return held


@contextmanager
def _cluster(directory: Path | None, is_needed: bool) -> "Iterator[LocalCluster | None]":
    """The cluster to play on: the named one, or one that is gone afterwards."""
    from pbft.cli.local import open_or_create

    if not is_needed:
        yield None
        return
    if directory is not None:
        yield open_or_create(directory, None)
        return
    with tempfile.TemporaryDirectory(prefix="pbft-demo-") as temporary:
        say("starting four replicas, each a process with its own disk")
        cluster = open_or_create(Path(temporary) / "cluster", None)
        try:
            yield cluster
        finally:
            cluster.stop(cluster.running())


def _print_list(output: str) -> None:
    rows = [
        [name, "local cluster" if target.startswith("live:") else "simulator", title]
        for name, (target, title) in DEMOS.items()
    ]
    columns = ["demo", "where", "what"]
    if output == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
