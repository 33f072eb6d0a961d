"""One operation's view of the store: pairs, budgets, and changes that wait until it has succeeded.

A key's record is (key, mod_revision) -> create_revision, version, lease, value; only the latest
version of a key is kept. Changes are buffered, so that an operation that fails half-way (it may
exceed a limit at any record) has changed nothing, and so that a transaction can still read the
state before it.
"""

import struct
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from pbft.core.ports import Records
from pbft.errors import ConfigurationError
from pbft.limits import ProtocolLimits
from pbft.service.kv.errors import result_too_large, too_many_records
from pbft.service.kv.requests import TO_THE_END
from pbft.wire import kv_pb2

PAIR_HEADER = struct.Struct(">QQQ")
"""Before the value in a record: create revision, version, lease."""


GENERAL_PATH_COST = 1
"""Of an operation that needs a buffer, in records, besides the one that every operation counts as:
without any pair it takes twice as long as a plain put."""
RECORD_UNIT_BYTES = 4096
"""So many bytes of records take about as long to copy as one more record takes to find."""
PAIR_OVERHEAD_BYTES = 64
"""More than a pair in a record or in a result has besides its key and value."""


class Pair(NamedTuple):
    """A key with its value and their history (rule 4)."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    value: bytes


def require_sane_limits(limits: ProtocolLimits) -> None:
    """Raises ConfigurationError if a pair that can be put could not be replaced or read again."""
    pair_bytes_max = limits.operation_bytes + PAIR_OVERHEAD_BYTES
    if limits.records_per_operation < 2:
        raise ConfigurationError("limits.records_per_operation in the genesis must be at least 2")
    for name in ("result_bytes", "record_bytes_per_operation"):
        if getattr(limits, name) < 2 * pair_bytes_max:
            raise ConfigurationError(
                f"limits.{name} in the genesis must be at least {2 * pair_bytes_max}: "
                "twice operation_bytes and what is added to a pair"
            )


class Transaction:
    """The buffer of one operation. `revision` is the store's before it, `next_revision` the one
    that all its changes get (rule 2)."""

    __slots__ = (
        "_bytes_left",
        "_changed_keys",
        "_changes",
        "_limits",
        "_records",
        "_records_left",
        "_result_bytes_left",
        "next_revision",
        "revision",
    )

    def __init__(self, records: Records, revision: int, limits: ProtocolLimits) -> None:
        self.revision = revision
        self.next_revision = revision + 1
        self._records = records
        self._limits = limits
        self._records_left = limits.records_per_operation
        self._bytes_left = limits.record_bytes_per_operation
        self._result_bytes_left = limits.result_bytes
        # For each changed key: the mod revision of the pair before (0: none), the pair after.
        self._changes: dict[bytes, tuple[int, Pair | None]] = {}
        # Their keys in order, from the first range that is read after a change.
        self._changed_keys: list[bytes] = []

    @property
    def touched(self) -> int:
        """What it has cost so far, in records (Service.touched)."""
        records = self._limits.records_per_operation - self._records_left
        size_bytes = self._limits.record_bytes_per_operation - self._bytes_left
        return GENERAL_PATH_COST + records + size_bytes // RECORD_UNIT_BYTES

    @property
    def current_revision(self) -> int:
        """What a header says at this point: the next revision once something has changed."""
        return self.next_revision if self._changes else self.revision

    def get(self, key: bytes) -> Pair | None:
        """The pair of `key` as this operation sees it. Raises OperationError beyond a limit."""
        if self._changes and (change := self._changes.get(key)) is not None:
            return self._seen(change[1])
        record = self._records.get(key)
        return None if record is None else self._read(key, *record)

    def pairs(self, key: bytes, range_end: bytes, before: bool = False) -> Iterator[Pair]:
        """The pairs of a range (rule 6), ascending by key; `before`: without the own changes.

        Nothing may be changed while the iterator is in use. Raises OperationError beyond a limit.
        """
        changes = {} if before else self._changes
        if not range_end:
            if key in changes:
                change = self._seen(changes[key][1])
                return iter(() if change is None else (change,))
            record = self._records.get(key)
            return iter(() if record is None else (self._read(key, *record),))
        end = None if range_end == TO_THE_END else range_end
        changed = self._changed_within(key, end) if changes else []
        return self._merged(key, end, changed) if changed else self._stored(key, end)

    def put(self, key: bytes, value: bytes, lease: int, previous: Pair | None) -> None:
        """Writes `key`, whose pair is `previous` now (rules 3, 4). A key is written once only:
        the check of duplicate keys (rule 18) has seen to that."""
        next_revision = self.next_revision
        self._spend(len(key) + len(value))
        if previous is None:
            pair = Pair(key, next_revision, next_revision, 1, lease, value)
            self._change(key, 0, pair)
        else:
            version = previous.version + 1
            pair = Pair(key, previous.create_revision, next_revision, version, lease, value)
            self._change(key, previous.mod_revision, pair)

    def delete(self, previous: Pair) -> None:
        """Deletes the key whose pair is `previous` now; not one that this operation has put."""
        self._spend(len(previous.key))
        self._change(previous.key, previous.mod_revision, None)

    def commit(self) -> bool:
        """Writes the changes to the records; returns whether there were any."""
        for key, (previous_revision, pair) in self._changes.items():
            if pair is not None:
                header = PAIR_HEADER.pack(pair.create_revision, pair.version, pair.lease)
                self._records.put(key, pair.mod_revision, header + pair.value)
            if previous_revision:
                self._records.delete(key, previous_revision)
        return bool(self._changes)

    def add_to_result(self, pair: Pair, keys_only: bool = False) -> kv_pb2.KeyValue:
        """The pair as it stands in a result. Raises OperationError beyond the result's limit."""
        key, create_revision, mod_revision, version, lease, value = pair
        encoded = kv_pb2.KeyValue(
            key=key,
            create_revision=create_revision,
            mod_revision=mod_revision,
            version=version,
            value=b"" if keys_only else value,
            lease=lease,
        )
        self._result_bytes_left -= encoded.ByteSize()
        if self._result_bytes_left < 0:
            raise result_too_large()
        return encoded

    def _change(self, key: bytes, previous_revision: int, pair: Pair | None) -> None:
        if self._changed_keys and key not in self._changes:
            insort(self._changed_keys, key)
        self._changes[key] = previous_revision, pair

    def _changed_within(self, start: bytes, end: bytes | None) -> list[bytes]:
        """The changed keys of a range, ascending. Sorted once: a transaction may change very many
        and then read very many ranges."""
        if not self._changed_keys:
            self._changed_keys = sorted(self._changes)
        keys = self._changed_keys
        stop = len(keys) if end is None else bisect_left(keys, end)
        return keys[bisect_left(keys, start) : stop]

    def _stored(self, start: bytes, end: bytes | None) -> Iterator[Pair]:
        for key, mod_revision, value in self._records.scan(start, end):
            yield self._read(key, mod_revision, value)

    def _merged(self, start: bytes, end: bytes | None, changed: list[bytes]) -> Iterator[Pair]:
        """The stored pairs with the changed ones in their places."""
        position = 0
        for pair in self._stored(start, end):
            while position < len(changed) and changed[position] < pair.key:
                if (change := self._seen(self._changes[changed[position]][1])) is not None:
                    yield change
                position += 1
            if pair.key not in self._changes:
                yield pair
        for key in changed[position:]:
            if (change := self._seen(self._changes[key][1])) is not None:
                yield change

    def _read(self, key: bytes, mod_revision: int, value: bytes) -> Pair:
        self._spend(len(key) + len(value))
        create_revision, version, lease = PAIR_HEADER.unpack_from(value)
        return Pair(key, create_revision, mod_revision, version, lease, value[PAIR_HEADER.size :])

    def _seen(self, change: Pair | None) -> Pair | None:
        """A changed pair costs what a stored one does: the buffer may hold many of them."""
        if change is not None:
            self._spend(len(change.key) + len(change.value))
        return change

    def _spend(self, size_bytes: int) -> None:
        self._records_left -= 1
        self._bytes_left -= size_bytes
        if self._records_left < 0 or self._bytes_left < 0:
            raise too_many_records()
