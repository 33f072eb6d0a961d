"""The contracts of the storage floor and its errors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pbft.core.effects import DecidedRecord, Persist, SavedLog, Truncate
from pbft.errors import PbftError
from pbft.messages import Leaf, Signed, StateRecord
from pbft.types import Digest, SequenceNumber


class StorageCorrupt(PbftError):
    """What is on disk is not what was written there; the text names the record."""


class StorageFailed(PbftError):
    """The disk refused a write or a sync. Nothing may be sent that depends on it: end the
    process."""


class VoteLog(Protocol):
    """The votes of this replica: what it must not forget (protocol.md section 10)."""

    def write(self, effects: Sequence[Persist | Truncate]) -> None:
        """Makes all of them durable, in order, in one transaction. Blocks; call it in a worker
        thread, one call at a time. Raises StorageFailed, and from then on only that."""
        ...

    def load(self, above: SequenceNumber = 0) -> SavedLog:
        """Everything durable, but of the slots only those above a sequence. Raises StorageCorrupt,
        naming the record."""
        ...

    def read_decided(
        self, sequences: Sequence[SequenceNumber], size: int
    ) -> Sequence[DecidedRecord]:
        """The decided records of these sequences, up to the first that is not there, as many as
        have about `size` bytes with their certificates, at least one. Blocks; call it where `write`
        is called. Raises StorageCorrupt if the first cannot be read."""
        ...

    def close(self) -> None:
        """Releases the files."""
        ...


@dataclass(frozen=True, slots=True)
class DurableCheckpoint:
    """The stable checkpoint that a state on disk is at; sequence 0 has no certificate."""

    sequence: SequenceNumber
    digest: Digest
    certificate: tuple[Signed, ...]


INITIAL_CHECKPOINT = DurableCheckpoint(0, b"", ())
"""Before any checkpoint is durable. Its digest depends on the number of buckets and is not kept."""

Change: TypeAlias = tuple[int, bytes, int, bytes | None]
"""(domain, key, version, value); no value: the record is removed, if there is one."""


RUN_CHANGES = 256
"""Changes written to disk without a pause, if there are pauses: about a millisecond."""


@dataclass(frozen=True, slots=True)
class BaseChange:
    """One step of the state on disk from a durable checkpoint to the next."""

    batches: Iterable[Iterable[Change]]
    """Applied in order. A record occurs at most once in one batch. Removals come in the order of
    records on disk (domain, key, versions from the highest down): in any other, the base may have
    no room for many of them."""
    leaves: Mapping[int, Leaf]
    """The new leaves of the buckets that changed."""
    checkpoint: DurableCheckpoint
    pause_seconds: float = 0.0
    """After every RUN_CHANGES changes: leaves time to those who work beside it."""


class BaseView(Protocol):
    """A durable checkpoint, readable and unchanging until closed. One thread at a time.

    All methods raise StorageCorrupt for a record that fails its checksum.
    """

    checkpoint: DurableCheckpoint

    def latest(self, domain: int, key: bytes) -> tuple[int, bytes] | None:
        """The highest version of the key with its value."""
        ...

    def value(self, domain: int, key: bytes, version: int) -> bytes | None:
        """The value of one record."""
        ...

    def older(self, domain: int, key: bytes, version: int) -> Iterator[tuple[int, bytes]]:
        """(version, value) of the key's records below `version`, descending."""
        ...

    def first(
        self, domain: int, start: bytes, end: bytes | None
    ) -> tuple[bytes, int, bytes] | None:
        """(key, highest version, value) of the first key with start <= key < end (None: to the
        end)."""
        ...

    def walk(self, after: bytes) -> Iterator[tuple[bytes, int]]:
        """(position, bytes of the value) of all records after a position (empty: from the first),
        ascending. The position is the encoded key; any bytes are a legal one to begin after. No
        value is copied or checked, but LMDB has passed it all on the way: it may come from disk."""
        ...

    def record(self, position: bytes) -> StateRecord:
        """The record at a position that `walk` has told."""
        ...

    def leaves(self, buckets: int) -> list[Leaf]:
        """The leaves of buckets 0 .. buckets - 1. Raises StorageCorrupt if one is of another."""
        ...

    def close(self) -> None:
        """Releases it; idempotent."""
        ...


StagedItem: TypeAlias = tuple[int, bytes, bytes]
"""(bucket, encoded key, value) of a record that a transfer received."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What an installation changes beside the records."""

    leaves: Mapping[int, Leaf]
    """The new leaves of the buckets that change."""
    checkpoint: DurableCheckpoint


class StageStore(Protocol):
    """Received records that are not installed yet. Methods raise StorageFailed if the disk
    refuses; a crash empties it."""

    def add(self, items: Sequence[StagedItem]) -> bool:
        """Adds all; False, and nothing added, if one is there already or comes twice."""
        ...

    def has(self, bucket: int, name: bytes) -> bool:
        """Whether a record with this encoded key is there."""
        ...

    def drop(self, bucket: int) -> None:
        """Forgets a bucket's records. They may be removed later, as others are added."""
        ...

    def seal(
        self, buckets: Sequence[int], removed: Iterable[bytes], change: "Installation"
    ) -> None:
        """Makes the records of these buckets durable, and with them the encoded keys of those that
        are to be removed, and the rest of the change: from now on it can be repeated after a crash.
        Blocks; any thread."""
        ...

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """(encoded key, value) of what was sealed; no value: it is to be removed."""
        ...

    def installation(self) -> "Installation":
        """What was sealed beside the records."""
        ...

    def close(self) -> None:
        """Removes everything. May take a while; any thread."""
        ...


class StateBase(Protocol):
    """The replicated state as of its durable checkpoint."""

    @property
    def view(self) -> BaseView:
        """The checkpoint that was durable at the last refresh. Closed by the next one."""
        ...

    def open_view(self) -> BaseView:
        """The newest durable checkpoint in a view of its own, to be closed by the caller."""
        ...

    def apply(self, change: BaseChange) -> None:
        """Makes the change durable in one transaction. Blocks; any thread, one at a time. Raises
        StorageFailed, and from then on only that."""
        ...

    def install(self, stage: StageStore) -> None:
        """Makes what was sealed in the stage durable, in one step with respect to crashes: one that
        was begun is ended at the next start. Meanwhile no view must be opened. Blocks, and raises,
        as `apply` does."""
        ...

    def refresh(self) -> None:
        """Lets `view` show what `apply` or `install` has done."""
        ...

    def open_stage(self) -> StageStore:
        """An empty store; one at a time. Raises StorageFailed."""
        ...

    def close(self) -> None:
        """Releases the files; views must have been closed."""
        ...
