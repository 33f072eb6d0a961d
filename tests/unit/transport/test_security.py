"""TLS on the listeners: who gets in, who is refused, and that the server serves on."""

import asyncio
from asyncio import TaskGroup
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pbft.codec import encode_client_frame
from pbft.crypto.certificates import Authority
from pbft.crypto.keys import write_private_file
from pbft.crypto.tls import TlsIdentity, load_identity, replica_name, server_name
from pbft.crypto.verifier import Verifier
from pbft.errors import Reason
from pbft.transport.api import ClientLimits, Direction, PeerLimits
from pbft.transport.gateway import Gateway
from pbft.transport.peer_acceptor import PeerAcceptor
from pbft.transport.peer_dialler import PeerDialler
from tests.unit.transport.support import (
    CLIENT_KEYS,
    GENESIS,
    OTHER_GENESIS,
    Sink,
    client_hello,
    end_of,
    peer_hello,
    replica_signer,
    until,
)

import grpc  # isort: skip
import grpc.aio  # isort: skip

AUTHORITY = Authority.create(GENESIS.cluster_id)
STRANGERS_AUTHORITY = Authority.create(GENESIS.cluster_id)
OTHER_CLUSTER = Authority(OTHER_GENESIS.cluster_id, AUTHORITY.certificate, AUTHORITY.key)
"""The same authority, were it to sign for another cluster."""
LISTENERS = ["Peer", "Gateway"]
ALICE, BOB = (key.public for key in CLIENT_KEYS[:2])
UP = (1, Direction.OUTBOUND, True)
CONNECTED = grpc.ChannelConnectivity.READY
SMALL = PeerLimits(handshakes=4, handshakes_per_peer=4)
SMALL_GATEWAY = ClientLimits(handshakes=4)


class Files:
    """Identities, each read from files as a process reads its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made = 0

    def identity(self, pair: bytes, authority: Authority = AUTHORITY) -> TlsIdentity:
        self._made += 1
        place = self._directory / str(self._made)
        authority.save(place / "authority.pem", place / "own.key")
        write_private_file(place / "own.pem", pair)
        return load_identity(place / "authority.pem", place / "own.pem")

    def replica(self, replica: int) -> TlsIdentity:
        return self.identity(AUTHORITY.issue_replica(replica))


@asynccontextmanager
async def listening(
    files: Files,
    sink: Sink,
    peer_limits: PeerLimits | None = None,
    client_limits: ClientLimits | None = None,
) -> AsyncIterator[dict[str, int]]:
    """Both listeners of replica 1; their ports by service."""
    shown, verifier = files.replica(1), Verifier(GENESIS)
    peers = PeerAcceptor(1, GENESIS, verifier, sink, peer_limits or PeerLimits())
    clients = Gateway(1, GENESIS, verifier, sink, client_limits or ClientLimits())
    try:
        yield {
            "Peer": await peers.start("127.0.0.1:0", shown),
            "Gateway": await clients.start("127.0.0.1:0", shown),
        }
    finally:
        await clients.close()
        await peers.close()


@asynccontextmanager
async def dialler(sink: Sink, port: int, shown: TlsIdentity | None) -> AsyncIterator[PeerDialler]:
    """Replica 0, which dials replica 1."""
    it = PeerDialler(
        1,
        peer_key=GENESIS.replicas[1],
        own_key=GENESIS.replicas[0],
        address=f"127.0.0.1:{port}",
        signer=replica_signer(0),
        sink=sink,
        limits=PeerLimits(),
        identity=shown,
        server_name=server_name(GENESIS.cluster_id, 1),
    )
    it.start()
    try:
        yield it
    finally:
        await it.close()


def channel_to(
    port: int, shown: TlsIdentity | None, authority: Authority = AUTHORITY
) -> grpc.aio.Channel:
    """A connection of its own by TLS, with or without a certificate."""
    trusted = authority.certificate.public_bytes(Encoding.PEM)
    pair = (shown.key, shown.certificate) if shown is not None else (None, None)
    options = [
        ("grpc.ssl_target_name_override", server_name(GENESIS.cluster_id, 1)),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    credentials = grpc.ssl_channel_credentials(trusted, *pair)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


@asynccontextmanager
async def stream(
    port: int, service: str, shown: TlsIdentity | None, authority: Authority = AUTHORITY
) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """A stream by TLS, with or without a certificate of its own."""
    async with channel_to(port, shown, authority) as channel:
        call = channel.stream_stream(f"/pbft.wire.{service}/Connect")()
        try:
            yield call
        finally:
            call.cancel()


async def assert_serves_on(files: Files, ports: dict[str, int], sink: Sink) -> None:
    """A peer and a client with the right certificates get through."""
    before = len(sink.items)
    async with dialler(Sink(), ports["Peer"], files.replica(0)) as link:
        link.send(b"after that")
        await until(lambda: sink.items[before:] == [(0, b"after that")])
    alice = files.identity(AUTHORITY.issue_client(ALICE))
    async with stream(ports["Gateway"], "Gateway", alice) as call:
        await client_hello(call, CLIENT_KEYS[0])
        await call.write(encode_client_frame([b"after that"]))
        await until(lambda: [item[1:] for item in sink.client_items] == [(ALICE, b"after that")])


def test_peers_and_clients_with_their_own_certificates_get_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        files, here, there = Files(tmp_path), Sink(), Sink()
        async with listening(files, there) as ports:
            async with dialler(here, ports["Peer"], files.replica(0)) as link:
                link.send(b"item")
                await until(lambda: there.items == [(0, b"item")])
                assert here.links == [UP]
            await assert_serves_on(files, ports, there)
        assert not here.rejections and not there.rejections

    asyncio.run(scenario())


def two_names() -> bytes:
    """A certificate that the authority should never sign."""
    names = [
        x509.UniformResourceIdentifier(replica_name(GENESIS.cluster_id, replica))
        for replica in (0, 2)
    ]
    return AUTHORITY._issue("two", list(names), 1)


WRONG_ROLES = {
    "Peer": {
        "a client": lambda: AUTHORITY.issue_client(ALICE),
        "the operator": AUTHORITY.issue_operator,
        "the replica itself": lambda: AUTHORITY.issue_replica(1),
        "a replica that does not exist": lambda: AUTHORITY.issue_replica(4),
        "a replica of another cluster": lambda: OTHER_CLUSTER.issue_replica(0),
        "two replicas": two_names,
    },
    "Gateway": {
        "a replica": lambda: AUTHORITY.issue_replica(0),
        "the operator": AUTHORITY.issue_operator,
        "a client of another cluster": lambda: OTHER_CLUSTER.issue_client(ALICE),
        "two replicas": two_names,
    },
}


@pytest.mark.parametrize(
    ("service", "owner"), [(service, it) for service in LISTENERS for it in WRONG_ROLES[service]]
)
def test_a_wrong_role_is_not_even_challenged(tmp_path: Path, service: str, owner: str) -> None:
    async def scenario() -> None:
        files, sink = Files(tmp_path), Sink()
        shown = files.identity(WRONG_ROLES[service][owner]())
        async with listening(files, sink) as ports:
            async with stream(ports[service], service, shown) as call:
                with pytest.raises(grpc.RpcError):
                    await call.read()
                assert await end_of(call) is grpc.StatusCode.UNAUTHENTICATED
            assert sink.rejections == [("certificate", Reason.UNKNOWN_SENDER, None)]
            await assert_serves_on(files, ports, sink)
            assert len(sink.rejections) == 1

    asyncio.run(scenario())


def test_a_certificate_is_for_its_own_replica_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        files, sink = Files(tmp_path), Sink()
        async with listening(files, sink) as ports:
            async with stream(ports["Peer"], "Peer", files.replica(2)) as call:
                # Its Hello is good: whoever says it holds the key of replica 0 as well.
                await peer_hello(call, replica=0)
                assert await end_of(call) is grpc.StatusCode.UNAUTHENTICATED
            assert sink.rejections == [("hello", Reason.SENDER_MISMATCH, 2)]
            assert sink.links == []
            await assert_serves_on(files, ports, sink)

    asyncio.run(scenario())


def test_a_certificate_is_for_its_own_client_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        files, sink = Files(tmp_path), Sink()
        async with listening(files, sink) as ports:
            bob = files.identity(AUTHORITY.issue_client(BOB))
            async with stream(ports["Gateway"], "Gateway", bob) as call:
                await client_hello(call, CLIENT_KEYS[0])
                assert await end_of(call) is grpc.StatusCode.UNAUTHENTICATED
            assert sink.rejections == [("hello", Reason.SENDER_MISMATCH, None)]
            await assert_serves_on(files, ports, sink)

    asyncio.run(scenario())


@pytest.mark.parametrize("service", LISTENERS)
@pytest.mark.parametrize("shown", ["nothing", "expired", "of another authority"])
def test_what_tls_refuses_reaches_no_handler(tmp_path: Path, service: str, shown: str) -> None:
    async def scenario() -> None:
        files, sink = Files(tmp_path), Sink()
        peer, client = 0, ALICE
        authority = STRANGERS_AUTHORITY if shown == "of another authority" else AUTHORITY
        days = -1 if shown == "expired" else 1
        if service == "Peer":
            pair = authority.issue_replica(peer, days)
        else:
            pair = authority.issue_client(client, days)
        identity = None if shown == "nothing" else files.identity(pair)
        async with listening(files, sink) as ports:
            async with stream(ports[service], service, identity) as call:
                assert await end_of(call) is grpc.StatusCode.UNAVAILABLE
            assert not sink.rejections and not sink.links
            await assert_serves_on(files, ports, sink)
            assert not sink.rejections

    asyncio.run(scenario())


@pytest.mark.parametrize("service", LISTENERS)
def test_plain_text_reaches_no_handler(tmp_path: Path, service: str) -> None:
    async def scenario() -> None:
        files, sink = Files(tmp_path), Sink()
        async with listening(files, sink) as ports:
            address = f"127.0.0.1:{ports[service]}"
            async with grpc.aio.insecure_channel(address) as channel:
                call = channel.stream_stream(f"/pbft.wire.{service}/Connect")()
                assert await end_of(call) is grpc.StatusCode.UNAVAILABLE
            for line in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + bytes(500)):
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[service])
                writer.write(line)
                async with asyncio.timeout(60):
                    answer = await reader.read()
                assert b"HTTP" not in answer
                writer.close()
            assert not sink.rejections and not sink.links
            await assert_serves_on(files, ports, sink)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "server", ["another replica", "a client", "of another authority", "expired", "plain text"]
)
def test_a_dialler_talks_to_nobody_but_its_peer(tmp_path: Path, server: str) -> None:
    pairs = {
        "another replica": lambda: AUTHORITY.issue_replica(2),
        "a client": lambda: AUTHORITY.issue_client(ALICE),
        "of another authority": lambda: STRANGERS_AUTHORITY.issue_replica(1),
        "expired": lambda: AUTHORITY.issue_replica(1, -1),
    }

    async def scenario() -> None:
        files, here, there = Files(tmp_path), Sink(), Sink()
        shown = None if server == "plain text" else files.identity(pairs[server]())
        acceptor = PeerAcceptor(1, GENESIS, Verifier(GENESIS), there, PeerLimits())
        port = await acceptor.start("127.0.0.1:0", shown)
        try:
            async with dialler(here, port, files.replica(0)):
                # Several attempts.
                await asyncio.sleep(1.0)
        finally:
            await acceptor.close()
        assert not there.links and not there.items and not there.rejections
        assert not here.links

    asyncio.run(scenario())


async def hold_handshakes(port: int, service: str, shown: TlsIdentity) -> None:
    """Opens a stream, says nothing, and opens another whenever it is ended."""
    while True:
        async with stream(port, service, shown) as call:
            with suppress(grpc.RpcError, asyncio.InvalidStateError):
                await call.read()
                await call.read()


@pytest.mark.parametrize("service", LISTENERS)
def test_who_fills_the_handshakes_keeps_nobody_else_out(tmp_path: Path, service: str) -> None:
    async def scenario() -> None:
        files, sink = Files(tmp_path), Sink()
        crowd = 3 * SMALL.handshakes
        greedy = files.identity(
            AUTHORITY.issue_replica(3) if service == "Peer" else AUTHORITY.issue_client(BOB)
        )
        async with listening(files, sink, SMALL, SMALL_GATEWAY) as ports, TaskGroup() as group:
            holders = [
                group.create_task(hold_handshakes(ports[service], service, greedy))
                for _ in range(crowd)
            ]
            await until(lambda: sink.count(Reason.RATE_LIMIT) > crowd)
            await assert_serves_on(files, ports, sink)
            # gRPC may take a cancellation for the end of its call and say nothing of it.
            while waiting := [holder for holder in holders if not holder.done()]:
                for holder in waiting:
                    holder.cancel()
                await asyncio.wait(waiting, timeout=0.5)

    asyncio.run(scenario())


@pytest.mark.parametrize("service", LISTENERS)
def test_the_connections_of_one_certificate_without_a_stream_are_few(
    tmp_path: Path, service: str
) -> None:
    async def scenario() -> None:
        files, few = Files(tmp_path), 2
        limits = (
            PeerLimits(idle_connections_per_peer=few),
            ClientLimits(idle_connections_per_client=few),
        )
        issued = {
            "Peer": [AUTHORITY.issue_replica(2), AUTHORITY.issue_replica(3)],
            "Gateway": [AUTHORITY.issue_client(ALICE), AUTHORITY.issue_client(BOB)],
        }
        one, other = map(files.identity, issued[service])
        async with AsyncExitStack() as stack:
            ports = await stack.enter_async_context(listening(files, Sink(), *limits))

            async def connected(shown: TlsIdentity, with_stream: bool = False) -> grpc.aio.Channel:
                channel = await stack.enter_async_context(channel_to(ports[service], shown))
                call = channel.stream_stream(f"/pbft.wire.{service}/Connect")()
                assert isinstance(await call.read(), bytes)
                if not with_stream:
                    call.cancel()
                return channel

            kept = [await connected(one, with_stream=True), await connected(other)]
            crowd = [await connected(one) for _ in range(4 * few)]
            await until(lambda: sum(it.get_state() is CONNECTED for it in crowd) == few)
            assert [it.get_state() for it in kept] == [CONNECTED, CONNECTED]

    asyncio.run(scenario())
