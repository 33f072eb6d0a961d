"""Group commit: nothing leaves before what it depends on is durable (protocol.md section 10).

The effects of a turn are taken in order. Records go to the vote log, all that wait in one durable
transaction in a thread of their own while the core goes on. What leaves (Send, Broadcast, Answer,
Refuse; also Merge and Install, which make later states durable) remembers how many gating records
were queued before it and leaves, in order, once that many are durable. So a turn without gating
records leaves at once if nothing earlier is under way.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from pbft.codec import encode_gateway_item, encode_peer_item
from pbft.core.effects import (
    AcceptedRecord,
    Answer,
    Broadcast,
    DecidedRecord,
    Effect,
    Install,
    Merge,
    NewViewRecord,
    Persist,
    ReadBack,
    Refuse,
    Send,
    Truncate,
    ViewChangeRecord,
)
from pbft.limits import MIB
from pbft.messages import Refusal
from pbft.node.worker import WorkerThread
from pbft.types import ClientKey, ReplicaId

WAITING_BYTES = 64 * MIB
"""No turn is taken while more than this waits for the disk."""
LAZY_FLUSH_SECONDS = 0.05
"""Records that gate nothing are written at least this soon ..."""
LAZY_FLUSH_BYTES = 4 * MIB
"""... or when this much of them waits."""
STUCK_SECONDS = 5.0
"""A transaction that takes longer makes the replica not ready."""
RECORD_BYTES = 512
"""What a record is taken to weigh besides its body."""


class Courier(Protocol):
    """Where effects go once they may leave. Nothing here waits or fails."""

    def send(self, peer: ReplicaId, item: bytes) -> None:
        """An encoded PeerItem to one peer."""
        ...

    def broadcast(self, item: bytes) -> None:
        """An encoded PeerItem to every peer."""
        ...

    def answer(self, client: ClientKey, item: bytes) -> None:
        """An encoded GatewayItem to a client, if it is connected."""
        ...


class Outbox:
    """Performs what leaves and what is written, in the order of the turns."""

    def __init__(
        self,
        write: Callable[[Sequence[Persist | Truncate]], None],
        worker: WorkerThread,
        courier: Courier,
        perform_on_state: Callable[[Merge | Install], None],
        read_back: Callable[[ReadBack], None],
        fail: Callable[[str, BaseException], None],
        on_sync: Callable[[float, int], None],
    ) -> None:
        """`write` makes records durable in one transaction and is called in `worker`. When it
        fails, `fail` is called and nothing leaves ever after. `on_sync` is told the seconds and
        records of each transaction."""
        self._write = write
        self._worker = worker
        self._courier = courier
        self._perform_on_state = perform_on_state
        self._read_back = read_back
        self._fail = fail
        self._on_sync = on_sync
        self._records: list[Persist | Truncate] = []
        self._record_bytes = 0
        self._leaving: deque[tuple[int, int, Callable[[], None]]] = deque()
        self._waiting_bytes = 0
        self._gating_queued = 0
        self._gating_durable = 0
        self._writing = False
        self._writing_since = 0.0
        self._failed = False
        self._flush_alarm: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Records and what waits for them, in bytes."""
        return self._waiting_bytes

    def is_responsive(self) -> bool:
        """Whether the disk took no longer than STUCK_SECONDS for what it is at. Any thread."""
        return not self._writing or time.monotonic() - self._writing_since < STUCK_SECONDS

    def turn(self, effects: Sequence[Effect]) -> None:
        """Takes the effects of one turn; those that are only told (Event, Rejection, Halt) are the
        caller's business."""
        for effect in effects:
            match effect:
                case Persist() | Truncate():
                    self._append(effect)
                case Send():
                    item = encode_peer_item(effect.item)
                    self._leave(partial(self._courier.send, effect.to, item), len(item))
                case Broadcast():
                    item = encode_peer_item(effect.item)
                    self._leave(partial(self._courier.broadcast, item), len(item))
                case Answer():
                    item = encode_gateway_item(effect.replies)
                    self._leave(partial(self._courier.answer, effect.client, item), len(item))
                case Refuse():
                    refusal = Refusal(effect.session, effect.number, effect.reason)
                    item = encode_gateway_item(refusal)
                    self._leave(partial(self._courier.answer, effect.client, item), len(item))
                case ReadBack():
                    self._read_back(effect)
                case Merge() | Install():
                    self._leave(partial(self._perform_on_state, effect), 0)
        self._write_if_due()

    async def wait_for_room(self) -> None:
        """Returns once the disk has caught up far enough for another turn."""
        while self._waiting_bytes > WAITING_BYTES:
            self._settled.clear()
            await self._settled.wait()

    async def close(self) -> None:
        """Writes what is left, and lets leave what waits for it."""
        while (self._writing or self._records) and not self._failed:
            if not self._writing:
                self._start_writing()
            self._settled.clear()
            await self._settled.wait()

    def _append(self, effect: Persist | Truncate) -> None:
        self._records.append(effect)
        size = record_bytes(effect)
        self._record_bytes += size
        self._waiting_bytes += size
        if isinstance(effect, Persist) and effect.gates:
            self._gating_queued += 1

    def _leave(self, action: Callable[[], None], size: int) -> None:
        if self._failed:
            return
        if self._gating_queued == self._gating_durable:
            action()
            return
        self._waiting_bytes += size
        self._leaving.append((self._gating_queued, size, action))

    def _write_if_due(self) -> None:
        if self._writing or not self._records or self._failed:
            return
        if self._gating_queued > self._gating_durable or self._record_bytes > LAZY_FLUSH_BYTES:
            self._start_writing()
        elif self._flush_alarm is None:
            loop = asyncio.get_running_loop()
            self._flush_alarm = loop.call_later(LAZY_FLUSH_SECONDS, self._on_flush_due)

    def _on_flush_due(self) -> None:
        self._flush_alarm = None
        if self._records and not self._writing and not self._failed:
            self._start_writing()

    def _start_writing(self) -> None:
        if self._flush_alarm is not None:
            self._flush_alarm.cancel()
            self._flush_alarm = None
        records, size = self._records, self._record_bytes
        self._records, self._record_bytes = [], 0
        self._writing = True
        self._writing_since = time.monotonic()
        done = partial(self._on_written, self._gating_queued, size, len(records))
        self._worker.submit(partial(self._write, records), done)

    def _on_written(
        self, gating: int, size: int, records: int, error: BaseException | None
    ) -> None:
        self._writing = False
        if error is not None:
            self._failed = True
            self._leaving.clear()
            self._settled.set()
            self._fail("the vote log could not be written", error)
            return
        self._on_sync(time.monotonic() - self._writing_since, records)
        self._gating_durable = gating
        self._waiting_bytes -= size
        # The next transaction starts before anything is released: the disk is the scarcer.
        self._write_if_due()
        while self._leaving and self._leaving[0][0] <= gating:
            _, item_bytes, action = self._leaving.popleft()
            self._waiting_bytes -= item_bytes
            action()
        self._settled.set()


def record_bytes(effect: Persist | Truncate) -> int:
    """About how much memory a record that waits holds on to."""
    if isinstance(effect, Truncate):
        return RECORD_BYTES
    match effect.record:
        case AcceptedRecord(batch=batch) | DecidedRecord(batch=batch):
            return RECORD_BYTES + len(batch)
        case ViewChangeRecord(view_change=signed) | NewViewRecord(new_view=signed):
            return RECORD_BYTES + len(signed.payload)
        case _:
            return RECORD_BYTES
