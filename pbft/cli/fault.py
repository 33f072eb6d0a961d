"""`pbft fault`: hurting replicas. kill, start, freeze and resume act on the processes of `pbft up`;
list, set and clear make a replica misbehave that allows it (operations.md section 6).
"""

import signal
from pathlib import Path
from typing import Any

import click

from pbft.cli.admin import admin_addresses, get, post
from pbft.cli.failure import CommandFailed, TooFewReplicas
from pbft.cli.options import cluster_option, directory_option, format_option
from pbft.cli.output import print_json, print_table, say
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.untrusted import (
    LIST_MAX,
    TEXT_MAX,
    items_of,
    number_of,
    parse_json,
    text_of,
)
from pbft.errors import printable

BEHAVIOURS: dict[str, tuple[str, str]] = {
    "silent": ("", "says nothing to anybody"),
    "delay": ("ms=50", "holds what it sends for up to so long; messages overtake each other"),
    "drop": ("share=30", "loses so many percent of what it sends"),
    "partition": ("peers=I,I", "neither speaks to these peers nor hears them; all if left out"),
    "equivocate": ("split=half|weak|one", "as primary: different batches to different backups"),
    "wrong-reply": ("", "answers clients wrongly, under its own good signature"),
    "wrong-digest": ("", "votes for digests of nothing; as primary announces them"),
    "bad-signature": ("", "as primary: slips a badly signed request into each batch"),
    "replay": ("", "sends old messages again, its own and those of others"),
    "slow-primary": ("ms=200", "as primary: holds every proposal for up to so long"),
    "censor": ("CLIENT", "as primary: leaves out one client, by key or number; else the first"),
    "forge-view-change": ("", "sends forged and unfounded view-changes"),
    "withhold-body": ("", "as primary: tells digests to all, but bodies only to some"),
    "lying-checkpoint": ("", "vouches for states that are wrong or far ahead"),
    "corrupt-state": ("", "flips records of its state; it sees that at the next checkpoint"),
    "corrupt-disk": ("part=log|state", "at its next start its disk is found rotten"),
    "amnesia": ("part=log|state", "at its next start its disk has forgotten everything"),
}
"""Options with their defaults, and what it does, by name. Every behaviour that acts at once also
takes share=PERCENT: how many of its opportunities it takes."""
WHY_CHARACTERS = 1_000
"""Of the reason that a replica gives for a refusal."""

replica_argument = click.argument("replica", type=click.IntRange(min=0))


@click.group()
def fault() -> None:
    """Hurt a replica, or help it up again.

    kill, start, freeze and resume are for the processes of `pbft up`; list, set and clear are for
    every replica that was started with --allow-fault-injection.
    """


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
@click.option(
    "--rejoin", is_flag=True, help="Its data may be an older copy: it votes only after rejoining."
)
def start(replica: int, directory: Path, rejoin: bool) -> None:
    """Start the replica's process; it remembers its votes and catches up."""
    cluster = LocalCluster(directory)
    options = ["--allow-fault-injection", *(["--rejoin"] if rejoin else [])]
    if not cluster.start(replica, options):
        raise CommandFailed(f"replica {replica} runs already ({cluster.state(replica).value})")
    if cluster.wait_until_up([replica]):
        raise CommandFailed(f"replica {replica} ended at once:\n{cluster.log_tail(replica)}")
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


@fault.command(name="list")
@cluster_option
@format_option
def list_command(cluster_file: Path, output: str) -> None:
    """The behaviours that there are, and those that are in force."""
    reports = []
    for replica, address in enumerate(admin_addresses(cluster_file)):
        try:
            code, body = get(address, "/faults")
            reports.append(_answer(replica, code, body))
        except OSError:
            continue
        except CommandFailed as error:
            say(str(error))
    if not reports:
        raise TooFewReplicas("no replica answers: `pbft up` starts them")
    if output == "json":
        known = [
            {"behaviour": name, "options": options, "does": does}
            for name, (options, does) in BEHAVIOURS.items()
        ]
        print_json({"behaviours": known, "replicas": reports})
        return
    rows = [[name, options, does] for name, (options, does) in BEHAVIOURS.items()]
    print_table(["behaviour", "options", "what the replica does"], rows)
    say("")
    _print_reports(reports)


@fault.command(name="set")
@replica_argument
@click.argument("behaviour", type=click.Choice(list(BEHAVIOURS)), metavar="BEHAVIOUR")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@cluster_option
@format_option
def set_command(
    replica: int, behaviour: str, options: tuple[str, ...], cluster_file: Path, output: str
) -> None:
    """Make a replica misbehave from now on; `pbft fault list` shows how it can."""
    command: dict[str, object] = {
        "action": "set",
        "behaviour": behaviour,
        "options": read_options(behaviour, options, cluster_file),
    }
    report = send_command(cluster_file, replica, command)
    if output == "json":
        print_json(report)
        return
    waits = any(
        one["behaviour"] == behaviour and one["when"] == "next start" for one in report["faults"]
    )
    if waits:
        say(
            f"replica {replica}: {behaviour} is noted for its next start: "
            f"`pbft fault kill {replica}`, then `pbft fault start {replica}`"
        )
    else:
        say(f"replica {replica}: {behaviour}; `pbft fault clear {replica}` ends it")


@fault.command()
@replica_argument
@click.argument(
    "behaviour", type=click.Choice(list(BEHAVIOURS)), metavar="[BEHAVIOUR]", required=False
)
@cluster_option
@format_option
def clear(replica: int, behaviour: str | None, cluster_file: Path, output: str) -> None:
    """End one misbehaviour of a replica, or all of them."""
    report = send_command(cluster_file, replica, {"action": "clear", "behaviour": behaviour})
    if output == "json":
        print_json(report)
    else:
        say(f"replica {replica}: {behaviour or 'every fault'} was ended")


def send_command(cluster_file: Path, replica: int, command: dict[str, object]) -> dict[str, Any]:
    """Has a replica carry out a command; returns its report. Raises CommandFailed, with what the
    replica said against it."""
    addresses = admin_addresses(cluster_file)
    if replica >= len(addresses):
        raise CommandFailed(f"there is no replica {replica}; there are 0 to {len(addresses) - 1}")
    try:
        code, body = post(cluster_file, replica, "/faults", command)
    except OSError as error:
        raise CommandFailed(f"replica {replica} does not answer: {error}") from error
    return _answer(replica, code, body)


def read_options(behaviour: str, texts: tuple[str, ...], cluster_file: Path) -> dict[str, str]:
    """KEY=VALUE arguments by key; `censor` also takes a client by itself. Raises UsageError."""
    options: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator and behaviour == "censor":
            key, value = "client", text
        elif not key or not separator:
            raise click.UsageError(f"{text!r} is not KEY=VALUE")
        if key in options:
            raise click.UsageError(f"{key} is given twice")
        options[key] = value
    client = options.get("client", "")
    if behaviour == "censor" and client.isdecimal() and len(client) < 10:
        options["client"] = _client_key(int(client), cluster_file)
    return options


def _client_key(number: int, cluster_file: Path) -> str:
    """The public key of a client that `pbft testnet init` made, in hexadecimal."""
    from pbft.cli.layout import Layout
    from pbft.crypto.keys import load_key_pair

    return load_key_pair(Layout(cluster_file.parent).client_key_file(number)).public.hex()


def _answer(replica: int, code: int, body: bytes) -> dict[str, Any]:
    """The report that a replica answered with. Raises CommandFailed if it refused, or answered
    with something else."""
    try:
        document = parse_json(body)
    except ValueError:
        document = None
    if code != 200 or not isinstance(document, dict):
        why = document.get("error") if isinstance(document, dict) else None
        told = printable(why[:WHY_CHARACTERS]) if isinstance(why, str) else ""
        raise CommandFailed(f"replica {replica}: {told or f'HTTP status {code}'}")
    faults = [_fault(one) for one in items_of(document, "faults") or () if isinstance(one, dict)]
    return {"replica": replica, "allowed": document.get("allowed") is True, "faults": faults}


def _fault(document: dict[str, Any]) -> dict[str, Any]:
    """One fault of a report, its fields of the right types."""
    options = document.get("options")
    if not isinstance(options, dict):
        options = {}
    return {
        "behaviour": text_of(document, "behaviour"),
        "options": {
            printable(name[:TEXT_MAX]): text_of(options, name) for name in list(options)[:LIST_MAX]
        },
        "when": text_of(document, "when"),
        "acted": number_of(document, "acted"),
    }


def _print_reports(reports: list[dict[str, Any]]) -> None:
    rows: list[list[object]] = []
    for report in reports:
        faults = report["faults"] or [None]
        for one in faults:
            begin = [report["replica"], report["allowed"]]
            if one is None:
                rows.append([*begin, None, None, None, None])
            else:
                options = ", ".join(f"{key}={value}" for key, value in one["options"].items())
                rows.append([*begin, one["behaviour"], options, one["when"], one["acted"]])
    print_table(["replica", "allowed", "in force", "options", "when", "acted"], rows)
