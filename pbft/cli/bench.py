"""`pbft bench`: operations per second, latency, and the CPU they cost."""

import resource
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbft.cli.failure import CommandFailed
from pbft.cli.layout import BENCH_CLIENTS_START, Layout
from pbft.cli.options import Seconds, cluster_option, format_option
from pbft.cli.output import print_json, print_table, say
from pbft.cli.supervisor import LocalCluster

if TYPE_CHECKING:
    from pbft.cli.load import Plan
    from pbft_client import Client

WORKLOADS = ("put", "get", "mixed")
OPERATION_SECONDS = 30.0


class Cpu:
    """CPU time of this process, and of the replicas if `pbft up` started them."""

    def __init__(self, cluster_file: Path) -> None:
        """Finds the replica processes beside the cluster file."""
        directory = cluster_file.absolute().parent
        self._replicas = LocalCluster(directory) if Layout(directory).replicas() else None
        self._start: tuple[float, float] | None = None

    def begin(self) -> None:
        """The measurement starts now."""
        self._start = self._now()

    def spent(self) -> dict[str, float | None]:
        """Seconds since `begin`; None for replicas that are not processes of this machine."""
        assert self._start is not None
        client, replicas = (
            round(now - then, 3) for now, then in zip(self._now(), self._start, strict=True)
        )
        known = self._replicas is not None and self._replicas.running()
        return {"client": client, "replicas": replicas if known else None}

    def _now(self) -> tuple[float, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        replicas = 0.0 if self._replicas is None else self._replicas.cpu_seconds()
        return own.ru_utime + own.ru_stime, replicas


@click.command()
@click.option("--workload", type=click.Choice(WORKLOADS), default="put", show_default=True)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Operations under way at any time, over all clients.",
)
@click.option(
    "--clients",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Client identities that the operations are spread over.",
)
@click.option(
    "--value-size", type=click.IntRange(min=0), default=100, show_default=True, metavar="BYTES"
)
@click.option(
    "--duration",
    type=Seconds(),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Measured after a short warm-up.",
)
@click.option(
    "--keys",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Keys that the operations are spread over.",
)
@cluster_option
@format_option
def bench(
    workload: str,
    in_flight: int,
    clients: int,
    value_size: int,
    duration: float,
    keys: int,
    cluster_file: Path,
    output: str,
) -> None:
    """Measure a cluster from this process. Only ratios taken in one run count: figures of
    different machines, or of a busy one, say little."""
    if clients > in_flight:
        raise click.UsageError("--clients cannot exceed --in-flight: some would have nothing to do")
    import uvloop

    from pbft.cli.load import Plan, Workload
    from pbft.garbage import collect_rarely

    plan = Plan(Workload(workload), in_flight, clients, value_size, duration, keys)
    collect_rarely()
    document = uvloop.run(measure(cluster_file, plan))
    for text in document.pop("first_errors"):
        say(f"failed: {text}")
    if output == "json":
        print_json(document)
    else:
        _print(document)
    if not document["operations"]:
        raise CommandFailed("not one operation was acknowledged")


def bench_keys(cluster_file: Path, clients: int) -> list[Path]:
    """Key files of the bench's own clients. Raises CommandFailed if there are too few."""
    layout = Layout(cluster_file.absolute().parent)
    numbers = range(BENCH_CLIENTS_START, BENCH_CLIENTS_START + clients)
    keys = [layout.client_key_file(number) for number in numbers]
    if not keys[-1].exists():
        raise CommandFailed(
            f"{keys[-1]} is missing: {clients} clients need a cluster made with "
            f"`pbft testnet init --clients {BENCH_CLIENTS_START + clients}` or more"
        )
    return keys


async def measure(cluster_file: Path, plan: "Plan") -> dict[str, Any]:
    """Runs the load and returns the JSON document of the command (with `first_errors`). Raises
    CommandFailed if there are too few key files."""
    from pbft.cli.load import Workload, operations_of, preload, run_load
    from pbft_client.errors import ClientError

    keys = bench_keys(cluster_file, plan.clients)
    async with AsyncExitStack() as stack:
        clients = await connect_all(stack, cluster_file, keys)
        if plan.workload is not Workload.PUT:
            await preload(clients[0], plan)
        operations = [operations_of(client, plan, seed) for seed, client in enumerate(clients)]
        cpu = Cpu(cluster_file)
        result = await run_load(plan, operations, ClientError, cpu.begin)
        spent = cpu.spent()
    return {
        "workload": plan.workload.value,
        "in_flight": plan.in_flight,
        "clients": plan.clients,
        "value_size": plan.value_bytes,
        "keys": plan.keys,
        "duration": plan.seconds,
        "operations": result.operations,
        "errors": result.errors,
        "ops_per_second": round(result.per_second, 1),
        "latency_ms": result.latency_ms(),
        "cpu_seconds": spent,
        "first_errors": result.first_errors,
    }


async def connect_all(
    stack: AsyncExitStack, cluster_file: Path, keys: Sequence[Path]
) -> list["Client"]:
    """One connected client per key; the stack closes them."""
    from pbft_client import Client, ClientSettings

    settings = ClientSettings(timeout_seconds=OPERATION_SECONDS)
    clients = []
    for key in keys:
        client = await Client.connect(cluster_file, key=key, settings=settings)
        clients.append(await stack.enter_async_context(client))
    return clients


def _print(document: dict[str, Any]) -> None:
    cpu = document["cpu_seconds"]
    operations = max(document["operations"], 1)
    rows: list[list[object]] = [
        ["operations", document["operations"]],
        ["errors", document["errors"]],
        ["operations per second", document["ops_per_second"]],
        *([f"latency {name}, ms", value] for name, value in document["latency_ms"].items()),
        ["CPU of the client, µs per operation", round(cpu["client"] * 1e6 / operations, 1)],
    ]
    if cpu["replicas"] is not None:
        share = round(cpu["replicas"] * 1e6 / operations, 1)
        rows.append(["CPU of all replicas, µs per operation", share])
    print_table(["measured", "value"], rows)
