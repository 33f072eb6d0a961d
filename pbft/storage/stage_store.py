"""Where records wait that a state transfer received, until all of them are verified (protocol.md
section 9).

On disk, so that memory does not grow with the state; not synced, because nothing rests on them: a
crash empties the store, and the transfer begins anew.
"""

import hashlib
import shutil
import struct
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb

from pbft.storage.api import StagedItem, StorageCorrupt, StorageFailed
from pbft.storage.checksum import checked, protect

STAGE_MAP_BYTES = 1 << 40
"""Address space, as for the state."""

REMOVED_RECORDS = 4_096
"""Dropped records that are removed for each addition, besides one for each record added: what waits
to be removed so gets less with every addition, by more than a chunk of a transfer carries."""

_PREFIX = struct.Struct(">IQ")
"""The bucket, and how often it was dropped before: a dropped record is nobody's at once."""
_NAME_LENGTH = struct.Struct(">H")


class LmdbStageStore:
    """The StageStore of a replica: an LMDB environment of its own in the directory `path`."""

    def __init__(self, path: Path) -> None:
        """What is left of an earlier one is removed. Raises StorageFailed."""
        self._path = path
        self._drops: Counter[int] = Counter()
        """How often each bucket was dropped."""
        self._dropped: deque[bytes] = deque()
        """Prefixes of the keys that are to be removed."""
        try:
            remove_stage(path)
            path.mkdir(mode=0o700)
            self._environment = lmdb.open(
                str(path), map_size=STAGE_MAP_BYTES, mode=0o600, sync=False, max_readers=8
            )
        except (OSError, lmdb.Error) as error:
            raise StorageFailed(f"no records can be received: {error}") from error

    def add(self, items: Sequence[StagedItem]) -> bool:
        """See StageStore.add."""
        try:
            with self._environment.begin(write=True) as transaction:
                for bucket, name, value in items:
                    key = self._key(bucket, name)
                    stored = protect(key, _NAME_LENGTH.pack(len(name)) + name + value)
                    if not transaction.put(key, stored, overwrite=False):
                        transaction.abort()
                        return False
                self._remove(transaction, len(items) + REMOVED_RECORDS)
        except lmdb.Error as error:
            raise StorageFailed(f"records cannot be received: {error}") from error
        return True

    def has(self, bucket: int, name: bytes) -> bool:
        """See StageStore.has."""
        with self._environment.begin() as transaction:
            return transaction.get(self._key(bucket, name)) is not None

    def items(self, bucket: int) -> Iterator[tuple[bytes, bytes]]:
        """See StageStore.items."""
        prefix = self._prefix(bucket)
        try:
            with self._environment.begin() as transaction:
                cursor = transaction.cursor()
                found = cursor.set_range(prefix)
                while found and cursor.key().startswith(prefix):
                    stored = checked(*cursor.item())
                    (length,) = _NAME_LENGTH.unpack_from(stored)
                    end = _NAME_LENGTH.size + length
                    yield stored[_NAME_LENGTH.size : end], stored[end:]
                    found = cursor.next()
        except (lmdb.Error, StorageCorrupt) as error:
            # They are not synced, and are fetched again: the directory is as good as before.
            raise StorageFailed(f"received records cannot be read: {error}") from error

    def drop(self, bucket: int) -> None:
        """See StageStore.drop. It costs nothing: whoever delivers a share and then stalls makes its
        peer drop many records at once, in the event loop. Additions remove them little by
        little."""
        self._dropped.append(self._prefix(bucket))
        self._drops[bucket] += 1

    def _remove(self, transaction: "lmdb.Transaction[bytes]", most: int) -> None:
        cursor = transaction.cursor()
        while self._dropped:
            prefix = self._dropped[0]
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                if most == 0:
                    return
                found = cursor.delete()
                most -= 1
            self._dropped.popleft()

    def _prefix(self, bucket: int) -> bytes:
        return _PREFIX.pack(bucket, self._drops[bucket])

    def _key(self, bucket: int, name: bytes) -> bytes:
        # A name and its bucket would be too long for a key. Clients choose names: the hash is not
        # cut.
        return self._prefix(bucket) + hashlib.sha256(name).digest()

    def close(self) -> None:
        """See StageStore.close."""
        self._environment.close()
        remove_stage(self._path)


def remove_stage(path: Path) -> None:
    """Deletes what a store has left in its directory. Raises OSError."""
    if path.exists():
        shutil.rmtree(path)


class MemoryStageStore:
    """The twin of the simulator: no files."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[bytes, bytes]] = {}

    def add(self, items: Sequence[StagedItem]) -> bool:
        """See StageStore.add."""
        names = {(bucket, name) for bucket, name, _ in items}
        if len(names) < len(items) or any(self.has(bucket, name) for bucket, name in names):
            return False
        for bucket, name, value in items:
            self._buckets.setdefault(bucket, {})[name] = value
        return True

    def has(self, bucket: int, name: bytes) -> bool:
        """See StageStore.has."""
        return name in self._buckets.get(bucket, {})

    def items(self, bucket: int) -> Iterator[tuple[bytes, bytes]]:
        """See StageStore.items."""
        yield from self._buckets.get(bucket, {}).items()

    def drop(self, bucket: int) -> None:
        """See StageStore.drop."""
        self._buckets.pop(bucket, None)

    def close(self) -> None:
        """See StageStore.close."""
        self._buckets.clear()
