"""Four replica processes, honest and well: requests, restarts, clean stops."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from pbft.cli.admin import admin_addresses, fetch_status, get
from pbft.cli.local import wait_until_serving
from pbft.cli.observer import Observer
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic
from pbft_client import Client, ClientSettings, TooFewAnswers
from pbft_client.reads import ReadSettings
from pbft_client.session import SessionSettings
from tests.process.helpers import assert_linearizable, connect, pbft, until_served

STATUS_FIELDS = [
    "replica",
    "reachable",
    "role",
    "view",
    "mode",
    "low_water_mark",
    "executed",
    "state_digest",
    "faults",
]


def test_a_client_reads_what_it_wrote(cluster: LocalCluster) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            alice, bob = await connect(stack, cluster, 2)
            assert await alice.get(b"color") is None
            first = await alice.put(b"color", b"blue")
            found = await bob.get(b"color")
            assert found is not None
            assert (found.value, found.version, found.mod_revision) == (b"blue", 1, first.revision)
            assert not await bob.cas(b"color", expect=b"red", value=b"green")
            assert not await bob.cas(b"color", expect=None, value=b"green")
            assert await bob.cas(b"color", expect=b"blue", value=b"green")
            for consistency in ("linearizable", "ordered"):
                found = await alice.get(b"color", consistency=consistency)
                assert found is not None and found.value == b"green"
            await asyncio.gather(*(alice.put(b"many/%03d" % i, b"%d" % i) for i in range(200)))
            many = await bob.range(prefix=b"many/")
            assert [pair.key for pair in many] == [b"many/%03d" % i for i in range(200)]
            assert (await bob.delete(b"color")).deleted == 1
            assert await alice.get(b"color") is None

    asyncio.run(story())


def test_calls_that_are_too_much_together_are_all_answered(cluster: LocalCluster) -> None:
    """Twelve megabytes: three times what one request or read may have as its results."""
    keys = [b"large/%02d" % index for index in range(12)]
    value = bytes(1_000_000)
    # However slow the machine: no fast read is ordered only because time has passed, megabytes are
    # not sent again and again, and results of which the others keep the digest only are waited for.
    long_us = 60_000_000
    settings = ClientSettings(
        session=SessionSettings(retransmission_first_us=long_us, source_wait_us=long_us),
        reads=ReadSettings(linearizable_wait_us=long_us),
    )

    async def story() -> None:
        async with await Client.connect(cluster.layout.cluster_file, settings=settings) as client:
            await asyncio.gather(*(client.put(key, value, timeout=60) for key in keys))
            # Nearly always they are answered as fast reads; but a replica ends the stream of a
            # client that takes its megabytes too slowly (queue_full): then the rest is ordered.
            found = await asyncio.gather(*(client.range(key, timeout=60) for key in keys))
            assert [pairs.items[0].value for pairs in found] == [value] * len(keys)
            gets = [client.range(key, consistency="ordered", timeout=60) for key in keys]
            puts = [client.put(b"small", b"%d" % count, timeout=60) for count in range(12)]
            found, made = await asyncio.gather(asyncio.gather(*gets), asyncio.gather(*puts))
            assert [pairs.items[0].value for pairs in found] == [value] * len(keys)
            assert len({put.revision for put in made}) == len(made)
            pair = await client.get(b"small")
            assert pair is not None and pair.version == len(made), "each once"

    asyncio.run(story())


def test_the_commands_tell_what_the_cluster_does(cluster: LocalCluster) -> None:
    place = ["--cluster", str(cluster.layout.cluster_file), "-w", "json"]
    assert json.loads(pbft("kv", "get", "greeting", *place).stdout) == []
    assert json.loads(pbft("kv", "put", "greeting", "hello", *place).stdout)["revision"] == 2
    (pair,) = json.loads(pbft("kv", "get", "greeting", *place).stdout)
    assert (pair["key"], pair["value"], pair["version"]) == ("greeting", "hello", 1)
    refused = json.loads(pbft("kv", "cas", "greeting", "x", "--expect", "y", *place).stdout)
    assert refused["succeeded"] is False
    swapped = json.loads(pbft("kv", "cas", "greeting", "x", "--expect", "hello", *place).stdout)
    assert swapped["succeeded"] is True
    (pair,) = json.loads(pbft("kv", "range", "greet", *place).stdout)
    assert pair["value"] == "x"
    assert json.loads(pbft("kv", "del", "greeting", *place).stdout)["deleted"] == 1

    statuses = json.loads(pbft("cluster", "status", *place).stdout)
    assert [list(row)[: len(STATUS_FIELDS)] for row in statuses] == [STATUS_FIELDS] * 4
    assert [row["role"] for row in statuses] == ["primary", "backup", "backup", "backup"]
    assert all(row["reachable"] and row["faults"] == [] for row in statuses)
    assert pbft("cluster", "health", *place).returncode == 0
    assert pbft("cluster", "hash", *place).returncode == 0
    members = json.loads(pbft("cluster", "members", *place).stdout)
    assert len({row["public_key"] for row in members}) == 4
    table = pbft("cluster", "status", *place[:2]).stdout
    assert table.splitlines()[0].split() == STATUS_FIELDS
    assert "\x1b" not in table


def wait_for_clients(cluster: LocalCluster, count: int) -> None:
    """Until each replica has so many streams of clients."""
    addresses = admin_addresses(cluster.layout.cluster_file)
    deadline = time.monotonic() + 20
    while True:
        statuses = [json.loads(get(address, "/status")[1]) for address in addresses]
        connected = {status["clients_connected"] for status in statuses}
        if connected == {count}:
            return
        assert time.monotonic() < deadline, connected
        time.sleep(0.05)


def test_who_connects_too_often_with_one_key_is_told_to_use_another(
    cluster: LocalCluster,
) -> None:
    async def story() -> None:
        file = cluster.layout.cluster_file
        async with AsyncExitStack() as stack:
            for _ in range(8):
                await stack.enter_async_context(await Client.connect(file))
            # A client is connected when enough replicas have answered: the others may come later.
            await asyncio.to_thread(wait_for_clients, cluster, 8)
            words = "replica 0 .*this key has 8 connections already; use another key"
            with pytest.raises(TooFewAnswers, match=words):
                await stack.enter_async_context(await Client.connect(file, timeout=2))
            other = await Client.connect(file, cluster.layout.client_key_file(7))
            async with other:
                await other.put(b"k", b"v")

    asyncio.run(story())


def test_bench_has_its_fixed_form(cluster: LocalCluster) -> None:
    place = ["--cluster", str(cluster.layout.cluster_file), "-w", "json"]
    load = ["--in-flight", "8", "--clients", "2", "--value-size", "10", "--duration", "1"]
    document = json.loads(pbft("bench", "--workload", "put", *load, *place).stdout)
    assert document["operations"] > 0
    assert document["errors"] == 0
    assert document["ops_per_second"] == document["operations"]
    assert list(document["latency_ms"]) == ["p50", "p90", "p99", "p999"]
    assert document["cpu_seconds"]["client"] > 0
    assert document["cpu_seconds"]["replicas"] > 0


def test_too_few_replicas_is_exit_code_3(cluster: LocalCluster) -> None:
    place = ["--cluster", str(cluster.layout.cluster_file)]
    for replica in (1, 2):
        cluster.kill(replica)
    assert pbft("cluster", "health", *place).returncode == 3
    assert pbft("cluster", "status", *place).returncode == 0
    put = pbft("kv", "put", "key", "value", *place, "--timeout", "2")
    assert put.returncode == 3
    assert put.stdout == ""
    assert "replica 1" in put.stderr
    cluster.kill(3)
    assert pbft("cluster", "status", *place).returncode == 3


def test_up_again_starts_what_is_down_and_down_stops_all(cluster: LocalCluster) -> None:
    place = ["--dir", str(cluster.layout.directory), "-w", "json"]
    cluster.kill(2)
    assert json.loads(pbft("up", *place).stdout)["started"] == [2]
    assert json.loads(pbft("up", *place).stdout)["started"] == []
    assert pbft("up", *place, "--replicas", "7").returncode == 1
    stopped = json.loads(pbft("down", *place).stdout)
    assert (stopped["stopped"], stopped["killed"]) == ([0, 1, 2, 3], [])
    assert cluster.running() == []


def test_a_replica_that_ends_at_once_was_not_started(
    new_cluster: Callable[[], LocalCluster],
) -> None:
    cluster = new_cluster()
    place = ["--dir", str(cluster.layout.directory)]
    admin = admin_addresses(cluster.layout.cluster_file)[2]
    host, _, port = admin.rpartition(":")
    with socket.create_server((host, int(port))):
        up = pbft("up", *place, "-w", "json")
        assert (up.returncode, up.stdout) == (1, "")
        why = f"error: cannot listen on {admin} for admin: Address already in use\n"
        assert up.stderr == f"error: 3 of 4 replicas serve; replica 2 ended: {why}"
        start = pbft("fault", "start", "2", *place)
        assert start.returncode == 1
        assert start.stderr.startswith("error: replica 2 ended at once:\n")
        assert start.stderr.endswith(why)
    assert pbft("fault", "start", "2", *place).returncode == 0
    assert fetch_status(2, admin).reachable


def test_killing_all_at_once_loses_nothing_acknowledged(cluster: LocalCluster) -> None:
    async def write() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            await asyncio.gather(*(client.put(b"k%d" % i, b"v%d" % i) for i in range(300)))
            for replica in cluster.replicas:
                await asyncio.to_thread(cluster.kill, replica)

    async def read() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            found = await client.range(prefix=b"k")
            assert {(p.key, p.value) for p in found} == {
                (b"k%d" % i, b"v%d" % i) for i in range(300)
            }

    asyncio.run(write())
    for replica in reversed(cluster.replicas):
        cluster.start(replica)
    wait_until_serving(cluster)
    asyncio.run(read())


def test_sigterm_ends_a_replica_cleanly(new_cluster: Callable[[], LocalCluster]) -> None:
    cluster = new_cluster()
    for replica in (1, 2, 3):
        cluster.start(replica)
    command = [sys.executable, "-m", "pbft.cli.main", "start"]
    command += ["--config", str(cluster.layout.configuration_file(0))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            # The others serve without it; before it listens it may not even have a handler.
            observer = Observer(cluster.layout.cluster_file)
            asyncio.run(observer.wait_until_reachable(0))
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    told = (output + errors).decode()
    assert "stopped" in told.splitlines()[-1]
    for noise in ("Traceback", "was destroyed", "never awaited", "Exception ignored"):
        assert noise not in told


def test_a_data_directory_serves_one_process(cluster: LocalCluster) -> None:
    again = pbft("start", "--config", cluster.layout.configuration_file(0))
    assert again.returncode == 1
    assert "in use by another process" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_missing_data_directory_is_refused(new_cluster: Callable[[], LocalCluster]) -> None:
    cluster = new_cluster()
    cluster.layout.data_directory(0).rename(cluster.layout.replica_directory(0) / "elsewhere")
    refused = pbft("start", "--config", cluster.layout.configuration_file(0))
    assert refused.returncode == 1
    assert "pbft storage init" in refused.stderr
    assert not cluster.layout.data_directory(0).exists()


def test_assertions_cannot_be_switched_off(new_cluster: Callable[[], LocalCluster]) -> None:
    configuration = str(new_cluster().layout.configuration_file(0))
    command = [sys.executable, "-O", "-m", "pbft.cli.main", "start", "--config", configuration]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "python -O" in done.stderr


@pytest.mark.parametrize("replicas", [5, 7])
def test_other_sizes_serve_and_survive_their_primary(
    new_cluster: Callable[..., LocalCluster], replicas: int
) -> None:
    cluster = new_cluster(replicas)
    for replica in cluster.replicas:
        cluster.start(replica)
    wait_until_serving(cluster)

    async def story() -> None:
        observer = Observer(cluster.layout.cluster_file)
        async with AsyncExitStack() as stack:
            clients = await connect(stack, cluster, 2)
            async with Traffic(clients) as traffic:
                await asyncio.to_thread(cluster.kill, 0)
                assert await observer.wait_for_view(above=0) >= 1
                await clients[0].put(b"after", b"the primary")
                await until_served(traffic, 10)
            await traffic.read_all()
        assert_linearizable(traffic, operations_min=10)

    asyncio.run(story())
    assert cluster.state(0) is ProcessState.DOWN
