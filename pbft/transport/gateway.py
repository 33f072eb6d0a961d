"""The replica's end of the clients' streams: handshake, bounds, requests in, answers out."""

import time
from dataclasses import dataclass, field
from itertools import count

from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio  # type: ignore[import-untyped]

from pbft.codec import (
    decode_client_frame,
    decode_client_item,
    encode_gateway_frame,
    encode_gateway_item,
)
from pbft.crypto.handshake import make_nonce
from pbft.crypto.tls import TlsIdentity, client_in
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.limits import MIB
from pbft.messages import GatewayChallenge, Role, Signed
from pbft.transport.api import (
    FRAME_BYTES,
    HELLO_FRAME_BYTES_MAX,
    ClientLimits,
    ClientSink,
    HelloVerifier,
)
from pbft.transport.crowd import Crowd
from pbft.transport.fault_budget import FaultBudget
from pbft.transport.grpc_options import server_options
from pbft.transport.listener import (
    SHUTDOWN,
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
from pbft.transport.send_queue import SendQueue
from pbft.types import ClientKey, ReplicaId


@dataclass(slots=True)
class _Stream:
    """One client's stream."""

    client: ClientKey
    queue: SendQueue
    closing: Closing
    leaving_bytes: int = 0
    """Of the frame that gRPC has and has not yet taken off our hands."""

    @property
    def held_bytes(self) -> int:
        """Answers that its client has not taken."""
        return self.queue.waiting_bytes + self.leaving_bytes


@dataclass(slots=True)
class _Client:
    """What is remembered of one client over its streams."""

    budget: FaultBudget
    streams: list[int] = field(default_factory=list)


class Gateway:
    """Listens for clients. A client is its key; it may hold several streams, and each of them
    gets every answer that is due to the key. What it does wrong is counted over all of them, and
    over those to come: else it would only have to connect again."""

    def __init__(
        self,
        replica: ReplicaId,
        genesis: Genesis,
        verifier: HelloVerifier,
        sink: ClientSink,
        limits: ClientLimits,
    ) -> None:
        self._key = genesis.replicas[replica]
        self._genesis = genesis
        self._verifier = verifier
        self._sink = sink
        self._limits = limits
        self._door = Doorkeeper(
            limits.handshakes, limits.streams_per_client, limits.handshake_seconds
        )
        self._crowd = Crowd(limits.connections, limits.idle_connections_per_client)
        self._is_secure = False
        self._stopping = False
        self._numbers = count()
        self._streams: dict[int, _Stream] = {}
        self._clients: dict[ClientKey, _Client] = {}
        """Those with a stream."""
        self._clients_gone: dict[ClientKey, _Client] = {}
        """Those whose last stream ended, as many as there may be streams; the latest last."""
        self._held_bytes = 0
        self._health = health_aio.HealthServicer()
        self._frame_bytes_max = genesis.limits.request_bytes + FRAME_BYTES
        """One request or one read as large as can be, and what envelopes and frame add; or a frame
        of smaller ones."""
        options = server_options(
            connections=limits.connections,
            streams=256,
            message_bytes=self._frame_bytes_max + MIB,
        )
        self._server = make_server("pbft.wire.Gateway", "Connect", self._connect, options)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: str, identity: TlsIdentity | None) -> int:
        """Listens and returns the port; an `identity` of None means plain text. Raises
        ConfigurationError if the address is taken."""
        self._is_secure = identity is not None
        port = bind(self._server, address, identity)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
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
        await self._health.enter_graceful_shutdown()
        for stream in list(self._streams.values()):
            stream.closing.close(SHUTDOWN)
        await self._server.stop(0.2)

    @property
    def streams(self) -> int:
        """Streams past their handshake."""
        return len(self._streams)

    def answer(self, client: ClientKey, item: bytes) -> None:
        """Queues an encoded GatewayItem for every stream of the client; drops it if there is none.
        A client that does not read its answers is disconnected (QUEUE_FULL)."""
        known = self._clients.get(client)
        for number in list(known.streams) if known is not None else ():
            stream = self._streams[number]
            if stream.queue.offer(item):
                self._held_bytes += len(item)
                if self._held_bytes > self._limits.total_queue_bytes:
                    self._drop(max(self._streams.values(), key=lambda s: s.held_bytes))
            else:
                self._drop(stream)

    def on_fault(self, number: int, seconds: float = 0.0) -> bool:
        """Charges the client of a stream for an item that no honest client sends, and that took so
        long. Once its budget is used up its streams are closed, it is refused for a while, and this
        returns False; so it does for a stream that is gone."""
        stream = self._streams.get(number)
        if stream is None:
            return False
        client = self._clients[stream.client]
        if client.budget.spend(seconds):
            return True
        for own in client.streams:
            self._streams[own].closing.close(Goodbye.because(Reason.RATE_LIMIT))
        return False

    def _drop(self, stream: _Stream) -> None:
        self._sink.on_rejection("answer", Reason.QUEUE_FULL, None)
        stream.closing.close(Goodbye.because(Reason.QUEUE_FULL))

    async def _connect(self, _requests: object, context: Context) -> None:
        with self._crowd.stream(context):
            goodbye = await self._attend(context)
        await end(context, goodbye)

    async def _attend(self, context: Context) -> Goodbye | None:
        """One stream, from its certificate to its end."""
        stage = "certificate"
        try:
            certified = self._certified(context)
            stage = "hello"
            client = await self._admit(context, certified)
        except Rejected as rejected:
            self._sink.on_rejection(stage, rejected.reason, None)
            return Goodbye.refusing(rejected)
        except EOFError:
            return None
        return await self._serve(client, context)

    def _certified(self, context: Context) -> ClientKey | None:
        """Which client the certificate of the connection belongs to; None in plain text. Raises
        Rejected if it is not a client's."""
        if not self._is_secure:
            return None
        client = client_in(self._genesis.cluster_id, name_in_certificate(context))
        if client is None:
            raise Rejected(Reason.UNKNOWN_SENDER, "not the certificate of a client")
        return client

    async def _admit(self, context: Context, certified: ClientKey | None) -> ClientKey:
        """The handshake. Raises Rejected, or EOFError if the stream ended before the Hello."""
        nonce = make_nonce(self._key)
        challenge = encode_gateway_item(GatewayChallenge(nonce, self._genesis.cluster_id))
        self._require_room()
        if certified is not None:
            self._require_welcome(certified)
        frame = await self._door.first_frame(context, encode_gateway_frame([challenge]), certified)
        # Others may have come in meanwhile.
        self._require_room()
        client = self._identify(frame, nonce)
        if certified is not None and client != certified:
            raise Rejected(Reason.SENDER_MISMATCH, "the Hello and the certificate disagree")
        return client

    def _require_room(self) -> None:
        if len(self._streams) >= self._limits.streams:
            raise Rejected(Reason.RATE_LIMIT, "too many streams")

    def _require_welcome(self, client: ClientKey) -> None:
        known = self._clients.get(client) or self._clients_gone.get(client)
        if known is None:
            return
        if known.budget.is_refused:
            raise Rejected(Reason.RATE_LIMIT, "refused after too many faults")
        if (streams := len(known.streams)) >= self._limits.streams_per_client:
            raise Rejected(
                Reason.TOO_MANY_STREAMS,
                f"this key has {streams} connections already; use another key",
            )

    def _identify(self, frame: bytes, nonce: bytes) -> ClientKey:
        if len(frame) > HELLO_FRAME_BYTES_MAX:
            raise Rejected(Reason.OVERSIZE, f"a first frame of {len(frame)} bytes")
        items = self._items(frame)
        hello = decode_client_item(items[0]) if len(items) == 1 else None
        if not isinstance(hello, Signed):
            raise Rejected(Reason.MALFORMED, "the first frame holds one signed Hello")
        client = self._verifier.admit_hello(hello, nonce, Role.CLIENT)
        self._require_welcome(client)
        return client

    def _items(self, frame: bytes) -> list[bytes]:
        """The items of a frame. Raises Rejected."""
        if len(frame) > self._frame_bytes_max:
            raise Rejected(Reason.OVERSIZE, f"a frame of {len(frame)} bytes")
        return decode_client_frame(frame)

    async def _serve(self, client: ClientKey, context: Context) -> Goodbye | None:
        number = next(self._numbers)
        stream = _Stream(client, SendQueue(self._limits.queue_bytes), Closing())
        if self._stopping:
            stream.closing.close(SHUTDOWN)
        self._streams[number] = stream
        self._remember(client).streams.append(number)
        try:
            return await stream.closing.run(
                self._read(number, stream, context), self._write(stream, context)
            )
        finally:
            self._forget(number, stream)
            self._sink.on_client_gone(number)

    def _remember(self, client: ClientKey) -> _Client:
        known = self._clients.get(client) or self._clients_gone.pop(client, None)
        if known is None:
            limits = self._limits
            known = _Client(
                FaultBudget(limits.faults_burst, limits.faults_per_second, limits.throttle_seconds)
            )
        self._clients[client] = known
        return known

    def _forget(self, number: int, stream: _Stream) -> None:
        self._held_bytes -= stream.held_bytes
        del self._streams[number]
        client = self._clients[stream.client]
        client.streams.remove(number)
        if client.streams:
            return
        self._clients_gone[stream.client] = self._clients.pop(stream.client)
        if len(self._clients_gone) > self._limits.streams:
            del self._clients_gone[next(iter(self._clients_gone))]

    async def _read(self, number: int, stream: _Stream, context: Context) -> None:
        while isinstance(frame := await context.read(), bytes):
            began = time.thread_time()
            try:
                items = self._items(frame)
            except Rejected as rejected:
                self._sink.on_rejection("frame", rejected.reason, None)
                if not self.on_fault(number, time.thread_time() - began):
                    return
                continue
            await self._sink.on_client_items(number, stream.client, items)

    async def _write(self, stream: _Stream, context: Context) -> None:
        while True:
            items = await stream.queue.next_frame()
            stream.leaving_bytes = sum(map(len, items))
            await context.write(encode_gateway_frame(items))
            self._held_bytes -= stream.leaving_bytes
            stream.leaving_bytes = 0
