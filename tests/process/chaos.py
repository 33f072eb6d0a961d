"""`make chaos`: kill -9 of a random replica every few seconds under load, for minutes.

Each is back and votes before the next is killed. At the end the history of all operations must be
linearizable for both checkers, nothing acknowledged may be lost, and the states must be equal.
"""

import argparse
import asyncio
import random
import sys
import time
from contextlib import AsyncExitStack

from pbft.cli.main_job import Scene
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic
from tests.process.helpers import connect
from tests.process.long_run import (
    parser_of_a_long_run,
    plan_of,
    require_linearizable_and_equal,
    run_on_own_cluster,
)


async def chaos(cluster: LocalCluster, options: argparse.Namespace) -> None:
    """Raises AssertionError or CommandFailed if anything that must hold does not."""
    source = random.Random(options.seed)
    observer = Observer(cluster.layout.cluster_file)
    kills = 0
    begin = time.monotonic()
    async with AsyncExitStack() as stack:
        measuring, *clients = await connect(stack, cluster, options.clients + 1)
        async with Traffic(clients, plan_of(options)) as traffic:
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
        assert kills > 0
        scene = Scene(cluster, observer, traffic, measuring)
        await require_linearizable_and_equal(scene, options.operations_min)


def main() -> int:
    """Runs chaos on a cluster of its own; 0 if all held."""
    parser = parser_of_a_long_run(__doc__, interval=2.0)
    parser.add_argument("--seconds", type=float, default=120)
    return run_on_own_cluster(chaos, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
