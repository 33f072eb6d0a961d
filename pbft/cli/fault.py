"""`pbft fault kill|start|freeze|resume`: hurting the replicas of a `pbft up` cluster."""

import signal
from pathlib import Path

import click

from pbft.cli.failure import CommandFailed
from pbft.cli.options import directory_option
from pbft.cli.output import say
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster

replica_argument = click.argument("replica", type=click.IntRange(min=0))


@click.group()
def fault() -> None:
    """Hurt one replica of a cluster that `pbft up` started, or help it up again."""


@fault.command()
@replica_argument
@directory_option
def kill(replica: int, directory: Path) -> None:
    """End the replica's process at once (kill -9)."""
    if not LocalCluster(directory).kill(replica):
        raise CommandFailed(f"replica {replica} is down already")
    say(f"replica {replica} was killed; `pbft fault start {replica}` starts it again")


@fault.command()
@replica_argument
@directory_option
def start(replica: int, directory: Path) -> None:
    """Start the replica's process; it remembers its votes and catches up."""
    cluster = LocalCluster(directory)
    if not cluster.start(replica):
        raise CommandFailed(f"replica {replica} runs already ({cluster.state(replica).value})")
    say(f"replica {replica} was started")


@fault.command()
@replica_argument
@directory_option
def freeze(replica: int, directory: Path) -> None:
    """Stop the replica's process in its tracks (SIGSTOP): its connections stay open."""
    _signal(LocalCluster(directory), replica, signal.SIGSTOP)
    say(f"replica {replica} is frozen; `pbft fault resume {replica}` lets it go on")


@fault.command()
@replica_argument
@directory_option
def resume(replica: int, directory: Path) -> None:
    """Let a frozen replica go on."""
    cluster = LocalCluster(directory)
    if cluster.state(replica) is ProcessState.RUNNING:
        raise CommandFailed(f"replica {replica} is not frozen")
    _signal(cluster, replica, signal.SIGCONT)
    say(f"replica {replica} goes on")


def _signal(cluster: LocalCluster, replica: int, number: int) -> None:
    if not cluster.signal(replica, number):
        raise CommandFailed(f"replica {replica} is down: `pbft fault start {replica}` starts it")
