"""A disk with a dirty and a synced plane, and the outbox that waits for it (protocol.md 10).

What leaves a replica waits for every Persist that came earlier, in its step or in an earlier one. A
crash loses whatever was not synced: votes that did not leave, and nothing else.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TypeAlias

from pbft.core.effects import (
    Answer,
    Broadcast,
    Effect,
    Install,
    Merge,
    Persist,
    Refuse,
    Send,
    Truncate,
)
from pbft.sim.scheduler import Scheduler
from pbft.sim.virtual_log import CrashableLog
from pbft.types import Micros

Leaving: TypeAlias = Send | Broadcast | Answer | Refuse | Merge | Install
LEAVING = (Send, Broadcast, Answer, Refuse, Merge, Install)


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """How long one durable transaction takes: at least `sync_us`, at most double that."""

    sync_us: Micros = 500
    merge_us: Micros = 2_000
    seal_us: Micros = 1_000
    """How long the digest of a checkpoint usually takes, on the average; no matter of the disk."""
    slow_seals: float = 0.0
    """Share of the digests that take much longer, until everything is healed."""
    slow_merges: float = 0.0
    """The same for merges and installations."""


class Refusal(Enum):
    """How a disk says no."""

    FULL = "full"
    """ENOSPC: nothing of the transaction is written."""
    SYNC = "sync"
    """EIO: some of it may be."""


class Outbox:
    """Writes what must be durable, in order, and releases what waited for it.

    One object lives from a start of the replica to its crash or stop; the log outlives it. `fail`
    is called when the disk refuses, and has to end the process.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        random: Random,
        log: CrashableLog,
        speed: DiskSpeed,
        release: Callable[[Leaving], None],
        fail: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._random = random
        self._log = log
        self._speed = speed
        self._release = release
        self._fail = fail
        self._waiting: deque[tuple[int, Leaving]] = deque()
        """What leaves, with the count of records that must be durable before; ascending."""
        self._unwritten: list[Persist | Truncate] = []
        """Handed over, but not yet given to the disk."""
        self._handed = 0
        """Records handed over so far."""
        self._needed = 0
        """How many of them must be durable before the next thing may leave."""
        self._durable = 0
        self._syncing = 0
        """How many records the running sync covers; 0 if none runs."""
        self._position = 0
        """Where that sync ends in the log."""
        self._broken = False
        self.refusal: Refusal | None = None
        """How the disk refuses the next transaction; the process must then end."""

    def perform(self, effects: list[Effect]) -> None:
        """Takes the effects of one step, in order. What may leave at once does."""
        for effect in effects:
            if isinstance(effect, Persist | Truncate):
                self._unwritten.append(effect)
                self._handed += 1
                if isinstance(effect, Persist) and effect.gates:
                    self._needed = self._handed
            elif isinstance(effect, LEAVING):
                if not self._waiting and self._needed <= self._durable:
                    self._release(effect)
                else:
                    self._waiting.append((self._needed, effect))
        self._start_sync()

    def crash(self) -> None:
        """The process is gone: nothing leaves any more, and what was not synced is lost.

        A sync under way may have reached the disk all the same; nobody will have been told.
        """
        self._broken = True
        self._waiting.clear()
        if self._syncing and self._random.random() < 0.5:
            self._log.sync(self._position)
        self._log.crash()

    def _start_sync(self) -> None:
        if self._syncing or not self._unwritten or self._broken:
            return
        if self.refusal is Refusal.FULL:
            self._fail()
            return
        self._position = self._log.append(self._unwritten)
        self._unwritten = []
        self._syncing = self._handed
        delay_us = int(self._speed.sync_us * (1 + self._random.random()))
        self._scheduler.after(delay_us, self._synced)

    def _synced(self) -> None:
        if self._broken:
            return
        if self.refusal is not None:
            # Nobody knows what a sync that failed has left on the disk: `crash` decides it.
            self._fail()
            return
        self._log.sync(self._position)
        self._durable, self._syncing = self._syncing, 0
        while self._waiting and self._waiting[0][0] <= self._durable:
            self._release(self._waiting.popleft()[1])
            if self._broken:
                return
        self._start_sync()
