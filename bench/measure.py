"""`make bench`: puts and gets of a fresh local cluster, with few and with many in flight."""

import asyncio
import json
import sys
from typing import Any

import click
import uvloop

from bench.local_cluster import fresh_cluster
from pbft.cli.bench import measure
from pbft.cli.load import Plan, Workload
from pbft.cli.options import Seconds
from pbft.cli.output import FORMATS, print_table
from pbft.garbage import collect_rarely

PLANS = (
    Plan(Workload.PUT, in_flight=1),
    Plan(Workload.PUT, in_flight=256),
    Plan(Workload.PUT, in_flight=1024),
    Plan(Workload.PUT, in_flight=64, clients=64),
    Plan(Workload.GET, in_flight=1),
    Plan(Workload.GET, in_flight=256),
    Plan(Workload.MIXED, in_flight=256),
)


@click.command()
@click.option("--seconds", type=Seconds(), default=10.0, show_default=True, help="Per measurement.")
@click.option("-w", "output", type=click.Choice(FORMATS), default="table")
def main(seconds: float, output: str) -> None:
    """Measure a fresh cluster of four replicas on this machine."""
    collect_rarely()
    documents = []
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        fresh_cluster(run=runner.run) as cluster_file,
    ):
        for plan in PLANS:
            timed = Plan(plan.workload, plan.in_flight, plan.clients, plan.value_bytes, seconds)
            documents.append(runner.run(measure(cluster_file, timed)))
            click.echo(f"{plan.workload.value} x {plan.in_flight}: done", err=True)
    if output == "json":
        json.dump(documents, sys.stdout, indent=2)
    else:
        _print(documents)
    if not all(document["operations"] and not document["errors"] for document in documents):
        raise click.ClickException("not every operation was answered")


def _print(documents: list[dict[str, Any]]) -> None:
    rows = [
        [
            document["workload"],
            document["in_flight"],
            document["clients"],
            document["ops_per_second"],
            document["latency_ms"].get("p50"),
            document["latency_ms"].get("p99"),
            document["errors"],
            _micros(document, "client"),
            _micros(document, "replicas"),
        ]
        for document in documents
    ]
    columns = ["workload", "in flight", "clients", "ops/s", "p50 ms", "p99 ms", "errors"]
    print_table([*columns, "client CPU µs/op", "replicas CPU µs/op"], rows)


def _micros(document: dict[str, object], side: str) -> float | None:
    cpu, operations = document["cpu_seconds"], document["operations"]
    assert isinstance(cpu, dict) and isinstance(operations, int)
    if cpu[side] is None or not operations:
        return None
    return round(float(cpu[side]) * 1e6 / operations, 1)


if __name__ == "__main__":
    main()
