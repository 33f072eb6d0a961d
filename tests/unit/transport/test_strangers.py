"""What somebody who has not said Hello can make a replica hold."""

import asyncio
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pbft.errors import Rejected
from pbft.limits import MIB
from pbft.transport.api import ClientLimits, PeerLimits
from tests.unit.transport.support import (
    GENESIS,
    Sink,
    acceptor,
    dialler,
    end_of,
    gateway,
    raw_stream,
    until,
)

import grpc  # isort: skip

LISTENERS = {"Peer": acceptor, "Gateway": gateway}


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
