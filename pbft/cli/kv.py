"""`pbft kv`: requests to the cluster, each answer vouched for by f + 1 replicas or a quorum."""

import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pbft.cli.options import cluster_option, format_option, key_option, timeout_option
from pbft.cli.output import JsonList, print_json, print_table, say

if TYPE_CHECKING:
    from pbft_client import Client, ReadConsistency
    from pbft_client.results import KeyValue

CONSISTENCIES = ("linearizable", "ordered", "stale")
_PAIR_COLUMNS = ("key", "value", "version", "create_revision", "mod_revision")
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
    printer = _PairPrinter(output)
    printer.add([] if found is None else [found])
    printer.end()


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
@click.option(
    "--limit",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    help="At most so many, in one answer (0: all).",
)
@consistency_option
@client_options
def range_command(
    prefix: str, limit: int, consistency: "ReadConsistency", output: str, **connection: Any
) -> None:
    """Print the keys that begin with PREFIX, in order.

    Without --limit, what one answer cannot hold is read in pages, each printed when it is there
    (and its columns aligned by itself); --timeout is for each. They are one state of the store only
    if nothing was written meanwhile: the service keeps no older one. If a page fails, the exit code
    says so, and JSON has no end.
    """
    _call(
        lambda client: _print_range(client, _bytes(prefix), limit, consistency, output),
        **connection,
    )


async def _print_range(
    client: "Client", prefix: bytes, limit: int, consistency: "ReadConsistency", output: str
) -> None:
    from pbft.cli.pages import Pages

    printer = _PairPrinter(output)
    if limit:
        found = await client.range(prefix=prefix, limit=limit, consistency=consistency)
        printer.add(found.items)
    else:
        async for items in Pages(client, consistency).of(prefix):
            printer.add(items)
    printer.end()


def _call(
    operation: Callable[["Client"], Awaitable[Result]],
    cluster_file: Path,
    key_file: Path | None,
    timeout_seconds: float,
) -> Result:
    """Connects, runs one operation, closes the session. Says it if Ctrl-C leaves the outcome
    open."""

    import asyncio

    from pbft_client import Client, ClientSettings, may_take_effect

    settings = ClientSettings(timeout_seconds=timeout_seconds)

    async def run() -> Result:
        client = await Client.connect(
            cluster_file, key=key_file, timeout=timeout_seconds, settings=settings
        )
        async with client:
            try:
                return await operation(client)
            except asyncio.CancelledError as error:
                if may_take_effect(error):
                    say("the operation may have taken effect, or may still: read before retrying")
                raise

    return asyncio.run(run())


def _bytes(text: str) -> bytes:
    """The bytes that were typed, UTF-8 or not."""
    return os.fsencode(text)


class _PairPrinter:
    """Prints pairs as they come: one JSON list, or a table that is aligned page by page."""

    def __init__(self, output: str) -> None:
        self._json = JsonList() if output == "json" else None
        self._has_header = False

    def add(self, pairs: Sequence["KeyValue"]) -> None:
        """Prints some more."""
        if self._json is not None:
            self._json.add([_document(pair) for pair in pairs])
        elif pairs or not self._has_header:
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
            print_table(_PAIR_COLUMNS, rows, header=not self._has_header)
            self._has_header = True

    def end(self) -> None:
        """There are no more."""
        if self._json is not None:
            self._json.end()


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
