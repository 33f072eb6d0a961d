"""What the storage tests have in common: small records, and bases of both kinds."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pbft.core.effects import (
    AcceptedRecord,
    DecidedRecord,
    Install,
    Merge,
    NewViewRecord,
    PreparedRecord,
    StableRecord,
    ViewChangeRecord,
)
from pbft.crypto.lthash import (
    MerkleTree,
    add,
    bucket_of,
    leaf_hash,
    record_hash,
    sum_to_bytes,
)
from pbft.messages import Kind, Leaf, PreparedProof, Signed, StateRecord
from pbft.storage.api import (
    INITIAL_CHECKPOINT,
    BaseView,
    Change,
    Installation,
    StageStore,
    StateBase,
    VoteLog,
)
from pbft.storage.checksum import protect
from pbft.storage.lmdb_base import LmdbBase
from pbft.storage.memory import MemoryBase, MemoryLog
from pbft.storage.ordered import encode_key
from pbft.storage.state import LayeredState
from pbft.storage.vote_log import LmdbVoteLog
from pbft.types import Digest

BUCKETS = 16
SALT = 7
MAP_BYTES = 1 << 26


def digest_of(text: str) -> Digest:
    """Some digest."""
    return hashlib.sha256(text.encode()).digest()


def signed(kind: Kind, replica: int, text: str) -> Signed:
    """Some envelope; storage does not look into it."""
    return Signed(kind, replica, text.encode(), hashlib.sha512(text.encode()).digest())


def accepted(view: int, sequence: int, batch: bytes = b"batch") -> AcceptedRecord:
    """An accepted pre-prepare; its digest depends on the body."""
    pre_prepare = signed(Kind.PRE_PREPARE, 0, f"{view} {sequence}")
    digest = hashlib.sha256(batch).digest()
    return AcceptedRecord(view, sequence, digest, pre_prepare, batch)


def prepared(view: int, sequence: int) -> PreparedRecord:
    """A prepared certificate."""
    prepares = tuple(signed(Kind.PREPARE, i, f"{view} {sequence} {i}") for i in (1, 2))
    proof = PreparedProof(signed(Kind.PRE_PREPARE, 0, f"{view} {sequence}"), prepares)
    return PreparedRecord(view, sequence, digest_of("prepared"), proof)


def decided(sequence: int, batch: bytes = b"batch") -> DecidedRecord:
    """A commit certificate."""
    commits = tuple(signed(Kind.COMMIT, i, f"{sequence} {i}") for i in (0, 1, 2))
    return DecidedRecord(sequence, hashlib.sha256(batch).digest(), commits, batch)


def view_change(view: int) -> ViewChangeRecord:
    """A view-change."""
    return ViewChangeRecord(view, signed(Kind.VIEW_CHANGE, 1, f"view-change {view}"))


def new_view(view: int) -> NewViewRecord:
    """A new-view."""
    return NewViewRecord(view, signed(Kind.NEW_VIEW, 1, f"new-view {view}"))


def certificate(sequence: int) -> tuple[Signed, ...]:
    """Something in the place of q signed checkpoints."""
    return tuple(signed(Kind.CHECKPOINT, i, f"checkpoint {sequence} {i}") for i in (0, 1, 2))


def stable(sequence: int) -> StableRecord:
    """A stable checkpoint."""
    return StableRecord(sequence, digest_of(f"stable {sequence}"), certificate(sequence))


@dataclass(frozen=True, slots=True)
class Disk:
    """A place that outlives the objects on it: what is opened twice holds the same."""

    directory: Path | None
    """None: in memory."""
    memory_log: MemoryLog
    memory_base: MemoryBase

    @classmethod
    def make(cls, directory: Path | None) -> "Disk":
        """An empty disk."""
        if directory is not None:
            for name in ("log", "state"):
                (directory / name).mkdir(parents=True)
            LmdbVoteLog(directory / "log", create=True).close()
            LmdbBase(directory / "state", create=True, map_bytes=MAP_BYTES).close()
        return cls(directory, MemoryLog(), MemoryBase())

    def open_log(self) -> VoteLog:
        """The vote log as a starting replica finds it."""
        if self.directory is None:
            return self.memory_log
        return LmdbVoteLog(self.directory / "log")

    def open_base(self) -> StateBase:
        """The durable state as a starting replica finds it."""
        if self.directory is None:
            return self.memory_base
        base = LmdbBase(self.directory / "state", map_bytes=MAP_BYTES)
        base.end_installation()
        return base


def items_of(store: StageStore, bucket: int) -> list[tuple[bytes, bytes | None]]:
    """What would be installed of a bucket."""
    store.seal([bucket], [], Installation({}, INITIAL_CHECKPOINT))
    return list(store.changes())


def stored_records(view: BaseView) -> list[StateRecord]:
    """All records of a durable checkpoint."""
    return [view.record(position) for position, _ in view.walk(b"")]


def new_state(base: StateBase) -> LayeredState:
    """A state with few buckets, so that each has several records."""
    return LayeredState(base, BUCKETS, SALT)


def seal(state: LayeredState, sequence: int) -> Digest:
    """Seals and computes the digest."""
    state.seal(sequence)
    while (sealed := state.advance_seal()) is None:
        pass
    assert sealed[0] == sequence
    return sealed[1]


def merge(state: LayeredState, sequence: int) -> None:
    """Seals and makes durable."""
    digest = seal(state, sequence)
    merge_sealed(state, sequence, digest)


def merge_sealed(state: LayeredState, sequence: int, digest: Digest) -> None:
    """Makes a sealed checkpoint durable."""
    plan = state.begin_merge(Merge(sequence, digest, certificate(sequence)))
    plan.run()
    state.finish_merge(plan)


def install(state: LayeredState, sequence: int, digest: Digest) -> None:
    """Installs the stage."""
    plan = state.begin_install(Install(sequence, digest, certificate(sequence)))
    plan.run()
    state.finish_install(plan)


def lose_write(base: StateBase, written: tuple[int, bytes, int], older: Change) -> None:
    """Puts a well-formed record in the place of another, as if the disk had lost the last write:
    the leaves are those of before. Whoever reads the base has to be made anew."""
    domain, key, version, value = older
    assert value is not None
    lost, found = encode_key(*written), encode_key(domain, key, version)
    stored = protect(found, value)
    if isinstance(base, LmdbBase):
        with base._environment.begin(write=True, db=base._records) as transaction:
            assert transaction.delete(lost)
            transaction.put(found, stored)
    else:
        assert isinstance(base, MemoryBase)
        image = base._image
        del image.items[lost]
        image.items[found] = stored
        image.keys = sorted(image.items)
    base.refresh()


def digest_from_scratch(records: Iterable[tuple[int, bytes, int, bytes]]) -> Digest:
    """The state digest by its definition, for (domain, key, version, value)."""
    leaves = [(0, 0, 0)] * BUCKETS
    for domain, key, version, value in records:
        index = bucket_of(domain, key, SALT, BUCKETS)
        count, size, total = leaves[index]
        total = add(total, record_hash(domain, key, version, value))
        leaves[index] = count + 1, size + len(key) + len(value), total
    hashes = (
        leaf_hash(index, Leaf(count, size, sum_to_bytes(total, count)))
        for index, (count, size, total) in enumerate(leaves)
    )
    return MerkleTree(hashes).root()
