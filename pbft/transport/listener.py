"""One gRPC server with one bidirectional method, and how its streams are ended."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio._server import Server as AioServer

from pbft.crypto.tls import TlsIdentity, sole_name
from pbft.errors import ConfigurationError, Reason, Rejected
from pbft.transport.api import ListenerEnded
from pbft.transport.connections import cut
from pbft.transport.grpc_options import Options

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[object, Context], Awaitable[None]]

STATUS_OF_REASON = {
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.OVERSIZE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.RATE_LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_STREAMS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What the other end is told; every other reason is UNAUTHENTICATED."""
END_SECONDS = 1.0
"""How long the end of a stream may take. It waits behind what the other end has not read, and what
that is remains in memory."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Why a stream is ended from this side."""

    code: grpc.StatusCode
    text: str

    @classmethod
    def because(cls, reason: Reason) -> "Goodbye":
        """For a stream that is ended because of what came through it."""
        return cls(_status_of(reason), reason.value)

    @classmethod
    def refusing(cls, rejected: Rejected) -> "Goodbye":
        """For a stream that is not let in: its user is to read the detail, too."""
        return cls(_status_of(rejected.reason), str(rejected))


def _status_of(reason: Reason) -> grpc.StatusCode:
    return STATUS_OF_REASON.get(reason, grpc.StatusCode.UNAUTHENTICATED)


SHUTDOWN = Goodbye(grpc.StatusCode.UNAVAILABLE, "this replica is stopping")
SUPERSEDED = Goodbye(grpc.StatusCode.ABORTED, "a newer stream of the same peer took over")


class Closing:
    """The end of one stream: set once, by its reader, its writer or anybody else."""

    def __init__(self) -> None:
        self._goodbye: asyncio.Future[Goodbye | None]
        self._goodbye = asyncio.get_running_loop().create_future()

    def close(self, goodbye: Goodbye | None) -> None:
        """Ends the stream; None if the other end closed it. Only the first call counts."""
        if not self._goodbye.done():
            self._goodbye.set_result(goodbye)

    async def run(self, *coroutines: Awaitable[None]) -> Goodbye | None:
        """Runs the stream's tasks until `close`; a task that ends or fails closes it too.

        gRPC cancels the whole call when a read is cancelled, so the tasks are cancelled only here,
        at the end. An exception that is not a broken stream is raised.
        """
        tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
        for task in tasks:
            task.add_done_callback(lambda _: self.close(None))
        try:
            return await self._goodbye
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not is_broken_stream(outcome):
                    raise outcome


def is_broken_stream(error: BaseException) -> bool:
    """Whether this is how gRPC reports that the other end is gone."""
    return isinstance(
        error, grpc.RpcError | asyncio.InvalidStateError | grpc.aio.UsageError | EOFError
    )


class Doorkeeper:
    """Bounds the streams that have not said Hello yet, in number and in time.

    Who has the certificate of one cannot take the places of others: the newest of its streams wins
    over its oldest, and when all places are taken, who has most gives one up.
    """

    def __init__(self, places: int, places_of_one: int, seconds: float) -> None:
        """`places_of_one` bounds the streams of one owner of a certificate."""
        self._places = places
        self._places_of_one = places_of_one
        self._seconds = seconds
        self._waiting: dict[Hashable, list[asyncio.Timeout]] = {}
        """Oldest first, by owner; never empty."""

    async def first_frame(self, context: Context, challenge: bytes, owner: Hashable) -> bytes:
        """Sends the challenge and returns what comes back; `owner` is whose certificate the
        connection has, None without. Raises Rejected(RATE_LIMIT) if too many wait or this one waits
        too long, EOFError if the stream ends."""
        self._make_room(owner)
        place = asyncio.timeout(self._seconds)
        self._waiting.setdefault(owner, []).append(place)
        try:
            async with place:
                await context.write(challenge)
                frame = await context.read()
        except TimeoutError as error:
            raise Rejected(Reason.RATE_LIMIT, "the handshake took too long") from error
        except Exception as error:
            if is_broken_stream(error):
                raise EOFError from error
            raise
        finally:
            self._vacate(owner, place)
        if not isinstance(frame, bytes):
            raise EOFError
        return frame

    def _make_room(self, owner: Hashable) -> None:
        """Ends a handshake for a new one of this owner if need be. Raises Rejected(RATE_LIMIT)."""
        own = len(self._waiting.get(owner, ()))
        crowd = owner
        if owner is None or own < self._places_of_one:
            if sum(map(len, self._waiting.values())) < self._places:
                return
            crowd = max(self._waiting, key=lambda known: len(self._waiting[known]))
            if len(self._waiting[crowd]) <= own + 1:
                raise Rejected(Reason.RATE_LIMIT, "too many handshakes")
        oldest = self._waiting[crowd][0]
        self._vacate(crowd, oldest)
        if not oldest.expired():
            oldest.reschedule(asyncio.get_running_loop().time())

    def _vacate(self, owner: Hashable, place: asyncio.Timeout) -> None:
        places = self._waiting.get(owner, [])
        if place in places:
            places.remove(place)
            if not places:
                del self._waiting[owner]


async def end(context: Context, goodbye: Goodbye | None) -> None:
    """Ends a stream with its goodbye, if it is this side that ends it; with the whole connection if
    the other end does not take that soon, because it does not read.

    Not to be called while an exception is handled: gRPC keeps what `abort` raises with the call, in
    a cycle, and with it would be kept what was handled, its frames, and the bytes in them.
    """
    loop = asyncio.get_running_loop()
    # Asked for now: of a call that is over gRPC cannot say it, and crashes.
    alarm = loop.call_later(END_SECONDS, cut, context.peer())
    context.add_done_callback(lambda _: alarm.cancel())  # type: ignore[arg-type]
    if goodbye is not None:
        await context.abort(goodbye.code, goodbye.text)


class _KnownMethods(cygrpc.AioServer):  # type: ignore[misc]
    """What accepts calls for gRPC's server: those of registered methods only.

    gRPC decodes the names of all other methods in the task that accepts calls, and one that is no
    UTF-8 ends that task, and with it the listener, for good. So nobody asks for them: they stay in
    gRPC's core, which bounds them in number and time.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._asked: set[asyncio.Future[object]] = set()
        """gRPC's core writes the next call into these, even after the task that waits for it
        failed: neither cancelled with it nor forgotten, or memory in use would be overwritten."""

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[object]":
        if method is None:
            return asyncio.get_running_loop().create_future()
        return self._ask(method)

    def _ask(self, method: bytes | None) -> "asyncio.Future[object]":
        future: asyncio.Future[object] = super()._make_request_call_future(method)
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        return asyncio.shield(future)


class _Server(AioServer):
    """gRPC's server with that in it."""

    def __init__(self, options: Options) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _KnownMethods(self._loop, None, (), (), tuple(options), None)


def make_server(service: str, method: str, handler: Handler, options: Options) -> AioServer:
    """A server with one stream-stream method that takes and gives raw bytes; no other name is
    answered."""
    server = _Server(options)
    server.add_registered_method_handlers(
        service, {method: grpc.stream_stream_rpc_method_handler(handler)}
    )
    return server


async def until_ended(server: AioServer) -> None:
    """Returns when a server that listens was stopped. Raises ListenerEnded if gRPC ended it of its
    own accord: the process would live on, and nobody could reach it."""
    try:
        await server.wait_for_termination()
    except Exception as error:
        raise ListenerEnded(f"gRPC ended a listener: {error!r}") from error


def name_in_certificate(context: Context) -> str | None:
    """What the other end's certificate calls it; None without exactly one such name."""
    uris = context.auth_context().get("peer_uri", ())
    return sole_name(uri.decode("utf-8", "replace") for uri in uris)


def bind(server: AioServer, address: str, identity: TlsIdentity | None) -> int:
    """Binds the server and returns its port. With an identity it is reached only by TLS, by those
    who show a certificate of the same authority; None means plain text.

    Raises ConfigurationError if the address is taken.
    """
    try:
        if identity is None:
            port = server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(identity.key, identity.certificate)], identity.authority, True
            )
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {address}: is another process there, is it this machine's?"
        ) from error
    if port == 0:
        raise ConfigurationError(f"cannot listen on {address}")
    return port
