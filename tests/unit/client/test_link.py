"""A link that is closed stops, whatever becomes of the cancellation; what it holds is bounded."""

import asyncio

import pytest

from pbft.codec import encode_gateway_frame, encode_gateway_item
from pbft.messages import GatewayChallenge, GatewayItem, Refusal
from pbft_client import link
from pbft_client.link import QUEUE_BYTES, ReplicaLink


class Owner:
    """Hears how often an attempt ended."""

    def __init__(self) -> None:
        self.downs = 0

    def hello(self, replica: int, challenge: GatewayChallenge) -> bytes:
        return b""

    def on_up(self, replica: int) -> None:
        pass

    def on_items(self, replica: int, items: list[GatewayItem]) -> None:
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


class Flood:
    """A call that always has another frame."""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return encode_gateway_frame([encode_gateway_item(Refusal(1, 1, ""))])


@pytest.mark.parametrize(("seconds", "is_flood"), [(0.01, False), (1.0, True)])
def test_a_link_whose_frames_take_long_leaves_time_for_the_others(
    monkeypatch: pytest.MonkeyPatch, seconds: float, is_flood: bool
) -> None:
    """Else a liar that sends frames as large as may be would have the client's whole time."""
    clock = [0.0]
    monkeypatch.setattr("pbft_client.link.time.thread_time", lambda: clock[0])

    class Slow(Owner):
        frames = 0

        def on_items(self, _: int, __: list[GatewayItem]) -> None:
            self.frames += 1
            clock[0] += seconds

    async def scenario() -> None:
        owner = Slow()
        link = ReplicaLink(0, "127.0.0.1:1", owner, None, "")
        reader = asyncio.create_task(link._read(Flood()))
        await asyncio.sleep(0.2)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert (owner.frames == 1) is is_flood

    asyncio.run(scenario())
