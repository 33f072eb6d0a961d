"""The vote log on disk: one LMDB environment, one durable transaction per write (protocol.md
section 10)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

import lmdb

from pbft.core.effects import (
    AcceptedRecord,
    DecidedRecord,
    LogRecord,
    NewViewRecord,
    Persist,
    PreparedRecord,
    RejoinRecord,
    SavedLog,
    StableRecord,
    Truncate,
    ViewChangeRecord,
)
from pbft.limits import MIB, STATEMENT_BYTES
from pbft.storage import log_records as records
from pbft.storage.api import StorageCorrupt, StorageFailed
from pbft.storage.checksum import checked, protect
from pbft.storage.environment import open_environment
from pbft.types import Digest, SequenceNumber

INITIAL_MAP_BYTES = 64 * MIB
"""The file grows as it is written; the map doubles when the file reaches it."""
TRUNCATED_MAX = 4_096
"""Records of a kind that one Truncate deletes."""

T = TypeVar("T")


class LogCursor(Protocol):
    """What is used of lmdb.Cursor."""

    def set_key(self, key: bytes) -> bool: ...

    def set_range(self, key: bytes) -> bool: ...

    def key(self) -> bytes: ...

    def item(self) -> tuple[bytes, bytes]: ...

    def next(self) -> bool: ...

    def delete(self) -> bool: ...


class LogTransaction(Protocol):
    """What is used of lmdb.Transaction: an ordered map of bytes will do."""

    def put(self, key: bytes, value: bytes) -> bool: ...

    def cursor(self) -> LogCursor: ...


class LmdbVoteLog:
    """The VoteLog of a replica. One thread at a time; LMDB releases the GIL while it syncs."""

    def __init__(
        self, path: Path, *, create: bool = False, map_bytes: int = INITIAL_MAP_BYTES
    ) -> None:
        """Opens the environment in the directory `path`; `create` makes a new one. Raises
        lmdb.Error, and StorageCorrupt for a missing or truncated file."""
        self._map_bytes = map_bytes
        self._failure: str | None = None
        self._environment = open_environment(path, create=create, map_size=map_bytes, max_readers=8)

    def write(self, effects: Sequence[Persist | Truncate]) -> None:
        """See VoteLog.write. A failed commit or sync leaves the disk in a state that nobody knows,
        so the log refuses everything after it."""
        if self._failure is not None:
            raise StorageFailed(self._failure)
        try:
            # What was written and deleted in one transaction would leave pages that never were on
            # disk at the end of the file, which then looks truncated.
            for truncates, run in groupby(effects, lambda it: isinstance(it, Truncate)):
                if truncates:
                    # A reader that died would keep what is truncated from being used again.
                    self._environment.reader_check()
                self._write(list(run))
        except lmdb.Error as error:
            self._failure = f"the vote log could not be written: {error}"
            raise StorageFailed(self._failure) from error

    def _write(self, effects: Sequence[Persist | Truncate]) -> None:
        while not self._try_write(effects):
            self._map_bytes *= 2
            self._environment.set_mapsize(self._map_bytes)

    def _try_write(self, effects: Sequence[Persist | Truncate]) -> bool:
        """One transaction; False (and nothing written) if the map is too small for it."""
        try:
            with self._environment.begin(write=True) as transaction:
                apply_effects(transaction, effects)
        except lmdb.MapFullError:
            return False
        return True

    def load(self, above: SequenceNumber = 0) -> SavedLog:
        """See VoteLog.load."""
        with self._reading() as transaction:
            return LogLoader(transaction, above).load()

    def read_decided(
        self, sequences: Sequence[SequenceNumber], size: int
    ) -> Sequence[DecidedRecord]:
        """See VoteLog.read_decided."""
        with self._reading() as transaction:
            return read_decided(transaction, sequences, size)

    @contextmanager
    def _reading(self) -> Iterator[LogTransaction]:
        try:
            with self._environment.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise StorageCorrupt(f"the vote log cannot be read: {error}") from error

    def close(self) -> None:
        """Closes the environment; idempotent."""
        self._environment.close()


def apply_effects(transaction: LogTransaction, effects: Sequence[Persist | Truncate]) -> None:
    """Writes the effects, in order."""
    for effect in effects:
        if isinstance(effect, Persist):
            _put_record(transaction, effect.record)
        else:
            _truncate(transaction, effect.sequence)


def _put_record(transaction: LogTransaction, record: LogRecord) -> None:
    match record:
        case AcceptedRecord():
            _put_body(transaction, record.sequence, record.digest, record.batch)
            key = records.slot_key(records.ACCEPTED, record.sequence, record.view)
            value = records.encode_accepted(record)
        case PreparedRecord():
            key = records.slot_key(records.PREPARED, record.sequence, record.view)
            value = records.encode_prepared(record)
        case DecidedRecord():
            _put_body(transaction, record.sequence, record.digest, record.batch)
            key, value = records.decided_key(record.sequence), records.encode_decided(record)
        case ViewChangeRecord():
            key, value = records.VIEW_CHANGE, records.encode_view_change(record)
        case NewViewRecord():
            key, value = records.NEW_VIEW, records.encode_new_view(record)
        case StableRecord(sequence, digest, certificate):
            key = records.STABLE
            value = records.encode_checkpoint(sequence, digest, certificate)
        case RejoinRecord():
            key, value = records.REJOIN, records.encode_rejoin(record)
    transaction.put(key, protect(key, value))


def _put_body(
    transaction: LogTransaction, sequence: SequenceNumber, digest: Digest, batch: bytes
) -> None:
    """Bodies are large and mentioned several times: the second time costs a look-up only."""
    key = records.body_key(sequence, digest)
    if batch and not transaction.cursor().set_key(key):
        transaction.put(key, protect(key, batch))


def _truncate(transaction: LogTransaction, sequence: SequenceNumber) -> None:
    """What there is too much of goes with the next ones: a long deletion would hold up votes."""
    # Bodies come last: what is left of the others may mention them.
    for kind in records.SLOT_KINDS:
        bound = records.first_key_above(kind, sequence)
        cursor = transaction.cursor()
        found, deleted = cursor.set_range(kind), 0
        while found and cursor.key() < bound and deleted < TRUNCATED_MAX:
            cursor.delete()
            found = cursor.key() != b""
            deleted += 1
        if found and cursor.key() < bound:
            sequence = min(sequence, records.sequence_of(cursor.key()) - 1)


def read_decided(
    transaction: LogTransaction, sequences: Sequence[SequenceNumber], size: int
) -> Sequence[DecidedRecord]:
    """See VoteLog.read_decided."""
    found: list[DecidedRecord] = []
    for sequence in sequences:
        try:
            record = _read_one(transaction, records.decided_key(sequence))
        except StorageCorrupt:
            if not found:
                raise
            break
        if record is None or size <= 0:
            break
        found.append(record)
        size -= len(record.batch) + STATEMENT_BYTES * len(record.commits)
    return found


def _read_one(transaction: LogTransaction, key: bytes) -> DecidedRecord | None:
    with _naming(key):
        value = _value(transaction, key)
        if value is None:
            return None
        record, has_body = records.decode_decided(key, value)
        if not has_body:
            return record
        batch = _value(transaction, records.body_key(record.sequence, record.digest))
        if batch is None:
            raise StorageCorrupt("its batch is missing")
        return DecidedRecord(record.sequence, record.digest, record.commits, batch)


def _value(transaction: LogTransaction, key: bytes) -> bytes | None:
    cursor = transaction.cursor()
    if not cursor.set_range(key) or cursor.key() != key:
        return None
    return checked(*cursor.item())


class LogLoader:
    """Reads a log in one transaction, every key of it: what is there and belongs to nothing may be
    a record that was damaged. Of slots at or below `above` nothing is kept."""

    def __init__(self, transaction: LogTransaction, above: SequenceNumber = 0) -> None:
        self._transaction = transaction
        self._above = above
        self._values: dict[bytes, bytes] = {}
        """All of them by key, ascending."""

    def load(self) -> SavedLog:
        """All records. Raises StorageCorrupt, naming the record."""
        self._values = dict(self._read_all())
        return SavedLog(
            accepted=tuple(self._each(records.ACCEPTED, self._accepted)),
            prepared=tuple(self._each(records.PREPARED, records.decode_prepared)),
            decided=tuple(self._each(records.DECIDED, self._decided)),
            view_change=self._single(records.VIEW_CHANGE, records.decode_view_change),
            new_view=self._single(records.NEW_VIEW, records.decode_new_view),
            stable=self._single(records.STABLE, _decode_stable),
            rejoin=self._single(records.REJOIN, records.decode_rejoin),
        )

    def _read_all(self) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._transaction.cursor()
        found, before = cursor.set_range(b""), b""
        while found:
            key, kind = cursor.key(), cursor.key()[:1]
            if key <= before:
                raise StorageCorrupt(f"the key {key.hex()} of the vote log is out of order")
            before = key
            is_old = kind in records.SLOT_KINDS and records.sequence_of(key) <= self._above
            if is_old and kind == records.BODY:
                # Large; and one that is in the wrong place is missed in its own.
                found = cursor.set_range(records.first_key_above(kind, self._above))
                continue
            with _naming(key):
                records.check_key(key)
                value = checked(*cursor.item())
            if not is_old:
                yield key, value
            found = cursor.next()

    def _each(self, kind: bytes, decode: Callable[[bytes, bytes], T]) -> Iterator[T]:
        for key, value in self._values.items():
            if key.startswith(kind):
                with _naming(key):
                    record = decode(key, value)
                yield record

    def _single(self, key: bytes, decode: Callable[[bytes], T]) -> T | None:
        value = self._values.get(key)
        if value is None:
            return None
        with _naming(key):
            return decode(value)

    def _accepted(self, key: bytes, value: bytes) -> AcceptedRecord:
        record, has_body = records.decode_accepted(key, value)
        if not has_body:
            return record
        batch = self._body(record.sequence, record.digest)
        return AcceptedRecord(
            record.view, record.sequence, record.digest, record.pre_prepare, batch
        )

    def _decided(self, key: bytes, value: bytes) -> DecidedRecord:
        record, has_body = records.decode_decided(key, value)
        if not has_body:
            return record
        batch = self._body(record.sequence, record.digest)
        return DecidedRecord(record.sequence, record.digest, record.commits, batch)

    def _body(self, sequence: SequenceNumber, digest: Digest) -> bytes:
        batch = self._values.get(records.body_key(sequence, digest))
        if batch is None:
            raise StorageCorrupt("its batch is missing")
        return batch


@contextmanager
def _naming(key: bytes) -> Iterator[None]:
    """Says of which record a StorageCorrupt raised inside speaks."""
    try:
        yield
    except StorageCorrupt as error:
        raise StorageCorrupt(f"{records.describe(key)}: {error}") from error


def _decode_stable(value: bytes) -> StableRecord:
    checkpoint = records.decode_checkpoint(value)
    return StableRecord(checkpoint.sequence, checkpoint.digest, checkpoint.certificate)
