"""Frames that are no frames, sent to a real replica by a peer and by a client with good keys."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pbft.cli.admin import admin_addresses, get
from pbft.cli.layout import Layout
from pbft.cli.local import wait_until_serving
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.testnet import create_testnet
from pbft.codec import (
    decode_challenge,
    decode_gateway_frame,
    decode_gateway_item,
    encode_client_frame,
    encode_client_item,
    encode_peer_frame,
    encode_peer_item,
)
from pbft.crypto.keys import load_key_pair
from pbft.crypto.signing import ClientSigner, ReplicaSigner
from pbft.genesis import parse_genesis
from pbft.limits import MIB
from pbft.messages import Consistency, GatewayChallenge, Hello, ReadRequest, Role
from pbft.node.config import load_configuration
from tests.process.helpers import pbft
from tests.unit.transport.support import end_of, raw_stream

import grpc  # isort: skip  (after the transport set its switches)

TARGET, LIAR = 0, 3
CLIENT = 1
ROUNDS = 5
GROWTH_BYTES_MAX = 64 * MIB
"""Of memory at its highest: one frame of 64 MiB, had it been received, is more."""

Say = Callable[[grpc.aio.StreamStreamCall], Awaitable[None]]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three replicas without TLS; the fourth is played by the test."""
    directory = tmp_path / "plain"
    create_testnet(directory, 4, 4, initialise_storage=True, insecure=True)
    cluster = LocalCluster(directory)
    try:
        for replica in set(cluster.replicas) - {LIAR}:
            cluster.start(replica)
        wait_until_serving(cluster)
        yield cluster
    finally:
        for replica in cluster.replicas:
            cluster.kill(replica)
            print(f"--- replica {replica}:\n{cluster.log_tail(replica)}")


def hello_of_peer(layout: Layout) -> Say:
    cluster_id = parse_genesis(layout.genesis_file.read_bytes()).cluster_id
    pair = load_key_pair(layout.replica_key_file(LIAR))

    async def say(call: grpc.aio.StreamStreamCall) -> None:
        nonce = decode_challenge(await call.read())
        hello = ReplicaSigner(LIAR, pair, cluster_id).sign(Hello(Role.REPLICA, pair.public, nonce))
        await call.write(encode_peer_frame([encode_peer_item(hello)]))

    return say


def hello_of_client(layout: Layout) -> Say:
    cluster_id = parse_genesis(layout.genesis_file.read_bytes()).cluster_id
    pair = load_key_pair(layout.client_key_file(CLIENT))

    async def say(call: grpc.aio.StreamStreamCall) -> None:
        challenge = decode_gateway_item(decode_gateway_frame(await call.read())[0])
        assert isinstance(challenge, GatewayChallenge)
        hello = Hello(Role.CLIENT, pair.public, challenge.nonce)
        signed = ClientSigner(pair, cluster_id).sign(hello)
        await call.write(encode_client_frame([encode_client_item(signed)]))

    return say


async def attack(port: int, service: str, hello: Say, good: bytes) -> None:
    """Zero-length, random and bit-flipped frames, and one of 64 MiB that ends the stream."""
    chance = random.Random(service)
    for _ in range(ROUNDS):
        async with raw_stream(port, service) as call:
            await hello(call)
            flipped = bytes([good[0] ^ 0x08]) + good[1:]
            for frame in (b"", chance.randbytes(100), chance.randbytes(MIB), flipped, good[:-1]):
                await call.write(frame)
            await call.write(bytes(64 * MIB))
            assert await end_of(call) is not grpc.StatusCode.OK


def peak_bytes(cluster: LocalCluster) -> int:
    """The most memory that the attacked process ever had."""
    record = cluster.record(TARGET)
    assert record is not None
    lines = Path(f"/proc/{record.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def malformed(layout: Layout, peer: str) -> int:
    """Frames of this sender that were refused as such."""
    _, body = get(admin_addresses(layout.cluster_file)[TARGET], "/metrics")
    wanted = ('message="frame"', 'reason="malformed"', f'peer="{peer}"')
    return sum(
        int(float(line.rsplit(" ", 1)[1]))
        for line in body.decode().splitlines()
        if line.startswith("pbft_rejected_total{") and all(label in line for label in wanted)
    )


def test_frames_of_64_mib_of_nothing_and_of_noise_take_no_memory_and_stop_nobody(
    plain: LocalCluster,
) -> None:
    layout = plain.layout
    configuration = load_configuration(layout.configuration_file(TARGET), environment={})
    read = encode_client_item(ReadRequest(1, (b"query",), Consistency.LINEARIZABLE, False))

    async def story() -> None:
        port = configuration.peer_address.port
        await attack(port, "Peer", hello_of_peer(layout), encode_peer_frame([b"item"]))
        port = configuration.client_address.port
        await attack(port, "Gateway", hello_of_client(layout), encode_client_frame([read]))

    before = peak_bytes(plain)
    asyncio.run(story())
    grown = peak_bytes(plain) - before
    assert grown < GROWTH_BYTES_MAX, f"memory rose by {grown / MIB:.0f} MiB"
    for replica in set(plain.replicas) - {LIAR}:
        assert plain.state(replica) is not ProcessState.DOWN
    # No frame of noise decodes; a stream that is ended by the transport is not a rejection.
    assert malformed(layout, str(LIAR)) == malformed(layout, "client") == 5 * ROUNDS
    put = pbft("kv", "put", "still", "here", "--cluster", layout.cluster_file, "--timeout", "30")
    assert put.returncode == 0, put.stderr
