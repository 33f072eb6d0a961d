"""What somebody who has not said Hello can make a replica hold."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from pbft.errors import Reason, Rejected
from pbft.limits import MIB
from pbft.transport.api import ClientLimits, PeerLimits
from pbft.transport.listener import Doorkeeper
from tests.unit.transport.support import (
    GENESIS,
    UNLIMITED,
    Sink,
    acceptor,
    dialler,
    end_of,
    gateway,
    raw_stream,
    until,
)

import grpc  # isort: skip
import grpc.aio  # isort: skip

LISTENERS = {"Peer": acceptor, "Gateway": gateway}


class Mute:
    """The context of a stream that never says Hello."""

    async def write(self, _: bytes) -> None:
        return

    async def read(self) -> bytes:
        return await asyncio.get_running_loop().create_future()


class Door:
    """A doorkeeper and the handshakes that began at it, none of which ends by itself."""

    def __init__(self, places: int, places_of_one: int) -> None:
        self._keeper = Doorkeeper(places, places_of_one, seconds=300)

    async def begin(self, owner: str | None) -> "asyncio.Task[bytes]":
        handshake = asyncio.ensure_future(self._keeper.first_frame(Mute(), b"challenge", owner))
        # What has to make room for it hears of that by a timer.
        await asyncio.sleep(0.01)
        return handshake

    @asynccontextmanager
    async def crowd(self, *owners: str | None) -> AsyncIterator[list["asyncio.Task[bytes]"]]:
        handshakes = [await self.begin(owner) for owner in owners]
        try:
            yield handshakes
        finally:
            for handshake in handshakes:
                handshake.cancel()
            await asyncio.gather(*handshakes, return_exceptions=True)
            assert not self._keeper._waiting


def refused(handshake: "asyncio.Task[bytes]") -> bool:
    """Whether it ended; False while it goes on."""
    if not handshake.done():
        return False
    error = handshake.exception()
    return isinstance(error, Rejected) and error.reason is Reason.RATE_LIMIT


@contextmanager
def no_collection() -> Iterator[None]:
    """A process that runs for long looks for cycles seldom."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("service", LISTENERS)
def test_a_refused_frame_is_not_kept(service: str) -> None:
    async def scenario() -> None:
        sink = Sink()
        async with LISTENERS[service](sink) as (_, port):
            for _ in range(3):
                async with raw_stream(port, service) as call:
                    await call.read()
                    await call.write(bytes(MIB))
                    await end_of(call)
        assert len(sink.rejections) == 3
        assert not [it for it in gc.get_objects() if isinstance(it, Rejected)]

    with no_collection():
        asyncio.run(scenario())


def test_the_newest_handshake_of_a_certificate_takes_the_place_of_its_oldest() -> None:
    async def scenario() -> None:
        door = Door(places=10, places_of_one=2)
        async with door.crowd("alice", "bob", "alice", "alice", "alice") as handshakes:
            assert [refused(it) for it in handshakes] == [True, False, True, False, False]

    asyncio.run(scenario())


def test_when_all_places_are_taken_who_has_most_gives_up_its_oldest() -> None:
    async def scenario() -> None:
        door = Door(places=4, places_of_one=3)
        async with door.crowd("alice", "alice", "alice", "bob", "carol", "dave") as handshakes:
            assert [refused(it) for it in handshakes] == [True, True, *[False] * 4]

    asyncio.run(scenario())


@pytest.mark.parametrize("crowd", [("alice", "bob", "bob"), ("alice", "bob", "carol")])
def test_nobody_takes_a_place_from_who_would_then_have_less(crowd: tuple[str, ...]) -> None:
    async def scenario() -> None:
        door = Door(places=3, places_of_one=3)
        async with door.crowd(*crowd, "alice") as handshakes:
            assert [refused(it) for it in handshakes] == [False, False, False, True]

    asyncio.run(scenario())


def test_strangers_have_all_places_until_somebody_with_a_certificate_comes() -> None:
    async def scenario() -> None:
        door = Door(places=3, places_of_one=1)
        async with door.crowd(None, None, None, None, "alice") as handshakes:
            assert [refused(it) for it in handshakes] == [True, False, False, True, False]

    asyncio.run(scenario())


def test_a_client_has_no_frame_received_that_is_larger_than_any_of_a_client() -> None:
    async def scenario() -> None:
        sink = Sink()
        async with gateway(sink) as (_, port), raw_stream(port, "Gateway") as call:
            await call.read()
            await call.write(bytes(GENESIS.limits.request_bytes + 3 * MIB))
            assert await end_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not sink.rejections, "gRPC refused it: nobody here saw it"

    asyncio.run(scenario())


@pytest.mark.parametrize("service", LISTENERS)
def test_connections_are_bounded_for_each_listener(service: str) -> None:
    async def scenario() -> None:
        sink, others = Sink(), Sink()
        peers, clients = PeerLimits(connections=4), ClientLimits(connections=4)
        async with acceptor(sink, peers) as (_, peer_port), gateway(sink, clients) as (_, port):
            ports = {"Peer": peer_port, "Gateway": port}
            before = len(os.listdir("/proc/self/fd"))
            with ExitStack() as stack:
                crowd = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", ports[service])))
                    for _ in range(40)
                ]
                # Each has an end of the test's, and 4 have one at the listener.
                await until(lambda: len(os.listdir("/proc/self/fd")) <= before + len(crowd) + 4)
                (other,) = LISTENERS.keys() - {service}
                async with raw_stream(ports[other], other) as call:
                    assert isinstance(await call.read(), bytes)
            async with dialler(others, peer_port) as link:
                link.send(b"after that")
                await until(lambda: sink.items == [(0, b"after that")])

    asyncio.run(scenario())


@pytest.mark.parametrize("service", LISTENERS)
@pytest.mark.parametrize("method", ["Connect\xff", "Disconnect"])
def test_a_method_that_does_not_exist_ends_no_listener(service: str, method: str) -> None:
    """gRPC stops accepting for good if it cannot decode a method's name."""

    async def scenario() -> None:
        async with LISTENERS[service](Sink()) as (_, port):
            target = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(target, options=UNLIMITED) as channel:
                path = f"/pbft.wire.{service}/{method}".encode("latin-1")
                wrong = channel.stream_stream(path)()
                await asyncio.wait((asyncio.ensure_future(wrong.read()),), timeout=0.2)
                async with raw_stream(port, service) as call:
                    async with asyncio.timeout(20):
                        assert isinstance(await call.read(), bytes)
                wrong.cancel()

    asyncio.run(scenario())


def test_what_asked_the_core_of_grpc_for_a_call_outlives_whoever_waited_for_it() -> None:
    """Its memory is where the core writes the next call: gRPC cancels it when its serving task
    fails, and the interpreter crashed at shutdown once in four times."""

    async def scenario() -> None:
        async with gateway(Sink()) as (listener, _):
            accepting = listener._server._server
            before = set(accepting._asked)
            waiting = accepting._make_request_call_future(b"/pbft.wire.Gateway/Connect")
            waiting.cancel()
            await asyncio.sleep(0.01)
            (added,) = accepting._asked - before
            assert waiting.cancelled()
            assert not added.done()
        assert added.done() and not added.cancelled()
        assert not accepting._asked

    asyncio.run(scenario())
