"""The replicated state: the durable checkpoint and, above it, a layer of changes per checkpoint
interval.

When a checkpoint becomes stable its layers are merged in one durable transaction, which is the new
durable checkpoint. Memory and pauses grow with the changes since, never with the state; a restart
loads nothing but the leaves of the digest (protocol.md sections 6 and 10).
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from pbft.core.effects import Install, Merge
from pbft.limits import MIB
from pbft.messages import Leaf, StateRecord
from pbft.storage.api import (
    RUN_CHANGES,
    BaseChange,
    DurableCheckpoint,
    StateBase,
    StorageCorrupt,
)
from pbft.storage.bitmap import from_bitmap, to_bitmap
from pbft.storage.bucket_sums import BucketSums, state_digest
from pbft.storage.changes import DomainChanges, Layer, SealedLayer, changes_of
from pbft.storage.layers import DomainRecords
from pbft.storage.leaf_records import is_well_formed
from pbft.storage.ordered import DOMAIN_MAX
from pbft.storage.recount import Recount
from pbft.storage.sealing import PORTION_CHANGES, Sealing
from pbft.storage.transfer import InstallPlan, PinnedCheckpoint, Stage
from pbft.types import Digest, SequenceNumber

KNOWN_BYTES = 8 * MIB
"""Layers that were merged stay in memory, to be read from, if they weigh no more."""
RECORD_BYTES = 256
"""What a record in memory weighs beside its value."""
MERGE_PAUSE_SECONDS = 0.004
"""Between two runs of changes of a merge: it competes with the event loop, on every replica at the
same time ..."""
MERGE_PAUSES_SECONDS = 1.0
"""... but takes no longer than so much more than without: a large one has shorter pauses."""


class MergePlan:
    """Makes sealed layers durable; they do not change any more, so a worker thread may read
    them."""

    def __init__(
        self,
        base: StateBase,
        layers: Sequence[SealedLayer],
        effect: Merge,
        given_up: Stage | None,
    ) -> None:
        self.layers = layers
        self._base = base
        self._effect = effect
        self._given_up = given_up
        """What a transfer received that is not wanted any more."""
        self.size = 0
        """What the records in the layers weigh, after `run`."""

    def run(self) -> None:
        """One durable transaction; blocks, in a worker thread. Raises StorageFailed."""
        if self._given_up is not None:
            self._given_up.store.close()
        leaves: dict[int, Leaf] = {}
        keys = 1
        for item in self.layers:
            leaves.update(item.leaves)
            keys += sum(len(changes.latest) for changes in item.layer.domains.values())
            self.size += sum(map(_weight, item.layer.domains.values()))
        effect = self._effect
        self._base.apply(
            BaseChange(
                batches=(changes_of(self.layers),),
                leaves=leaves,
                checkpoint=DurableCheckpoint(effect.sequence, effect.digest, effect.certificate),
                # Most keys had one record replaced by another: two changes.
                pause_seconds=min(
                    MERGE_PAUSE_SECONDS, MERGE_PAUSES_SECONDS * RUN_CHANGES / (2 * keys)
                ),
            )
        )


def _weight(changes: DomainChanges) -> int:
    """What stays in memory of the changes of a merged layer, in bytes."""
    return sum(
        RECORD_BYTES + len(key) + (0 if latest is None else len(latest[1]))
        for key, latest in changes.latest.items()
    )


class LayeredState:
    """The State port of one replica, and what the runtime needs for its Merge and Install effects.

    Not for several threads; only a plan's `run` may be called in another one. The runtime does one
    plan at a time: `begin_`, `run`, `finish_`, then the next effect.
    """

    def __init__(self, base: StateBase, buckets: int, salt: int) -> None:
        """The state at the durable checkpoint of `base`; `buckets` (a power of two) and `salt` are
        the genesis's. Raises StorageCorrupt if its leaves do not hash to the digest it was stored
        with. Whether the certificate is one is for the caller to verify."""
        self._base = base
        self._buckets = buckets
        self._salt = salt
        self._domains: dict[int, DomainRecords] = {}
        self._stage: Stage | None = None
        self._recount: Recount | None = None
        """Of the durable state, if that proved wrong."""
        self._plan: MergePlan | InstallPlan | None = None
        self._pinned: set[PinnedCheckpoint] = set()
        self._retired: list[dict[bytes, Any]] = []
        """Of layers that were merged: emptied little by little, as freeing them takes time."""
        base.refresh()
        self._begin(base.view.leaves(buckets))
        checkpoint = base.view.checkpoint
        if checkpoint.sequence > 0 and self.digest != checkpoint.digest:
            raise StorageCorrupt(
                f"the state at sequence {checkpoint.sequence} does not hash to its digest"
            )

    def _begin(self, leaves: Sequence[Leaf]) -> None:
        """Starts over from the durable checkpoint."""
        self._recount = None
        self._sums = BucketSums(leaves, self._salt)
        sealed = self._sums.seal(0)
        assert sealed is not None, "nothing has changed"
        self.digest = sealed[0]
        """Of the last checkpoint whose digest is computed."""
        self._sealing = Sealing(self._sums)
        self._told: deque[tuple[SequenceNumber, Digest]] = deque()
        """Digests that are computed, but not told yet."""
        self._sealed: list[SealedLayer] = []
        self._merged: Sequence[SealedLayer] = ()
        """The layers merged last: what they changed is looked for there first."""
        self._open = Layer()
        self._last_sealed = self._base.view.checkpoint.sequence
        self._bind()
        self._forget_dead_runs()

    def _bind(self) -> None:
        for records in self._domains.values():
            records.bind(self._base.view, self._open, self._sealed, self._merged)

    def _forget_dead_runs(self) -> None:
        for records in self._domains.values():
            records.forget_dead_runs()

    # The State port.

    def domain(self, domain: int) -> DomainRecords:
        """See State.domain. Raises ValueError for a domain out of range."""
        if not 0 <= domain <= DOMAIN_MAX:
            raise ValueError(f"a domain is a number from 0 to {DOMAIN_MAX}, not {domain}")
        records = self._domains.get(domain)
        if records is None:
            records = self._domains[domain] = DomainRecords(domain, self._relieve)
            records.bind(self._base.view, self._open, self._sealed, self._merged)
        return records

    @property
    def durable_sequence(self) -> SequenceNumber:
        """See State.durable_sequence."""
        return self._base.view.checkpoint.sequence

    @property
    def durable_digest(self) -> Digest:
        """See State.durable_digest."""
        return self._base.view.checkpoint.digest

    def seal(self, sequence: SequenceNumber) -> None:
        """See State.seal; sequences ascend."""
        assert sequence > self._last_sealed
        layer = SealedLayer(self._open, sequence)
        self._sealed.append(layer)
        self._sealing.add(layer)
        self._open = Layer()
        self._last_sealed = sequence
        self._bind()

    def pin(self) -> PinnedCheckpoint:
        """See State.pin. The newest durable checkpoint: possibly that of a merge whose
        `finish_merge` is yet to come."""
        view = self._base.open_view()
        pinned = PinnedCheckpoint(view, self._buckets, self._salt, self._pinned.discard)
        self._pinned.add(pinned)
        return pinned

    def recount(self) -> bool:
        """See State.recount. Raises StorageCorrupt."""
        if self._recount is None:
            self._recount = Recount(self._base.view, self._buckets, self._salt)
        return self._recount.advance()

    def stage(self, leaves: Sequence[Leaf], digest: Digest) -> bytes | None:
        """See State.stage. Of a stage begun before, the buckets that are right for this one are
        kept: the bitmap leaves them out. Raises StorageFailed."""
        if len(leaves) != self._buckets or not all(map(is_well_formed, leaves)):
            return None
        if state_digest(leaves) != digest:
            return None
        counted = self._recount
        own = self._base.view.leaves(self._buckets) if counted is None else counted.leaves
        former = self._stage
        store = self._base.open_stage() if former is None else former.store
        self._stage = Stage(tuple(leaves), digest, own, self._salt, store, former)
        return to_bitmap(self._stage.wrong(self._stage.wanted), self._buckets)

    def stage_records(self, records: Sequence[StateRecord], buckets: bytes) -> bool:
        """See State.stage_records; False without a stage, too."""
        if self._stage is None:
            return False
        return self._stage.add(records, from_bitmap(buckets, self._buckets))

    def staged(self, buckets: bytes) -> bytes:
        """See State.staged; there must be a stage."""
        assert self._stage is not None
        wrong = self._stage.wrong(from_bitmap(buckets, self._buckets))
        for index in wrong:
            self._stage.drop(index)
        return to_bitmap(wrong, self._buckets)

    # For the runtime.

    @property
    def is_sealing(self) -> bool:
        """Whether `advance_seal` has something to do."""
        return bool(self._told or self._sealing)

    def advance_seal(self) -> tuple[SequenceNumber, Digest] | None:
        """Works for a few milliseconds on the digest of the oldest seal that has none yet;
        the checkpoint whose digest is known now, if one is: the core is to be told."""
        self._discard()
        if not self._told:
            self._note_digest(self._sealing.advance())
        return self._told.popleft() if self._told else None

    def _relieve(self) -> None:
        """Called while records change, when much is to be hashed: what is written pays for it, or
        the digests would fall behind however fast one writes."""
        self._discard()
        self._note_digest(self._sealing.relieve(self._open))

    def _note_digest(self, layer: SealedLayer | None) -> None:
        if layer is not None:
            self.digest = layer.digest
            self._told.append((layer.sequence, layer.digest))

    def _discard(self) -> None:
        """Frees a part of the merged layers: more than a portion's changes can have made."""
        remaining = 4 * PORTION_CHANGES
        while self._retired and remaining > 0:
            entries = self._retired[-1]
            if len(entries) <= remaining:
                remaining -= len(entries)
                self._retired.pop().clear()
                continue
            for _ in range(remaining):
                entries.popitem()
            return

    def begin_merge(self, effect: Merge) -> MergePlan:
        """Chooses the layers up to the effect's checkpoint, which was sealed here with the same
        digest. A stage is dropped: the core merges during no transfer, so it is one that was given
        up."""
        assert self._plan is None
        given_up, self._stage = self._stage, None
        layers = [item for item in self._sealed if item.sequence <= effect.sequence]
        assert layers and layers[-1].sequence == effect.sequence
        assert layers[-1].digest == effect.digest
        plan = self._plan = MergePlan(self._base, layers, effect, given_up)
        return plan

    def finish_merge(self, plan: MergePlan) -> None:
        """Reads from the merged checkpoint from now on; the plan has run."""
        assert self._plan is plan
        self._plan = None
        self._recount = None
        self._base.refresh()
        self._sealed = self._sealed[len(plan.layers) :]
        self._retire_merged()
        self._merged = plan.layers
        for item in plan.layers:
            for changes in item.layer.domains.values():
                self._retired += (changes.replaced, changes.versions)
        if plan.size > KNOWN_BYTES:
            self._retire_merged()
        self._bind()
        self._forget_dead_runs()
        self._discard()

    def _retire_merged(self) -> None:
        for item in self._merged:
            self._retired += (changes.latest for changes in item.layer.domains.values())
        self._merged = ()

    def begin_install(self, effect: Install) -> InstallPlan:
        """Prepares to replace the state by the stage, of which every bucket is verified. Until
        `finish_install` nothing may be executed."""
        assert self._plan is None
        assert self._stage is not None and self._stage.digest == effect.digest
        assert not self._stage.wrong(self._stage.wanted)
        # Nobody is to hear of a state that is gone by then.
        self._sealing.clear()
        self._told.clear()
        plan = self._plan = InstallPlan(self._base, self._stage, effect, self._salt)
        return plan

    def finish_install(self, plan: InstallPlan) -> None:
        """Drops all layers: the state is the installed one, its digest the effect's; the plan has
        run."""
        assert self._plan is plan
        self._plan = None
        self._stage = None
        self._base.refresh()
        self._begin(plan.stage.leaves)
        assert self.digest == plan.effect.digest

    def close(self) -> None:
        """Releases what is still pinned or staged, so that the base can be closed."""
        for pinned in list(self._pinned):
            pinned.release()
        if self._stage is not None and self._plan is None:
            self._stage.store.close()
            self._stage = None
