"""A small cluster's keys, a sink that remembers, and raw ends of streams for hostile tests."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pbft.codec import (
    decode_challenge,
    decode_gateway_frame,
    decode_gateway_item,
    encode_client_frame,
    encode_client_item,
    encode_peer_frame,
    encode_peer_item,
)
from pbft.crypto.keys import KeyPair, key_pair_from_seed
from pbft.crypto.signing import ClientSigner, ReplicaSigner
from pbft.crypto.verifier import Verifier
from pbft.errors import Reason
from pbft.genesis import Genesis
from pbft.messages import GatewayChallenge, Hello, Role
from pbft.transport.api import ClientLimits, Direction, PeerLimits
from pbft.transport.gateway import Gateway
from pbft.transport.peer_acceptor import PeerAcceptor
from pbft.transport.peer_dialler import PeerDialler

import grpc  # isort: skip  (after the transport set its switches)
import grpc.aio  # isort: skip

LOOPBACK = "127.0.0.1:0"
REPLICA_KEYS = [key_pair_from_seed(bytes([index]) * 32) for index in range(4)]
CLIENT_KEYS = [key_pair_from_seed(bytes([100 + index]) * 32) for index in range(3)]
STRANGER = key_pair_from_seed(bytes([200]) * 32)
GENESIS = Genesis.create(
    nonce=bytes(32),
    replicas=tuple(key.public for key in REPLICA_KEYS),
    clients=frozenset(key.public for key in CLIENT_KEYS),
)
OTHER_GENESIS = Genesis.create(
    nonce=bytes([1]) * 32, replicas=GENESIS.replicas, clients=GENESIS.clients
)
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def replica_signer(replica: int, genesis: Genesis = GENESIS) -> ReplicaSigner:
    return ReplicaSigner(replica, REPLICA_KEYS[replica], genesis.cluster_id)


def client_signer(key: KeyPair, genesis: Genesis = GENESIS) -> ClientSigner:
    return ClientSigner(key, genesis.cluster_id)


@dataclass
class Sink:
    """PeerSink and ClientSink that remember; a gate stops the reading."""

    links: list[tuple[int, Direction, bool]] = field(default_factory=list)
    items: list[tuple[int, bytes]] = field(default_factory=list)
    client_items: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    rejections: list[tuple[str, Reason, int | None]] = field(default_factory=list)
    frames: int = 0
    gate: asyncio.Event | None = None

    def on_rejection(self, message: str, reason: Reason, peer: int | None) -> None:
        self.rejections.append((message, reason, peer))

    def on_link(self, peer: int, direction: Direction, up: bool) -> None:
        self.links.append((peer, direction, up))

    async def on_peer_items(self, peer: int, items: Sequence[bytes]) -> None:
        self.frames += 1
        self.items += [(peer, item) for item in items]
        if self.gate is not None:
            await self.gate.wait()

    async def on_client_items(self, stream: int, client: bytes, items: Sequence[bytes]) -> None:
        self.client_items += [(stream, client, item) for item in items]

    def on_client_gone(self, stream: int) -> None:
        self.gone.append(stream)

    def count(self, reason: Reason) -> int:
        return sum(rejection[1] is reason for rejection in self.rejections)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for something that must come soon; fails the test if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def acceptor(
    sink: Sink, limits: PeerLimits | None = None, port: int = 0, replica: int = 1
) -> AsyncIterator[tuple[PeerAcceptor, int]]:
    listener = PeerAcceptor(replica, GENESIS, Verifier(GENESIS), sink, limits or PeerLimits())
    try:
        yield listener, await listener.start(f"127.0.0.1:{port}", None)
    finally:
        await listener.close()


@asynccontextmanager
async def dialler(
    sink: Sink, port: int, limits: PeerLimits | None = None, replica: int = 0, to: int = 1
) -> AsyncIterator[PeerDialler]:
    it = PeerDialler(
        to,
        peer_key=GENESIS.replicas[to],
        own_key=GENESIS.replicas[replica],
        address=f"127.0.0.1:{port}",
        signer=replica_signer(replica),
        sink=sink,
        limits=limits or PeerLimits(),
        identity=None,
        server_name="",
    )
    it.start()
    try:
        yield it
    finally:
        await it.close()


@asynccontextmanager
async def gateway(
    sink: Sink, limits: ClientLimits | None = None
) -> AsyncIterator[tuple[Gateway, int]]:
    listener = Gateway(1, GENESIS, Verifier(GENESIS), sink, limits or ClientLimits())
    try:
        yield listener, await listener.start(LOOPBACK, None)
    finally:
        await listener.close()


@asynccontextmanager
async def raw_stream(port: int, service: str) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """A stream on a connection of its own that says whatever the test wants."""
    options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.stream_stream(f"/pbft.wire.{service}/Connect")()
        try:
            yield call
        finally:
            call.cancel()


async def peer_hello(
    call: grpc.aio.StreamStreamCall,
    replica: int = 0,
    genesis: Genesis = GENESIS,
    key: KeyPair | None = None,
) -> None:
    """Answers the acceptor's challenge as a replica; `key` is its own in another genesis."""
    nonce = decode_challenge(await call.read())
    key = key or REPLICA_KEYS[replica]
    signer = ReplicaSigner(replica, key, genesis.cluster_id)
    signed = signer.sign(Hello(Role.REPLICA, key.public, nonce))
    await call.write(encode_peer_frame([encode_peer_item(signed)]))


async def client_hello(
    call: grpc.aio.StreamStreamCall, key: KeyPair, genesis: Genesis = GENESIS
) -> GatewayChallenge:
    """Answers the gateway's challenge as a client."""
    challenge = decode_gateway_item(decode_gateway_frame(await call.read())[0])
    assert isinstance(challenge, GatewayChallenge)
    signed = client_signer(key, genesis).sign(Hello(Role.CLIENT, key.public, challenge.nonce))
    await call.write(encode_client_frame([encode_client_item(signed)]))
    return challenge


async def end_of(call: grpc.aio.StreamStreamCall) -> grpc.StatusCode:
    """How the other side ended the stream."""
    async with asyncio.timeout(60):
        return await call.code()
