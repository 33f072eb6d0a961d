"""Streams of clients: admission, answers, bounds."""

import asyncio
import os
from dataclasses import dataclass

import pytest

from pbft.codec import (
    decode_gateway_frame,
    encode_client_frame,
    encode_client_item,
    encode_gateway_item,
)
from pbft.crypto.handshake import is_nonce_of
from pbft.crypto.keys import KeyPair
from pbft.errors import Reason
from pbft.genesis import Genesis
from pbft.limits import KIB, MIB
from pbft.messages import Consistency, ReadRequest, Refusal
from pbft.transport.api import FRAME_BYTES, ClientLimits
from tests.unit.transport.support import (
    CLIENT_KEYS,
    GENESIS,
    OTHER_GENESIS,
    STRANGER,
    UNLIMITED,
    Sink,
    client_hello,
    end_of,
    gateway,
    raw_stream,
    until,
)

import grpc  # isort: skip
import grpc.aio  # isort: skip
from grpc_health.v1 import health_pb2, health_pb2_grpc  # isort: skip

ALICE, BOB = CLIENT_KEYS[:2]
READ = encode_client_item(ReadRequest(7, (b"query",), Consistency.STALE, True))


def refusal(number: int, padding: int = 0) -> bytes:
    return encode_gateway_item(Refusal(1, number, "x" * padding))


def test_items_go_in_and_answers_come_out() -> None:
    async def scenario() -> None:
        sink = Sink()
        async with gateway(sink) as (listener, port), raw_stream(port, "Gateway") as call:
            challenge = await client_hello(call, ALICE)
            assert challenge.cluster_id == GENESIS.cluster_id
            assert is_nonce_of(challenge.nonce, GENESIS.replicas[1])
            await call.write(encode_client_frame([READ, READ]))
            await until(lambda: len(sink.client_items) == 2)
            assert {(client, item) for _, client, item in sink.client_items} == {
                (ALICE.public, READ)
            }
            listener.answer(ALICE.public, refusal(1))
            listener.answer(ALICE.public, refusal(2))
            listener.answer(BOB.public, refusal(3))
            assert decode_gateway_frame(await call.read()) == [refusal(1), refusal(2)]
        assert sink.gone == [0]
        assert not sink.rejections

    asyncio.run(scenario())


def test_every_stream_of_a_key_gets_its_answers_within_a_bound() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = ClientLimits(streams_per_client=2)
        async with (
            gateway(sink, limits) as (listener, port),
            raw_stream(port, "Gateway") as one,
            raw_stream(port, "Gateway") as two,
            raw_stream(port, "Gateway") as three,
            raw_stream(port, "Gateway") as other,
        ):
            await client_hello(one, ALICE)
            await client_hello(two, ALICE)
            await until(lambda: listener.streams == 2)
            await client_hello(three, ALICE)
            assert await end_of(three) is grpc.StatusCode.RESOURCE_EXHAUSTED
            words = "too_many_streams: this key has 2 connections already; use another key"
            assert await three.details() == words
            assert sink.rejections == [("hello", Reason.TOO_MANY_STREAMS, None)]
            await client_hello(other, BOB)
            await until(lambda: listener.streams == 3)
            listener.answer(ALICE.public, refusal(1))
            assert await one.read() == await two.read()

    asyncio.run(scenario())


def test_streams_are_bounded_in_total() -> None:
    async def scenario() -> None:
        sink = Sink()
        async with gateway(sink, ClientLimits(streams=1)) as (listener, port):
            async with raw_stream(port, "Gateway") as one, raw_stream(port, "Gateway") as two:
                await two.read()
                await client_hello(one, ALICE)
                await until(lambda: listener.streams == 1)
                # Its handshake had begun before the only place was taken.
                await two.write(b"")
                assert await end_of(two) is grpc.StatusCode.RESOURCE_EXHAUSTED
                async with raw_stream(port, "Gateway") as three:
                    assert await end_of(three) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await until(lambda: listener.streams == 0)
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, BOB)
                await until(lambda: listener.streams == 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("key", "genesis", "reason"),
    [
        (STRANGER, GENESIS, Reason.CLIENT_UNAUTHORIZED),
        (ALICE, OTHER_GENESIS, Reason.BAD_SIGNATURE),
    ],
)
def test_wrong_hello_is_refused_and_counted(key: KeyPair, genesis: Genesis, reason: Reason) -> None:
    async def scenario() -> None:
        sink = Sink()
        async with gateway(sink) as (listener, port), raw_stream(port, "Gateway") as call:
            await client_hello(call, key, genesis)
            assert await end_of(call) is grpc.StatusCode.UNAUTHENTICATED
            assert sink.rejections == [("hello", reason, None)]
            assert listener.streams == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\xff" * 50, Reason.MALFORMED),
        (encode_client_frame([READ]), Reason.MALFORMED),
        (encode_client_frame([bytes(5_000)]), Reason.OVERSIZE),
    ],
)
def test_anything_else_before_the_hello_is_refused(first: bytes, reason: Reason) -> None:
    async def scenario() -> None:
        sink = Sink()
        async with gateway(sink) as (_, port), raw_stream(port, "Gateway") as call:
            await call.read()
            await call.write(first)
            assert await end_of(call) is grpc.StatusCode.INVALID_ARGUMENT
            assert sink.rejections == [("hello", reason, None)]

    asyncio.run(scenario())


def test_bad_frames_are_counted_and_other_clients_are_served() -> None:
    async def scenario() -> None:
        sink = Sink()
        good = encode_client_frame([READ])
        oversize = encode_client_frame([bytes(GENESIS.limits.request_bytes + FRAME_BYTES)])
        async with gateway(sink) as (_, port):
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                flipped = bytes([good[0] ^ 0x08]) + good[1:]
                for frame in (b"", os.urandom(64), flipped, good[:-1], oversize, good):
                    await call.write(frame)
                await until(lambda: len(sink.client_items) == 1)
            assert [reason for _, reason, _ in sink.rejections] == (
                [Reason.MALFORMED] * 4 + [Reason.OVERSIZE]
            )
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                await call.write(bytes(64 * MIB))
                assert await end_of(call) is not grpc.StatusCode.OK
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, BOB)
                await call.write(good)
                await until(lambda: len(sink.client_items) == 2)

    asyncio.run(scenario())


def test_the_largest_request_gets_through() -> None:
    async def scenario() -> None:
        sink = Sink()
        largest = bytes(GENESIS.limits.request_bytes + KIB)
        async with gateway(sink) as (_, port), raw_stream(port, "Gateway") as call:
            await client_hello(call, ALICE)
            await call.write(encode_client_frame([largest]))
            await until(lambda: [item[2] for item in sink.client_items] == [largest])

    asyncio.run(scenario())


def test_client_that_uses_up_its_faults_is_closed() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = ClientLimits(faults_burst=3, faults_per_second=0.01)
        async with gateway(sink, limits) as (listener, port):
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                for _ in range(3):
                    await call.write(b"")
                await until(lambda: sink.count(Reason.MALFORMED) == 3)
                assert not listener.on_fault(0)
                assert await end_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await until(lambda: sink.gone == [0])
            assert not listener.on_fault(0), "a stream that is gone has no budget"
            # Nor has a new stream of the same client: it would only have to connect again.
            async with raw_stream(port, "Gateway") as again, raw_stream(port, "Gateway") as other:
                await client_hello(again, ALICE)
                assert await end_of(again) is grpc.StatusCode.RESOURCE_EXHAUSTED
                await client_hello(other, BOB)
                await until(lambda: listener.streams == 1)

    asyncio.run(scenario())


def test_faults_count_over_all_streams_of_a_client_and_are_forgiven_in_time() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = ClientLimits(faults_burst=3, faults_per_second=0.01, throttle_seconds=0.2)
        async with gateway(sink, limits) as (listener, port):
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                await call.write(b"")
                await until(lambda: sink.count(Reason.MALFORMED) == 1)
            await until(lambda: listener.streams == 0)
            async with raw_stream(port, "Gateway") as one, raw_stream(port, "Gateway") as two:
                await client_hello(one, ALICE)
                await client_hello(two, ALICE)
                await until(lambda: listener.streams == 2)
                for call in (one, two, one):
                    await call.write(b"")
                assert await end_of(one) is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert await end_of(two) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.sleep(limits.throttle_seconds)
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                await until(lambda: listener.streams == 1)

    asyncio.run(scenario())


def test_only_so_many_clients_that_left_are_remembered() -> None:
    async def scenario() -> None:
        async with gateway(Sink(), ClientLimits(streams=1)) as (listener, port):
            for key in (ALICE, BOB, ALICE):
                async with raw_stream(port, "Gateway") as call:
                    await client_hello(call, key)
                    await until(lambda: listener.streams == 1)
                await until(lambda: listener.streams == 0)
                assert list(listener._clients_gone) == [key.public]
            assert not listener._clients

    asyncio.run(scenario())


def test_client_that_does_not_read_is_dropped() -> None:
    async def scenario() -> None:
        sink = Sink()
        answer = refusal(1, padding=256 * 1024)
        limits = ClientLimits(queue_bytes=MIB)
        async with (
            gateway(sink, limits) as (listener, port),
            raw_stream(port, "Gateway") as slow,
            raw_stream(port, "Gateway") as fast,
        ):
            await client_hello(slow, ALICE)
            await client_hello(fast, BOB)
            await until(lambda: listener.streams == 2)
            sent = 0
            while listener.streams == 2 and sent < 400:  # 100 MiB, far beyond what may wait
                listener.answer(ALICE.public, answer)
                sent += 1
                await asyncio.sleep(0.001)
            assert sent < 100
            assert sink.count(Reason.QUEUE_FULL) >= 1
            listener.answer(BOB.public, refusal(2))
            assert decode_gateway_frame(await fast.read()) == [refusal(2)]

    asyncio.run(scenario())


@pytest.mark.parametrize("half_closes", [False, True])
def test_who_is_dropped_and_still_does_not_read_loses_the_connection(half_closes: bool) -> None:
    """Else what gRPC holds for it would stay, and it could come again and again."""

    async def scenario() -> None:
        async with gateway(Sink()) as (listener, port):
            target = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(target, options=UNLIMITED) as channel:
                call = channel.stream_stream("/pbft.wire.Gateway/Connect")()
                await client_hello(call, ALICE)
                await until(lambda: listener.streams == 1)
                for _ in range(2):
                    listener.answer(ALICE.public, bytes(8 * MIB))
                    await asyncio.sleep(0.1)
                if half_closes:
                    await call.done_writing()
                else:
                    listener.answer(ALICE.public, bytes(8 * MIB))
                await until(lambda: listener.streams == 0)
                assert channel.get_state() is grpc.ChannelConnectivity.READY
                await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY, 10)
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, BOB)
                await until(lambda: listener.streams == 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["cancelled", "closed", "before its Hello"])
def test_a_stream_that_ended_leaves_its_connection_to_the_next(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("pbft.transport.listener.END_SECONDS", 0.3)

    async def scenario() -> None:
        async with (
            gateway(Sink()) as (listener, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            first = channel.stream_stream("/pbft.wire.Gateway/Connect")()
            if how == "before its Hello":
                await first.read()
            else:
                await client_hello(first, ALICE)
                await until(lambda: listener.streams == 1)
            if how == "closed":
                await first.done_writing()
                assert await end_of(first) is grpc.StatusCode.OK
            first.cancel()
            await until(lambda: listener.streams == 0)
            second = channel.stream_stream("/pbft.wire.Gateway/Connect")()
            await client_hello(second, BOB)
            await until(lambda: listener.streams == 1)
            await asyncio.sleep(1.0)
            assert listener.streams == 1 and not second.done()
            second.cancel()

    asyncio.run(scenario())


def test_answers_waiting_in_total_are_bounded_at_whoever_holds_most() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = ClientLimits(queue_bytes=64 * MIB, total_queue_bytes=2 * MIB)
        async with (
            gateway(sink, limits) as (listener, port),
            raw_stream(port, "Gateway") as slow,
            raw_stream(port, "Gateway") as fast,
        ):
            await client_hello(slow, ALICE)
            await client_hello(fast, BOB)
            await until(lambda: listener.streams == 2)
            answer = refusal(1, padding=256 * 1024)
            listener.answer(BOB.public, refusal(2))
            for _ in range(9):  # Without a pause, so that nothing leaves meanwhile.
                listener.answer(ALICE.public, answer)
            await until(lambda: sink.gone == [0])
            assert decode_gateway_frame(await fast.read()) == [refusal(2)]

    asyncio.run(scenario())


def test_answers_that_leave_and_are_not_read_are_bounded_in_total() -> None:
    """One large answer waits for nothing in our queue, but its memory is taken all the same."""

    async def scenario() -> None:
        sink = Sink()
        async with (
            gateway(sink, ClientLimits(total_queue_bytes=20 * MIB)) as (listener, port),
            raw_stream(port, "Gateway") as first,
            raw_stream(port, "Gateway") as second,
        ):
            for count, (call, key) in enumerate(((first, ALICE), (second, BOB)), 1):
                await client_hello(call, key)
                await until(lambda count=count: listener.streams == count)
                listener.answer(key.public, refusal(1, padding=12 * MIB))
                await until(lambda: not any(it.queue.count for it in listener._streams.values()))
            await until(lambda: listener.streams == 1)
            assert sink.rejections == [("answer", Reason.QUEUE_FULL, None)]

    asyncio.run(scenario())


def test_answers_that_were_sent_or_whose_client_left_take_no_room() -> None:
    """Else everybody would be disconnected once enough was answered."""

    async def scenario() -> None:
        sink = Sink()
        limits = ClientLimits(queue_bytes=64 * MIB, total_queue_bytes=MIB)
        answer = refusal(1, padding=256 * KIB)
        async with gateway(sink, limits) as (listener, port):
            async with raw_stream(port, "Gateway") as call:
                await client_hello(call, ALICE)
                await until(lambda: listener.streams == 1)
                for _ in range(12):
                    listener.answer(ALICE.public, answer)
                    assert decode_gateway_frame(await call.read()) == [answer]
                assert not sink.rejections
                for _ in range(5):  # Without a pause: the last is too much.
                    listener.answer(ALICE.public, answer)
                await until(lambda: sink.gone == [0])
            assert listener._held_bytes == 0

    asyncio.run(scenario())


def test_handshake_has_a_deadline() -> None:
    async def scenario() -> None:
        sink = Sink()
        limits = ClientLimits(handshake_seconds=0.2)
        async with gateway(sink, limits) as (_, port), raw_stream(port, "Gateway") as mute:
            await mute.read()
            assert await end_of(mute) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert sink.rejections == [("hello", Reason.RATE_LIMIT, None)]

    asyncio.run(scenario())


@dataclass
class _Ended:
    code: grpc.StatusCode | None = None


def test_health_is_served_and_stopping_says_so() -> None:
    async def scenario() -> None:
        sink, ended = Sink(), _Ended()
        async with gateway(sink) as (listener, port), raw_stream(port, "Gateway") as call:
            await client_hello(call, ALICE)
            await until(lambda: listener.streams == 1)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            async with asyncio.timeout(60):
                await listener.close()
            ended.code = await end_of(call)
        assert ended.code is grpc.StatusCode.UNAVAILABLE
        assert sink.gone == [0]

    asyncio.run(scenario())
