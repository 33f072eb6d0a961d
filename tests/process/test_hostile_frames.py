"""Frames that are no frames, sent to a real replica by a peer and by a client with good keys."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from pbft.cli.admin import admin_addresses, read_samples, total
from pbft.cli.layout import Layout
from pbft.cli.local import wait_until_serving
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.codec import encode_client_frame, encode_client_item, encode_peer_frame
from pbft.crypto.keys import load_key_pair
from pbft.genesis import parse_genesis
from pbft.limits import MIB
from pbft.messages import Consistency, ReadRequest
from pbft.node.config import load_configuration
from tests.process.conftest import StartCluster
from tests.process.helpers import pbft
from tests.unit.transport.support import client_hello, end_of, peer_hello, raw_stream

import grpc  # isort: skip  (after the transport set its switches)

TARGET, LIAR = 0, 3
CLIENT = 1
ROUNDS = 5
GROWTH_BYTES_MAX = 64 * MIB
"""Of memory at its highest: one frame of 64 MiB, had it been received, is more."""

Hello = Callable[[grpc.aio.StreamStreamCall], Awaitable[object]]


async def attack(port: int, service: str, hello: Hello, good: bytes) -> None:
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
    samples = read_samples(admin_addresses(layout.cluster_file)[TARGET])
    labels = {"message": "frame", "reason": "malformed", "peer": peer}
    return int(total(samples, "pbft_rejected_total", **labels))


def test_frames_of_64_mib_of_nothing_and_of_noise_take_no_memory_and_stop_nobody(
    new_cluster: StartCluster,
) -> None:
    """Three replicas without TLS; the fourth is played by the test."""
    cluster = new_cluster(insecure=True)
    honest = set(cluster.replicas) - {LIAR}
    for replica in honest:
        cluster.start(replica)
    wait_until_serving(cluster)
    layout = cluster.layout
    configuration = load_configuration(layout.configuration_file(TARGET), environment={})
    genesis = parse_genesis(layout.genesis_file.read_bytes())
    read = encode_client_item(ReadRequest(1, (b"query",), Consistency.LINEARIZABLE, False))

    async def story() -> None:
        port = configuration.peer_address.port
        key = load_key_pair(layout.replica_key_file(LIAR))
        hello = partial(peer_hello, replica=LIAR, genesis=genesis, key=key)
        await attack(port, "Peer", hello, encode_peer_frame([b"item"]))
        port = configuration.client_address.port
        key = load_key_pair(layout.client_key_file(CLIENT))
        hello = partial(client_hello, key=key, genesis=genesis)
        await attack(port, "Gateway", hello, encode_client_frame([read]))

    before = peak_bytes(cluster)
    asyncio.run(story())
    grown = peak_bytes(cluster) - before
    assert grown < GROWTH_BYTES_MAX, f"memory rose by {grown / MIB:.0f} MiB"
    for replica in honest:
        assert cluster.state(replica) is not ProcessState.DOWN
    # No frame of noise decodes; a stream that is ended by the transport is not a rejection.
    assert malformed(layout, str(LIAR)) == malformed(layout, "client") == 5 * ROUNDS
    put = pbft("kv", "put", "still", "here", "--cluster", layout.cluster_file, "--timeout", "30")
    assert put.returncode == 0, put.stderr
