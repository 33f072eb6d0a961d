"""Encoded items that wait for one stream: bounded in bytes, leaving in frames."""

import asyncio
from collections import deque

from pbft.limits import FRAME_ITEMS_MAX
from pbft.transport.api import FRAME_BYTES


class SendQueue:
    """Between the event loop's many producers and the one writer task of a stream.

    What waits when the writer comes leaves as one frame: a stream message costs about the same
    whatever its size. An item larger than the limit is taken when nothing else waits.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait; at most the limit or one item."""
        return self._bytes

    def offer(self, item: bytes) -> bool:
        """Appends the item, or leaves it and returns False if there is no room."""
        if self._items and self._bytes + len(item) > self._limit_bytes:
            return False
        self._append(item)
        return True

    def push(self, item: bytes) -> int:
        """Appends the item; returns how many of the oldest had to be dropped for it."""
        dropped = 0
        while self._items and self._bytes + len(item) > self._limit_bytes:
            self._bytes -= len(self._items.popleft())
            dropped += 1
        self._append(item)
        return dropped

    @property
    def count(self) -> int:
        """Items that wait."""
        return len(self._items)

    def drop_oldest(self, count: int) -> int:
        """Drops so many of the items that wait longest, or all; returns how many."""
        dropped = min(count, len(self._items))
        for _ in range(dropped):
            self._bytes -= len(self._items.popleft())
        return dropped

    def _append(self, item: bytes) -> None:
        self._items.append(item)
        self._bytes += len(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next_frame(self) -> list[bytes]:
        """Waits for something and takes what waits, up to FRAME_BYTES and FRAME_ITEMS_MAX (one item
        at least). One task at a time may wait here."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        frame = [self._items.popleft()]
        size = len(frame[0])
        while self._has_next(len(frame), size):
            size += len(self._items[0])
            frame.append(self._items.popleft())
        self._bytes -= size
        return frame

    def _has_next(self, count: int, size: int) -> bool:
        """Whether one more item fits into a frame of so many and so large."""
        if not self._items or count >= FRAME_ITEMS_MAX:
            return False
        return size + len(self._items[0]) <= FRAME_BYTES
