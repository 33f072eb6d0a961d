"""The receiving end of the peers' streams: challenges, checks the Hello, reads frames."""

import time
from dataclasses import dataclass

from pbft.codec import decode_peer_frame, decode_peer_item, encode_challenge
from pbft.crypto.handshake import make_nonce
from pbft.crypto.tls import TlsIdentity, replica_name
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.limits import TRANSPORT_BYTES_MAX
from pbft.messages import Role, Signed
from pbft.transport.api import (
    HELLO_FRAME_BYTES_MAX,
    Direction,
    HelloVerifier,
    PeerLimits,
    PeerSink,
)
from pbft.transport.crowd import Crowd
from pbft.transport.fault_budget import FaultBudget
from pbft.transport.grpc_options import server_options
from pbft.transport.listener import (
    SHUTDOWN,
    SUPERSEDED,
    Closing,
    Context,
    Doorkeeper,
    Goodbye,
    bind,
    end,
    make_server,
    name_in_certificate,
    until_ended,
)
from pbft.types import ReplicaId


@dataclass(slots=True)
class _Peer:
    """What is remembered of one peer over its streams."""

    budget: FaultBudget
    closing: Closing | None = None
    """Its present stream."""


class PeerAcceptor:
    """Listens for the other replicas; one stream per peer, the newest wins."""

    def __init__(
        self,
        replica: ReplicaId,
        genesis: Genesis,
        verifier: HelloVerifier,
        sink: PeerSink,
        limits: PeerLimits,
    ) -> None:
        self._replica = replica
        self._genesis = genesis
        self._verifier = verifier
        self._sink = sink
        self._limits = limits
        self._door = Doorkeeper(
            limits.handshakes, limits.handshakes_per_peer, limits.handshake_seconds
        )
        self._crowd = Crowd(limits.connections, limits.idle_connections_per_peer)
        self._stopping = False
        self._peers = {
            peer: _Peer(
                FaultBudget(limits.faults_burst, limits.faults_per_second, limits.throttle_seconds)
            )
            for peer in range(len(genesis.replicas))
            if peer != replica
        }
        self._names = {replica_name(genesis.cluster_id, peer): peer for peer in self._peers}
        self._is_secure = False
        options = server_options(
            connections=limits.connections, streams=4, message_bytes=TRANSPORT_BYTES_MAX
        )
        self._server = make_server("pbft.wire.Peer", "Connect", self._connect, options)

    async def start(self, address: str, identity: TlsIdentity | None) -> int:
        """Listens and returns the port; an `identity` of None means plain text. Raises
        ConfigurationError if the address is taken."""
        self._is_secure = identity is not None
        port = bind(self._server, address, identity)
        await self._server.start()
        self._crowd.start(address, port)
        return port

    async def until_ended(self) -> None:
        """See pbft.transport.listener.until_ended."""
        await until_ended(self._server)

    async def close(self) -> None:
        """Ends every stream and stops listening."""
        self._stopping = True
        await self._crowd.close()
        for peer in self._peers.values():
            if peer.closing is not None:
                peer.closing.close(SHUTDOWN)
        await self._server.stop(0.2)

    def on_fault(self, peer: ReplicaId, seconds: float = 0.0) -> bool:
        """Charges a peer for an item that no honest replica sends, and that took so long. Once its
        budget is used up its stream is closed, it is refused for a while, and this returns
        False."""
        known = self._peers[peer]
        if known.budget.spend(seconds):
            return True
        if known.closing is not None:
            known.closing.close(Goodbye.because(Reason.RATE_LIMIT))
        return False

    async def _connect(self, _requests: object, context: Context) -> None:
        with self._crowd.stream(context):
            goodbye = await self._attend(context)
        await end(context, goodbye)

    async def _attend(self, context: Context) -> Goodbye | None:
        """One stream, from its certificate to its end."""
        certified: ReplicaId | None = None
        stage = "certificate"
        try:
            certified = self._certified(context)
            stage = "hello"
            peer = await self._admit(context, certified)
        except Rejected as rejected:
            self._sink.on_rejection(stage, rejected.reason, certified)
            return Goodbye.because(rejected.reason)
        except EOFError:
            return None
        return await self._serve(peer, context)

    def _certified(self, context: Context) -> ReplicaId | None:
        """Which peer the certificate of the connection belongs to; None in plain text. Raises
        Rejected if it is not another replica's: clients and the operator have nothing to say
        here."""
        if not self._is_secure:
            return None
        peer = self._names.get(name_in_certificate(context) or "")
        if peer is None:
            raise Rejected(Reason.UNKNOWN_SENDER, "not the certificate of another replica")
        return peer

    async def _admit(self, context: Context, certified: ReplicaId | None) -> ReplicaId:
        """The handshake. Raises Rejected, or EOFError if the stream ended before the Hello."""
        nonce = make_nonce(self._genesis.replicas[self._replica])
        frame = await self._door.first_frame(context, encode_challenge(nonce), certified)
        peer = self._identify(frame, nonce)
        if certified is not None and peer != certified:
            raise Rejected(Reason.SENDER_MISMATCH, "the Hello and the certificate disagree")
        if self._peers[peer].budget.is_refused:
            raise Rejected(Reason.RATE_LIMIT, "refused after too many faults")
        return peer

    def _identify(self, frame: bytes, nonce: bytes) -> ReplicaId:
        if len(frame) > HELLO_FRAME_BYTES_MAX:
            raise Rejected(Reason.OVERSIZE, f"a first frame of {len(frame)} bytes")
        items = decode_peer_frame(frame)
        hello = decode_peer_item(items[0]) if len(items) == 1 else None
        if not isinstance(hello, Signed):
            raise Rejected(Reason.MALFORMED, "the first frame holds one signed Hello")
        key = self._verifier.admit_hello(hello, nonce, Role.REPLICA)
        peer = self._genesis.replica_with_key(key)
        if peer is None or peer == self._replica:
            raise Rejected(Reason.UNKNOWN_SENDER, "not another replica of this cluster")
        return peer

    async def _serve(self, peer: ReplicaId, context: Context) -> Goodbye | None:
        known = self._peers[peer]
        closing = Closing()
        if self._stopping:
            closing.close(SHUTDOWN)
        if known.closing is not None:
            known.closing.close(SUPERSEDED)
        else:
            self._sink.on_link(peer, Direction.INBOUND, True)
        known.closing = closing
        try:
            return await closing.run(self._read(peer, context))
        finally:
            if known.closing is closing:
                known.closing = None
                self._sink.on_link(peer, Direction.INBOUND, False)

    async def _read(self, peer: ReplicaId, context: Context) -> None:
        while isinstance(frame := await context.read(), bytes):
            began = time.thread_time()
            try:
                items = decode_peer_frame(frame)
            except Rejected as rejected:
                self._sink.on_rejection("frame", rejected.reason, peer)
                if not self.on_fault(peer, time.thread_time() - began):
                    return
                continue
            await self._sink.on_peer_items(peer, items)
