"""Real replicas on disks that are full, corrupt or forgetful."""

import asyncio
import json
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AsyncExitStack

from pbft.cli.observer import Observer
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import START_COMMAND, LocalCluster
from pbft.cli.traffic import Traffic
from tests.process.durability import durability
from tests.process.helpers import connect, pbft

VICTIM = 3
FILE_KIB_MAX = 2_048
VALUE = os.urandom(100_000)
ENDED_SECONDS = 60.0
LIMITED = ("/bin/bash", "-c", f'ulimit -f {FILE_KIB_MAX}; exec "$@"', "bash", *START_COMMAND)


def wait_until_down(cluster: LocalCluster, replica: int) -> None:
    deadline = time.monotonic() + ENDED_SECONDS
    while cluster.state(replica) is not ProcessState.DOWN:
        assert time.monotonic() < deadline, f"replica {replica} still runs"
        time.sleep(0.05)


def test_a_full_disk_ends_the_replica_and_loses_nothing(
    new_cluster: Callable[[], LocalCluster],
) -> None:
    cluster = new_cluster()
    limited = LocalCluster(cluster.layout.directory, LIMITED)
    for replica in cluster.replicas:
        (limited if replica == VICTIM else cluster).start(replica)

    async def story() -> None:
        observer = Observer(cluster.layout.cluster_file)
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            for number in range(60):
                await client.put(b"large/%d" % number, VALUE)
            await asyncio.to_thread(wait_until_down, cluster, VICTIM)
            log = cluster.layout.log_file(VICTIM).read_text()
            assert '"event": "disk_failed"' in log
            assert "could not be written" in log
            await asyncio.to_thread(cluster.start, VICTIM)
            async with Traffic([client]):
                await observer.wait_until_voting(VICTIM)
            found = await client.range(prefix=b"large/1", consistency="ordered")
            assert all(pair.value == VALUE for pair in found)
            assert len(found) == 11

    asyncio.run(story())


def test_a_disk_that_fills_while_a_state_is_received_ends_the_replica(
    new_cluster: Callable[[], LocalCluster],
) -> None:
    cluster = new_cluster()
    for replica in cluster.replicas:
        if replica != VICTIM:
            cluster.start(replica)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            for number in range(300):
                await client.put(b"large/%d" % (number % 60), VALUE)
            limited = LocalCluster(cluster.layout.directory, LIMITED)
            await asyncio.to_thread(limited.start, VICTIM)
            await asyncio.to_thread(wait_until_down, cluster, VICTIM)

    asyncio.run(story())
    log = cluster.layout.log_file(VICTIM).read_text()
    assert '"event": "disk_failed"' in log
    assert "what a state transfer received" in log


def test_a_corrupt_vote_log_is_refused_with_advice(cluster: LocalCluster) -> None:
    async def write() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            await asyncio.gather(*(client.put(b"key/%d" % i, b"marked value") for i in range(50)))

    asyncio.run(write())
    cluster.stop([VICTIM])
    file = cluster.layout.data_directory(VICTIM) / "log" / "data.mdb"
    data = file.read_bytes()
    assert data.count(b"marked value") > 0
    file.write_bytes(data.replace(b"marked value", b"Marked value"))
    refused = pbft("start", "--config", cluster.layout.configuration_file(VICTIM))
    assert refused.returncode == 1
    assert "fails its checksum" in refused.stderr
    assert "pbft storage init" in refused.stderr
    assert "Traceback" not in refused.stderr
    inspected = pbft("log", "inspect", cluster.layout.data_directory(VICTIM))
    assert inspected.returncode == 4
    assert "fails its checksum" in inspected.stderr


def test_a_vote_log_of_another_cluster_is_refused_with_advice(
    cluster: LocalCluster, new_cluster: Callable[[], LocalCluster]
) -> None:
    """Its files are sound, and the identity beside them is right."""

    async def write() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            await client.put(b"key", b"value")

    asyncio.run(write())
    cluster.stop(cluster.running())
    other = new_cluster()
    log = other.layout.data_directory(VICTIM) / "log"
    shutil.rmtree(log)
    shutil.copytree(cluster.layout.data_directory(VICTIM) / "log", log)
    refused = pbft("start", "--config", other.layout.configuration_file(VICTIM))
    assert refused.returncode == 1
    assert "bad_certificate" in refused.stderr
    assert "pbft storage init" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_operator_may_have_a_replica_rejoin(cluster: LocalCluster) -> None:
    """Who suspects that a directory is an older copy need not know whether it is."""

    def rejoined() -> int:
        data = cluster.layout.data_directory(VICTIM)
        document = json.loads(pbft("log", "inspect", data, "-w", "json").stdout)
        assert document["rejoin_done"]
        return int(document["rejoin_incarnation"])

    async def story() -> None:
        observer = Observer(cluster.layout.cluster_file)
        async with AsyncExitStack() as stack, Traffic([*await connect(stack, cluster, 1)]):
            directory = cluster.layout.directory
            started = await asyncio.to_thread(
                pbft, "fault", "start", "--dir", directory, "--rejoin", str(VICTIM)
            )
            assert started.returncode == 0, started.stderr
            await observer.wait_until_voting(VICTIM)

    # That the cluster serves says nothing of the fourth: it may not know yet that it lost nothing.
    asyncio.run(Observer(cluster.layout.cluster_file).wait_until_all_work())
    cluster.stop([VICTIM])
    assert rejoined() == 0
    asyncio.run(story())
    assert rejoined() > 0


def test_all_killed_again_and_again_one_forgotten_one_rolled_back(cluster: LocalCluster) -> None:
    options = Namespace(
        rounds=1,
        clients=4,
        keys=5,
        interval=1.0,
        pause=0.02,
        rollback=2.0,
        seed=1,
        operations_min=100,
    )
    asyncio.run(durability(cluster, options))
