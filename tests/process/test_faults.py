"""Real replicas are killed, frozen and corrupted while clients go on."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

from pbft.cli.local import wait_until_serving
from pbft.cli.main_job import Scene, compare_states
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic
from tests.process.helpers import assert_linearizable, connect, until_served

ALLOW = "--allow-fault-injection"
NEXT_WRITE_SECONDS = 30.0
"""Generous: the machine may be busy. How fast it is, `make run` says."""


async def states_are_equal(scene: Scene) -> bool:
    """Whether all replicas have the same state at the next checkpoint."""
    replicas = scene.cluster.replicas
    _, digests = await compare_states(scene.observer, scene.client, replicas)
    return len(digests) == len(replicas) and len(set(digests)) == 1


def test_a_killed_primary_is_replaced(cluster: LocalCluster) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            await client.put(b"before", b"1")
            observer = Observer(cluster.layout.cluster_file)
            assert await observer.wait_for_view() == 0
            await asyncio.to_thread(cluster.kill, 0)
            await client.put(b"after", b"2", timeout=NEXT_WRITE_SECONDS)
            assert await observer.wait_for_view(above=0) >= 1
            found = await client.get(b"before")
            assert found is not None and found.value == b"1"

    asyncio.run(story())


def test_every_replica_is_killed_in_turn_under_load(cluster: LocalCluster) -> None:
    async def story() -> None:
        observer = Observer(cluster.layout.cluster_file)
        async with AsyncExitStack() as stack:
            measuring, *clients = await connect(stack, cluster, 5)
            async with Traffic(clients) as traffic:
                for replica in cluster.replicas:
                    await asyncio.to_thread(cluster.kill, replica)
                    await measuring.put(b"while/%d" % replica, b"down", timeout=NEXT_WRITE_SECONDS)
                    await asyncio.to_thread(cluster.start, replica)
                    await observer.wait_until_voting(replica)
                await until_served(traffic, 100)
            await traffic.read_all()
            assert_linearizable(traffic, operations_min=100)
            assert traffic.failed == 0, traffic.failures
            assert await states_are_equal(Scene(cluster, observer, traffic, measuring))

    asyncio.run(story())


def test_a_frozen_primary_is_replaced_and_comes_back(cluster: LocalCluster) -> None:
    async def story() -> None:
        observer = Observer(cluster.layout.cluster_file)
        async with AsyncExitStack() as stack:
            measuring, *clients = await connect(stack, cluster, 3)
            async with Traffic(clients) as traffic:
                await asyncio.sleep(1)
                cluster.signal(0, signal.SIGSTOP)
                await measuring.put(b"while", b"frozen", timeout=NEXT_WRITE_SECONDS)
                assert await observer.wait_for_view(above=0) >= 1
                cluster.signal(0, signal.SIGCONT)
                await observer.wait_until_voting(0)
                await asyncio.sleep(1)
                await until_served(traffic, 20)
            assert_linearizable(traffic, operations_min=20)
            assert await states_are_equal(Scene(cluster, observer, traffic, measuring))

    asyncio.run(story())


def test_wrong_replies_deceive_nobody(new_cluster: Callable[[], LocalCluster]) -> None:
    cluster = new_cluster()
    run_with_liar(cluster, liar=2, fault="wrong-reply")


def test_an_equivocating_primary_forks_nothing(new_cluster: Callable[[], LocalCluster]) -> None:
    cluster = new_cluster()
    run_with_liar(cluster, liar=0, fault="equivocate")


def run_with_liar(cluster: LocalCluster, liar: int, fault: str) -> None:
    """Starts the cluster with one corrupt replica; its clients notice nothing but delay."""
    for replica in cluster.replicas:
        cluster.start(replica, [ALLOW, "--fault", fault] if replica == liar else [ALLOW])
    wait_until_serving(cluster)

    async def story() -> None:
        observer = Observer(cluster.layout.cluster_file)
        async with AsyncExitStack() as stack:
            measuring, *clients = await connect(stack, cluster, 5)
            async with Traffic(clients) as traffic:
                await asyncio.sleep(3)
                await until_served(traffic, 50)
                assert (await observer.statuses())[liar].faults == [fault]
            await traffic.read_all()
            assert_linearizable(traffic, operations_min=50)
            assert traffic.failed == 0, traffic.failures
            await asyncio.to_thread(cluster.stop, [liar])
            await asyncio.to_thread(cluster.start, liar)
            async with Traffic(clients):
                await observer.wait_until_voting(liar)
            assert await states_are_equal(Scene(cluster, observer, traffic, measuring))

    asyncio.run(story())
