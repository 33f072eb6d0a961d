"""A link that is closed stops, whatever becomes of the cancellation; what it holds is bounded."""

import asyncio

import pytest

from pbft.messages import GatewayChallenge, GatewayItem
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
