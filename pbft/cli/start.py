"""`pbft start`: one replica in this process, until SIGTERM."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbft.cli.layout import Layout
from pbft.cli.output import say
from pbft.cli.storage import configuration_option

if TYPE_CHECKING:
    from pbft.node.config import NodeConfiguration


@click.command()
@configuration_option
@click.option(
    "--allow-fault-injection",
    is_flag=True,
    help="Let this replica be told to misbehave. Never in production.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Misbehave from the start, e.g. wrong-reply; needs --allow-fault-injection.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Plain text in place of TLS: for a network that is itself trusted.",
)
@click.option("--data", type=click.Path(), help="The data directory, in place of the file's.")
@click.option("--pipeline-depth", type=click.IntRange(min=1), help="In place of the file's.")
@click.option(
    "--rejoin",
    is_flag=True,
    help="The data directory may be an older copy: vote only after rejoining. For one start, "
    "never in a service's command.",
)
def start(
    configuration_file: Path,
    allow_fault_injection: bool,
    faults: tuple[str, ...],
    insecure: bool,
    data: str | None,
    pipeline_depth: int | None,
    rejoin: bool,
) -> None:
    """Run one replica. A flag wins over its PBFT_* variable, and that over the file."""
    flags: dict[str, str] = {}
    if allow_fault_injection:
        flags["allow_fault_injection"] = "true"
    if insecure:
        flags["insecure"] = "true"
    if faults:
        flags["faults"] = " ".join(faults)
    if data is not None:
        flags["data"] = data
    if pipeline_depth is not None:
        flags["pipeline_depth"] = str(pipeline_depth)

    from pbft.node.config import load_configuration
    from pbft.node.replica_node import run_replica

    configuration = load_configuration(configuration_file, flags)
    _require_private(configuration)
    if configuration.faults:
        say(f"replica {configuration.replica} will misbehave: {', '.join(configuration.faults)}")
    if configuration.insecure:
        say("warning: plain text, nothing but signatures tells who connects")
    run_replica(configuration, rejoin=rejoin)


def _require_private(configuration: "NodeConfiguration") -> None:
    """Raises ConfigurationError if the directory that `pbft testnet init` made for this replica
    alone is open to others. About any other directory it is not for this command to decide."""
    from pbft.crypto.keys import require_private_directory

    directory = configuration.key.parent
    if directory == Layout(directory.parent).replica_directory(configuration.replica):
        require_private_directory(directory)
