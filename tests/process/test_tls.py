"""Certificates between real processes: who gets in, and what is said about those who do not."""

import asyncio
import json
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pbft.cli.layout import Layout
from pbft.cli.local import wait_until_serving
from pbft.cli.observer import Observer
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.crypto.certificates import Authority
from pbft.crypto.keys import load_key_pair
from pbft.genesis import Genesis, parse_genesis
from pbft.node.config import load_configuration
from pbft_client import Client
from pbft_client.errors import TooFewAnswers
from tests.process.helpers import connect, pbft

CLIENT = 1
"""Whose certificate is spoiled."""


def genesis_of(layout: Layout) -> Genesis:
    return parse_genesis(layout.genesis_file.read_bytes())


def authority_of(layout: Layout) -> Authority:
    return Authority.load(
        genesis_of(layout).cluster_id, layout.authority_file, layout.authority_key_file
    )


def metric(port: int, name: str) -> float:
    """The sum of a counter's samples whose line begins like this."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def ports(layout: Layout, replica: int) -> dict[str, int]:
    it = load_configuration(layout.configuration_file(replica), environment={})
    return {
        "client": it.client_address.port,
        "peer": it.peer_address.port,
        "admin": it.admin_address.port,
    }


def last_words(cluster: LocalCluster, replica: int) -> str:
    """What a replica wrote that ended by itself, which may be after the others serve."""
    deadline = time.monotonic() + 60
    while cluster.state(replica) is not ProcessState.DOWN:
        assert time.monotonic() < deadline, f"replica {replica} runs on"
        time.sleep(0.05)
    return cluster.log_tail(replica)


async def refusal(layout: Layout, pair: bytes | None) -> str:
    """What a client is told that shows another certificate than its own."""
    spoiled = layout.clients_directory / "spoiled.pem"
    spoiled.unlink(missing_ok=True)
    if pair is None:
        shutil.copy(layout.replica_certificate_file(1), spoiled)
    else:
        spoiled.write_bytes(pair)
        spoiled.chmod(0o600)
    with pytest.raises(TooFewAnswers) as caught:
        refused = await Client.connect(
            layout.cluster_file,
            layout.client_key_file(CLIENT),
            certificate=spoiled,
            timeout=6,
        )
        # Streams look open until the replicas' verdict on the Hello has come.
        async with refused:
            await refused.get(b"before", timeout=30)
    return str(caught.value)


def test_only_the_right_certificates_get_in_and_the_cluster_serves_on(
    cluster: LocalCluster,
) -> None:
    layout = cluster.layout
    authority = authority_of(layout)
    own = load_key_pair(layout.client_key_file(CLIENT)).public
    key = min(genesis_of(layout).clients - {own})
    here = ports(layout, 0)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            (client,) = await connect(stack, cluster, 1)
            await client.put(b"before", b"1")
            expired = authority.issue_client(own, valid_days=-1)
            stranger = Authority.create(authority.cluster_id).issue_client(own)
            for pair, complaint in (
                (expired, "refused this client's certificate"),
                (stranger, "refused this client's certificate"),
                (authority.issue_operator(), "unknown_sender"),
                (None, "unknown_sender"),
                (authority.issue_client(key), "sender_mismatch"),
            ):
                assert complaint in await refusal(layout, pair)
            for port in here.values():
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    assert b"200" not in connection.recv(1000)
            await client.put(b"after", b"2")
            found = await client.get(b"before")
            assert found is not None and found.value == b"1"

    asyncio.run(story())
    # A client gives up once too few are left that do not refuse it: not all four always do.
    rejected = 'pbft_rejected_total{message="%s",peer="client",reason="%s"}'
    admins = [ports(layout, replica)["admin"] for replica in cluster.replicas]
    for label, times in ((("certificate", "unknown_sender"), 6), (("hello", "sender_mismatch"), 3)):
        assert sum(metric(port, rejected % label) for port in admins) >= times


def test_a_replica_with_the_certificate_of_another_stays_outside(
    new_cluster: Callable[[], LocalCluster],
) -> None:
    made = new_cluster()
    layout = made.layout
    shutil.copy(layout.replica_certificate_file(1), layout.replica_certificate_file(2))
    for replica in made.replicas:
        made.start(replica)
    wait_until_serving(made)
    asyncio.run(Observer(layout.cluster_file).wait_for_view())
    assert "is not the certificate of replica 2" in last_words(made, 2)
    assert made.running() == [0, 1, 3]


def test_files_that_others_may_read_stop_a_replica(
    new_cluster: Callable[[], LocalCluster],
) -> None:
    layout = new_cluster().layout
    spoilt: list[tuple[Path, int]] = [
        (layout.replica_certificate_file(0), 0o640),
        (layout.replica_key_file(1), 0o604),
        (layout.replica_directory(2), 0o750),
    ]
    for replica, (path, mode) in enumerate(spoilt):
        path.chmod(mode)
        ended = pbft("start", "--config", layout.configuration_file(replica))
        assert ended.returncode == 1
        assert "run: chmod" in ended.stderr
    layout.client_certificate_file(0).chmod(0o644)
    ended = pbft("kv", "get", "x", "--cluster", layout.cluster_file)
    assert ended.returncode == 1
    assert "run: chmod 600" in ended.stderr


def test_nobody_is_told_to_close_a_directory_that_is_not_the_projects_own(
    new_cluster: Callable[[], LocalCluster], tmp_path: Path
) -> None:
    layout = new_cluster().layout
    place = ["--cluster", str(layout.cluster_file), "--timeout", "1"]
    ended = pbft("kv", "get", "x", *place, "--key", "/nonexistent")
    assert ended.returncode == 1
    said = "error: cannot read the key file /nonexistent: No such file or directory\n"
    assert ended.stderr == said

    tmp_path.chmod(0o755)
    for path in (layout.client_key_file(1), layout.client_certificate_file(1)):
        shutil.copy(path, tmp_path)
    ended = pbft("kv", "get", "x", *place, "--key", tmp_path / "1.key")
    assert ended.returncode == 3, "no replica runs; the key is fine"

    elsewhere = layout.replica_directory(0).rename(layout.directory / "elsewhere")
    elsewhere.chmod(0o755)
    (elsewhere / "data").rename(tmp_path / "data")
    ended = pbft("start", "--config", elsewhere / "replica.toml")
    assert "run pbft storage init first" in ended.stderr


def test_certificates_end_are_announced_and_are_made_anew(
    new_cluster: Callable[[], LocalCluster],
) -> None:
    made = new_cluster()
    layout = made.layout
    authority = authority_of(layout)
    layout.replica_certificate_file(0).write_bytes(authority.issue_replica(0, valid_days=20))
    layout.replica_certificate_file(1).write_bytes(authority.issue_replica(1, valid_days=-1))
    for replica in made.replicas:
        made.start(replica)
    wait_until_serving(made)
    logged = [json.loads(line) for line in layout.log_file(0).read_text().splitlines()]
    warnings = [it for it in logged if it["event"] == "certificate_expires"]
    assert [it["days"] in (19, 20) for it in warnings] == [True]
    assert "certificate_expires" not in layout.log_file(2).read_text()
    told = last_words(made, 1)
    assert "has expired" in told and "pbft testnet renew" in told

    assert pbft("testnet", "renew", "--dir", layout.directory).returncode == 0
    made.stop([0])
    for replica in (0, 1):
        assert made.start(replica)
        asyncio.run(Observer(layout.cluster_file).wait_until_reachable(replica))
    wait_until_serving(made)
    assert layout.log_file(0).read_text().count("certificate_expires") == 1
    layout.authority_key_file.unlink()
    assert "nothing else can sign" in pbft("testnet", "renew", "--dir", layout.directory).stderr


def test_plain_text_is_asked_for_and_announced(tmp_path: Path) -> None:
    directory = tmp_path / "plain"
    made = pbft("testnet", "init", "--out", directory, "--clients", "1", "--insecure")
    assert made.returncode == 0
    assert "plain text" in made.stderr
    layout = Layout(directory)
    assert not layout.authority_file.exists()
    for replica in layout.replicas():
        assert (
            pbft("storage", "init", "--config", layout.configuration_file(replica)).returncode == 0
        )
    cluster = LocalCluster(directory)
    try:
        for replica in cluster.replicas:
            cluster.start(replica)
        wait_until_serving(cluster)
        logged = [json.loads(line) for line in layout.log_file(0).read_text().splitlines()[1:]]
        assert "insecure" in [it["event"] for it in logged]
        assert pbft("kv", "put", "a", "b", "--cluster", layout.cluster_file).returncode == 0
    finally:
        cluster.stop(cluster.replicas)
