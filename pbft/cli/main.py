"""Entry of the `pbft` command: finds the noun, runs it, turns errors into exit codes."""

import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence

import click

from pbft.cli import exit_codes
from pbft.cli.failure import CommandFailed, describe_failure

COMMANDS: Mapping[str, str] = {
    "testnet": "pbft.cli.testnet:testnet",
    "storage": "pbft.cli.storage:storage",
    "start": "pbft.cli.start:start",
    "up": "pbft.cli.local:up",
    "down": "pbft.cli.local:down",
    "kv": "pbft.cli.kv:kv",
    "cluster": "pbft.cli.cluster:cluster",
    "fault": "pbft.cli.fault:fault",
    "log": "pbft.cli.log:log",
    "demo": "pbft.cli.demo:demo",
    "sim": "pbft.cli.sim:sim",
    "bench": "pbft.cli.bench:bench",
    "top": "pbft.cli.top:top",
    "main-job": "pbft.cli.main_job:main_job",
}
"""Where each command is defined: only what is asked for gets imported."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which somebody new meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of the command; None if there is no such command."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pbft", prog_name="pbft")
def cli() -> None:
    """A Byzantine-fault-tolerant key-value cluster.

    Start one on this machine with `pbft up`, talk to it with `pbft kv`, look at it with
    `pbft cluster status`, and hurt it with `pbft fault`.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: that of the process) and returns its exit code."""
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="pbft",
            standalone_mode=False,
        )
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return exit_codes.USAGE
    except click.ClickException as error:
        error.show()
        return exit_codes.ERROR
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.ERROR
    except Exception as error:
        described = describe_failure(error)
        if described is None:
            raise
        code, text = described
        click.echo(f"error: {text}", err=True)
    return code if isinstance(code, int) else exit_codes.OK


def prepare_output() -> None:
    """Lets anything be printed: what the encoding lacks, in escapes. Raises CommandFailed if
    standard output was closed: the next file to be opened would take its place."""
    if sys.stdout is None:
        raise CommandFailed("standard output is closed: name a file, or /dev/null, for it")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """The console script."""
    try:
        prepare_output()
    except CommandFailed as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(run())


if __name__ == "__main__":
    main()
