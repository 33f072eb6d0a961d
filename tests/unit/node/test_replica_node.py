"""Whole replicas on loopback in one event loop: start, serve, fail, stop."""

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pbft.codec import (
    decode_gateway_frame,
    decode_gateway_item,
    decode_message,
    encode_client_frame,
    encode_client_item,
    encode_message,
    encode_peer_frame,
    encode_peer_item,
)
from pbft.core.effects import AcceptedRecord, Persist, Truncate
from pbft.crypto.keys import generate_key_pair, save_key_pair
from pbft.errors import ConfigurationError, Reason
from pbft.genesis import dump_genesis
from pbft.messages import Kind, NewView, Outcome, Replies, Request, Signed, Submit
from pbft.node import replica_node
from pbft.node.config import Address, NodeConfiguration, dump_configuration
from pbft.node.event_log import EventLog
from pbft.node.faults import parse_fault
from pbft.node.replica_node import EXIT_DISK_FAILED, PUBLISH_SECONDS, ReplicaNode
from pbft.storage import directory
from pbft.storage.api import StorageFailed
from pbft.storage.vote_log import LmdbVoteLog
from pbft.transport import listener
from pbft.transport.api import ListenerEnded
from pbft.wire import kv_pb2
from tests.unit.node.support import breathe, until
from tests.unit.transport.support import (
    CLIENT_KEYS,
    GENESIS,
    REPLICA_KEYS,
    client_hello,
    client_signer,
    end_of,
    peer_hello,
    raw_stream,
)

import grpc  # isort: skip

ALICE = CLIENT_KEYS[0]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


def configurations(path: Path) -> list[NodeConfiguration]:
    """Four replicas with their files and data directories."""
    ports = free_ports(12)
    (path / "genesis.toml").write_bytes(dump_genesis(GENESIS))
    made = []
    for replica, key_pair in enumerate(REPLICA_KEYS):
        home = path / f"replica{replica}"
        save_key_pair(home / "replica.key", key_pair)
        directory.create(home / "data", GENESIS.cluster_id, replica)
        made.append(
            NodeConfiguration(
                replica=replica,
                genesis=path / "genesis.toml",
                key=home / "replica.key",
                data=home / "data",
                peer_address=Address("127.0.0.1", ports[replica]),
                client_address=Address("127.0.0.1", ports[4 + replica]),
                admin_address=Address("127.0.0.1", ports[8 + replica]),
                peers={
                    peer: Address("127.0.0.1", ports[peer]) for peer in range(4) if peer != replica
                },
                insecure=True,
            )
        )
    return made


@dataclass
class Running:
    """A replica and what it logs."""

    configuration: NodeConfiguration
    node: ReplicaNode
    task: asyncio.Task[None]
    log: io.StringIO

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    async def stop(self) -> None:
        self.node.stop()
        async with asyncio.timeout(60):
            await self.task

    async def status(self) -> dict[str, Any]:
        address = self.configuration.admin_address
        body = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://{address}/status", timeout=60).read()
        )
        return dict(json.loads(body))


@asynccontextmanager
async def running(chosen: Sequence[NodeConfiguration]) -> AsyncIterator[list[Running]]:
    """Runs replicas until each is connected with all others; stops them at the end."""
    nodes = []
    for configuration in chosen:
        log = io.StringIO()
        node = ReplicaNode(configuration, EventLog(configuration.replica, log))
        task = asyncio.create_task(node.run(), name=f"replica {configuration.replica}")
        nodes.append(Running(configuration, node, task, log))
    try:
        await until(lambda: all(is_connected(it, len(nodes) - 1) for it in nodes), seconds=60)
        yield nodes
    finally:
        for it in nodes:
            it.node.stop()
        await asyncio.gather(*(it.task for it in nodes), return_exceptions=True)


async def status_when(it: Running, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Its status as soon as it is like that."""
    for _ in range(1_200):
        if condition(status := await it.status()):
            return status
        await asyncio.sleep(0.05)
    raise AssertionError(f"still {status}")


def is_connected(it: Running, peers: int) -> bool:
    if it.task.done():
        it.task.result()
    names = [event["event"] for event in it.events()]
    return "started" in names and names.count("peer_connected") >= peers


def put(number: int, value: bytes) -> bytes:
    operation = kv_pb2.RequestOp(request_put=kv_pb2.PutRequest(key=b"key", value=value))
    request = Request(ALICE.public, 1, number, number - 1, 0, (operation.SerializeToString(),))
    signed = client_signer(ALICE).sign(request)
    return encode_client_frame([encode_client_item(Submit(signed, True))])


async def ask(call: Any, frame: bytes) -> Replies:
    """Sends a request again and again until it is answered: a replica that has just started takes
    none."""

    async def insist() -> None:
        while True:
            await call.write(frame)
            await asyncio.sleep(0.5)

    insisting = asyncio.create_task(insist())
    try:
        async with asyncio.timeout(60):
            while True:
                item = decode_gateway_item(decode_gateway_frame(await call.read())[0])
                if isinstance(item, Signed):
                    break
    finally:
        insisting.cancel()
        await asyncio.gather(insisting, return_exceptions=True)
    decoded = decode_message(item.kind, item.payload)
    assert isinstance(decoded, Replies)
    return decoded


def test_four_replicas_serve_and_remember(tmp_path: Path) -> None:
    async def scenario() -> None:
        chosen = configurations(tmp_path)
        port = chosen[0].client_address.port
        async with running(chosen) as nodes:
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                answered = await ask(call, put(1, b"one"))
                assert [it.outcome for it in answered.replies] == [Outcome.EXECUTED]
            # The client had its answer from one; the others execute a little later.
            statuses = [await status_when(it, lambda status: status["executed"]) for it in nodes]
            assert [status["executed"] for status in statuses] == [1] * 4
            assert [status["role"] for status in statuses] == ["primary"] + ["backup"] * 3
            assert statuses[1]["peers_connected"] == [0, 2, 3]
            for it in nodes:
                await it.stop()
                warned = [event["event"] for event in it.events() if event["level"] != "info"]
                assert warned == ["insecure"]
        async with running(chosen) as nodes, raw_stream(port, "Gateway") as call:
            await client_hello(call, ALICE)
            # The same request again: executed once, answered from the session table.
            again = await ask(call, put(1, b"one"))
            assert again.replies[0].sequence == answered.replies[0].sequence == 1

    asyncio.run(scenario())


def test_hostile_peer_and_client_are_counted_and_the_replica_serves_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        chosen = configurations(tmp_path)
        async with running(chosen[:1]) as nodes:
            configuration = nodes[0].configuration
            good = put(1, b"value")
            async with raw_stream(configuration.peer_address.port, "Peer") as peer:
                await peer_hello(peer, replica=2)
                await peer.write(encode_peer_frame([b"", os.urandom(40), b"\x0a\x00"]))
                await peer.write(b"")
                async with raw_stream(configuration.client_address.port, "Gateway") as call:
                    await client_hello(call, ALICE)
                    flipped = good[:-1] + bytes([good[-3] ^ 1]) + good[-1:]
                    await call.write(flipped)
                    await call.write(encode_client_frame([os.urandom(40)]))
                    await until(lambda: len(rejected(nodes[0])) >= 6)
                    counted = rejected(nodes[0])
                    assert counted.count(("peer_item", 2)) == 3
                    assert counted.count(("frame", 2)) == 1
                    assert len([it for it in counted if it[1] == "nobody"]) == 2
                    while sum((status := await nodes[0].status())["rejections"].values()) < 6:
                        await breathe()
                    assert status["rejections"][Reason.MALFORMED.value] >= 5
                    assert not nodes[0].task.done()

    asyncio.run(scenario())


def rejected(it: Running) -> list[tuple[str, object]]:
    return [
        (event["message"], event["peer"]) for event in it.events() if event["event"] == "rejected"
    ]


def test_peer_that_floods_with_bad_items_is_thrown_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configurations(tmp_path)[:1]) as nodes:
            port = nodes[0].configuration.peer_address.port
            async with raw_stream(port, "Peer") as peer:
                await peer_hello(peer, replica=2)
                await peer.write(encode_peer_frame([b"\xff"] * 5_000))
                assert await end_of(peer) is grpc.StatusCode.RESOURCE_EXHAUSTED
            status = await status_when(
                nodes[0], lambda status: sum(status["rejections"].values()) >= 5_000
            )
            # Most were never looked at; all are accounted for. What takes long counts for more, as
            # a collection of what the tests before this one left behind does.
            assert 50 <= status["rejections"]["malformed"] < 1_500
            assert sum(status["rejections"].values()) == 5_000
            assert any(event["event"] == "peer_throttled" for event in nodes[0].events())

    asyncio.run(scenario())


def test_peer_whose_items_are_dear_to_refuse_is_thrown_out(tmp_path: Path) -> None:
    """Each is well formed, and of a view that is over: no fault, but 40 ms of the event loop."""
    view_changes = (Signed(Kind.VIEW_CHANGE, 0, b"", bytes(64)),) * 16_000
    payload = encode_message(NewView(2, view_changes, ()))
    dear = encode_peer_item(Signed(Kind.NEW_VIEW, 1, payload, bytes(64)))

    async def scenario() -> None:
        async with running(configurations(tmp_path)[:1]) as nodes:
            port = nodes[0].configuration.peer_address.port
            async with raw_stream(port, "Peer") as peer:
                await peer_hello(peer, replica=2)
                with pytest.raises((grpc.RpcError, asyncio.InvalidStateError)):
                    for _ in range(40):
                        await peer.write(encode_peer_frame([dear] * 5))
            status = await status_when(
                nodes[0], lambda status: "rate_limit" in status["rejections"]
            )
            assert 1 <= status["rejections"]["not_primary"] < 400
            assert any(event["event"] == "peer_throttled" for event in nodes[0].events())
            assert not nodes[0].task.done()

    asyncio.run(scenario())


def test_a_failed_sync_ends_the_process_before_anything_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []

    write = LmdbVoteLog.write

    def refuse(log: LmdbVoteLog, effects: Sequence[Persist | Truncate]) -> None:
        for effect in effects:
            if isinstance(effect, Persist) and isinstance(effect.record, AcceptedRecord):
                raise StorageFailed("no space left")
        write(log, effects)

    monkeypatch.setattr(LmdbVoteLog, "write", refuse)
    monkeypatch.setattr(replica_node.os, "_exit", exits.append)

    async def scenario() -> None:
        chosen = configurations(tmp_path)
        async with running(chosen) as nodes:
            async with raw_stream(chosen[0].client_address.port, "Gateway") as call:
                await client_hello(call, ALICE)
                await call.write(put(1, b"one"))
                await until(lambda: bool(exits))
                await asyncio.sleep(2 * PUBLISH_SECONDS)
            assert set(exits) == {EXIT_DISK_FAILED}
            failed = [event for event in nodes[0].events() if event["event"] == "disk_failed"]
            assert "no space left" in failed[0]["error"]
            # The primary's proposal depended on that record, so nobody else saw it.
            assert (await nodes[1].status())["executed"] == 0
            assert len(exits) == 1

    asyncio.run(scenario())


def test_what_is_wrong_at_the_start_is_said(tmp_path: Path) -> None:
    chosen = configurations(tmp_path)
    with pytest.raises(ConfigurationError, match="is not the key of replica 0"):
        ReplicaNode(replace(chosen[0], key=chosen[1].key))
    with pytest.raises(ConfigurationError, match="cannot read the genesis"):
        ReplicaNode(replace(chosen[0], genesis=tmp_path / "nothing.toml"))
    with pytest.raises(ConfigurationError, match="no behaviour 'nonsense'"):
        ReplicaNode(replace(chosen[0], faults=("nonsense",), allow_fault_injection=True))
    stranger = tmp_path / "stranger" / "replica.key"
    save_key_pair(stranger, generate_key_pair())
    with pytest.raises(ConfigurationError, match="check `replica` and `key`"):
        ReplicaNode(replace(chosen[0], key=stranger))

    async def missing() -> None:
        await ReplicaNode(replace(chosen[0], data=tmp_path / "nowhere")).run()

    with pytest.raises(ConfigurationError, match="pbft storage init"):
        asyncio.run(missing())


def test_a_taken_port_ends_the_start_and_leaves_nothing_locked(tmp_path: Path) -> None:
    async def scenario() -> None:
        chosen = configurations(tmp_path)
        with (
            socket.create_server(("127.0.0.1", chosen[0].client_address.port)),
            pytest.raises(ConfigurationError, match="cannot listen on"),
        ):
            async with asyncio.timeout(60):
                await ReplicaNode(chosen[0], EventLog(0, io.StringIO())).run()
        async with running(chosen[:1]) as nodes:
            assert (await nodes[0].status())["replica"] == 0

    asyncio.run(scenario())


def test_stopping_before_running_is_fine(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = ReplicaNode(configurations(tmp_path)[0], EventLog(0, io.StringIO()))
        node.stop()
        async with asyncio.timeout(60):
            await node.run()

    asyncio.run(scenario())


def test_python_without_assertions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replica.toml"
    path.write_text(dump_configuration(configurations(tmp_path)[0], tmp_path))
    program = (
        "from pathlib import Path\n"
        "from pbft.node.config import load_configuration\n"
        "from pbft.node.replica_node import ReplicaNode\n"
        f"ReplicaNode(load_configuration(Path({str(path)!r})))\n"
    )
    command = [sys.executable, "-O", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "start without python -O" in ended.stderr


def test_faults_are_read_with_their_options() -> None:
    assert parse_fault("silent") == ("silent", {})
    assert parse_fault("delay:ms=5,x=y") == ("delay", {"ms": "5", "x": "y"})
    with pytest.raises(ConfigurationError, match="KEY=VALUE"):
        parse_fault("delay:ms")


def test_a_named_fault_acts_on_a_real_replica(tmp_path: Path) -> None:
    async def scenario() -> None:
        chosen = configurations(tmp_path)
        chosen[3] = replace(chosen[3], faults=("silent",), allow_fault_injection=True)
        async with running(chosen) as nodes:
            async with raw_stream(chosen[0].client_address.port, "Gateway") as call:
                await client_hello(call, ALICE)
                assert (await ask(call, put(1, b"one"))).replies[0].outcome is Outcome.EXECUTED
            assert (await nodes[3].status())["faults"] == ["silent"]
            address = chosen[3].admin_address
            body = await asyncio.to_thread(
                lambda: urllib.request.urlopen(f"http://{address}/metrics", timeout=60).read()
            )
            # It votes for nobody: nothing was given to its streams.
            assert b'pbft_messages_total{direction="out"' not in body

    asyncio.run(scenario())


@pytest.mark.parametrize("service", ["Peer", "Gateway"])
def test_a_listener_that_grpc_ends_ends_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """Whoever watches over the process starts it again; without a listener it would be of no use.
    gRPC does so if it is asked for a method whose name is no UTF-8, which ours never tells it."""
    known = listener._KnownMethods
    monkeypatch.setattr(known, "_make_request_call_future", known._ask)

    async def scenario() -> None:
        async with running(configurations(tmp_path)[:1]) as nodes:
            configuration = nodes[0].configuration
            ports = {"Peer": configuration.peer_address, "Gateway": configuration.client_address}
            async with grpc.aio.insecure_channel(str(ports[service])) as channel:
                wrong = channel.stream_stream(b"/pbft.wire.Peer/\xff")()
                with pytest.raises((grpc.RpcError, asyncio.InvalidStateError)):
                    await wrong.read()
                async with asyncio.timeout(30):
                    with pytest.raises(ListenerEnded, match="gRPC ended a listener"):
                        await nodes[0].task

    asyncio.run(scenario())
