"""The stream to one replica's client listener: dials, proves who we are, carries frames, dials
again.

One reader and one writer task per stream: gRPC ends a call when a read of it is cancelled, and what
waits together leaves as one frame, because a frame costs about the same whatever its size
(operations.md section 4). A link never waits for another, so a replica that hangs or floods hurts
only its own: the time that its frames take is taken from nobody else for long.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pbft.codec import (
    decode_gateway_frame,
    decode_gateway_item,
    encode_client_frame,
)
from pbft.crypto.tls import TlsIdentity
from pbft.errors import Reason, Rejected
from pbft.grpc_environment import aio, grpc
from pbft.limits import FRAME_ITEMS_MAX, MIB, TRANSPORT_BYTES_MAX
from pbft.messages import GatewayChallenge, GatewayItem
from pbft.types import ReplicaId

METHOD = "/pbft.wire.Gateway/Connect"
FRAME_BYTES = 1 * MIB
"""What waits is sent in frames of about this size (a single larger item is one frame)."""
QUEUE_BYTES = 32 * MIB
"""Waiting for one replica; beyond, items are not taken, and the session sends them again."""
HANDSHAKE_SECONDS = 5.0
CREDIT_SECONDS = 0.25
"""Of the processor: what the frames of one link may take at a time. One result as large as can be
takes a third of it."""
LINK_SHARE = 1 / 3
"""Of the time that passes: what they may take for long; beyond, the link rests. Those of a liar can
take seconds each, or a little each without end; an honest replica that sent all full results took a
sixth."""
FRAME_SECONDS = 0.000_15
"""What a frame takes before we see it, by measurement: gRPC's read is not ours to time."""
STATUS_SECONDS = 0.5
"""How long the reason of a broken stream may be later than the break."""
RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0)
SETTLED_SECONDS = 5.0
"""A stream that lasted this long was a good one: the next wait is the shortest again."""
_OPTIONS = (
    # A frozen replica is noticed after these two together; keepalive_timeout_ms alone does not
    # fire.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", TRANSPORT_BYTES_MAX),
    ("grpc.max_send_message_length", TRANSPORT_BYTES_MAX),
    # Each attempt is a new channel with a new subchannel: its backoff is ours, not gRPC's.
    ("grpc.use_local_subchannel_pool", 1),
    # Loopback and container addresses must not travel through a proxy of the environment.
    ("grpc.enable_http_proxy", 0),
)
_DETAIL_CHARACTERS = 120
_TROUBLES = {
    "Connection refused": "refused the connection",
    "Secure read failed": "refused this client's certificate, or went away",
    "WRONG_VERSION_NUMBER": "does not speak TLS",
    "Hostname Verification": "shows the certificate of somebody else",
    "CERTIFICATE_VERIFY_FAILED": "shows a certificate that is expired or of another authority",
}
"""What words of gRPC's details mean; all come with the same code."""


class LinkOwner(Protocol):
    """Whom a link tells what happens. All calls come from the event loop."""

    def hello(self, replica: ReplicaId, challenge: GatewayChallenge) -> bytes:
        """The encoded item that answers the challenge. Raises Rejected if it must not be
        answered."""
        ...

    def on_up(self, replica: ReplicaId) -> None:
        """The stream is open."""
        ...

    def on_item(self, replica: ReplicaId, item: GatewayItem) -> None:
        """What a frame held. Raises Rejected if no honest replica sends it: the stream is
        dropped."""
        ...

    def on_down(self, replica: ReplicaId) -> None:
        """The stream ended, or an attempt failed; `ReplicaLink.trouble` says why."""
        ...


class Allowance:
    """What the frames of one link may take of the processor: earned at LINK_SHARE of the time that
    passes, and saved up to CREDIT_SECONDS."""

    def __init__(self, now: float) -> None:
        """`now`: monotonic seconds."""
        self._credit = CREDIT_SECONDS
        self._earned_until = now

    def spend(self, taken: float, now: float) -> float:
        """Pays for what was done; returns how long to rest before more, so that it is earned."""
        earned = (now - self._earned_until) * LINK_SHARE
        self._earned_until = now
        self._credit = min(CREDIT_SECONDS, self._credit + earned) - taken
        return max(0.0, -self._credit / LINK_SHARE)


class ReplicaLink:
    """A long-lived stream to one replica. `send` never waits and never fails."""

    def __init__(
        self,
        replica: ReplicaId,
        address: str,
        owner: LinkOwner,
        identity: TlsIdentity | None,
        server_name: str,
    ) -> None:
        """`address` is host:port; `identity` of None means plain text, otherwise `server_name` must
        stand in the replica's certificate."""
        self.replica = replica
        self.is_up = False
        self.trouble: str | None = "is not connected yet"
        """Why there is no stream, to be read after "replica i"; None while there is one."""
        self.is_unwanted = False
        """Whether the replica, or this client, will refuse every further attempt as well."""
        self.attempts = 0
        """Attempts that ended."""
        self._address = address
        self._owner = owner
        self._server_name = server_name
        self._credentials = (
            None
            if identity is None
            else grpc.ssl_channel_credentials(
                identity.authority, identity.key, identity.certificate
            )
        )
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._call: aio.StreamStreamCall[bytes, bytes] | None = None
        self._dropped: Rejected | None = None
        self._allowance = Allowance(time.monotonic())
        """Outlives the streams: a liar that breaks one after each long frame gains nothing."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to dial. To be called once, in the event loop."""
        assert self._task is None
        self._task = asyncio.create_task(self._run(), name=f"link to replica {self.replica}")
        self._task.add_done_callback(_report_bug)

    def send(self, item: bytes) -> None:
        """Queues an encoded ClientItem; it is lost if the stream is down or the queue is full."""
        if not self.is_up or (self._queue and self._queue_bytes + len(item) > QUEUE_BYTES):
            return
        self._queue.append(item)
        self._queue_bytes += len(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self, rejected: Rejected) -> None:
        """Ends the stream because of what came through it; it is dialled again later."""
        self._dropped = self._dropped or rejected
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        """Ends the stream and stops dialling."""
        # gRPC may take a cancellation for the end of its call and say nothing of it.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=STATUS_SECONDS)

    async def _run(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            self._dropped = None
            try:
                self._set_down(await self._attempt())
            except Rejected as rejected:
                self._set_down(describe_rejection(rejected))
                self.is_unwanted = rejected.reason is Reason.WRONG_DOMAIN
            except TimeoutError:
                self._set_down("did not greet in time")
            except (asyncio.InvalidStateError, aio.UsageError):
                # gRPC's words for a call that ended while it was being used.
                self._set_down("broke the stream")
            except grpc.RpcError as error:
                self._set_down(describe_rpc_error(error))
                self.is_unwanted = _code(error) is grpc.StatusCode.UNAUTHENTICATED
            except asyncio.CancelledError:
                # `drop` cancels the call, and a handshake that waits for the call hears of that as
                # if the link were. Only the link's own cancellation ends it.
                if self._is_cancelled():
                    raise
                dropped = self._dropped
                self._set_down(describe_rejection(dropped) if dropped else "broke the stream")
            self._owner.on_down(self.replica)
            failures = 0 if time.monotonic() - began > SETTLED_SECONDS else failures + 1
            wait = RECONNECT_SECONDS[min(max(failures - 1, 0), len(RECONNECT_SECONDS) - 1)]
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))

    def _is_cancelled(self) -> bool:
        return self._task is not None and self._task.cancelling() > 0

    def _set_down(self, trouble: str) -> None:
        self.is_up = False
        self.trouble = trouble
        self.attempts += 1
        self._queue.clear()
        self._queue_bytes = 0

    async def _attempt(self) -> str:
        """One channel and one stream until it ends; returns or raises what ended it."""
        # What the last stream owes, before this one's greeting is waited for.
        await self._rest()
        options: list[tuple[str, int | str]] = list(_OPTIONS)
        if self._credentials is None:
            channel = aio.insecure_channel(self._address, options=options)
        else:
            # Addresses are not in the genesis, so no certificate could name them.
            options.append(("grpc.ssl_target_name_override", self._server_name))
            channel = aio.secure_channel(self._address, self._credentials, options=options)
        try:
            self._call = channel.stream_stream(METHOD)()
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._shake_hands(self._call)
            self.is_up = True
            self.is_unwanted = False
            self.trouble = None
            self._owner.on_up(self.replica)
            return await self._carry(self._call)
        finally:
            self._call = None
            await channel.close()

    async def _shake_hands(self, call: "aio.StreamStreamCall[bytes, bytes]") -> None:
        items = await self._receive(call)
        with self._charge():
            challenge = decode_gateway_item(items[0]) if len(items) == 1 else None
            if not isinstance(challenge, GatewayChallenge):
                raise Rejected(Reason.MALFORMED, "no challenge")
            hello = self._owner.hello(self.replica, challenge)
        await call.write(encode_client_frame([hello]))

    async def _carry(self, call: "aio.StreamStreamCall[bytes, bytes]") -> str:
        """One reader and one writer until either ends. Raises or returns what ended it."""
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._write(call))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            # A write fails as soon as the call has ended; only the reader learns why it has.
            await asyncio.wait((reader,), timeout=STATUS_SECONDS)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            call.cancel()
        if self._dropped is not None:
            raise self._dropped
        # A call that gRPC cancelled ends its tasks as cancelled.
        if not reader.cancelled() and (error := reader.exception()) is not None:
            raise error
        return "closed the stream"

    async def _read(self, call: "aio.StreamStreamCall[bytes, bytes]") -> None:
        while True:
            for item in await self._receive(call):
                with self._charge():
                    self._owner.on_item(self.replica, decode_gateway_item(item))
                await self._rest()

    async def _receive(self, call: "aio.StreamStreamCall[bytes, bytes]") -> list[bytes]:
        """What the next frame holds. Raises what ended the stream."""
        frame = await call.read()
        if not isinstance(frame, bytes):
            raise await _rpc_error(call)
        with self._charge(FRAME_SECONDS):
            return decode_gateway_frame(frame)

    @contextmanager
    def _charge(self, before: float = 0.0) -> Iterator[None]:
        """The link pays for what is done within, and for what was `before`: also if that rejects
        what came, or a liar would have the client's time for nothing."""
        began = time.thread_time() - before
        try:
            yield
        finally:
            self._allowance.spend(time.thread_time() - began, time.monotonic())

    async def _rest(self) -> None:
        """Until what was done is earned."""
        if rest := self._allowance.spend(0.0, time.monotonic()):
            await asyncio.sleep(rest)

    async def _write(self, call: "aio.StreamStreamCall[bytes, bytes]") -> None:
        while True:
            while not self._queue:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            frame = [self._queue.popleft()]
            size = len(frame[0])
            while self._queue and len(frame) < FRAME_ITEMS_MAX:
                if size + len(self._queue[0]) > FRAME_BYTES:
                    break
                size += len(self._queue[0])
                frame.append(self._queue.popleft())
            self._queue_bytes -= size
            await call.write(encode_client_frame(frame))


def _report_bug(task: "asyncio.Task[None]") -> None:
    """A link ends only when it is cancelled; anything else is a bug of ours and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": f"{task.get_name()} failed", "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)


async def _rpc_error(call: "aio.StreamStreamCall[bytes, bytes]") -> Exception:
    """Why the replica ended the call."""
    code, details = await call.code(), await call.details()
    return aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), details
    )


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, aio.AioRpcError) else None


def describe_rpc_error(error: grpc.RpcError) -> str:
    """What happened to the stream, to be read after "replica i"."""
    if not isinstance(error, aio.AioRpcError):
        return "broke the stream"
    for words, meaning in _TROUBLES.items():
        if words in (error.details() or ""):
            return meaning
    details = (error.details() or "").strip()[:_DETAIL_CHARACTERS]
    code = error.code()
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f"refuses this client: {details}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"ended the stream: {details}"
    if code is grpc.StatusCode.OK:
        return "closed the stream"
    return f"broke the stream: {code.name.lower()} {details}".rstrip()


def describe_rejection(rejected: Rejected) -> str:
    """What the replica did wrong, to be read after "replica i"."""
    if rejected.reason is Reason.WRONG_DOMAIN:
        return "belongs to another cluster"
    if rejected.reason is Reason.UNKNOWN_SENDER:
        return "is another replica than cluster.toml says"
    if rejected.reason is Reason.BAD_SIGNATURE:
        return "sent a wrong signature"
    return f"sent what no honest replica sends ({rejected.reason.value})"
