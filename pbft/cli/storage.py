"""`pbft storage init`: a replica's data directory, made once and never by itself."""

from pathlib import Path

import click

from pbft.cli.output import say

configuration_option = click.option(
    "--config",
    "configuration_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    envvar="PBFT_CONFIG",
    help="The replica's TOML.",
)


@click.group()
def storage() -> None:
    """A replica's data directory."""


@storage.command()
@configuration_option
def init(configuration_file: Path) -> None:
    """Make an empty data directory. `pbft start` refuses to make one by itself: a replica that
    lost its memory must not vote as if it had never voted."""
    from pbft.genesis import parse_genesis
    from pbft.node.config import load_configuration
    from pbft.storage.directory import create

    configuration = load_configuration(configuration_file)
    genesis = parse_genesis(configuration.genesis.read_bytes())
    configuration.check_against(genesis)
    create(configuration.data, genesis.cluster_id, configuration.replica)
    say(f"{configuration.data}: an empty data directory for replica {configuration.replica}")
