"""The command line as a whole: what it imports, its exit codes, where its output goes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pbft.cli import exit_codes
from pbft.cli.failure import CommandFailed, TooFewReplicas, describe_failure
from pbft.cli.main import COMMANDS, cli, run
from pbft.errors import ConfigurationError

HEAVY = (
    "asyncio",
    "grpc",
    "nacl",
    "google.protobuf",
    "lmdb",
    "uvloop",
    "rich",
    "prometheus_client",
)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pbft.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "Usage: pbft" in done.stdout


def test_help_lists_every_command_that_is_meant_for_people(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS if name != "main-job")
    assert "main-job" not in shown


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == exit_codes.OK
    assert f"Usage: pbft {name}" in capsys.readouterr().out


def options_of(command: click.Command) -> Iterator[click.Parameter]:
    """Those of the command and of all below it."""
    yield from command.params
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from options_of(below)


def test_no_option_takes_a_number_that_is_not_finite() -> None:
    numbers = [one for one in options_of(cli) if isinstance(one.type, type(click.FLOAT))]
    assert {one.name for one in numbers} == {"timeout_seconds", "duration", "seconds"}
    for option in numbers:
        for text in ("inf", "nan", "1e303", "0"):
            with pytest.raises(click.BadParameter):
                option.type.convert(text, option, None)
        assert option.type.convert("1e9", option, None) == 1e9


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["kv", "put", "key"], ["cluster", "status", "-w", "xml"], ["up", "x"]],
)
def test_wrong_usage_is_exit_code_2_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == exit_codes.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err or "Usage" in captured.err


def test_a_missing_cluster_is_an_error_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "cluster.toml"
    assert run(["cluster", "status", "--cluster", str(missing), "-w", "json"]) == exit_codes.ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "pbft up" in captured.err
    assert "Traceback" not in captured.err


def test_the_environment_names_the_cluster_and_a_flag_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PBFT_CLUSTER", str(tmp_path / "environment.toml"))
    assert run(["cluster", "status"]) == exit_codes.ERROR
    assert "environment.toml" in capsys.readouterr().err
    assert run(["cluster", "status", "--cluster", str(tmp_path / "flag.toml")]) == exit_codes.ERROR
    assert "flag.toml" in capsys.readouterr().err


def test_failures_have_their_exit_codes_and_bugs_have_none() -> None:
    assert describe_failure(CommandFailed("no")) == (exit_codes.ERROR, "no")
    assert describe_failure(TooFewReplicas("no")) == (exit_codes.TOO_FEW_REPLICAS, "no")
    assert describe_failure(ConfigurationError("no")) == (exit_codes.ERROR, "no")
    assert describe_failure(PermissionError("no")) == (exit_codes.ERROR, "no")
    assert describe_failure(KeyError("a bug")) is None


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("pbft.cli.cluster.admin_addresses", broken)
    with pytest.raises(AssertionError, match="ours"):
        run(["cluster", "status"])


def run_in_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line in which $PBFT is the command."""
    return subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PBFT": f"{sys.executable} -m pbft.cli.main", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["cluster status -w json", "cluster status", "--version"])
def test_a_closed_standard_output_is_an_error(command: str, tmp_path: Path) -> None:
    done = run_in_shell(f"$PBFT {command} >&-", PBFT_CLUSTER=str(tmp_path / "none"))
    assert done.returncode == exit_codes.ERROR
    assert done.stderr.startswith("error: standard output is closed")
    assert done.stderr.count("\n") == 1
    assert run_in_shell(f"$PBFT {command} >&- 2>&-").returncode == exit_codes.ERROR


def test_what_the_encoding_lacks_is_printed_in_escapes() -> None:
    table = "output.print_table(['value'], [['\\u00e9\\u20ac']])"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from pbft.cli import main, output; main.prepare_output(); {table}",
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["value", "\\xe9\\u20ac"]
