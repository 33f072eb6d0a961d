"""The digest of the replicated state, kept up to date at a cost of the changes (protocol.md section
6)."""

from collections.abc import Iterable, Sequence

from pbft.crypto.lthash import (
    MerkleTree,
    add,
    bucket_of,
    leaf_hash,
    record_hash,
    sum_from_bytes,
    sum_to_bytes,
)
from pbft.messages import Leaf
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
        self._touched: set[int] = set()
        self._tree = MerkleTree(map(self._leaf_hash, range(len(leaves))))

    def _leaf_hash(self, index: int) -> Digest:
        return leaf_hash(index, self._counts[index], self._sizes[index], self._sums[index])

    def replace(
        self, changes: Iterable[tuple[tuple[int, bytes, int], bytes | None, bytes | None]]
    ) -> None:
        """Accounts for records, each (domain, key, version), that had one value (None: were not
        there) and have another."""
        sums, counts, sizes = self._sums, self._counts, self._sizes
        salt, buckets = self._salt, len(sums)
        for (domain, key, version), old, new in changes:
            if old == new:
                continue
            bucket = bucket_of(domain, key, salt, buckets)
            difference = 0
            if old is not None:
                difference -= record_hash(domain, key, version, old)
                counts[bucket] -= 1
                sizes[bucket] -= len(key) + len(old)
            if new is not None:
                difference += record_hash(domain, key, version, new)
                counts[bucket] += 1
                sizes[bucket] += len(key) + len(new)
            sums[bucket] = add(sums[bucket], difference)
            self._touched.add(bucket)

    def seal(self) -> tuple[Digest, dict[int, Leaf]]:
        """The digest now, and the leaves that changed since the last call."""
        changed = {}
        for index in sorted(self._touched):
            self._tree.update(index, self._leaf_hash(index))
            count, total = self._counts[index], self._sums[index]
            changed[index] = Leaf(count, self._sizes[index], sum_to_bytes(total, count))
        self._touched = set()
        return self._tree.root(), changed


def state_digest(leaves: Sequence[Leaf]) -> Digest:
    """The digest of a state with these well-formed leaves, a power of two of them."""
    hashes = (
        leaf_hash(index, leaf.count, leaf.size, sum_from_bytes(leaf.sum))
        for index, leaf in enumerate(leaves)
    )
    return MerkleTree(hashes).root()
