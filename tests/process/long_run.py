"""What the long runs (`make chaos`, `make durability`) share: options, a cluster of their own, and
the verdict at the end."""

import argparse
from collections.abc import Awaitable, Callable

from bench.local_cluster import in_cluster
from pbft.cli.main_job import Scene, compare_states
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import TrafficPlan
from tests.process.helpers import assert_linearizable


def parser_of_a_long_run(description: str | None, interval: float) -> argparse.ArgumentParser:
    """With the options of the load; `interval` is the default pause between two blows, in
    seconds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--operations-min", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--interval", type=float, default=interval, help="seconds, at most")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between operations")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def plan_of(options: argparse.Namespace) -> TrafficPlan:
    """The load that the options ask for."""
    return TrafficPlan(keys=options.keys, seed=options.seed, pause_seconds=options.pause)


def run_on_own_cluster(
    act: Callable[[LocalCluster, argparse.Namespace], Awaitable[None]],
    options: argparse.Namespace,
) -> int:
    """Starts a cluster, acts, stops it; 0 if nothing was raised."""
    in_cluster(lambda cluster: act(cluster, options), options.replicas)
    return 0


async def require_linearizable_and_equal(scene: Scene, operations_min: int) -> None:
    """Prints the verdict on the history of all operations and on the states. Raises AssertionError
    or CommandFailed."""
    for failure in scene.traffic.failures:
        print(f"not answered: {failure}")
    assert_linearizable(scene.traffic, operations_min)
    print("the history is linearizable: both checkers agree")
    replicas = scene.cluster.replicas
    sequence, digests = await compare_states(scene.observer, scene.client, replicas)
    assert len(digests) == len(replicas) and len(set(digests)) == 1, digests
    print(f"all replicas hold the same state at sequence {sequence}: {digests[0]}")
