"""Both ends of a state transfer (protocol.md section 9): a pinned checkpoint and a stage."""

from collections.abc import Callable, Iterator, Sequence

from pbft.core.effects import Install
from pbft.crypto.lthash import add, bucket_of, record_hash, sum_to_bytes
from pbft.limits import CHUNK_SCAN_BYTES, CHUNK_SCAN_RECORDS, TRANSFER_CHUNK_BYTES
from pbft.messages import Leaf, StateChunk, StateRecord
from pbft.storage.api import (
    BaseView,
    DurableCheckpoint,
    Installation,
    StagedItem,
    StageStore,
    StateBase,
)
from pbft.storage.bitmap import from_bitmap
from pbft.storage.ordered import decode_key, encode_key, is_storable
from pbft.types import Digest

RECORD_OVERHEAD_BYTES = 32
"""Counted for each record besides its key and value, so that a chunk of tiny records is bounded."""


class PinnedCheckpoint:
    """The Snapshot port: a durable checkpoint in a view of its own."""

    def __init__(
        self,
        view: BaseView,
        buckets: int,
        salt: int,
        on_release: Callable[["PinnedCheckpoint"], None],
    ) -> None:
        """Takes over the view; `on_release` is called with this object at each release."""
        self._view = view
        self._on_release = on_release
        self._buckets = buckets
        self._salt = salt
        self.sequence = view.checkpoint.sequence
        self.certificate = view.checkpoint.certificate

    def leaves(self) -> tuple[Leaf, ...]:
        """See Snapshot.leaves. Raises StorageCorrupt."""
        return tuple(self._view.leaves(self._buckets))

    def chunk(self, buckets: bytes, cursor: bytes) -> StateChunk:
        """See Snapshot.chunk. Any bytes are legal in both arguments. Raises StorageCorrupt."""
        wanted = from_bitmap(buckets, self._buckets)
        records: list[StateRecord] = []
        size_bytes = scanned_bytes = 0
        for scanned, (position, value_bytes) in enumerate(self._view.walk(cursor), 1):
            domain, key, _ = decode_key(position)
            if bucket_of(domain, key, self._salt, self._buckets) in wanted:
                size_bytes += len(key) + value_bytes + RECORD_OVERHEAD_BYTES
                if records and size_bytes > TRANSFER_CHUNK_BYTES:
                    return StateChunk(self.sequence, tuple(records), cursor)
                records.append(self._view.record(position))
            cursor = position
            scanned_bytes += value_bytes
            if scanned == CHUNK_SCAN_RECORDS or scanned_bytes >= CHUNK_SCAN_BYTES:
                return StateChunk(self.sequence, tuple(records), cursor)
        return StateChunk(self.sequence, tuple(records), b"")

    def release(self) -> None:
        """See Snapshot.release; idempotent."""
        self._view.close()
        self._on_release(self)


class _StagedBucket:
    """What the records received for one bucket come to, to be compared with its leaf."""

    __slots__ = ("count", "size", "total")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.total = 0

    def is_right(self, leaf: Leaf) -> bool:
        """Whether they are those of the leaf."""
        return leaf == Leaf(self.count, self.size, sum_to_bytes(self.total, self.count))


class Stage:
    """Records received for a state whose leaves are certified. What it holds is bounded by the
    leaves, and lies in the store."""

    def __init__(
        self,
        leaves: Sequence[Leaf],
        digest: Digest,
        own: Sequence[Leaf],
        salt: int,
        store: StageStore,
        former: "Stage | None" = None,
    ) -> None:
        """`leaves` hash to `digest`; `own` are those of the own durable state (its stored ones, or
        counted anew), which does not move before the stage is installed or dropped. Buckets that a
        `former` stage has received into the same store and that are right by these leaves need not
        come again."""
        self.leaves = leaves
        self.digest = digest
        self.store = store
        self._salt = salt
        self.wanted = frozenset(index for index, leaf in enumerate(leaves) if leaf != own[index])
        self._buckets = {index: _StagedBucket() for index in self.wanted}
        for index, bucket in ({} if former is None else former._buckets).items():
            if index in self.wanted and bucket.is_right(leaves[index]):
                self._buckets[index] = bucket
            elif bucket.count > 0:
                store.drop(index)

    def add(self, records: Sequence[StateRecord], allowed: frozenset[int]) -> bool:
        """See State.stage_records. Raises StorageFailed."""
        items: list[StagedItem] = []
        grown: dict[int, tuple[int, int]] = {}
        for record in records:
            domain, key, version = record.domain, record.key, record.version
            if not is_storable(domain, key, version):
                return False
            index = bucket_of(domain, key, self._salt, len(self.leaves))
            if index not in allowed or index not in self.wanted:
                return False
            bucket = self._buckets[index]
            number, size = grown.get(index, (bucket.count, bucket.size))
            grown[index] = number, size = number + 1, size + len(key) + len(record.value)
            leaf = self.leaves[index]
            if number > leaf.count or size > leaf.size:
                return False
            items.append((index, encode_key(domain, key, version), record.value))
        if not self.store.add(items):
            return False
        for record, (index, _, value) in zip(records, items, strict=True):
            bucket = self._buckets[index]
            bucket.count, bucket.size = grown[index]
            added = record_hash(record.domain, record.key, record.version, value)
            bucket.total = add(bucket.total, added)
        return True

    def wrong(self, indices: frozenset[int]) -> list[int]:
        """Which of these buckets differ from their leaf; ascending."""
        return [
            index
            for index in sorted(indices & self.wanted)
            if not self._buckets[index].is_right(self.leaves[index])
        ]

    def drop(self, index: int) -> None:
        """Forgets the records of a bucket. Raises StorageFailed."""
        if self._buckets[index].count > 0:
            self.store.drop(index)
        self._buckets[index] = _StagedBucket()


class InstallPlan:
    """Replaces the buckets in which the durable state differs from a verified stage."""

    def __init__(self, base: StateBase, stage: Stage, effect: Install, salt: int) -> None:
        self.stage = stage
        self.effect = effect
        self._base = base
        self._salt = salt

    def run(self) -> None:
        """Durable in one step with respect to crashes; then nothing is staged. Blocks, in a worker
        thread. Raises StorageFailed or StorageCorrupt."""
        effect, store = self.effect, self.stage.store
        view = self._base.open_view()
        try:
            # More than the wanted ones if a stored leaf is wrong, and the records are not.
            stored = view.leaves(len(self.stage.leaves))
            changed = {i: leaf for i, leaf in enumerate(self.stage.leaves) if leaf != stored[i]}
            checkpoint = DurableCheckpoint(effect.sequence, effect.digest, effect.certificate)
            wanted = sorted(self.stage.wanted)
            store.seal(wanted, self._removals(view), Installation(changed, checkpoint))
        finally:
            view.close()
        self._base.install(store)
        store.close()

    def _removals(self, view: BaseView) -> Iterator[bytes]:
        """The records of the replaced buckets that the stage does not have. By their keys alone:
        a value that fails its checksum may be replaced, and one that stays is not looked at."""
        stage = self.stage
        for position, _ in view.walk(b""):
            domain, key, _ = decode_key(position)
            index = bucket_of(domain, key, self._salt, len(stage.leaves))
            if index in stage.wanted and not stage.store.has(index, position):
                yield position
