"""Twins of the vote log and of the state on disk for the simulator: no files, no threads."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Self

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
from pbft.limits import STATEMENT_BYTES
from pbft.messages import Leaf
from pbft.storage import log_records as records
from pbft.storage.api import INITIAL_CHECKPOINT, BaseChange, DurableCheckpoint, StageStore
from pbft.storage.checksum import protect
from pbft.storage.leaf_records import EMPTY_LEAF, leaf_index, leaf_key
from pbft.storage.ordered import OrderedView, encode_key
from pbft.storage.stage_store import MemoryStageStore
from pbft.types import SequenceNumber, View


class MemoryLog:
    """A VoteLog with a dirty plane, which a crash loses, and a synced one, which it does not."""

    def __init__(self) -> None:
        self._dirty: list[Persist | Truncate] = []
        self._synced_count = 0
        self._accepted: dict[tuple[SequenceNumber, View], AcceptedRecord] = {}
        self._prepared: dict[tuple[SequenceNumber, View], PreparedRecord] = {}
        self._decided: dict[SequenceNumber, DecidedRecord] = {}
        self._view_change: ViewChangeRecord | None = None
        self._new_view: NewViewRecord | None = None
        self._stable: StableRecord | None = None
        self._rejoin: RejoinRecord | None = None

    def append(self, effects: Sequence[Persist | Truncate]) -> int:
        """Writes without syncing. Returns the position to sync up to."""
        self._dirty.extend(effects)
        return self._synced_count + len(self._dirty)

    def sync(self, position: int) -> None:
        """Makes durable what was appended up to a position that `append` returned; later appends
        stay dirty."""
        count = max(0, position - self._synced_count)
        done, self._dirty = self._dirty[:count], self._dirty[count:]
        self._synced_count += len(done)
        for effect in done:
            if isinstance(effect, Persist):
                self._store(effect.record)
            else:
                self._truncate(effect.sequence)

    def crash(self) -> None:
        """Loses everything that is dirty. Positions returned for it are void."""
        self._dirty = []

    def holds(self, key: bytes) -> bool:
        """Whether a slot's record with this key (pbft.storage.log_records) is in the synced
        plane."""
        sequence = records.sequence_of(key)
        match key[:1]:
            case records.ACCEPTED:
                return (sequence, records.view_of(key)) in self._accepted
            case records.PREPARED:
                return (sequence, records.view_of(key)) in self._prepared
            case _:
                return sequence in self._decided

    def write(self, effects: Sequence[Persist | Truncate]) -> None:
        """See VoteLog.write."""
        self.sync(self.append(effects))

    def load(self, above: SequenceNumber = 0) -> SavedLog:
        """See VoteLog.load: the synced plane."""
        accepted = sorted(self._accepted.items())
        prepared = sorted(self._prepared.items())
        decided = sorted(self._decided.items())
        return SavedLog(
            accepted=tuple(record for (at, _), record in accepted if at > above),
            prepared=tuple(record for (at, _), record in prepared if at > above),
            decided=tuple(record for at, record in decided if at > above),
            view_change=self._view_change,
            new_view=self._new_view,
            stable=self._stable,
            rejoin=self._rejoin,
        )

    def read_decided(
        self, sequences: Sequence[SequenceNumber], size: int
    ) -> Sequence[DecidedRecord]:
        """See VoteLog.read_decided."""
        found: list[DecidedRecord] = []
        for sequence in sequences:
            record = self._decided.get(sequence)
            if record is None or size <= 0:
                break
            found.append(record)
            size -= len(record.batch) + STATEMENT_BYTES * len(record.commits)
        return found

    def close(self) -> None:
        """Nothing to release: what was synced stays."""

    def _store(self, record: LogRecord) -> None:
        match record:
            case AcceptedRecord():
                self._accepted[record.sequence, record.view] = record
            case PreparedRecord():
                self._prepared[record.sequence, record.view] = record
            case DecidedRecord():
                self._decided[record.sequence] = record
            case ViewChangeRecord():
                self._view_change = record
            case NewViewRecord():
                self._new_view = record
            case StableRecord():
                self._stable = record
            case RejoinRecord():
                self._rejoin = record

    def _truncate(self, sequence: SequenceNumber) -> None:
        self._accepted = {at: kept for at, kept in self._accepted.items() if at[0] > sequence}
        self._prepared = {at: kept for at, kept in self._prepared.items() if at[0] > sequence}
        self._decided = {at: kept for at, kept in self._decided.items() if at > sequence}


class Image:
    """A state at a checkpoint; never changed once it is made."""

    def __init__(
        self,
        items: dict[bytes, bytes],
        leaves: dict[int, Leaf],
        checkpoint: DurableCheckpoint,
    ) -> None:
        self.items = items
        self.keys = sorted(items)
        self.leaves = leaves
        self.checkpoint = checkpoint


class MemoryBase:
    """A StateBase for small states: a change copies the map.

    A change is durable when `apply` returns, so the simulator calls it when the virtual sync
    completes; a crash before that is a plan that never runs.
    """

    def __init__(self) -> None:
        self._image = Image({}, {}, INITIAL_CHECKPOINT)
        self._view = self.open_view()

    @property
    def view(self) -> "MemoryView":
        """See StateBase.view."""
        return self._view

    def open_view(self) -> "MemoryView":
        """See StateBase.open_view."""
        return MemoryView(self._image)

    def apply(self, change: BaseChange) -> None:
        """See StateBase.apply."""
        items = self._image.items.copy()
        for batch in change.batches:
            for domain, key, version, value in batch:
                encoded = encode_key(domain, key, version)
                if value is None:
                    items.pop(encoded, None)
                else:
                    items[encoded] = protect(encoded, value)
        leaves = {**self._image.leaves, **change.leaves}
        self._image = Image(items, leaves, change.checkpoint)

    def install(self, stage: StageStore) -> None:
        """See StateBase.install."""
        items = self._image.items.copy()
        for name, value in stage.changes():
            if value is None:
                items.pop(name, None)
            else:
                items[name] = protect(name, value)
        change = stage.installation()
        self._image = Image(items, {**self._image.leaves, **change.leaves}, change.checkpoint)

    def copy(self) -> Self:
        """What is durable now, as a base of its own: a backup."""
        copied = type(self)()
        copied._replace(self._image)
        return copied

    def _replace(self, image: Image) -> None:
        self._image = image
        self.refresh()

    def refresh(self) -> None:
        """See StateBase.refresh."""
        self._view = self.open_view()

    def open_stage(self) -> MemoryStageStore:
        """See StateBase.open_stage."""
        return MemoryStageStore()

    def close(self) -> None:
        """Nothing to release: what was applied stays."""


class MemoryView(OrderedView):
    """A durable checkpoint in memory."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.checkpoint = image.checkpoint

    def _seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        index = bisect_left(self._image.keys, key)
        if index == len(self._image.keys):
            return None
        found = self._image.keys[index]
        return found, self._image.items[found]

    def _get(self, key: bytes) -> bytes | None:
        return self._image.items.get(key)

    def _items(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        keys = self._image.keys
        for index in range(bisect_left(keys, key), len(keys)):
            yield keys[index], self._image.items[keys[index]]

    def _sizes(self, key: bytes) -> Iterator[tuple[bytes, int]]:
        return ((encoded, len(stored)) for encoded, stored in self._items(key))

    def leaves(self, buckets: int) -> list[Leaf]:
        """See BaseView.leaves."""
        leaves = [EMPTY_LEAF] * buckets
        for index, leaf in self._image.leaves.items():
            leaves[leaf_index(leaf_key(index), buckets)] = leaf
        return leaves

    def close(self) -> None:
        """Nothing to release."""
