"""The state at its durable checkpoint in an LMDB environment (protocol.md section 10).

Three tables: records, leaves (one per bucket that ever had a record) and the checkpoint, changed
together in one durable transaction. A read transaction is a snapshot: it costs nothing to open and
holds back only the reuse of the pages that were replaced since.
"""

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import lmdb

from pbft.messages import Leaf
from pbft.storage.api import (
    INITIAL_CHECKPOINT,
    RUN_CHANGES,
    BaseChange,
    DurableCheckpoint,
    StageStore,
    StorageCorrupt,
    StorageFailed,
)
from pbft.storage.checksum import checked, protect
from pbft.storage.environment import open_environment
from pbft.storage.leaf_records import EMPTY_LEAF, decode_leaf, encode_leaf, leaf_index, leaf_key
from pbft.storage.log_records import decode_checkpoint, encode_checkpoint
from pbft.storage.ordered import OrderedView, encode_key
from pbft.storage.stage_store import LmdbStageStore, remove_stage

MAP_BYTES = 1 << 40
"""Address space, not disk: the file grows as it is written. A map cannot be enlarged under open
read transactions, so it is made larger than any state to come; where address space is rationed,
pass less."""
READERS_MAX = 512
PAGE_BYTES = 4096
"""At least so much of a tree changes with a record."""
_CHECKPOINT = b"checkpoint"
INSTALLING = b"installing"
"""In the table of the checkpoint while an installation is under way, or was interrupted."""
PORTION_BYTES = 16 << 20
"""Installed in one transaction: LMDB holds in memory what one changes, however much that is."""
_STAGE = "stage"


class LmdbBase:
    """The StateBase of a replica."""

    def __init__(self, path: Path, *, create: bool = False, map_bytes: int = MAP_BYTES) -> None:
        """Opens the environment in the directory `path`; `create` makes a new one. Raises
        lmdb.Error, and StorageCorrupt for a truncated file or an unreadable checkpoint."""
        self._failure: str | None = None
        self._stage_path = path / _STAGE
        self._environment = open_environment(
            path, create=create, map_size=map_bytes, max_dbs=3, max_readers=READERS_MAX
        )
        try:
            self._records = self._environment.open_db(b"records", create=create)
            self._leaves = self._environment.open_db(b"leaves", create=create)
            self._checkpoint = self._environment.open_db(_CHECKPOINT, create=create)
            self._view = self.open_view()
        except BaseException:
            self._environment.close()
            raise

    @property
    def view(self) -> "LmdbView":
        """See StateBase.view."""
        return self._view

    def open_view(self) -> "LmdbView":
        """See StateBase.open_view."""
        transaction = self._environment.begin(buffers=True)
        return LmdbView(transaction, self._records, self._leaves, self._checkpoint)

    def apply(self, change: BaseChange) -> None:
        """See StateBase.apply."""
        if self._failure is not None:
            raise StorageFailed(self._failure)
        try:
            self._environment.reader_check()  # One that died keeps pages from being used again.
            with self._environment.begin(write=True) as transaction:
                self._write(transaction, change)
        except lmdb.Error as error:
            self._failure = f"the state could not be written: {error}"
            raise StorageFailed(self._failure) from error

    def _write(self, transaction: "lmdb.Transaction[bytes]", change: BaseChange) -> None:
        with transaction.cursor(self._records) as cursor:
            for batch in change.batches:
                changes = iter(batch)
                while run := list(islice(changes, RUN_CHANGES)):
                    for domain, key, version, value in run:
                        _change(cursor, encode_key(domain, key, version), value)
                    if change.pause_seconds:
                        time.sleep(change.pause_seconds)
        self._write_end(transaction, change.leaves, change.checkpoint)

    def _write_end(
        self,
        transaction: "lmdb.Transaction[bytes]",
        leaves: Mapping[int, Leaf],
        at: DurableCheckpoint,
    ) -> None:
        for bucket, leaf in leaves.items():
            key = leaf_key(bucket)
            transaction.put(key, protect(key, encode_leaf(leaf)), db=self._leaves)
        value = encode_checkpoint(at.sequence, at.digest, at.certificate)
        transaction.put(_CHECKPOINT, protect(_CHECKPOINT, value), db=self._checkpoint)

    def install(self, stage: StageStore) -> None:
        """See StateBase.install. From the mark on it can only be ended, now or at the next
        start."""
        if self._failure is not None:
            raise StorageFailed(self._failure)
        try:
            self._environment.reader_check()
            with self._environment.begin(write=True) as transaction:
                transaction.put(INSTALLING, protect(INSTALLING, b""), db=self._checkpoint)
            self._install_marked(stage)
        except (lmdb.Error, StorageCorrupt) as error:
            self._failure = f"the state could not be installed: {error}"
            raise StorageFailed(self._failure) from error

    def end_installation(self) -> None:
        """To be called once at the start: ends an installation that was interrupted, and removes
        what else was received. Raises StorageCorrupt if what was received is damaged, lmdb.Error
        and OSError."""
        with self._environment.begin() as transaction:
            is_marked = transaction.get(INSTALLING, db=self._checkpoint) is not None
        if not is_marked:
            remove_stage(self._stage_path)
            return
        try:
            stage = LmdbStageStore(self._stage_path, sealed=True)
            self._install_marked(stage)
        except (StorageFailed, StorageCorrupt) as error:
            raise StorageCorrupt(
                f"a state was half installed, and the rest of it cannot be read: {error}"
            ) from error
        stage.close()
        self.refresh()

    def _install_marked(self, stage: StageStore) -> None:
        """Transactions of bounded size, each of which can be repeated; the last one ends it."""
        changes = stage.changes()
        while portion := _portion(changes):
            with (
                self._environment.begin(write=True) as transaction,
                transaction.cursor(self._records) as cursor,
            ):
                for name, value in portion:
                    _change(cursor, name, value)
        change = stage.installation()
        with self._environment.begin(write=True) as transaction:
            self._write_end(transaction, change.leaves, change.checkpoint)
            transaction.delete(INSTALLING, db=self._checkpoint)

    def refresh(self) -> None:
        """See StateBase.refresh."""
        self._view.close()
        self._view = self.open_view()

    def open_stage(self) -> LmdbStageStore:
        """See StateBase.open_stage."""
        return LmdbStageStore(self._stage_path)

    def close(self) -> None:
        """See StateBase.close."""
        self._view.close()
        self._environment.close()


def _change(cursor: "lmdb.Cursor[bytes]", name: bytes, value: bytes | None) -> None:
    """Writes a record; without a value it is removed, if there is one."""
    if value is not None:
        cursor.put(name, protect(name, value))
    elif cursor.set_key(name):
        cursor.delete()


def _portion(changes: Iterator[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
    """The next changes, of which one transaction is made."""
    portion: list[tuple[bytes, bytes | None]] = []
    size_bytes = 0
    for name, value in changes:
        portion.append((name, value))
        size_bytes += PAGE_BYTES + (0 if value is None else len(value))
        if size_bytes >= PORTION_BYTES:
            break
    return portion


class LmdbView(OrderedView):
    """A durable checkpoint in a read transaction. One thread at a time."""

    def __init__(
        self,
        transaction: "lmdb.Transaction[memoryview]",
        records: "lmdb._Database",
        leaves: "lmdb._Database",
        checkpoint: "lmdb._Database",
    ) -> None:
        """Takes over the transaction, which shows what lies on disk: nothing else of it may leave
        than copies. Raises StorageCorrupt for an unreadable checkpoint."""
        self._transaction = transaction
        self._records = records
        self._leaves = leaves
        self._cursor = transaction.cursor(records)
        stored = transaction.get(_CHECKPOINT, db=checkpoint)
        self.checkpoint = (
            INITIAL_CHECKPOINT
            if stored is None
            else decode_checkpoint(checked(_CHECKPOINT, bytes(stored)))
        )

    def _seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        try:
            return _copied(self._cursor) if self._cursor.set_range(key) else None
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def _get(self, key: bytes) -> bytes | None:
        try:
            stored = self._transaction.get(key, db=self._records)
            return None if stored is None else bytes(stored)
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def _items(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._transaction.cursor(self._records)
            found = cursor.set_range(key)
            while found:
                yield _copied(cursor)
                found = cursor.next()
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def _sizes(self, key: bytes) -> Iterator[tuple[bytes, int]]:
        try:
            cursor = self._transaction.cursor(self._records)
            found = cursor.set_range(key)
            while found:
                yield bytes(cursor.key()), len(cursor.value())
                found = cursor.next()
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def leaves(self, buckets: int) -> list[Leaf]:
        """See BaseView.leaves."""
        leaves = [EMPTY_LEAF] * buckets
        try:
            for item in self._transaction.cursor(self._leaves):
                key, stored = map(bytes, item)
                leaves[leaf_index(key, buckets)] = decode_leaf(checked(key, stored))
        except lmdb.Error as error:
            raise _unreadable(error) from error
        return leaves

    def close(self) -> None:
        """See BaseView.close."""
        self._cursor.close()
        self._transaction.abort()


def _copied(cursor: "lmdb.Cursor[memoryview]") -> tuple[bytes, bytes]:
    key, stored = cursor.item()
    return bytes(key), bytes(stored)


def _unreadable(error: lmdb.Error) -> StorageCorrupt:
    return StorageCorrupt(f"the state cannot be read: {error}")
