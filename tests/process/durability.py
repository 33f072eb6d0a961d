"""`make durability`: kill -9 of all replicas at once, again and again, under load.

They start again in random order. Every acknowledged write must be there, the history of all
operations linearizable for both checkers, and the states equal. Then the same with replicas that
lost their data directory, and with one whose directory was rolled back to an older copy: they must
notice, rejoin without help, and vote again.
"""

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from pbft.cli.main_job import Scene
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic
from pbft.genesis import ProtocolConstants
from pbft_client import Client
from tests.process.helpers import connect, pbft
from tests.process.ledger import Ledger
from tests.process.long_run import (
    parser_of_a_long_run,
    plan_of,
    require_linearizable_and_equal,
    run_on_own_cluster,
)

SERVING_SECONDS_MAX = 10.0
"""From the start of the last replica to the next acknowledged write."""
REJOIN_SECONDS_MAX = 60.0
POLL_SECONDS = 0.02
REJOINING = "rejoining"
PROBE_KEY = b"durability/probe"


@dataclass(slots=True)
class Ordeal:
    """What the rounds share."""

    cluster: LocalCluster
    observer: Observer
    source: random.Random
    traffic: Traffic
    ledger: Ledger
    client: Client
    """Measures; its operations are not part of the traffic."""
    serving_seconds: list[float] = field(default_factory=list)

    async def kill(self, replicas: Iterable[int]) -> None:
        """kill -9 in random order, at random moments close to each other."""
        for replica in self._shuffled(replicas):
            await asyncio.to_thread(self.cluster.kill, replica)
            await asyncio.sleep(self.source.choice((0.0, 0.0, 0.05, 0.2)) * self.source.random())

    async def start(self, replicas: Iterable[int]) -> float:
        """Starts them in random order; returns how many seconds after the last start the next
        write was acknowledged."""
        for replica in self._shuffled(replicas):
            await asyncio.to_thread(self.cluster.start, replica)
            await asyncio.sleep(self.source.choice((0.0, 0.0, 0.5)) * self.source.random())
        begin = time.monotonic()
        await self.client.put(PROBE_KEY, str(begin).encode(), timeout=60.0)
        return time.monotonic() - begin

    async def require_everything(self) -> None:
        """All that was ever acknowledged is there."""
        missing = await self.ledger.missing()
        assert not missing, f"{len(missing)} acknowledged writes are lost: {missing[:5]}"
        self.traffic.check_running()

    def _shuffled(self, replicas: Iterable[int]) -> list[int]:
        order = list(replicas)
        self.source.shuffle(order)
        return order


async def lose_power(ordeal: Ordeal, rounds: int, interval_seconds: float) -> None:
    """Kills all, starts all, in each round."""
    for number in range(1, rounds + 1):
        await asyncio.sleep(ordeal.source.uniform(0.2, interval_seconds))
        await ordeal.kill(ordeal.cluster.replicas)
        seconds = await ordeal.start(ordeal.cluster.replicas)
        ordeal.serving_seconds.append(seconds)
        await ordeal.require_everything()
        print(
            f"round {number}: all killed; served {seconds:.2f} s after the last start; "
            f"{len(ordeal.ledger.acknowledged)} acknowledged writes all there",
            flush=True,
        )
        assert seconds <= SERVING_SECONDS_MAX, f"served only after {seconds:.1f} s"


async def wait_for_rejoin(observer: Observer, replica: int) -> float:
    """Returns when the replica, seen rejoining, votes again; how many seconds that took."""
    begin = time.monotonic()
    recognised = False
    while not recognised:
        status = (await observer.statuses())[replica]
        recognised = status.mode == REJOINING
        elapsed = time.monotonic() - begin
        assert elapsed < REJOIN_SECONDS_MAX, f"replica {replica} is not seen rejoining: {status}"
        await asyncio.sleep(POLL_SECONDS)
    while (await observer.statuses())[replica].mode == REJOINING:
        assert time.monotonic() - begin < REJOIN_SECONDS_MAX, f"replica {replica} does not rejoin"
        await asyncio.sleep(POLL_SECONDS)
    await observer.wait_until_voting(replica)
    return time.monotonic() - begin


async def forget(ordeal: Ordeal, victims: list[int]) -> None:
    """All are killed; the victims' directories are deleted and initialised again."""
    await ordeal.kill(ordeal.cluster.replicas)
    for victim in victims:
        shutil.rmtree(ordeal.cluster.layout.data_directory(victim))
        configuration = ordeal.cluster.layout.configuration_file(victim)
        done = pbft("storage", "init", "--config", configuration)
        assert done.returncode == 0, done.stderr
    await rejoin(ordeal, victims, "deleted and initialised again")


async def roll_back(ordeal: Ordeal, victim: int, seconds: float) -> None:
    """One directory is exchanged for a copy made some time before; all are killed.

    A rollback is one if it lost votes that a quorum was built with above the stable checkpoint:
    what is below is settled, and a replica that was always late was not needed. So f others are
    down while the copy grows old, and the rest dies between two checkpoints, the victim last.
    """
    data = ordeal.cluster.layout.data_directory(victim)
    copy = data.with_name("older-copy")
    await ordeal.kill([victim])
    shutil.copytree(data, copy)
    await ordeal.start([victim])
    await ordeal.observer.wait_until_voting(victim)
    others = [one for one in ordeal.cluster.replicas if one != victim]
    await ordeal.kill(ordeal.source.sample(others, ordeal.observer.thresholds.faulty))
    executed = (await ordeal.observer.statuses())[victim].executed
    assert executed is not None
    await asyncio.sleep(seconds)
    await wait_until_between_checkpoints(ordeal.observer, victim, executed)
    await ordeal.kill(others)
    await ordeal.kill([victim])
    shutil.rmtree(data)
    copy.rename(data)
    await rejoin(ordeal, [victim], f"rolled back by {seconds:.0f} s")


async def wait_until_between_checkpoints(observer: Observer, replica: int, above: int) -> None:
    """Until the replica executed more than `above`, and is clear of its last stable checkpoint and
    of the next one."""
    interval = ProtocolConstants().checkpoint_interval
    deadline = time.monotonic() + REJOIN_SECONDS_MAX
    while True:
        status = (await observer.statuses())[replica]
        if status.executed is not None and status.low_water_mark is not None:
            beyond = status.executed - status.low_water_mark
            if status.executed > above and interval // 4 <= beyond <= interval // 2:
                return
        assert time.monotonic() < deadline, f"replica {replica} does not go on: {status}"
        await asyncio.sleep(POLL_SECONDS)


async def rejoin(ordeal: Ordeal, victims: list[int], fate: str) -> None:
    """Starts all; the victims must be seen to notice, to rejoin and to vote."""
    watched = [asyncio.create_task(wait_for_rejoin(ordeal.observer, one)) for one in victims]
    serving = await ordeal.start(ordeal.cluster.replicas)
    assert serving <= SERVING_SECONDS_MAX, f"served only after {serving:.1f} s"
    for victim, seconds in zip(victims, await asyncio.gather(*watched), strict=True):
        print(
            f"replica {victim}: directory {fate}, all killed; served after {serving:.2f} s; "
            f"amnesia noticed, rejoined, voting again after {seconds:.2f} s",
            flush=True,
        )
    await ordeal.require_everything()


async def durability(cluster: LocalCluster, options: argparse.Namespace) -> None:
    """Raises AssertionError or CommandFailed if anything that must hold does not."""
    source = random.Random(options.seed)
    observer = Observer(cluster.layout.cluster_file)
    begin = time.monotonic()
    async with AsyncExitStack() as stack:
        measuring, writer, *clients = await connect(stack, cluster, options.clients + 2)
        async with Traffic(clients, plan_of(options)) as traffic, Ledger(writer) as ledger:
            ordeal = Ordeal(cluster, observer, source, traffic, ledger, measuring)
            await lose_power(ordeal, options.rounds, options.interval)
            # One rejoin a minute of each replica: the victims are different ones.
            faulty = observer.thresholds.faulty
            victims = source.sample(cluster.replicas, faulty + 1)
            await forget(ordeal, victims[:faulty])
            await roll_back(ordeal, victims[-1], options.rollback)
            await asyncio.sleep(options.interval)
        await traffic.read_all()
        await ordeal.require_everything()
        times = ordeal.serving_seconds
        print(f"{options.rounds} rounds in {time.monotonic() - begin:.0f} s; served after", end="")
        print(f" {statistics.median(times):.2f} s (median), {max(times):.2f} s (longest);")
        print(f"{len(ledger.acknowledged)} single writes and {traffic.acknowledged} operations of")
        print(f"{options.clients} clients on {options.keys} keys answered, {traffic.failed} not")
        scene = Scene(cluster, observer, traffic, measuring)
        await require_linearizable_and_equal(scene, options.operations_min)


def main() -> int:
    """Runs the ordeal on a cluster of its own; 0 if all held."""
    parser = parser_of_a_long_run(__doc__, interval=3.0)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--rollback", type=float, default=5.0, help="seconds lost by rolling back")
    return run_on_own_cluster(durability, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
