"""The leaves of the durable state, counted anew from its records.

A write that the disk lost leaves an older page with good checksums: the stored leaves hash to the
digest, but are not those of the records.
"""

from pbft.crypto.lthash import bucket_of
from pbft.messages import Leaf
from pbft.storage.api import BaseView, StorageCorrupt
from pbft.storage.bucket_sums import BucketSums
from pbft.storage.changes import HashedChange
from pbft.storage.leaf_records import EMPTY_LEAF
from pbft.storage.ordered import decode_key
from pbft.storage.sealing import PORTION_BYTES, PORTION_CHANGES, PORTION_LEAVES

ROTTEN_LEAF = Leaf(-1, 0, b"")
"""Of a bucket with a record that fails its checksum: no other leaf is equal."""


class Recount:
    """Reads all records of a view, which must stay open until it is done, a portion at a time."""

    def __init__(self, view: BaseView, buckets: int, salt: int) -> None:
        """`buckets` and `salt` are the genesis's."""
        self.leaves = [EMPTY_LEAF] * buckets
        """Right when it is done."""
        self._salt = salt
        self._sums = BucketSums(self.leaves, salt)
        self._view = view
        self._positions = view.walk(b"")
        self._rotten: set[int] = set()

    def advance(self) -> bool:
        """Works for a few milliseconds; whether it is done. Raises StorageCorrupt."""
        if portion := self._portion():
            self._sums.replace(portion)
            return False
        done = self._sums.seal(PORTION_LEAVES)
        if done is None:
            return False
        for index, leaf in done[1].items():
            self.leaves[index] = leaf
        for index in self._rotten:
            self.leaves[index] = ROTTEN_LEAF
        return True

    def _portion(self) -> list[HashedChange]:
        portion: list[HashedChange] = []
        size = 0
        for position, size_bytes in self._positions:
            domain, key, version = decode_key(position)
            try:
                value = self._view.record(position).value
            except StorageCorrupt:
                self._rotten.add(bucket_of(domain, key, self._salt, len(self.leaves)))
                continue
            portion.append((domain, key, None, (version, value)))
            size += size_bytes
            if len(portion) >= PORTION_CHANGES or size >= PORTION_BYTES:
                break
        return portion
