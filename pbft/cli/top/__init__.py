"""`pbft top`: a live view of a cluster in the terminal.

`source` looks at the replicas, `model` puts together what they say, `paint` makes text of it, `app`
is the terminal application. Textual takes long to import: only the command, when it runs, does.
"""

import sys
from pathlib import Path

import click

from pbft.cli.failure import CommandFailed
from pbft.cli.options import cluster_option


@click.command()
@cluster_option
def top(cluster_file: Path) -> None:
    """Watch a cluster live; hurt its replicas with a key.

    Shows each replica's card, sequence numbers on their way through the phases, view changes, and
    evidence. Keys to kill, start, freeze and resume work where `pbft up` runs the replicas.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandFailed("pbft top needs a terminal; scripts have pbft cluster status -w json")
    from pbft.cli.top.app import TopApp
    from pbft.cli.top.source import LiveSource

    TopApp(LiveSource(cluster_file)).run()
