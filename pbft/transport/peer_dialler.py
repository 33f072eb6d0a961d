"""The sending end of a stream to one peer: dials, proves who it is, sends frames, dials again."""

import asyncio
import random
import time

import grpc
import grpc.aio

from pbft.codec import decode_challenge, encode_peer_frame, encode_peer_item
from pbft.core.ports import Signer
from pbft.crypto.handshake import is_nonce_of
from pbft.crypto.tls import TlsIdentity
from pbft.errors import Reason, Rejected
from pbft.messages import Hello, Role
from pbft.transport.api import RECONNECT_SECONDS, Direction, PeerLimits, PeerSink
from pbft.transport.grpc_options import CHANNEL_OPTIONS
from pbft.transport.send_queue import SendQueue
from pbft.types import ReplicaId

METHOD = "/pbft.wire.Peer/Connect"
SETTLED_SECONDS = 5.0
"""A stream that lasted this long was a good one: the next wait is the shortest again."""

HURRY_SECONDS = 0.05
"""Between two attempts at least."""

Call = grpc.aio.StreamStreamCall[bytes, bytes]


class PeerDialler:
    """One long-lived stream to one peer. `send` never waits and never fails: what does not arrive
    is healed by the protocol (section 8)."""

    def __init__(
        self,
        peer: ReplicaId,
        *,
        peer_key: bytes,
        own_key: bytes,
        address: str,
        signer: Signer,
        sink: PeerSink,
        limits: PeerLimits,
        identity: TlsIdentity | None,
        server_name: str,
    ) -> None:
        """The keys are the public ones of the peer and of this replica; `identity` of None means
        plain text, otherwise `server_name` must stand in the peer's certificate."""
        self.peer = peer
        self._peer_key = peer_key
        self._own_key = own_key
        self._address = address
        self._signer = signer
        self._sink = sink
        self._limits = limits
        self._server_name = server_name
        self._credentials = (
            None
            if identity is None
            else grpc.ssl_channel_credentials(
                identity.authority, identity.key, identity.certificate
            )
        )
        self._queue = SendQueue(limits.queue_bytes)
        self._hurry = asyncio.Event()
        self._up = False
        self._stale = 0
        """Items that waited, with no stream, when this was looked at last."""
        self._looked_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to dial. To be called once, in the event loop."""
        assert self._task is None
        self._task = asyncio.create_task(self._run(), name=f"dial replica {self.peer}")

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait to leave."""
        return self._queue.waiting_bytes

    def send(self, item: bytes) -> None:
        """Queues an encoded PeerItem; the oldest go (QUEUE_FULL) if there is no room, or
        no stream for long."""
        if not self._up:
            self._drop_stale()
        dropped = self._queue.push(item)
        self._stale = max(0, self._stale - dropped)
        self._count_dropped(dropped)

    def _drop_stale(self) -> None:
        """Of what waits while there is no stream, drops what waited at the last look too."""
        now = time.monotonic()
        if now < self._looked_at + self._limits.unreachable_seconds:
            return
        self._count_dropped(self._queue.drop_oldest(self._stale))
        self._stale = self._queue.count
        self._looked_at = now

    def _count_dropped(self, items: int) -> None:
        for _ in range(items):
            self._sink.on_rejection("outgoing", Reason.QUEUE_FULL, self.peer)

    def nudge(self) -> None:
        """The peer was just seen alive: the next attempt need not wait, nor the one after an
        attempt that is under way and may have come too early."""
        if not self._up:
            self._hurry.set()

    async def close(self) -> None:
        """Ends the stream and stops dialling."""
        # gRPC may take a cancellation for the end of its call and say nothing of it.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=HURRY_SECONDS)

    async def _run(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            self._hurry.clear()
            try:
                await self._attempt()
            except Rejected as rejected:
                self._sink.on_rejection("challenge", rejected.reason, self.peer)
            except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError, EOFError):
                pass  # The link state tells; a peer that is down is no news.
            finally:
                self._set_up(False)
            failures = 0 if time.monotonic() - began > SETTLED_SECONDS else failures + 1
            wait = RECONNECT_SECONDS[min(max(failures - 1, 0), len(RECONNECT_SECONDS) - 1)]
            await self._pause(wait * random.uniform(0.75, 1.25))

    async def _pause(self, seconds: float) -> None:
        # A peer that comes and goes cannot make this replica dial all the time.
        await asyncio.sleep(HURRY_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _attempt(self) -> None:
        """One channel and one stream, until it ends. Raises what ended it."""
        channel = self._open_channel()
        try:
            call: Call = channel.stream_stream(METHOD)()
            async with asyncio.timeout(self._limits.handshake_seconds):
                await self._shake_hands(call)
            self._set_up(True)
            await self._carry(call)
        finally:
            await channel.close()

    def _open_channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, options=options)
        # Addresses are not in the genesis, so no certificate could name them.
        options.append(("grpc.ssl_target_name_override", self._server_name))
        return grpc.aio.secure_channel(self._address, self._credentials, options=options)

    async def _shake_hands(self, call: Call) -> None:
        frame = await call.read()
        if not isinstance(frame, bytes):
            raise EOFError
        nonce = decode_challenge(frame)
        if not is_nonce_of(nonce, self._peer_key):
            raise Rejected(Reason.SENDER_MISMATCH, "the challenge is not this peer's")
        hello = self._signer.sign(Hello(Role.REPLICA, self._own_key, nonce))
        await call.write(encode_peer_frame([encode_peer_item(hello)]))

    async def _carry(self, call: Call) -> None:
        """One reader and one writer until either ends. Raises what ended it."""
        tasks = [
            asyncio.create_task(self._read(call), name=f"read from replica {self.peer}"),
            asyncio.create_task(self._write(call), name=f"write to replica {self.peer}"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()
        for task in done:
            # A call that gRPC cancelled (its channel went away) ends a task as cancelled.
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _read(self, call: Call) -> None:
        frame = await call.read()
        if isinstance(frame, bytes):
            raise Rejected(Reason.UNWANTED, "an acceptor says nothing after its challenge")

    async def _write(self, call: Call) -> None:
        while True:
            await call.write(encode_peer_frame(await self._queue.next_frame()))

    def _set_up(self, up: bool) -> None:
        if up != self._up:
            self._up = up
            self._stale, self._looked_at = 0, time.monotonic()
            self._sink.on_link(self.peer, Direction.OUTBOUND, up)
