"""A link that is closed stops, whatever becomes of the cancellation; what it holds is bounded."""

import asyncio
from collections.abc import Callable
from typing import Self

import pytest

from pbft.codec import encode_gateway_frame, encode_gateway_item
from pbft.errors import Reason, Rejected
from pbft.messages import GatewayChallenge, GatewayItem, Refusal
from pbft_client import link
from pbft_client.link import (
    CREDIT_SECONDS,
    FRAME_SECONDS,
    LINK_SHARE,
    QUEUE_BYTES,
    Allowance,
    ReplicaLink,
)


class Owner:
    """Hears how often an attempt ended."""

    def __init__(self) -> None:
        self.downs = 0

    def hello(self, replica: int, challenge: GatewayChallenge) -> bytes:
        return b""

    def on_up(self, replica: int) -> None:
        pass

    def on_item(self, replica: int, item: GatewayItem) -> None:
        pass

    def on_down(self, replica: int) -> None:
        self.downs += 1


def test_a_cancellation_that_grpc_takes_for_the_end_of_its_call_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a call that ends at that very moment: its error takes the place of the cancellation."""

    async def swallow(self: ReplicaLink) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "broke the stream"
        return "closed the stream"

    async def scenario() -> None:
        monkeypatch.setattr(ReplicaLink, "_attempt", swallow)
        monkeypatch.setattr(link, "STATUS_SECONDS", 0.01)
        owner = Owner()
        it = ReplicaLink(0, "127.0.0.1:1", owner, None, "")
        it.start()
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await it.close()
        assert it._task is not None and it._task.done()
        assert owner.downs == 1

    asyncio.run(scenario())


def test_what_is_sent_without_a_stream_or_beyond_the_bound_is_lost() -> None:
    """The session sends it again; else it would pile up at a replica that reads nothing."""
    link = ReplicaLink(0, "127.0.0.1:1", Owner(), None, "")
    link.send(b"no stream")
    assert not link._queue
    link.is_up = True
    for item in (bytes(QUEUE_BYTES), b"too much"):
        link.send(item)
    assert [len(item) for item in link._queue] == [QUEUE_BYTES]
    link._set_down("broke the stream")
    link.is_up = True
    link.send(b"on the next stream")
    assert list(link._queue) == [b"on the next stream"]


class Frames(Owner):
    """A stream whose frames come every so often, and whose items take so long, on clocks of its
    own; and who hears what they hold."""

    def __init__(
        self, every_seconds: float, taken_seconds: float, count: int, items: int = 1
    ) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.taken_seconds = taken_seconds
        self.left = count
        self.frame = encode_gateway_frame(items * [encode_gateway_item(Refusal(1, 1, ""))])
        self.processor = self.now = self.rested = self.owed = 0.0

    def thread_time(self) -> float:
        return self.processor

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.rested += seconds
        self.now += seconds

    async def read(self) -> bytes:
        if self.left == 0:
            raise EOFError
        self.left -= 1
        self.now += self.every_seconds
        return self.frame

    def on_item(self, replica: int, item: GatewayItem) -> None:
        self.take()

    def take(self) -> None:
        self.processor += self.taken_seconds
        self.now += self.taken_seconds
        self.owed = max(self.owed, self.processor - LINK_SHARE * self.now)


def read_all(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "time", frames)
    it = ReplicaLink(0, "127.0.0.1:1", frames, None, "")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", frames.sleep)
            with pytest.raises(EOFError):
                await it._read(frames)  # type: ignore[arg-type]

    asyncio.run(scenario())


@pytest.mark.parametrize(("taken_seconds", "count"), [(0.01, 400), (0.2, 20), (2.0, 2)])
def test_a_link_whose_frames_take_long_leaves_time_for_the_others(
    monkeypatch: pytest.MonkeyPatch, taken_seconds: float, count: int
) -> None:
    """Else a liar would have the client's whole time, with frames as large as may be or with many
    that take a little each."""
    flood = Frames(0.0, taken_seconds, count)
    read_all(flood, monkeypatch)
    assert flood.processor <= CREDIT_SECONDS + LINK_SHARE * flood.now + 1e-6
    assert flood.rested > flood.processor


def test_a_link_rests_within_a_frame_that_holds_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame may hold a hundred thousand items."""
    flood = Frames(0.0, 0.2, 1, items=50)
    read_all(flood, monkeypatch)
    assert flood.processor == pytest.approx(50 * 0.2)
    assert flood.owed <= CREDIT_SECONDS + 0.2 + FRAME_SECONDS


def test_what_grpc_takes_for_a_frame_is_taken_by_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """We cannot see it, and most of what a short frame costs is that."""
    flood = Frames(FRAME_SECONDS, 0.0, 10_000)
    read_all(flood, monkeypatch)
    taken = 10_000 * FRAME_SECONDS
    assert taken <= CREDIT_SECONDS + LINK_SHARE * flood.now + 1e-6


class Streams(Frames):
    """A replica whose every stream greets, sends one frame that takes long, and breaks as soon as
    the link rests from it."""

    is_greeted = is_waited_for = False

    def stream_stream(self, method: str) -> Callable[[], Self]:
        self.is_greeted = False
        return lambda: self

    async def read(self) -> bytes:
        self.is_waited_for = True
        frame = await super().read()
        if self.is_greeted:
            return frame
        self.is_greeted = True
        return encode_gateway_frame([encode_gateway_item(GatewayChallenge(bytes(32), bytes(32)))])

    async def sleep(self, seconds: float) -> None:
        if self.is_waited_for:
            raise EOFError
        await super().sleep(seconds)

    async def write(self, frame: bytes) -> None:
        pass

    def cancel(self) -> None:
        pass

    async def close(self) -> None:
        self.is_waited_for = False


class Liars(Streams):
    """What it sends is found out to be nothing that an honest replica sends, after a while."""

    def on_item(self, replica: int, item: GatewayItem) -> None:
        super().on_item(replica, item)
        raise Rejected(Reason.MALFORMED)


class Strangers(Streams):
    """And so is its greeting."""

    def hello(self, replica: int, challenge: GatewayChallenge) -> bytes:
        self.take()
        raise Rejected(Reason.WRONG_DOMAIN)


@pytest.mark.parametrize("kind", [Streams, Liars, Strangers])
def test_a_link_whose_streams_end_after_what_takes_long_takes_no_more(
    monkeypatch: pytest.MonkeyPatch, kind: type[Streams]
) -> None:
    flood = kind(0.0, 2.0, 10)
    monkeypatch.setattr(link, "time", flood)
    monkeypatch.setattr(link.aio, "insecure_channel", lambda *_, **__: flood)
    it = ReplicaLink(0, "127.0.0.1:1", flood, None, "")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", flood.sleep)
            while flood.left > 0:
                with pytest.raises((EOFError, Rejected)):
                    await it._attempt()

    asyncio.run(scenario())
    assert flood.processor >= 10.0
    # What the last of them owes is not paid yet.
    assert flood.processor - 2.0 <= CREDIT_SECONDS + LINK_SHARE * flood.now


def test_a_link_that_takes_its_share_or_a_large_frame_now_and_then_never_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for frames in (Frames(0.02, 0.01, 400), Frames(1.0, 0.24, 20)):
        read_all(frames, monkeypatch)
        assert frames.rested == 0


def test_quiet_time_earns_no_more_than_one_large_frame() -> None:
    allowance = Allowance(0.0)
    assert allowance.spend(CREDIT_SECONDS, 3_600.0) == 0
    assert allowance.spend(0.1, 3_600.0) == pytest.approx(0.1 / LINK_SHARE)
