"""`make bench-etcd`: the same puts against this cluster and against a three-node etcd.

Both run on this machine at the same time, both sync to disk, both talk in plain text, and rounds
alternate between them, so that noise of the machine hits both. Only the ratios mean something.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvloop

from bench.etcd import connect_to_leader, etcd_nodes
from bench.local_cluster import fresh_cluster
from pbft.cli.bench import bench_keys, connect_all, measure
from pbft.cli.load import (
    KEYS,
    Measurement,
    Operation,
    Plan,
    Workload,
    operations_of,
    preload,
    run_load,
)
from pbft.cli.options import Seconds
from pbft.cli.output import FORMATS, print_table
from pbft.garbage import collect_rarely
from pbft.grpc_environment import grpc


@dataclass(frozen=True, slots=True)
class Round:
    """One load, measured on both."""

    in_flight: int
    etcd_per_second: float
    pbft_per_second: float
    etcd_p50_ms: float
    pbft_p50_ms: float
    errors: int


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", type=Seconds(), default=10.0, show_default=True, help="Per measurement.")
@click.option("--in-flight", "loads", type=int, multiple=True, default=(1, 64, 256, 1024))
@click.option("--value-size", type=int, default=100, show_default=True)
@click.option(
    "--keys", type=int, help="Both hold so many keys before the first round. Default: none."
)
@click.option("--tls", is_flag=True, help="TLS here, as `pbft up` has it; etcd goes without.")
@click.option("-w", "output", type=click.Choice(FORMATS), default="table")
def main(
    rounds: int,
    seconds: float,
    loads: tuple[int, ...],
    value_size: int,
    keys: int | None,
    tls: bool,
    output: str,
) -> None:
    """Compare puts per second and latency with etcd."""
    # Both loads are made by this process.
    collect_rarely()
    measured: list[Round] = []
    spread = keys or KEYS
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        etcd_nodes() as addresses,
        fresh_cluster(insecure=not tls, run=runner.run) as cluster_file,
    ):
        if keys is not None:
            runner.run(_fill(addresses, cluster_file, Plan(value_bytes=value_size, keys=keys)))
        for number in range(rounds):
            for in_flight in loads:
                plan = Plan(Workload.PUT, in_flight, 1, value_size, seconds, spread)
                etcd = runner.run(_measure_etcd(addresses, plan))
                ours = runner.run(measure(cluster_file, plan))
                measured.append(_round(in_flight, etcd, ours))
                click.echo(f"round {number + 1} of {rounds}: {measured[-1]}", err=True)
    documents = [_summary(in_flight, measured) for in_flight in loads]
    if output == "json":
        json.dump(documents, sys.stdout, indent=2)
        return
    print_table(list(documents[0]), [list(document.values()) for document in documents])


async def _fill(addresses: list[str], cluster_file: Path, plan: Plan) -> None:
    """Writes every key once to both."""
    async with AsyncExitStack() as stack:
        (ours,) = await connect_all(stack, cluster_file, bench_keys(cluster_file, 1))
        begin = time.monotonic()
        await preload(ours, plan)
        click.echo(f"{plan.keys} keys here: {time.monotonic() - begin:.0f} s", err=True)
    etcd = await connect_to_leader(addresses)
    begin = time.monotonic()
    await preload(etcd, plan)
    click.echo(f"{plan.keys} keys in etcd: {time.monotonic() - begin:.0f} s", err=True)
    await etcd.close()


async def _measure_etcd(addresses: list[str], plan: Plan) -> Measurement:
    client = await connect_to_leader(addresses)
    try:
        operation: Operation = operations_of(client, plan, 0)
        return await run_load(plan, [operation], grpc.RpcError)
    finally:
        await client.close()


def _round(in_flight: int, etcd: Measurement, ours: dict[str, Any]) -> Round:
    if not etcd.operations or not ours["operations"]:
        raise click.ClickException(f"nothing was acknowledged: {etcd.first_errors} {ours}")
    return Round(
        in_flight,
        round(etcd.per_second, 1),
        ours["ops_per_second"],
        etcd.latency_ms()["p50"],
        ours["latency_ms"]["p50"],
        etcd.errors + ours["errors"],
    )


def _summary(in_flight: int, rounds: list[Round]) -> dict[str, float]:
    """Medians over the rounds; the ratios are taken within each round."""
    mine = [one for one in rounds if one.in_flight == in_flight]

    def median(value: Callable[[Round], float]) -> float:
        return round(statistics.median(value(one) for one in mine), 2)

    return {
        "in_flight": in_flight,
        "etcd_puts_per_second": median(lambda one: one.etcd_per_second),
        "pbft_puts_per_second": median(lambda one: one.pbft_per_second),
        "throughput_ratio": median(lambda one: one.pbft_per_second / one.etcd_per_second),
        "etcd_p50_ms": median(lambda one: one.etcd_p50_ms),
        "pbft_p50_ms": median(lambda one: one.pbft_p50_ms),
        "p50_ratio": median(lambda one: one.pbft_p50_ms / one.etcd_p50_ms),
        "errors": sum(one.errors for one in mine),
    }


if __name__ == "__main__":
    main()
