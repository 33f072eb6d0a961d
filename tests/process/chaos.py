"""`make chaos`: kill -9 of a random replica every few seconds under load, for minutes.

Each is back and votes before the next is killed. At the end the history of all operations must be
linearizable for both checkers, nothing acknowledged may be lost, and the states must be equal.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from pbft.cli.local import open_or_create, wait_until_serving
from pbft.cli.main_job import Scene, compare_states
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic, TrafficPlan
from tests.process.helpers import assert_linearizable, connect


async def chaos(cluster: LocalCluster, options: argparse.Namespace) -> None:
    """Raises AssertionError or CommandFailed if anything that must hold does not."""
    source = random.Random(options.seed)
    observer = Observer(cluster.layout.cluster_file)
    plan = TrafficPlan(keys=options.keys, seed=options.seed, pause_seconds=options.pause)
    kills = 0
    begin = time.monotonic()
    async with AsyncExitStack() as stack:
        measuring, *clients = await connect(stack, cluster, options.clients + 1)
        async with Traffic(clients, plan) as traffic:
            while time.monotonic() < begin + options.seconds:
                victim = source.choice(cluster.replicas)
                await asyncio.to_thread(cluster.kill, victim)
                kills += 1
                await asyncio.sleep(source.uniform(0.0, options.interval))
                await asyncio.to_thread(cluster.start, victim)
                await observer.wait_until_voting(victim)
                await asyncio.sleep(source.uniform(0.0, options.interval))
                traffic.check_running()
        seconds = time.monotonic() - begin
        await traffic.read_all()
        print(f"{kills} kills, {traffic.acknowledged} operations answered, {traffic.failed} not, ")
        print(f"by {options.clients} clients on {options.keys} keys in {seconds:.0f} s")
        for failure in traffic.failures:
            print(f"not answered: {failure}")
        assert kills > 0
        assert_linearizable(traffic, options.operations_min)
        print("the history is linearizable: both checkers agree")
        sequence, digests = await compare_states(Scene(cluster, observer, traffic, measuring))
        assert len(digests) == len(cluster.replicas) and len(set(digests)) == 1, digests
        print(f"all replicas hold the same state at sequence {sequence}: {digests[0]}")


def main() -> int:
    """Runs chaos on a cluster of its own; 0 if all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--operations-min", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds, at most")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between operations")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pbft-chaos-") as directory:
        cluster = open_or_create(Path(directory) / "cluster", options.replicas)
        try:
            for replica in cluster.replicas:
                cluster.start(replica)
            wait_until_serving(cluster)
            asyncio.run(chaos(cluster, options))
        except BaseException:
            for replica in cluster.replicas:
                print(f"--- replica {replica}:\n{cluster.log_tail(replica)}", file=sys.stderr)
            raise
        finally:
            cluster.stop(cluster.running())
    return 0


if __name__ == "__main__":
    sys.exit(main())
