"""A vote log as the disk sees it: bytes under keys, which can rot, be torn or be forgotten.

It shares keys, encodings and checksums with the log of a real replica, so that what the simulator
damages is detected by what detects it there (protocol.md section 10; adversary.md group S).
"""

from bisect import bisect_left
from collections.abc import Sequence
from random import Random
from typing import Protocol

from pbft.core.effects import DecidedRecord, Persist, SavedLog, Truncate
from pbft.sim.rot import Rot
from pbft.storage.vote_log import LogLoader, apply_effects, read_decided
from pbft.types import SequenceNumber


class CrashableLog(Protocol):
    """A vote log with a dirty plane, which a crash loses, and a synced one, which it does not."""

    def append(self, effects: Sequence[Persist | Truncate]) -> int:
        """Writes without syncing. Returns the position to sync up to."""
        ...

    def sync(self, position: int) -> None:
        """Makes durable what was appended up to a position that `append` returned."""
        ...

    def crash(self) -> None:
        """Loses everything that is dirty."""
        ...

    def holds(self, key: bytes) -> bool:
        """Whether a slot's record with this key (pbft.storage.log_records) is in the synced
        plane."""
        ...

    def load(self, above: SequenceNumber = 0) -> SavedLog:
        """The synced plane. See VoteLog.load."""
        ...

    def read_decided(
        self, sequences: Sequence[SequenceNumber], size: int
    ) -> Sequence[DecidedRecord]:
        """From the synced plane. See VoteLog.read_decided."""
        ...


class VirtualLog:
    """A CrashableLog whose synced plane is an ordered map of bytes."""

    def __init__(self) -> None:
        self._items: dict[bytes, bytes] = {}
        self._dirty: list[Persist | Truncate] = []
        self._synced_count = 0

    def append(self, effects: Sequence[Persist | Truncate]) -> int:
        """See CrashableLog.append."""
        self._dirty.extend(effects)
        return self._synced_count + len(self._dirty)

    def sync(self, position: int) -> None:
        """See CrashableLog.sync."""
        count = max(0, position - self._synced_count)
        done, self._dirty = self._dirty[:count], self._dirty[count:]
        self._synced_count += len(done)
        apply_effects(_Transaction(self._items), done)

    def crash(self) -> None:
        """See CrashableLog.crash."""
        self._dirty = []

    def holds(self, key: bytes) -> bool:
        """See CrashableLog.holds."""
        return key in self._items

    def load(self, above: SequenceNumber = 0) -> SavedLog:
        """See CrashableLog.load."""
        return LogLoader(_Transaction(self._items), above).load()

    def read_decided(
        self, sequences: Sequence[SequenceNumber], size: int
    ) -> Sequence[DecidedRecord]:
        """See CrashableLog.read_decided."""
        return read_decided(_Transaction(self._items), sequences, size)

    def copy(self) -> "VirtualLog":
        """The synced plane as it is now: a backup."""
        copied = VirtualLog()
        copied._items = dict(self._items)
        return copied

    def damage(self, rot: Rot, random: Random) -> bool:
        """Damages one record. False if there is none to be damaged."""
        return rot(self._items, random)


class _Transaction:
    """What the real log uses of an LMDB transaction, on a map."""

    def __init__(self, items: dict[bytes, bytes]) -> None:
        self._items = items

    def put(self, key: bytes, value: bytes) -> bool:
        self._items[key] = value
        return True

    def cursor(self) -> "_Cursor":
        return _Cursor(self._items)


class _Cursor:
    """Walks over the keys that were there when it was made."""

    def __init__(self, items: dict[bytes, bytes]) -> None:
        self._items = items
        self._keys: list[bytes] | None = None
        self._at = 0

    def set_key(self, key: bytes) -> bool:
        return key in self._items

    def set_range(self, key: bytes) -> bool:
        self._keys = sorted(self._items)
        self._at = bisect_left(self._keys, key)
        return self._at < len(self._keys)

    def key(self) -> bytes:
        assert self._keys is not None
        return self._keys[self._at] if self._at < len(self._keys) else b""

    def item(self) -> tuple[bytes, bytes]:
        key = self.key()
        return key, self._items[key]

    def next(self) -> bool:
        assert self._keys is not None
        self._at += 1
        return self._at < len(self._keys)

    def delete(self) -> bool:
        del self._items[self.key()]
        return self.next()
