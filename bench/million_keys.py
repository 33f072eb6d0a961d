"""`python -m bench.million_keys`: what a large state costs.

Prints a table of what a checkpoint costs against keys and against changes, measured on the state
alone, and then, on a real cluster: the worst lag of the event loop while it checkpoints, the time
of a restart, and anonymous memory beside that with few keys, under the same load and idle.
"""

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

from bench.catch_up import Load
from bench.execution import seal
from bench.local_cluster import in_cluster
from pbft.cli.admin import admin_addresses, read_samples, total
from pbft.cli.bench import connect_all
from pbft.cli.layout import BENCH_CLIENTS_START
from pbft.cli.observer import Observer
from pbft.cli.output import print_table
from pbft.cli.supervisor import LocalCluster
from pbft.core.effects import Merge
from pbft.genesis import ProtocolConstants
from pbft.storage.lmdb_base import LmdbBase
from pbft.storage.state import LayeredState
from pbft_client import Client

VALUE_BYTES = 100
DOMAIN = 1
IN_FLIGHT = 2_048
FEW_KEYS_WRITES = 200_000
"""Before memory is compared: what a load needs for itself, however few its keys."""
VICTIM = 3
LAG_POLL_SECONDS = 0.05
LAG_MS_MAX = 50.0
RESTART_SECONDS_MAX = 5.0
MEMORY_RATIO_MAX = 1.5


def checkpoint_costs(keys: list[int], changes: list[int]) -> list[list[object]]:
    """Milliseconds of the event loop (seal, finish) and of the worker thread (merge), each a row
    of keys in the state, changes since the last checkpoint."""
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as directory:
        constants = ProtocolConstants()
        base = LmdbBase(Path(directory), create=True)
        state = LayeredState(base, constants.buckets, constants.bucket_salt)
        held, sequence = 0, 0
        for size in keys:
            while held < size:
                upto = min(size, held + 50_000)
                sequence += 1
                change(state, range(held, upto), sequence)
                checkpoint(state, sequence)
                held = upto
            for number in changes:
                sequence += 1
                step = max(1, held // number)
                change(state, range(0, min(held, step * number), step), sequence)
                rows.append([held, number, *checkpoint(state, sequence)])
        state.close()
        base.close()
    return rows


def change(state: LayeredState, numbers: range, version: int) -> None:
    """Puts a new value under each of these keys, in place of the old one."""
    records = state.domain(DOMAIN)
    for number in numbers:
        key = b"key/%08d" % number
        known = records.get(key)
        if known is not None:
            records.delete(key, known[0])
        records.put(key, version, os.urandom(VALUE_BYTES))


def checkpoint(state: LayeredState, sequence: int) -> list[float]:
    """Takes one; returns the milliseconds of seal, merge and finish."""
    times = [time.perf_counter()]
    digest = seal(state, sequence)
    times.append(time.perf_counter())
    plan = state.begin_merge(Merge(sequence, digest, ()))
    plan.run()
    times.append(time.perf_counter())
    state.finish_merge(plan)
    times.append(time.perf_counter())
    return [round((after - before) * 1e3, 1) for before, after in pairwise(times)]


def anonymous_bytes(cluster: LocalCluster, replica: int) -> int:
    """Memory of a replica's process that no file backs."""
    record = cluster.record(replica)
    assert record is not None
    lines = Path(f"/proc/{record.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


class LagWatch:
    """The worst event loop lag that any replica tells."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.worst_seconds = 0.0
        self._addresses = admin_addresses(cluster.layout.cluster_file)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            for address in self._addresses:
                lag = await asyncio.to_thread(self._lag, address)
                self.worst_seconds = max(self.worst_seconds, lag)
            await asyncio.sleep(LAG_POLL_SECONDS)

    @staticmethod
    def _lag(address: str) -> float:
        return total(read_samples(address), "pbft_event_loop_lag_seconds")


async def fill(client: Client, keys: int, writes: int) -> None:
    """Writes the keys one after the other, round and round."""
    numbers = iter(range(writes))

    async def work() -> None:
        for number in numbers:
            await client.put(b"key/%08d" % (number % keys), os.urandom(VALUE_BYTES))

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def measure(cluster: LocalCluster, options: argparse.Namespace) -> None:
    """Fills the cluster, then loads it, then restarts one replica."""
    observer = Observer(cluster.layout.cluster_file)
    async with AsyncExitStack() as stack:
        keys = [cluster.layout.client_key_file(BENCH_CLIENTS_START)]
        (client,) = await connect_all(stack, cluster.layout.cluster_file, keys)
        fresh_bytes = anonymous_bytes(cluster, VICTIM)
        await fill(client, IN_FLIGHT, FEW_KEYS_WRITES)
        async with Load(client, options.in_flight):
            await asyncio.sleep(options.seconds)
        few_bytes = anonymous_bytes(cluster, VICTIM)
        begin = time.monotonic()
        await fill(client, options.keys, options.keys)
        print(f"{options.keys} keys written in {time.monotonic() - begin:.0f} s", flush=True)
        watch = LagWatch(cluster)
        task = asyncio.create_task(watch.run())
        async with Load(client, options.in_flight):
            await asyncio.sleep(options.seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        print(f"worst event loop lag under load: {watch.worst_seconds * 1e3:.0f} ms")
        full_bytes = anonymous_bytes(cluster, VICTIM)
        print(
            f"anonymous memory under the same load: {full_bytes / 1e6:.0f} MB with {options.keys} "
            f"keys, {few_bytes / 1e6:.0f} MB with {IN_FLIGHT}: {full_bytes / few_bytes:.2f} times"
        )
        await asyncio.to_thread(cluster.stop, [VICTIM])
        begin = time.monotonic()
        await asyncio.to_thread(cluster.start, VICTIM)
        await observer.wait_until_reachable(VICTIM)
        seconds = time.monotonic() - begin
        idle_bytes = anonymous_bytes(cluster, VICTIM)
        print(
            f"restart: {seconds:.2f} s until it answers; anonymous memory then: "
            f"{idle_bytes / 1e6:.0f} MB, {fresh_bytes / 1e6:.0f} MB before the first write: "
            f"{idle_bytes / fresh_bytes:.2f} times"
        )
        if options.check:
            assert watch.worst_seconds * 1e3 <= options.lag_ms_max
            assert seconds <= RESTART_SECONDS_MAX
            assert idle_bytes <= options.memory_ratio_max * fresh_bytes


def main() -> None:
    """Runs on a state and on a cluster of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lag-ms-max", type=float, default=LAG_MS_MAX)
    parser.add_argument("--memory-ratio-max", type=float, default=MEMORY_RATIO_MAX)
    parser.add_argument("--check", action="store_true", help="fail if a bound does not hold")
    options = parser.parse_args()
    sizes = [options.keys // 100, options.keys // 10, options.keys]
    rows = checkpoint_costs(sizes, [1_000, 10_000])
    columns = ["seal ms (in portions)", "merge ms (off the loop, pauses included)", "finish ms"]
    print_table(["keys", "changes", *columns], rows)
    in_cluster(lambda cluster: measure(cluster, options))


if __name__ == "__main__":
    main()
