"""`python -m bench.catch_up`: a replica that was away catches up by state transfer.

Prints how fast large values travel, how much travels when little differs, what a source that lies
costs, and how much throughput the others keep while somebody catches up under load.
"""

import argparse
import asyncio
import os
import shutil
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.local_cluster import in_cluster
from pbft.cli.admin import admin_addresses, read_samples, total
from pbft.cli.bench import connect_all
from pbft.cli.layout import BENCH_CLIENTS_START
from pbft.cli.main_job import compare_states
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.genesis import parse_genesis
from pbft.limits import KIB, MIB, LocalLimits
from pbft.storage.directory import create
from pbft_client import Client

VICTIM = 3
LIAR = 2
LARGE_BYTES = 512 * KIB
LARGE_IN_FLIGHT = 8
SMALL_BYTES = 100
SMALL_AFTER = 500
"""Batches after the large values: more than healing alone can bring."""
KEYS = 2_000
CATCH_UP_SECONDS_MAX = 300.0
MISS_SECONDS_MAX = 600.0
"""As good as the batches: ten minutes of traffic."""
POLL_SECONDS = 0.1
STEP_SECONDS = 0.5
UNPIN_SECONDS = LocalLimits().transfer_idle_us / 1_000_000 + 5
KEPT_SHARE_MIN = 0.7
RATE_MIN = 50.0
"""10^6 bytes of large values a second, while nothing else goes on."""
LIES_TRIED_MAX = 5


class Load:
    """Small puts all the time; counts those that were acknowledged."""

    def __init__(self, client: Client, in_flight: int) -> None:
        """The client stays the caller's to close."""
        self.acknowledged = 0
        self._client = client
        self._in_flight = in_flight
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work(one)) for one in range(self._in_flight)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _work(self, worker: int) -> None:
        number = worker
        while not self._stopping:
            number += self._in_flight
            await self._client.put(b"small/%06d" % (number % KEYS), os.urandom(SMALL_BYTES))
            self.acknowledged += 1

    async def per_second(self, during: Awaitable[object]) -> float:
        """Acknowledged puts per second while something else happens."""
        begin, before = time.monotonic(), self.acknowledged
        await during
        return (self.acknowledged - before) / (time.monotonic() - begin)


class Timeline:
    """What the victim and the others do while it catches up, in steps of half a second."""

    def __init__(self, scene: "Scene", load: Load) -> None:
        self._scene = scene
        self._load = load

    async def watch(self) -> None:
        """Prints until it is cancelled: puts a second, what the victim is at, CPU of each."""
        begin = then = time.monotonic()
        acknowledged, spent = self._load.acknowledged, self._spent()
        while True:
            await asyncio.sleep(STEP_SECONDS)
            now, used = time.monotonic(), self._spent()
            victim = (await self._scene.observer.statuses())[VICTIM]
            shares = [max(0.0, b - a) / (now - then) for a, b in zip(spent, used, strict=True)]
            puts = (self._load.acknowledged - acknowledged) / (now - then)
            cpu = " ".join(f"{share:4.0%}" for share in shares)
            print(
                f"  {now - begin:5.1f} s {puts:6.0f} puts/s  CPU {cpu}  "
                f"replica {VICTIM}: {victim.mode or 'down'} {victim.executed}",
                flush=True,
            )
            then, acknowledged, spent = now, self._load.acknowledged, used

    def _spent(self) -> list[float]:
        cluster = self._scene.cluster
        records = (cluster.record(replica) for replica in cluster.replicas)
        seconds = [0.0 if record is None else record.cpu_seconds() for record in records]
        return [*seconds, time.process_time()]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What the metrics of a replica say about its transfers since it started."""

    bytes: int
    seconds: float
    transfers: int
    lies: int
    """Refused as bad_snapshot from the replica that lies ..."""
    wronged: int
    """... and from others, which is never right."""

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes of keys and values a second, verification and installation included."""
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0


class Scene:
    """The cluster, and who looks at it."""

    def __init__(self, cluster: LocalCluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client
        self.observer = Observer(cluster.layout.cluster_file)
        self._transferred = False
        self._addresses = admin_addresses(cluster.layout.cluster_file)

    def address_of(self, replica: int) -> str:
        """Where it tells its metrics."""
        return self._addresses[replica]

    async def stop_victim(self) -> None:
        """kill -9, when nobody keeps the batches after an earlier transfer for it any more."""
        if self._transferred:
            await asyncio.sleep(UNPIN_SECONDS)
        await asyncio.to_thread(self.cluster.kill, VICTIM)

    async def empty_victim(self) -> None:
        """Stops it; it will begin anew with an empty directory."""
        await self.stop_victim()
        layout = self.cluster.layout
        genesis = parse_genesis(layout.genesis_file.read_bytes())
        shutil.rmtree(layout.data_directory(VICTIM))
        create(layout.data_directory(VICTIM), genesis.cluster_id, VICTIM)

    async def catch_up(self) -> Transfer:
        """Starts the victim; returns when it is as far as the others were just now."""
        goal = await self.executed()
        await asyncio.to_thread(self.cluster.start, VICTIM)
        deadline = time.monotonic() + CATCH_UP_SECONDS_MAX
        while ((await self.observer.statuses())[VICTIM].executed or 0) < goal:
            assert time.monotonic() < deadline, await self.observer.statuses()
            await asyncio.sleep(POLL_SECONDS)
        self._transferred = True
        return await asyncio.to_thread(self.transfer)

    async def executed(self) -> int:
        """The highest sequence that any replica has executed."""
        return max(one.executed or 0 for one in await self.observer.statuses())

    def transfer(self) -> Transfer:
        """What the victim's metrics say of its transfers. Blocks."""
        samples = read_samples(self.address_of(VICTIM))
        refused = [
            int(total(samples, "pbft_rejected_total", reason="bad_snapshot", **of))
            for of in ({}, {"peer": str(LIAR)})
        ]
        return Transfer(
            int(total(samples, "pbft_state_transfer_bytes_total")),
            total(samples, "pbft_state_transfer_duration_seconds_sum"),
            int(total(samples, "pbft_state_transfer_total", outcome="finished")),
            lies=refused[1],
            wronged=refused[0] - refused[1],
        )

    async def write_large(self, first: int, megabytes: int) -> None:
        """So many MiB of large values, and small ones after them until a checkpoint is past."""
        numbers = iter(range(first, first + megabytes * MIB // LARGE_BYTES))

        async def work() -> None:
            for number in numbers:
                await self.client.put(b"large/%06d" % number, os.urandom(LARGE_BYTES))

        await asyncio.gather(*(work() for _ in range(LARGE_IN_FLIGHT)))
        for number in range(SMALL_AFTER):
            await self.client.put(b"after", b"%d" % number)


async def measure(cluster: LocalCluster, options: argparse.Namespace) -> None:
    """All acts. Raises AssertionError if a claim does not hold."""
    async with AsyncExitStack() as stack:
        layout = cluster.layout
        keys = [layout.client_key_file(BENCH_CLIENTS_START)]
        (client,) = await connect_all(stack, layout.cluster_file, keys)
        scene = Scene(cluster, client)
        if options.only_load:
            await scene.write_large(0, options.megabytes)
            await under_load(scene, options)
            return
        await scene.stop_victim()
        await scene.write_large(0, options.megabytes)
        told = await scene.catch_up()
        print(f"all of {options.megabytes} MiB in large values: {describe(told)}", flush=True)
        assert told.bytes >= options.megabytes * MIB * 9 // 10
        assert told.megabytes_per_second >= options.rate_min, "too slow"

        await scene.stop_victim()
        await scene.write_large(0, 2)
        told = await scene.catch_up()
        print(f"2 MiB of {options.megabytes} MiB differ: {describe(told)}", flush=True)
        assert 2 * MIB <= told.bytes < options.megabytes * MIB // 2

        await with_a_liar(scene)
        await require_equal_states(scene)
        await under_load(scene, options)
        await require_equal_states(scene)


async def require_equal_states(scene: Scene) -> None:
    """What was fetched, whoever lied, is the state of the others."""
    replicas = scene.cluster.replicas
    sequence, digests = await compare_states(scene.observer, scene.client, replicas)
    assert len(digests) == len(replicas) and len(set(digests)) == 1, digests
    print(f"all replicas hold the same state at sequence {sequence}", flush=True)


async def with_a_liar(scene: Scene) -> None:
    """The victim begins anew with an empty directory, and one of the sources changes what it
    sends; as it sometimes sends nothing instead, until it was caught."""
    liar = ["--allow-fault-injection", "--fault", "poison-transfer"]
    await asyncio.to_thread(scene.cluster.stop, [LIAR])
    await asyncio.to_thread(scene.cluster.start, LIAR, liar)
    for _ in range(LIES_TRIED_MAX):
        await scene.empty_victim()
        told = await scene.catch_up()
        print(f"into an empty directory, one source lies: {describe(told)}", flush=True)
        assert told.transfers > 0
        if told.lies:
            break
    else:
        raise AssertionError("no lie was refused")
    await asyncio.to_thread(scene.cluster.stop, [LIAR])
    await asyncio.to_thread(scene.cluster.start, LIAR)


async def under_load(scene: Scene, options: argparse.Namespace) -> None:
    """The victim misses many batches, and catches up while the load goes on.

    Compared with the throughput of all four, the mean of before and after: where they share their
    processors, three of them do nearly twice as much as four, so what a fourth costs by catching
    up would drown in what it costs by being there. The share of what three do is printed, too.
    """
    async with Load(scene.client, options.in_flight) as load:
        before = await load.per_second(asyncio.sleep(options.seconds))
        await scene.stop_victim()
        missed_from = await scene.executed()
        await pass_by(scene, missed_from + options.batches)
        # Just before and just after: on a machine that others use too, nothing else compares.
        three = await load.per_second(asyncio.sleep(options.seconds))
        missed = await scene.executed() - missed_from
        begin = time.monotonic()
        watching = asyncio.create_task(Timeline(scene, load).watch())
        catching_up = asyncio.create_task(scene.catch_up())
        meanwhile = await load.per_second(catching_up)
        seconds = time.monotonic() - begin
        after = await load.per_second(asyncio.sleep(options.seconds))
        watching.cancel()
        told = await catching_up
    share = meanwhile / ((before + after) / 2)
    print(f"{missed} batches missed, caught up in {seconds:.1f} s under load: {describe(told)}")
    state = options.megabytes * MIB + KEYS * SMALL_BYTES
    print(f"transferred {told.bytes / state:.0%} of a state of about {state} bytes of values")
    print(f"puts/s of all four: {before:.0f} before, {after:.0f} after; of three: {three:.0f}")
    print(
        f"puts/s while it catches up: {meanwhile:.0f}, {share:.0%} of what all four do and "
        f"{meanwhile / three:.0%} of what three do"
    )
    assert share >= options.kept_share_min, f"only {share:.0%} of the throughput is kept"


async def pass_by(scene: Scene, goal: int) -> None:
    """Returns when so much was executed, or ten minutes have passed."""
    deadline = time.monotonic() + MISS_SECONDS_MAX
    while await scene.executed() < goal:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)


def describe(told: Transfer) -> str:
    """One line."""
    assert not told.wronged, f"{told.wronged} chunks or leaves of honest sources refused"
    return (
        f"{told.bytes} bytes in {told.transfers} transfers, {told.seconds:.2f} s: "
        f"{told.megabytes_per_second:.0f} MB/s; {told.lies} lies refused"
    )


def main() -> None:
    """Runs on a cluster of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="of throughput alone")
    parser.add_argument("--rate-min", type=float, default=RATE_MIN, help="MB/s, large values")
    parser.add_argument("--kept-share-min", type=float, default=KEPT_SHARE_MIN)
    parser.add_argument(
        "--only-load", action="store_true", help="only the catch-up while the others serve"
    )
    options = parser.parse_args()
    in_cluster(lambda cluster: measure(cluster, options))


if __name__ == "__main__":
    main()
