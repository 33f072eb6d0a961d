"""`pbft kv`: requests to the cluster, each answer vouched for by f + 1 replicas or a quorum."""

import base64
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pbft.cli.options import cluster_option, format_option, key_option, timeout_option
from pbft.cli.output import print_json, print_table

if TYPE_CHECKING:
    from pbft_client import Client, ReadConsistency
    from pbft_client.results import KeyValue

CONSISTENCIES = ("linearizable", "ordered", "stale")
Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


@click.group()
def kv() -> None:
    """Read and write keys. Keys and values are taken byte for byte as typed."""


def client_options(command: Command) -> Command:
    """The options of everything that talks to a cluster."""
    for option in (format_option, timeout_option, key_option, cluster_option):
        command = option(command)
    return command


consistency_option = click.option(
    "--consistency",
    type=click.Choice(CONSISTENCIES),
    default="linearizable",
    envvar="PBFT_CONSISTENCY",
    show_default=True,
    help="linearizable: the latest, one round trip; ordered: like a write; stale: may be old.",
)


@kv.command()
@click.argument("key")
@click.argument("value")
@client_options
def put(key: str, value: str, output: str, **connection: Any) -> None:
    """Set KEY to VALUE."""
    result = _call(lambda client: client.put(_bytes(key), _bytes(value)), **connection)
    if output == "json":
        print_json({"revision": result.revision, "sequence": result.execution.sequence})
    else:
        print_table(["revision", "sequence"], [[result.revision, result.execution.sequence]])


@kv.command()
@click.argument("key")
@consistency_option
@client_options
def get(key: str, consistency: "ReadConsistency", output: str, **connection: Any) -> None:
    """Print the value of KEY; an empty list if there is none."""
    found = _call(lambda client: client.get(_bytes(key), consistency=consistency), **connection)
    _print_pairs([] if found is None else [found], output)


@kv.command(name="del")
@click.argument("key")
@client_options
def delete(key: str, output: str, **connection: Any) -> None:
    """Delete KEY; says how many keys that deleted (0 or 1)."""
    result = _call(lambda client: client.delete(_bytes(key)), **connection)
    if output == "json":
        print_json({"deleted": result.deleted, "revision": result.revision})
    else:
        print_table(["deleted", "revision"], [[result.deleted, result.revision]])


@kv.command()
@click.argument("key")
@click.argument("value")
@click.option("--expect", metavar="VALUE", help="Swap only if KEY has this value now.")
@click.option("--expect-absent", is_flag=True, help="Swap only if KEY does not exist now.")
@client_options
def cas(
    key: str, value: str, expect: str | None, expect_absent: bool, output: str, **connection: Any
) -> None:
    """Set KEY to VALUE if it is what you expect. A refusal is an answer: see `succeeded`."""
    if (expect is None) != expect_absent:
        raise click.UsageError("say what KEY must be now: either --expect or --expect-absent")
    expected = None if expect is None else _bytes(expect)
    result = _call(
        lambda client: client.cas(_bytes(key), expect=expected, value=_bytes(value)), **connection
    )
    if output == "json":
        print_json({"succeeded": result.succeeded, "revision": result.revision})
    else:
        print_table(["succeeded", "revision"], [[result.succeeded, result.revision]])


@kv.command(name="range")
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many (0: all).")
@consistency_option
@client_options
def range_command(
    prefix: str, limit: int, consistency: "ReadConsistency", output: str, **connection: Any
) -> None:
    """Print the keys that begin with PREFIX, in order."""
    result = _call(
        lambda client: client.range(prefix=_bytes(prefix), limit=limit, consistency=consistency),
        **connection,
    )
    _print_pairs(list(result.items), output)


def _call(
    operation: Callable[["Client"], Awaitable[Result]],
    cluster_file: Path,
    key_file: Path | None,
    timeout_seconds: float,
) -> Result:
    """Connects, runs one operation, closes the session."""

    import asyncio

    from pbft_client import Client, ClientSettings

    settings = ClientSettings(timeout_seconds=timeout_seconds)

    async def run() -> Result:
        client = await Client.connect(
            cluster_file, key=key_file, timeout=timeout_seconds, settings=settings
        )
        async with client:
            return await operation(client)

    return asyncio.run(run())


def _bytes(text: str) -> bytes:
    """The bytes that were typed, UTF-8 or not."""
    return os.fsencode(text)


def _print_pairs(pairs: list["KeyValue"], output: str) -> None:
    if output == "json":
        print_json([_document(pair) for pair in pairs])
        return
    rows = [
        [
            _shown(pair.key),
            _shown(pair.value),
            pair.version,
            pair.create_revision,
            pair.mod_revision,
        ]
        for pair in pairs
    ]
    print_table(["key", "value", "version", "create_revision", "mod_revision"], rows)


def _document(pair: "KeyValue") -> dict[str, object]:
    return {
        **_field("key", pair.key),
        **_field("value", pair.value),
        "version": pair.version,
        "create_revision": pair.create_revision,
        "mod_revision": pair.mod_revision,
    }


def _field(name: str, data: bytes) -> dict[str, str]:
    """Text as it is; bytes that are no text under a name that says how they are written."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _shown(data: bytes) -> str:
    """Printable on any terminal: control characters and bytes that are no text are escaped."""
    text = data.decode(errors="backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
