"""`python -m bench.rejoin_under_load`: a replica begins anew under large puts.

What was decided after the state that it fetches waits for it, however long fetching takes: so one
transfer is enough. Its directory is empty at first. The puts come at a rate that leaves it
time to execute what the others order.
"""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from bench.catch_up import KEYS, VICTIM, Scene, describe, require_equal_states
from bench.local_cluster import in_cluster
from pbft.cli.admin import read_samples, total
from pbft.cli.bench import connect_all
from pbft.cli.layout import BENCH_CLIENTS_START
from pbft.cli.supervisor import LocalCluster
from pbft.limits import KIB, MIB
from pbft_client import Client

VALUE_BYTES = 64 * KIB
STEP_SECONDS = 5.0


@asynccontextmanager
async def puts(client: Client, per_second: float) -> AsyncIterator[list[float]]:
    """Values of 64 KiB, so many MiB a second, each begun when it is due; yields the seconds that
    each took. Raises what the first raised that failed."""
    took: list[float] = []

    async def put(key: int) -> None:
        begin = time.monotonic()
        await client.put(b"meanwhile/%06d" % key, os.urandom(VALUE_BYTES))
        took.append(time.monotonic() - begin)

    async def drive(group: asyncio.TaskGroup) -> None:
        begin, number = time.monotonic(), 0
        while True:
            due = begin + number * VALUE_BYTES / (per_second * MIB)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(put(number % KEYS))
            number += 1

    async with asyncio.TaskGroup() as group:
        driver = group.create_task(drive(group))
        yield took
        driver.cancel()


async def watch(scene: Scene, seconds_max: float) -> float:
    """Prints what the victim is at until it votes again; returns the seconds that it took."""
    begin = time.monotonic()
    printed_at = begin
    while True:
        await asyncio.sleep(0.25)
        now = time.monotonic()
        statuses = await scene.observer.statuses()
        victim = statuses[VICTIM]
        votes = victim.mode == "normal"
        if votes or now - printed_at >= STEP_SECONDS:
            printed_at = now
            executed = max(one.executed or 0 for one in statuses)
            kept = await asyncio.to_thread(kept_megabytes, scene)
            print(
                f"  {now - begin:5.1f} s  replica {VICTIM}: {victim.mode or 'down'} "
                f"{victim.executed or 0} of {executed}; replica 0 keeps {kept:.0f} MB for it",
                flush=True,
            )
        if votes:
            return now - begin
        assert now - begin < seconds_max, f"replica {VICTIM} does not vote"


def kept_megabytes(scene: Scene) -> float:
    """What replica 0 keeps in its log for who is behind, in 10^6 bytes."""
    return total(read_samples(scene.address_of(0)), "pbft_tail_bytes", where="log") / 1e6


async def measure(cluster: LocalCluster, options: argparse.Namespace) -> None:
    """Fills the state, empties the victim's directory and lets it come back under load."""
    layout = cluster.layout
    async with AsyncExitStack() as stack:
        keys = [layout.client_key_file(BENCH_CLIENTS_START)]
        (client,) = await connect_all(stack, layout.cluster_file, keys)
        scene = Scene(cluster, client)
        await scene.write_large(0, options.megabytes)
        await scene.empty_victim()
        async with puts(client, options.rate) as took:
            await asyncio.to_thread(cluster.start, VICTIM)
            seconds = await watch(scene, options.seconds_max)
            told = await asyncio.to_thread(scene.transfer)
        print(
            f"{options.megabytes} MiB, {len(took)} puts of {VALUE_BYTES // KIB} KiB meanwhile, the "
            f"slowest {max(took):.2f} s: votes after {seconds:.1f} s; {describe(told)}"
        )
        assert told.transfers == 1, f"{told.transfers} transfers"
        await require_equal_states(scene)


def main() -> None:
    """Runs on a cluster of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=640)
    parser.add_argument("--rate", type=float, default=4.0, help="MiB of values a second")
    parser.add_argument("--seconds-max", type=float, default=300.0)
    options = parser.parse_args()
    in_cluster(lambda cluster: measure(cluster, options))


if __name__ == "__main__":
    main()
