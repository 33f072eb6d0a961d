"""The digest of the replicated state, kept up to date at a cost of the changes (protocol.md section
6)."""

from collections.abc import Iterable, Sequence

from pbft.crypto.lthash import (
    MerkleTree,
    bucket_of,
    leaf_hash,
    record_hash,
    reduced,
    sum_from_bytes,
    sum_to_bytes,
)
from pbft.messages import Leaf
from pbft.storage.changes import HashedChange
from pbft.types import Digest


class BucketSums:
    """Number, size and homomorphic sum of the records in each bucket, and the Merkle tree over
    them."""

    def __init__(self, leaves: Sequence[Leaf], salt: int) -> None:
        """From well-formed leaves, a power of two of them; `salt` is the genesis's."""
        self._salt = salt
        self._counts = [leaf.count for leaf in leaves]
        self._sizes = [leaf.size for leaf in leaves]
        self._sums = [sum_from_bytes(leaf.sum) for leaf in leaves]
        """Reduced when they are sealed: in between one may be negative or too large."""
        self._touched: set[int] = set()
        self._to_seal: list[int] = []
        """Buckets that the present seal has still to hash, descending."""
        self._changed: dict[int, Leaf] = {}
        """What it has hashed."""
        self._tree = MerkleTree(leaf_hash(index, leaf) for index, leaf in enumerate(leaves))

    def replace(self, changes: Iterable[HashedChange]) -> None:
        """Accounts for records that took the place of others."""
        sums, counts, sizes = self._sums, self._counts, self._sizes
        salt, buckets, touch = self._salt, len(sums), self._touched.add
        for domain, key, old, new in changes:
            if old == new:
                continue
            bucket = bucket_of(domain, key, salt, buckets)
            total = sums[bucket]
            if old is not None:
                total -= record_hash(domain, key, *old)
                counts[bucket] -= 1
                sizes[bucket] -= len(key) + len(old[1])
            if new is not None:
                total += record_hash(domain, key, *new)
                counts[bucket] += 1
                sizes[bucket] += len(key) + len(new[1])
            sums[bucket] = total
            touch(bucket)

    def seal(self, leaves_max: int) -> tuple[Digest, dict[int, Leaf]] | None:
        """Hashes so many of the leaves that changed since the last seal. When all are, the digest
        and these leaves. Nothing may be replaced between the calls of one seal."""
        if not self._to_seal and not self._changed:
            self._to_seal = sorted(self._touched, reverse=True)
            self._touched = set()
        for _ in range(min(leaves_max, len(self._to_seal))):
            index = self._to_seal.pop()
            total = self._sums[index] = reduced(self._sums[index])
            count = self._counts[index]
            leaf = Leaf(count, self._sizes[index], sum_to_bytes(total, count))
            self._changed[index] = leaf
            self._tree.update(index, leaf_hash(index, leaf))
        if self._to_seal:
            return None
        changed, self._changed = self._changed, {}
        return self._tree.root(), changed


def state_digest(leaves: Sequence[Leaf]) -> Digest:
    """The digest of a state with these well-formed leaves, a power of two of them."""
    return MerkleTree(leaf_hash(index, leaf) for index, leaf in enumerate(leaves)).root()
