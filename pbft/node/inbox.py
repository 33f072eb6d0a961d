"""What waits to be given to the core: bounded per sender, served in turn.

A sender is a source. Its queue is bounded by not reading its stream while it is full, so a flood
is slowed down at its origin and grows nothing here. Sources of one lane take turns, one item each,
and whose items take long waits for more turns of the others; peers and clients have lanes of their
own, so that neither can starve the other.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from pbft.limits import MIB
from pbft.node.sealer import SealFailed, StateSealed
from pbft.node.state_disk import DiskJobDone, DiskJobFailed
from pbft.node.tail_disk import TailRead
from pbft.transport.api import ListenerEnded
from pbft.types import ClientKey, ReplicaId

PEER_SOURCE_BYTES = 8 * MIB
"""A peer's stream is not read while this much of it waits."""
CLIENT_SOURCE_BYTES = 1 * MIB
CLIENTS_BYTES = 128 * MIB
"""No client's stream is read while this much of all clients waits."""
ITEM_BYTES = 64
"""What an item takes beside its own bytes: the smallest that is one has six."""
TURN_SECONDS = 0.001
"""What an item may take. Whose takes longer lets the others have as many turns more ..."""
DEBT_SECONDS_MAX = 0.1
"""... but no more than so long together."""


@dataclass(frozen=True, slots=True)
class PeerOrigin:
    """Items came from this peer's stream."""

    peer: ReplicaId


@dataclass(frozen=True, slots=True)
class ClientOrigin:
    """Items came from this stream of this client."""

    stream: int
    client: ClientKey


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """Both directions to and from a peer are up, or no longer are."""

    peer: ReplicaId
    up: bool


@dataclass(frozen=True, slots=True)
class ListenerLost:
    """Nobody can connect any more."""

    error: ListenerEnded


OwnEvent: TypeAlias = (
    LinkChanged | ListenerLost | StateSealed | SealFailed | DiskJobDone | DiskJobFailed | TailRead
)
Origin = TypeVar("Origin", PeerOrigin, ClientOrigin)


@dataclass(slots=True)
class Source(Generic[Origin]):
    """One sender's queue."""

    origin: Origin
    limit_bytes: int
    items: deque[bytes] = field(default_factory=deque)
    waiting_bytes: int = 0
    debt_seconds: float = 0.0
    """What its items took beyond their turns, and others have not had since."""


class Lane(Generic[Origin]):
    """Sources that take turns."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._waiting_bytes = 0
        self._ready: deque[Source[Origin]] = deque()
        self._served: Source[Origin] | None = None
        """Whose item was taken last."""
        self._room = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in all sources of the lane, ITEM_BYTES for each item among them."""
        return self._waiting_bytes

    def is_ready(self) -> bool:
        """Whether anything waits."""
        return bool(self._ready)

    def add(self, source: Source[Origin], items: Sequence[bytes]) -> None:
        """Appends items to a source of this lane."""
        if not source.items and items:
            self._ready.append(source)
        size = sum(map(len, items)) + ITEM_BYTES * len(items)
        source.items.extend(items)
        source.waiting_bytes += size
        self._waiting_bytes += size

    def take(self) -> tuple[Origin, bytes] | None:
        """The next item of the source whose turn it is; None if nothing waits."""
        if not self._ready:
            return None
        source = self._served = self._next()
        item = source.items.popleft()
        self._free(source, len(item) + ITEM_BYTES)
        if source.items:
            self._ready.append(source)
        return source.origin, item

    def _next(self) -> Source[Origin]:
        source = self._ready.popleft()
        while self._ready and source.debt_seconds > 0:
            source.debt_seconds -= TURN_SECONDS
            self._ready.append(source)
            source = self._ready.popleft()
        return source

    def spend(self, seconds: float) -> None:
        """The item that was taken last took so long."""
        source = self._served
        if source is not None and seconds > TURN_SECONDS:
            debt = max(source.debt_seconds, 0.0) + seconds - TURN_SECONDS
            source.debt_seconds = min(debt, DEBT_SECONDS_MAX)

    def clear(self, source: Source[Origin]) -> int:
        """Forgets what waits in a source; returns the number of items."""
        count = len(source.items)
        if count:
            self._ready.remove(source)
            source.items.clear()
            self._free(source, source.waiting_bytes)
        return count

    async def wait_for_room(self, source: Source[Origin]) -> None:
        """Returns once the source and the lane are below their limits."""
        while (
            source.waiting_bytes >= source.limit_bytes or self._waiting_bytes >= self._total_bytes
        ):
            self._room.clear()
            await self._room.wait()

    def _free(self, source: Source[Origin], size: int) -> None:
        had_room = self._waiting_bytes < self._total_bytes
        source.waiting_bytes -= size
        self._waiting_bytes -= size
        # Those wait who are over their limit, and all while the lane is over its own.
        has_room = self._waiting_bytes < self._total_bytes
        if source.waiting_bytes < source.limit_bytes or (has_room and not had_room):
            self._room.set()


class Inbox:
    """Everything that can make the core take a step, except time."""

    def __init__(self, replicas: int) -> None:
        self.peers: Lane[PeerOrigin] = Lane(replicas * PEER_SOURCE_BYTES)
        self.clients: Lane[ClientOrigin] = Lane(CLIENTS_BYTES)
        self._peer_sources = [
            Source(PeerOrigin(peer), PEER_SOURCE_BYTES) for peer in range(replicas)
        ]
        self._client_sources: dict[int, Source[ClientOrigin]] = {}
        self._own: deque[OwnEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put_own(self, event: OwnEvent) -> None:
        """Appends an event of this process; served before anything from outside."""
        self._own.append(event)
        self.wake()

    def take_own(self) -> OwnEvent | None:
        """The next event of this process."""
        return self._own.popleft() if self._own else None

    async def put_peer_items(self, peer: ReplicaId, items: Sequence[bytes]) -> None:
        """Appends what a peer sent; returns when its stream may be read on. A peer that connects
        again has its place still: what the new stream brings waits as the old one's reader did."""
        source = self._peer_sources[peer]
        await self.peers.wait_for_room(source)
        self.peers.add(source, items)
        self.wake()
        await self.peers.wait_for_room(source)

    async def put_client_items(
        self, stream: int, client: ClientKey, items: Sequence[bytes]
    ) -> None:
        """Appends what a client sent; returns when its stream may be read on."""
        source = self._client_sources.get(stream)
        if source is None:
            source = Source(ClientOrigin(stream, client), CLIENT_SOURCE_BYTES)
            self._client_sources[stream] = source
        await self.clients.wait_for_room(source)
        if self._client_sources.get(stream) is not source:
            # Its stream was dropped meanwhile.
            return
        self.clients.add(source, items)
        self.wake()
        await self.clients.wait_for_room(source)

    def forget_peer_items(self, peer: ReplicaId) -> int:
        """Drops what waits of a peer (it used up its faults); returns the number of items."""
        return self.peers.clear(self._peer_sources[peer])

    def has_client(self, stream: int) -> bool:
        """Whether the stream is open, of those through which something came."""
        return stream in self._client_sources

    def forget_client(self, stream: int) -> int:
        """Drops a client's stream and what waits of it; returns the number of items."""
        source = self._client_sources.pop(stream, None)
        return 0 if source is None else self.clients.clear(source)

    def wake(self) -> None:
        """Ends a `wait`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Returns when there is something to take, after `wake`, or after this many seconds."""
        if self._own or self.peers.is_ready() or self.clients.is_ready():
            # Let the streams be read between two turns.
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        alarm = None if seconds is None else loop.call_later(max(seconds, 0), self.wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()
