"""Fair and bounded: no sender starves another, none makes memory grow."""

import asyncio
import time

from pbft.node.inbox import (
    CLIENT_SOURCE_BYTES,
    CLIENTS_BYTES,
    DEBT_SECONDS_MAX,
    ITEM_BYTES,
    PEER_SOURCE_BYTES,
    TURN_SECONDS,
    ClientOrigin,
    Inbox,
    Lane,
    LinkChanged,
    PeerOrigin,
    Source,
)
from tests.unit.node.support import CLIENT, breathe


def taken_peers(inbox: Inbox, count: int) -> list[tuple[int, bytes]]:
    items = [inbox.peers.take() for _ in range(count)]
    return [(origin.peer, item) for origin, item in filter(None, items)]


def test_peers_take_turns_and_keep_their_own_order() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        await inbox.put_peer_items(1, [b"a", b"b", b"c", b"d"])
        await inbox.put_peer_items(2, [b"x", b"y"])
        expected = [(1, b"a"), (2, b"x"), (1, b"b"), (2, b"y"), (1, b"c"), (1, b"d")]
        assert taken_peers(inbox, 6) == expected
        assert inbox.peers.take() is None
        assert inbox.peers.waiting_bytes == 0

    asyncio.run(scenario())


def test_whose_items_take_long_waits_for_more_turns_of_the_others() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        await inbox.put_peer_items(1, [b"slow"] * 3)
        assert taken_peers(inbox, 1) == [(1, b"slow")]
        inbox.peers.spend(4.5 * TURN_SECONDS)
        await inbox.put_peer_items(2, [b"x"] * 6)
        assert [peer for peer, _ in taken_peers(inbox, 5)] == [2, 2, 2, 2, 1]
        inbox.peers.spend(TURN_SECONDS)
        assert [peer for peer, _ in taken_peers(inbox, 3)] == [2, 1, 2]

    asyncio.run(scenario())


def test_nobody_waits_for_others_that_have_nothing_nor_for_ever() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        await inbox.put_peer_items(1, [b"slow"] * 3)
        for _ in range(2):
            assert taken_peers(inbox, 1) == [(1, b"slow")]
            inbox.peers.spend(3600.0)
        turns = round(DEBT_SECONDS_MAX / TURN_SECONDS)
        await inbox.put_peer_items(2, [b"x"] * 2 * turns)
        peers = [peer for peer, _ in taken_peers(inbox, turns + 2)]
        assert peers[: turns - 1] == [2] * (turns - 1)
        assert 1 in peers

    asyncio.run(scenario())


def test_a_flood_waits_at_its_origin_and_others_do_not() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        flood = asyncio.create_task(inbox.put_peer_items(1, [bytes(PEER_SOURCE_BYTES // 2)] * 2))
        await breathe()
        assert not flood.done(), "the stream of a peer with a full queue is not read on"
        async with asyncio.timeout(60):
            await inbox.put_peer_items(2, [b"x"])
        assert inbox.peers.take() is not None
        async with asyncio.timeout(60):
            await flood
        assert taken_peers(inbox, 1) == [(2, b"x")]

    asyncio.run(scenario())


def test_a_peer_that_connects_again_and_again_has_one_place() -> None:
    """Each new stream ends the reader of the one before, whose frame is waiting already."""

    async def scenario() -> None:
        inbox = Inbox(4)
        for _ in range(10):
            reader = asyncio.create_task(inbox.put_peer_items(1, [bytes(PEER_SOURCE_BYTES)]))
            await breathe()
            reader.cancel()
            await asyncio.wait([reader])
        assert inbox.peers.waiting_bytes == PEER_SOURCE_BYTES + ITEM_BYTES
        await asyncio.wait_for(inbox.put_peer_items(2, [b"x"]), 5)

    asyncio.run(scenario())


def test_clients_are_bounded_each_and_together() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        alone = asyncio.create_task(inbox.put_client_items(0, CLIENT, [bytes(CLIENT_SOURCE_BYTES)]))
        await breathe()
        assert not alone.done()
        share = CLIENT_SOURCE_BYTES - 1
        count = CLIENTS_BYTES // share + 1
        tasks = [
            asyncio.create_task(inbox.put_client_items(number, CLIENT, [bytes(share - ITEM_BYTES)]))
            for number in range(1, count)
        ]
        await breathe()
        assert not tasks[-1].done(), "below its own limit, but all together are above theirs"
        assert tasks[0].done()
        while inbox.clients.take() is not None:
            pass
        async with asyncio.timeout(60):
            await asyncio.gather(alone, *tasks)

    asyncio.run(scenario())


def test_new_streams_wait_for_the_lane_with_their_first_frame() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        frames = 2 * CLIENTS_BYTES // CLIENT_SOURCE_BYTES
        tasks = [
            asyncio.create_task(inbox.put_client_items(i, CLIENT, [bytes(CLIENT_SOURCE_BYTES)]))
            for i in range(frames)
        ]
        await breathe()
        assert inbox.clients.waiting_bytes < CLIENTS_BYTES + 2 * CLIENT_SOURCE_BYTES
        assert inbox.forget_client(frames - 1) == 0
        taken = 0
        async with asyncio.timeout(60):
            while not all(task.done() for task in tasks):
                taken += inbox.clients.take() is not None
                await asyncio.sleep(0)
        assert taken == frames - 1, "what a dropped stream brought is not taken in"
        assert not inbox.has_client(frames - 1)

    asyncio.run(scenario())


def test_who_waits_for_the_lane_goes_on_once_it_has_room_whoever_made_it() -> None:
    """Not only when somebody else is below a limit of its own, which may take for ever."""

    async def scenario() -> None:
        lane: Lane[PeerOrigin] = Lane(5 * ITEM_BYTES)
        greedy, modest = Source(PeerOrigin(1), 1), Source(PeerOrigin(2), 1_000)
        lane.add(greedy, [b""] * 6)
        assert lane.take() is not None
        waiting = asyncio.create_task(lane.wait_for_room(modest))
        await breathe()
        assert not waiting.done()
        assert lane.take() is not None
        await asyncio.wait_for(waiting, 5)
        assert greedy.waiting_bytes > greedy.limit_bytes

    asyncio.run(scenario())


def test_an_item_takes_more_than_its_bytes() -> None:
    """Millions of the smallest would take a gigabyte."""

    async def scenario() -> None:
        inbox = Inbox(4)
        count = CLIENT_SOURCE_BYTES // (ITEM_BYTES + 6)
        await asyncio.wait_for(inbox.put_client_items(7, CLIENT, [b"6bytes"] * count), 5)
        reading = asyncio.create_task(inbox.put_client_items(7, CLIENT, [b"6bytes"]))
        await breathe()
        assert not reading.done()
        assert inbox.clients.take() is not None
        await asyncio.wait_for(reading, 5)

    asyncio.run(scenario())


def test_what_is_forgotten_frees_its_room() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        await inbox.put_client_items(5, CLIENT, [b"a", b"b"])
        await inbox.put_client_items(6, CLIENT, [b"c"])
        await inbox.put_peer_items(1, [b"x"] * 3)
        assert inbox.forget_client(5) == 2
        assert inbox.forget_client(5) == 0
        assert inbox.forget_peer_items(1) == 3
        assert inbox.forget_peer_items(1) == 0
        assert inbox.clients.take() == (ClientOrigin(6, CLIENT), b"c")
        assert inbox.clients.waiting_bytes == inbox.peers.waiting_bytes == 0
        await inbox.put_peer_items(1, [b"y"])
        assert inbox.peers.take() == (PeerOrigin(1), b"y")

    asyncio.run(scenario())


def test_wait_ends_with_an_event_a_wake_or_the_deadline() -> None:
    async def scenario() -> None:
        inbox = Inbox(4)
        for cause in (
            lambda: inbox.put_own(LinkChanged(1, up=True)),
            inbox.wake,
            lambda: asyncio.ensure_future(inbox.put_peer_items(1, [b"x"])),
            lambda: asyncio.ensure_future(inbox.put_client_items(1, CLIENT, [b"x"])),
        ):
            waiting = asyncio.create_task(inbox.wait(None))
            await breathe()
            assert not waiting.done()
            cause()
            async with asyncio.timeout(60):
                await waiting
            assert inbox.take_own() in (None, LinkChanged(1, up=True))
            inbox.peers.take()
            inbox.clients.take()
        began = time.monotonic()
        await inbox.wait(0.05)
        assert 0.03 < time.monotonic() - began < 60
        await inbox.wait(-1)

    asyncio.run(scenario())
