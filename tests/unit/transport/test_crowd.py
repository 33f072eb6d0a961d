"""Whoever holds a listener's places with connections that do nothing keeps nobody out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from types import SimpleNamespace

import pytest

from pbft.codec import encode_client_frame, encode_peer_frame
from pbft.transport.api import ClientLimits, PeerLimits
from pbft.transport.connections import parse_peer
from pbft.transport.crowd import HURRY_SECONDS, SWEEP_SECONDS, Crowd
from tests.unit.transport.support import (
    CLIENT_KEYS,
    Sink,
    acceptor,
    client_hello,
    gateway,
    peer_hello,
    raw_stream,
    until,
)

import grpc  # isort: skip
import grpc.aio  # isort: skip

PLACES = 64
SQUATTERS = 80
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING = 4, 6
ACKNOWLEDGEMENT = 1


def http2_frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


class Squatters:
    """Connections that open no stream and do all else that is due, so that gRPC leaves them alone;
    each is opened again when it is ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.ended = 0

    async def squat(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(PREFACE + http2_frame(SETTINGS, 0, b""))
                    while True:
                        await self._answer(reader, writer)
                finally:
                    writer.close()
            self.ended += 1
            await asyncio.sleep(0.1)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(header[:3], "big"))
        kind, flags = header[3], header[4]
        if kind in (SETTINGS, PING) and not flags & ACKNOWLEDGEMENT:
            writer.write(http2_frame(kind, ACKNOWLEDGEMENT, payload if kind == PING else b""))


@asynccontextmanager
async def squatters(port: int) -> AsyncIterator[Squatters]:
    crowd = Squatters(port)
    tasks = [asyncio.create_task(crowd.squat()) for _ in range(SQUATTERS)]
    try:
        yield crowd
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def enter(port: int, service: str) -> None:
    """Returns once a new connection gets a challenge."""
    async with asyncio.timeout(30):
        while True:
            with suppress(grpc.RpcError):
                async with raw_stream(port, service) as call:
                    if isinstance(await call.read(), bytes):
                        return
            await asyncio.sleep(0.05)


async def say_as_peer(call: grpc.aio.StreamStreamCall, words: bytes) -> None:
    await call.write(encode_peer_frame([words]))


async def say_as_client(call: grpc.aio.StreamStreamCall, words: bytes) -> None:
    await call.write(encode_client_frame([words]))


async def hello_as_client(call: grpc.aio.StreamStreamCall) -> None:
    await client_hello(call, CLIENT_KEYS[0])


LISTENERS = {
    "Peer": (acceptor, PeerLimits(connections=PLACES), peer_hello, say_as_peer),
    "Gateway": (gateway, ClientLimits(connections=PLACES), hello_as_client, say_as_client),
}


@pytest.mark.parametrize("service", LISTENERS)
def test_who_comes_gets_in_past_idle_connections_and_who_has_a_stream_stays(service: str) -> None:
    async def scenario() -> None:
        sink = Sink()
        listen, limits, hello, say = LISTENERS[service]
        async with listen(sink, limits) as (_, port), raw_stream(port, service) as early:
            await hello(early)
            async with squatters(port) as crowd:
                await until(lambda: crowd.ended > SQUATTERS)
                await enter(port, service)
                await say(early, b"still here")
                await until(lambda: [*sink.items, *sink.client_items] != [])
                assert not early.done()

    asyncio.run(scenario())


class Seen:
    """A connection that a look found."""

    def __init__(self, port: int) -> None:
        self.peer = f"ipv4:10.0.0.1:{port}"
        self.remote = parse_peer(self.peer)
        self.is_up = True

    def shut_down(self) -> None:
        self.is_up = False


@pytest.mark.parametrize(
    ("streams", "idle", "surplus", "pause"),
    [
        (0, 12, 3, HURRY_SECONDS),
        (4, 8, 2, HURRY_SECONDS),
        (4, 4, 0, HURRY_SECONDS),
        (4, 3, 0, SWEEP_SECONDS),
        (8, 1, 0, SWEEP_SECONDS),
    ],
)
def test_idle_connections_have_three_quarters_of_what_streams_leave(
    streams: int, idle: int, surplus: int, pause: float
) -> None:
    """However many streams there are, whoever comes has a place until its stream begins."""
    crowd, them = Crowd(places=12, idle_of_one=4), [Seen(port) for port in range(streams + idle)]
    with ExitStack() as stack:
        for it in them[:streams]:
            context = SimpleNamespace(peer=lambda it=it: it.peer, auth_context=dict)
            stack.enter_context(crowd.stream(context))
        assert crowd._sweep(them) == pause
    up = [it.is_up for it in them]
    assert up == [True] * streams + [False] * surplus + [True] * (idle - surplus)
    assert not crowd._streams
