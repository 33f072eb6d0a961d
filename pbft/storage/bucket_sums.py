"""The digest of the replicated state, kept up to date at a cost of the changes (protocol.md section
6)."""

from collections.abc import Sequence

from pbft.crypto.lthash import (
    MerkleTree,
    add,
    bucket_of,
    leaf_hash,
    record_hash,
    subtract,
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
        self, domain: int, key: bytes, version: int, old: bytes | None, new: bytes | None
    ) -> None:
        """Accounts for one record that had the value `old` (None: was not there) and has `new`."""
        if old == new:
            return
        bucket = bucket_of(domain, key, self._salt, len(self._sums))
        total = self._sums[bucket]
        if old is not None:
            total = subtract(total, record_hash(domain, key, version, old))
            self._counts[bucket] -= 1
            self._sizes[bucket] -= len(key) + len(old)
        if new is not None:
            total = add(total, record_hash(domain, key, version, new))
            self._counts[bucket] += 1
            self._sizes[bucket] += len(key) + len(new)
        self._sums[bucket] = total
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
