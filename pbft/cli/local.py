"""`pbft up` and `pbft down`: a cluster of processes on this machine, the embedded default."""

from pathlib import Path

import click

from pbft.cli.failure import CommandFailed, TooFewReplicas
from pbft.cli.layout import DEFAULT_DIRECTORY, Layout
from pbft.cli.options import directory_option, format_option
from pbft.cli.output import print_json, say
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.quorum import MAX_REPLICAS, MIN_REPLICAS, Thresholds

REPLICAS_DEFAULT = 4
SERVING_SECONDS = 60.0
"""How long a cluster that was started has to answer its first request."""
ATTEMPT_SECONDS = 5.0
NO_WORDS = "(it wrote nothing)"
PROBE_KEY = b"\x00pbft/probe"
"""Deleted to see whether the cluster orders requests: it never exists, so nothing changes."""


@click.command()
@directory_option
@click.option(
    "--replicas",
    type=click.IntRange(MIN_REPLICAS, MAX_REPLICAS),
    default=None,
    help="n of a new cluster.  [default: 4]",
)
@format_option
def up(directory: Path, replicas: int | None, output: str) -> None:
    """Start a local cluster; return when it serves, and fail if a replica ended at once.

    Makes its files if DIR is new. Run again, it starts the replicas that are down.
    """
    cluster = open_or_create(directory, replicas)
    started = [replica for replica in cluster.replicas if cluster.start(replica)]
    wait_until_serving(cluster)
    _require_up(cluster, started)
    if output == "json":
        print_json({"directory": str(directory), "replicas": cluster.replicas, "started": started})
        return
    names = ", ".join(map(str, started)) or "none, all ran already"
    say(f"{directory}: {len(cluster.replicas)} replicas serve (started: {names})")
    say_next_steps(directory)


@click.command()
@directory_option
@format_option
def down(directory: Path, output: str) -> None:
    """Stop a local cluster cleanly; its data stays."""
    cluster = LocalCluster(directory)
    running = cluster.running()
    killed = cluster.stop(running)
    for replica in killed:
        say(f"replica {replica} did not stop in time and was killed (its data is safe)")
    if output == "json":
        print_json({"directory": str(directory), "stopped": running, "killed": killed})
        return
    names = ", ".join(map(str, running)) or "none ran"
    say(f"{directory}: stopped (replicas: {names}); `pbft up` starts it again")


def open_or_create(directory: Path, replicas: int | None) -> LocalCluster:
    """The local cluster in `directory`, made first (data directories included) if it is new.

    Raises CommandFailed if it has another number of replicas, or not all of them are here, and
    ConfigurationError if its cluster.toml cannot be used.
    """
    from pbft.cli.testnet import create_testnet
    from pbft_client.cluster_file import load_cluster_file

    if not Layout(directory).exists():
        try:
            create_testnet(directory, replicas or REPLICAS_DEFAULT, initialise_storage=True)
        except CommandFailed:
            # Another `pbft up` may have been quicker: its cluster is as good.
            if not Layout(directory).exists():
                raise
    cluster = LocalCluster(directory)
    # Before anything is started: with a wrong file nobody could tell whether the replicas serve.
    named = len(load_cluster_file(cluster.layout.cluster_file).replicas)
    if cluster.replicas != list(range(named)):
        found = ", ".join(map(str, cluster.replicas)) or "none"
        raise CommandFailed(
            f"{cluster.layout.cluster_file} names {named} replicas, 0 to {named - 1}, but the "
            f"replicas with a directory beside it are: {found}"
        )
    if replicas is not None and replicas != len(cluster.replicas):
        raise CommandFailed(
            f"{directory} holds a cluster of {len(cluster.replicas)} replicas, and their number "
            "never changes: leave --replicas out, or name another --dir"
        )
    return cluster


def wait_until_serving(cluster: LocalCluster, timeout_seconds: float = SERVING_SECONDS) -> None:
    """Returns when an ordered write through the client was acknowledged.

    Raises TooFewReplicas when the time is up or so many processes ended that no quorum is left.
    """
    import asyncio

    asyncio.run(until_serving(cluster, timeout_seconds))


async def until_serving(cluster: LocalCluster, timeout_seconds: float = SERVING_SECONDS) -> None:
    """The same for who has an event loop: gRPC complains when a process has one after another."""
    import asyncio

    probe = asyncio.create_task(_probe(cluster.layout, timeout_seconds))
    thresholds = Thresholds.of(len(cluster.replicas))
    try:
        while not probe.done():
            await asyncio.wait([probe], timeout=0.25)
            down = [one for one in cluster.replicas if cluster.state(one) is ProcessState.DOWN]
            if not probe.done() and len(cluster.replicas) - len(down) < thresholds.quorum:
                raise TooFewReplicas(_why_down(cluster, down))
        await probe
    finally:
        probe.cancel()
        await asyncio.wait([probe])


async def _probe(layout: Layout, timeout_seconds: float) -> None:
    """Tries an ordered write until one is acknowledged."""
    import asyncio

    from pbft_client import Client
    from pbft_client.errors import ClientError

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        try:
            client = await Client.connect(layout.cluster_file, timeout=ATTEMPT_SECONDS)
            async with client:
                await client.delete(PROBE_KEY, timeout=ATTEMPT_SECONDS)
            return
        except ClientError as error:
            if loop.time() > deadline:
                raise TooFewReplicas(
                    f"the cluster does not answer after {timeout_seconds:.0f} s: {error}; see "
                    f"{layout.log_file(0)} and its siblings"
                ) from error


def _require_up(cluster: LocalCluster, started: list[int]) -> None:
    """Raises CommandFailed if one of the replicas that were started has ended, with its last words.
    A quorum may serve while another one still looks at its disk and its ports."""
    ended = cluster.wait_until_up(started)
    if ended:
        words = [
            f"replica {one} ended: {(cluster.log_tail(one) or NO_WORDS).splitlines()[-1]}"
            for one in ended
        ]
        serving = f"{len(cluster.running())} of {len(cluster.replicas)} replicas serve"
        raise CommandFailed("; ".join([serving, *words]))


def _why_down(cluster: LocalCluster, down: list[int]) -> str:
    """What the replicas that ended have to say."""
    lines = [
        f"{len(down)} of {len(cluster.replicas)} replica processes are down, too many to serve"
    ]
    for replica in down:
        lines.append(f"--- replica {replica} ({cluster.layout.log_file(replica)}):")
        lines.append(cluster.log_tail(replica) or NO_WORDS)
    return "\n".join(lines)


def say_next_steps(directory: Path, command: str = "pbft") -> None:
    """Commands worth typing now, in words that work as they stand."""
    default = directory.absolute() == DEFAULT_DIRECTORY.absolute()
    where = "" if default else f" --cluster {Layout(directory).cluster_file}"
    place = "" if default else f" --dir {directory}"
    for text in (
        f"{command} kv put{where} greeting hello",
        f"{command} kv get{where} greeting",
        f"{command} cluster status{where}",
        f"{command} fault kill{place} 0",
        f"{command} up{place}",
        f"{command} down{place}",
    ):
        say(f"  {text}")
