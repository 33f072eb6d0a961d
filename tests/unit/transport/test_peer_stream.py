"""Streams between replicas: what arrives, what is refused, what is bounded."""

import asyncio
import os
import time

import pytest

from pbft.codec import encode_challenge, encode_peer_frame, encode_peer_item
from pbft.crypto.handshake import is_nonce_of, make_nonce
from pbft.errors import ConfigurationError, Reason
from pbft.limits import MIB
from pbft.messages import BatchBytes, Hello, Role
from pbft.transport import peer_dialler
from pbft.transport.api import Direction, PeerLimits
from pbft.transport.grpc_options import server_options
from pbft.transport.listener import Context, bind, make_server
from pbft.transport.peer_dialler import PeerDialler
from tests.unit.transport.support import (
    GENESIS,
    OTHER_GENESIS,
    REPLICA_KEYS,
    Sink,
    acceptor,
    dialler,
    end_of,
    peer_hello,
    raw_stream,
    replica_signer,
    until,
)

import grpc  # isort: skip

INBOUND_UP = (0, Direction.INBOUND, True)
INBOUND_DOWN = (0, Direction.INBOUND, False)


def test_items_arrive_in_order_and_share_frames() -> None:
    async def scenario() -> None:
        here, there = Sink(), Sink()
        sent = [b"item %d" % number for number in range(1_000)]
        async with acceptor(there) as (_, port), dialler(here, port) as link:
            for item in sent:
                link.send(item)
            await until(lambda: len(there.items) == len(sent))
            assert there.items == [(0, item) for item in sent]
            # One item each would be as many frames; what waits together travels together.
            assert there.frames < 20
            assert there.links == [INBOUND_UP]
            assert here.links == [(1, Direction.OUTBOUND, True)]
        assert not here.rejections and not there.rejections

    asyncio.run(scenario())


def test_dialler_comes_back_after_the_acceptor_did() -> None:
    async def scenario() -> None:
        here, before, after = Sink(), Sink(), Sink()
        async with acceptor(before) as (_, port):
            link_context = dialler(here, port)
            link = await link_context.__aenter__()
            await until(lambda: INBOUND_UP in before.links)
        try:
            await until(lambda: here.links[-1:] == [(1, Direction.OUTBOUND, False)])
            link.send(b"while it was away")
            async with acceptor(after, port=port):
                await until(lambda: after.items == [(0, b"while it was away")])
                assert [up for _, _, up in here.links] == [True, False, True]
        finally:
            await link_context.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_both_ends_hear_of_a_lost_stream() -> None:
    async def scenario() -> None:
        here, there = Sink(), Sink()
        async with acceptor(there) as (listener, port), dialler(here, port):
            await until(lambda: INBOUND_UP in there.links)
            await listener.close()
            await until(lambda: (1, Direction.OUTBOUND, False) in here.links)
            assert there.links == [INBOUND_UP, INBOUND_DOWN]

    asyncio.run(scenario())


def test_nudge_shortens_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_dialler, "RECONNECT_SECONDS", (3600.0,))

    async def scenario() -> None:
        here, there = Sink(), Sink()
        async with acceptor(Sink()) as (_, port):
            pass
        async with dialler(here, port) as link:
            await asyncio.sleep(0.3)
            async with acceptor(there, port=port):
                link.nudge()
                await until(lambda: INBOUND_UP in there.links)

    asyncio.run(scenario())


def test_nudge_during_an_attempt_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_dialler, "RECONNECT_SECONDS", (3600.0,))
    begun: list[float] = []
    attempt = PeerDialler._attempt

    async def early(self: PeerDialler) -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) > 1:
            await attempt(self)
        await asyncio.sleep(0.1)
        raise EOFError

    monkeypatch.setattr(PeerDialler, "_attempt", early)

    async def scenario() -> None:
        here, there = Sink(), Sink()
        async with acceptor(there) as (_, port), dialler(here, port) as link:
            await until(lambda: len(begun) == 1)
            link.nudge()
            await until(lambda: INBOUND_UP in there.links)
        assert begun[1] - begun[0] >= peer_dialler.HURRY_SECONDS

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("replica", "genesis", "reason"),
    [
        (0, OTHER_GENESIS, Reason.BAD_SIGNATURE),  # signed for another cluster
        (1, GENESIS, Reason.UNKNOWN_SENDER),  # the acceptor's own identity
    ],
)
def test_wrong_hello_is_refused_and_counted(replica: int, genesis: object, reason: Reason) -> None:
    async def scenario() -> None:
        sink = Sink()
        async with acceptor(sink) as (_, port):
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call, replica, genesis)
                assert await end_of(call) is grpc.StatusCode.UNAUTHENTICATED
            assert sink.rejections == [("hello", reason, None)]
            assert sink.links == []
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                await until(lambda: sink.links == [INBOUND_UP])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\xff" * 50, Reason.MALFORMED),
        (encode_peer_frame([b"\x00"]), Reason.MALFORMED),
        (encode_peer_frame([bytes(5_000)]), Reason.OVERSIZE),
    ],
)
def test_garbage_instead_of_hello_is_refused(first: bytes, reason: Reason) -> None:
    async def scenario() -> None:
        sink = Sink()
        async with acceptor(sink) as (_, port), raw_stream(port, "Peer") as call:
            await call.read()
            await call.write(first)
            assert await end_of(call) is grpc.StatusCode.INVALID_ARGUMENT
            assert sink.rejections == [("hello", reason, None)]

    asyncio.run(scenario())


def test_hello_for_an_old_nonce_is_refused() -> None:
    async def scenario() -> None:
        sink = Sink()
        async with acceptor(sink) as (_, port), raw_stream(port, "Peer") as call:
            await call.read()
            old = make_nonce(GENESIS.replicas[1])
            hello = replica_signer(0).sign(Hello(Role.REPLICA, REPLICA_KEYS[0].public, old))
            await call.write(encode_peer_frame([encode_peer_item(hello)]))
            assert await end_of(call) is grpc.StatusCode.UNAUTHENTICATED
            assert sink.rejections == [("hello", Reason.WRONG_DOMAIN, None)]

    asyncio.run(scenario())


def test_dialler_signs_no_challenge_of_another_replica() -> None:
    """Else replica 2 could pass replica 1's challenge on and appear there as replica 0."""

    async def scenario() -> None:
        here = Sink()
        received: list[object] = []

        async def relay(_: object, context: Context) -> None:
            await context.write(encode_challenge(make_nonce(GENESIS.replicas[2])))
            received.append(await context.read())

        options = server_options(connections=8, streams=4, message_bytes=MIB)
        server = make_server("pbft.wire.Peer", "Connect", relay, options)
        port = bind(server, "127.0.0.1:0", None)
        await server.start()
        async with dialler(here, port):
            await until(lambda: here.count(Reason.SENDER_MISMATCH) > 0)
        await server.stop(0)
        assert not any(isinstance(frame, bytes) for frame in received)
        assert here.links == []

    asyncio.run(scenario())


def test_newest_stream_of_a_peer_wins() -> None:
    async def scenario() -> None:
        sink = Sink()
        async with acceptor(sink) as (_, port):
            async with raw_stream(port, "Peer") as old, raw_stream(port, "Peer") as new:
                await peer_hello(old)
                await until(lambda: len(sink.links) == 1)
                await peer_hello(new)
                assert await end_of(old) is grpc.StatusCode.ABORTED
                await new.write(encode_peer_frame([b"x"]))
                await until(lambda: sink.items == [(0, b"x")])
                # The peer was never without a stream, so nothing is said.
                assert sink.links == [INBOUND_UP]
            await until(lambda: sink.links == [INBOUND_UP, INBOUND_DOWN])

    asyncio.run(scenario())


def test_bad_frames_are_counted_and_the_stream_goes_on() -> None:
    async def scenario() -> None:
        sink = Sink()
        good = encode_peer_frame([encode_peer_item(BatchBytes(b"body"))])
        flipped = bytes([good[0] ^ 0x08]) + good[1:]
        bad = [b"", os.urandom(64), flipped, good[:-1], bytes(17 * MIB)]
        async with acceptor(sink) as (_, port), raw_stream(port, "Peer") as call:
            await peer_hello(call)
            for frame in bad:
                await call.write(frame)
            await call.write(good)
            await until(lambda: len(sink.items) == 1)
        reasons = [reason for message, reason, peer in sink.rejections if peer == 0]
        assert reasons == [Reason.MALFORMED] * 4 + [Reason.OVERSIZE]
        assert {message for message, _, _ in sink.rejections} == {"frame"}

    asyncio.run(scenario())


def test_message_above_the_transport_limit_ends_only_its_stream() -> None:
    async def scenario() -> None:
        sink = Sink()
        async with acceptor(sink) as (_, port):
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                await call.write(bytes(64 * MIB))
                assert await end_of(call) is not grpc.StatusCode.OK
            await until(lambda: sink.links == [INBOUND_UP, INBOUND_DOWN])
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                await call.write(encode_peer_frame([b"x"]))
                await until(lambda: sink.items == [(0, b"x")])

    asyncio.run(scenario())


def test_peer_that_uses_up_its_faults_is_closed_and_kept_out_for_a_while() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = PeerLimits(faults_burst=10, faults_per_second=0.001, throttle_seconds=3600)
        async with acceptor(sink, limits) as (listener, port):
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                for _ in range(11):
                    await call.write(b"")
                assert await end_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert sink.count(Reason.MALFORMED) == 11
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                assert await end_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert sink.count(Reason.RATE_LIMIT) == 1
            left = listener._peers[0].budget._refused_until - time.monotonic()
            assert limits.throttle_seconds - 100 < left < limits.throttle_seconds
            listener._peers[0].budget._refused_until -= left
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                await until(lambda: sink.links[2:] == [INBOUND_UP])

    asyncio.run(scenario())


def test_handshake_has_a_deadline_and_a_bound() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = PeerLimits(handshake_seconds=2.0, handshakes=1)
        async with acceptor(sink, limits) as (_, port), raw_stream(port, "Peer") as mute:
            await mute.read()
            async with raw_stream(port, "Peer") as second:
                assert await end_of(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await end_of(mute) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert sink.rejections == [("hello", Reason.RATE_LIMIT, None)] * 2
            async with raw_stream(port, "Peer") as call:
                await peer_hello(call)
                await until(lambda: sink.links == [INBOUND_UP])

    asyncio.run(scenario())


def test_what_waits_for_a_peer_that_is_away_is_new() -> None:
    """It would have to verify all of it before it hears what its peers say now."""

    async def scenario() -> None:
        here, there = Sink(), Sink()
        limits = PeerLimits(unreachable_seconds=0.2)
        async with acceptor(Sink()) as (_, port):
            pass
        async with dialler(here, port, limits) as link:
            for number in range(30):
                link.send(number.to_bytes(4))
                await asyncio.sleep(0.05)
            async with acceptor(there, port=port):
                await until(lambda: len(there.items) > 0)
                numbers = [int.from_bytes(item[:4]) for _, item in there.items]
                assert numbers == list(range(30 - len(numbers), 30))
                assert 3 <= len(numbers) <= 10
                assert here.count(Reason.QUEUE_FULL) == 30 - len(numbers)

    asyncio.run(scenario())


def test_slow_receiver_bounds_the_sender() -> None:
    async def scenario() -> None:
        here, there = Sink(), Sink()
        there.gate = asyncio.Event()
        limits = PeerLimits(queue_bytes=2 * MIB)
        item = bytes(256 * 1024)
        async with acceptor(there) as (_, port), dialler(here, port, limits) as link:
            await until(lambda: INBOUND_UP in there.links)
            for number in range(200):  # 50 MiB: far more than queue and flow control hold.
                link.send(number.to_bytes(4) + item)
                assert link.waiting_bytes <= limits.queue_bytes
                await asyncio.sleep(0.001)
            assert here.count(Reason.QUEUE_FULL) > 100
            assert set(here.rejections) == {("outgoing", Reason.QUEUE_FULL, 1)}
            assert len(there.items) < 60
            there.gate.set()
            last = (199).to_bytes(4)
            await until(lambda: there.items[-1][1][:4] == last)

    asyncio.run(scenario())


def test_a_dialler_is_closed_though_its_cancellation_was_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC may take it for the end of its call."""
    attempts = 0

    async def swallow(self: PeerDialler) -> None:
        nonlocal attempts
        attempts += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise EOFError from None

    async def scenario() -> None:
        monkeypatch.setattr(PeerDialler, "_attempt", swallow)
        async with asyncio.timeout(5):
            async with dialler(Sink(), 1):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        assert attempts == 1

    asyncio.run(scenario())


def test_a_taken_port_is_an_error_that_says_so() -> None:
    async def scenario() -> None:
        async with acceptor(Sink()) as (_, port):
            with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}"):
                async with acceptor(Sink(), port=port):
                    pass

    asyncio.run(scenario())


def test_a_nonce_names_one_server_and_is_fresh() -> None:
    one, two = GENESIS.replicas[:2]
    assert is_nonce_of(make_nonce(one), one)
    assert not is_nonce_of(make_nonce(one), two)
    assert not is_nonce_of(b"", one)
    assert make_nonce(one) != make_nonce(one)
