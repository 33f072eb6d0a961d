"""Where records wait that a state transfer received, until all of them are verified (protocol.md
section 9).

On disk, so that memory does not grow with the state; not synced before all is verified, because
nothing rests on them: a crash empties the store, and the transfer begins anew. Once they are sealed
they are the log from which an interrupted installation is ended.
"""

import hashlib
import shutil
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import lmdb

from pbft.storage.api import Installation, StagedItem, StorageCorrupt, StorageFailed
from pbft.storage.checksum import checked, protect
from pbft.storage.environment import sync_directory
from pbft.storage.leaf_records import decode_leaf, encode_leaf, leaf_key
from pbft.storage.log_records import decode_checkpoint, encode_checkpoint

STAGE_MAP_BYTES = 1 << 40
"""Address space, as for the state."""

REMOVED_RECORDS = 4_096
"""Dropped records that are removed for each addition, besides one for each record added: what waits
to be removed so gets less with every addition, by more than a chunk of a transfer carries."""

_PREFIX = struct.Struct(">IQ")
"""The bucket, and how often it was dropped before: a dropped record is nobody's at once."""
_NAME_LENGTH = struct.Struct(">H")
_SEALED = b"\xff\xff\xff\xff"
"""Begins the keys of what is no record: there is no such bucket."""
_PREFIXES = _SEALED + b"prefixes"
_CHECKPOINT = _SEALED + b"checkpoint"
_LEAF = _SEALED + b"leaf"
_REMOVED = _SEALED + b"removed"
_NUMBER = struct.Struct(">Q")
PORTION_ITEMS = 4_096
"""Written in one transaction when the store is sealed."""


class LmdbStageStore:
    """The StageStore of a replica: an LMDB environment of its own in the directory `path`."""

    def __init__(self, path: Path, *, sealed: bool = False) -> None:
        """What is left of an earlier one is removed, unless that was sealed and is to be opened
        again. Raises StorageFailed."""
        self._path = path
        self._drops: Counter[int] = Counter()
        """How often each bucket was dropped."""
        self._dropped: deque[bytes] = deque()
        """Prefixes of the keys that are to be removed."""
        try:
            if not sealed:
                remove_stage(path)
                path.mkdir(mode=0o700)
            self._environment = lmdb.open(
                str(path),
                create=not sealed,
                map_size=STAGE_MAP_BYTES,
                mode=0o600,
                sync=False,
                max_readers=8,
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

    def seal(self, buckets: Sequence[int], removed: Iterable[bytes], change: Installation) -> None:
        """See StageStore.seal."""
        at = change.checkpoint
        prefixes = b"".join(map(self._prefix, buckets))
        fixed = (
            (_PREFIXES, prefixes),
            (_CHECKPOINT, encode_checkpoint(at.sequence, at.digest, at.certificate)),
        )
        leaves = ((_LEAF + leaf_key(i), encode_leaf(leaf)) for i, leaf in change.leaves.items())
        names = ((_REMOVED + _NUMBER.pack(i), name) for i, name in enumerate(removed))
        items = chain(fixed, leaves, names)
        try:
            while portion := list(islice(items, PORTION_ITEMS)):
                with self._environment.begin(write=True) as transaction:
                    for key, value in portion:
                        transaction.put(key, protect(key, value))
            self._environment.sync(True)
            for directory in (self._path, self._path.parent):
                sync_directory(directory)
            for _ in self.changes():
                pass
        except (OSError, lmdb.Error, StorageCorrupt) as error:
            # Better now, when what is on disk besides is as good as before.
            raise StorageFailed(f"received records cannot be kept: {error}") from error

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See StageStore.changes."""
        for _, name in self._sealed(_REMOVED):
            yield name, None
        ((_, prefixes),) = self._sealed(_PREFIXES)
        for start in range(0, len(prefixes), _PREFIX.size):
            for _, stored in self._sealed(prefixes[start : start + _PREFIX.size]):
                (length,) = _NAME_LENGTH.unpack_from(stored)
                end = _NAME_LENGTH.size + length
                yield stored[_NAME_LENGTH.size : end], stored[end:]

    def installation(self) -> Installation:
        """See StageStore.installation."""
        leaves = {
            int.from_bytes(key[len(_LEAF) :], "big"): decode_leaf(value)
            for key, value in self._sealed(_LEAF)
        }
        ((_, checkpoint),) = self._sealed(_CHECKPOINT)
        return Installation(leaves, decode_checkpoint(checkpoint))

    def _sealed(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin so, with their values."""
        try:
            with self._environment.begin() as transaction:
                cursor = transaction.cursor()
                found = cursor.set_range(prefix)
                while found and cursor.key().startswith(prefix):
                    yield cursor.key(), checked(*cursor.item())
                    found = cursor.next()
        except lmdb.Error as error:
            raise StorageCorrupt(f"received records cannot be read: {error}") from error

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
        self._changes: list[tuple[bytes, bytes | None]] = []
        self._installation: Installation | None = None

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

    def seal(self, buckets: Sequence[int], removed: Iterable[bytes], change: Installation) -> None:
        """See StageStore.seal."""
        self._changes = [(name, None) for name in removed]
        for bucket in buckets:
            self._changes += self._buckets.get(bucket, {}).items()
        self._installation = change

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See StageStore.changes."""
        yield from self._changes

    def installation(self) -> Installation:
        """See StageStore.installation."""
        assert self._installation is not None
        return self._installation

    def drop(self, bucket: int) -> None:
        """See StageStore.drop."""
        self._buckets.pop(bucket, None)

    def close(self) -> None:
        """See StageStore.close."""
        self._buckets.clear()
