"""What a data directory holds, without trusting any of it (`pbft log inspect`).

Reads only, beside a running replica if need be. Run as a module it prints one JSON document: a
damaged file may kill the process that reads it, which then is to be another than the one that asks.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lmdb

from pbft.crypto.lthash import add, record_hash, reduced, sum_from_bytes
from pbft.errors import ConfigurationError
from pbft.limits import MESSAGE_ELEMENTS_MAX
from pbft.messages import Leaf
from pbft.storage import log_records as records
from pbft.storage.api import INITIAL_CHECKPOINT, StorageCorrupt
from pbft.storage.bucket_sums import state_digest
from pbft.storage.checksum import checked
from pbft.storage.directory import FORMAT_VERSION, LOG, STATE, read_identity
from pbft.storage.environment import DATA_FILE, open_environment
from pbft.storage.leaf_records import EMPTY_LEAF, decode_leaf
from pbft.storage.lmdb_base import INSTALLING, MAP_BYTES
from pbft.storage.ordered import decode_key
from pbft.types import Digest, SequenceNumber, View

CORRUPTION_SHOWN = 100
"""Damaged records told one by one; beyond, one suffices to know."""
STATE_TABLES = 3


@dataclass(slots=True)
class Slots:
    """The records of one kind that belong to slots."""

    count: int = 0
    first: SequenceNumber | None = None
    last: SequenceNumber | None = None

    def add(self, sequence: SequenceNumber) -> None:
        """Counts one."""
        self.count += 1
        self.first = sequence if self.first is None else min(self.first, sequence)
        self.last = sequence if self.last is None else max(self.last, sequence)


@dataclass(slots=True)
class Inspection:
    """What was found; what could not be read is in `corruption`."""

    directory: str
    format_version: int | None = None
    cluster_id: str | None = None
    replica: int | None = None
    view: View | None = None
    """Of the new-view entered last; None: still in view 0, or not readable."""
    view_change: View | None = None
    """The highest view for which it signed a view-change."""
    low_water_mark: SequenceNumber = 0
    """h of the stable checkpoint in the vote log."""
    durable_checkpoint: SequenceNumber = 0
    """What the state on disk is the state of."""
    state_digest: str = ""
    installing: bool = False
    """A transferred state is being installed, or that was interrupted: the replica ends it at its
    next start, and until then the records are of no checkpoint."""
    rejoin_incarnation: int | None = None
    rejoin_done: bool | None = None
    accepted: Slots = field(default_factory=Slots)
    prepared: Slots = field(default_factory=Slots)
    decided: Slots = field(default_factory=Slots)
    batches: Slots = field(default_factory=Slots)
    state_records: int = 0
    log_bytes: int = 0
    state_bytes: int = 0
    corruption: list[str] = field(default_factory=list)


def inspect(path: Path) -> Inspection:
    """Reads everything in the data directory once. Raises ConfigurationError if there is none."""
    found = Inspection(str(path))
    identity = read_identity(path)
    found.format_version = identity.get("format")
    found.cluster_id, found.replica = identity.get("cluster_id"), identity.get("replica")
    found.log_bytes = _size_bytes(path / LOG / DATA_FILE)
    found.state_bytes = _size_bytes(path / STATE / DATA_FILE)
    if found.format_version != FORMAT_VERSION:
        return found
    with _noting(found, "the vote log"):
        environment = open_environment(path / LOG, create=False, readonly=True)
        try:
            with environment.begin() as transaction:
                _read_log(found, transaction)
        finally:
            environment.close()
    with _noting(found, "the state"):
        environment = open_environment(
            path / STATE, create=False, readonly=True, map_size=MAP_BYTES, max_dbs=STATE_TABLES
        )
        try:
            _read_state(found, environment)
        finally:
            environment.close()
    return found


def _size_bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@contextmanager
def _noting(found: Inspection, name: str) -> Iterator[None]:
    """What cannot be read is noted, and the rest goes on."""
    try:
        yield
    except (StorageCorrupt, lmdb.Error) as error:
        if len(found.corruption) < CORRUPTION_SHOWN:
            found.corruption.append(f"{name}: {error}")


def _read_log(found: Inspection, transaction: "lmdb.Transaction[bytes]") -> None:
    bodies: set[bytes] = set()
    needed: dict[bytes, str] = {}
    for key, stored in transaction.cursor():
        name = records.describe(key)
        if key[:1] == records.BODY:
            bodies.add(key)
        with _noting(found, name):
            records.check_key(key)
            body = _read_record(found, key, checked(key, stored))
            if body is not None:
                needed[body] = name
    for body, name in needed.items():
        if body not in bodies:
            with _noting(found, name):
                raise StorageCorrupt("its batch is missing")


def _read_record(found: Inspection, key: bytes, value: bytes) -> bytes | None:
    """Takes one record in; returns the key of the body that it mentions. Raises StorageCorrupt."""
    match key[:1]:
        case records.ACCEPTED:
            accepted, has_body = records.decode_accepted(key, value)
            found.accepted.add(accepted.sequence)
            return records.body_key(accepted.sequence, accepted.digest) if has_body else None
        case records.PREPARED:
            found.prepared.add(records.decode_prepared(key, value).sequence)
        case records.DECIDED:
            decided, has_body = records.decode_decided(key, value)
            found.decided.add(decided.sequence)
            return records.body_key(decided.sequence, decided.digest) if has_body else None
        case records.BODY:
            found.batches.add(records.sequence_of(key))
        case records.VIEW_CHANGE:
            found.view_change = records.decode_view_change(value).view
        case records.NEW_VIEW:
            found.view = records.decode_new_view(value).view
        case records.STABLE:
            found.low_water_mark = records.decode_checkpoint(value).sequence
        case records.REJOIN:
            rejoin = records.decode_rejoin(value)
            found.rejoin_incarnation, found.rejoin_done = rejoin.incarnation, rejoin.done
    return None


def _read_state(found: Inspection, environment: "lmdb.Environment") -> None:
    tables = {
        name: environment.open_db(name, create=False)
        for name in (b"records", b"leaves", b"checkpoint")
    }
    with environment.begin() as transaction:
        checkpoint = INITIAL_CHECKPOINT
        with _noting(found, "the durable checkpoint"):
            for key, stored in transaction.cursor(tables[b"checkpoint"]):
                if key == INSTALLING:
                    found.installing = True
                    continue
                checkpoint = records.decode_checkpoint(checked(key, stored))
                found.durable_checkpoint = checkpoint.sequence
                found.state_digest = checkpoint.digest.hex()
        leaves: dict[int, Leaf] = {}
        for key, stored in transaction.cursor(tables[b"leaves"]):
            index = int.from_bytes(key, "big")
            with _noting(found, f"the leaf {index}"):
                leaves[index] = decode_leaf(checked(key, stored))
        size, total = _read_records(found, transaction.cursor(tables[b"records"]))
    if found.installing:
        return
    with _noting(found, "the state"):
        _check_records(found.state_records, size, total, leaves)
    with _noting(found, "the state"):
        if checkpoint.sequence > 0 and not _has_digest(leaves, checkpoint.digest):
            raise StorageCorrupt("the leaves do not hash to the digest of the durable checkpoint")


def _read_records(found: Inspection, cursor: "lmdb.Cursor[bytes]") -> tuple[int, int]:
    """Size and sum of all records."""
    size = total = 0
    for key, stored in cursor:
        found.state_records += 1
        with _noting(found, "a record of the state"):
            value = checked(key, stored)
            domain, name, version = decode_key(key)
            size += len(name) + len(value)
            total = add(total, record_hash(domain, name, version, value))
    return size, total


def _check_records(count: int, size: int, total: int, leaves: Mapping[int, Leaf]) -> None:
    """Compares all records with all leaves: which bucket a record is in only the genesis says.
    Raises StorageCorrupt."""
    counted = sum(leaf.count for leaf in leaves.values())
    if counted != count:
        raise StorageCorrupt(f"there are {count} records, the leaves count {counted}")
    summed = reduced(sum(sum_from_bytes(leaf.sum) for leaf in leaves.values()))
    if (size, total) != (sum(leaf.size for leaf in leaves.values()), summed):
        raise StorageCorrupt(
            "the records are not those of the leaves: one that was written is not there, or an "
            "older one is in its place"
        )


def _has_digest(leaves: Mapping[int, Leaf], digest: Digest) -> bool:
    """Whether the leaves hash to the digest, whatever the number of buckets: it is in the
    genesis."""
    buckets = 1 << max(leaves, default=0).bit_length()
    # The leaves of all buckets travel in one message.
    while buckets <= MESSAGE_ELEMENTS_MAX:
        if state_digest([leaves.get(index, EMPTY_LEAF) for index in range(buckets)]) == digest:
            return True
        buckets *= 2
    return False


def main() -> int:
    """Prints what is in the directory named on the command line."""
    try:
        document = asdict(inspect(Path(sys.argv[1])))
    except ConfigurationError as error:
        document = {"error": str(error)}
    json.dump(document, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
