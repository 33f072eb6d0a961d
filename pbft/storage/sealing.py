"""The digests of sealed layers, computed a portion at a time (protocol.md section 6).

A layer is sealed in no time; what its changes do to the digest is worked out afterwards, between
other things, and each record counts once, however often it changed in the layer.
"""

from collections import deque

from pbft.limits import MIB
from pbft.storage.bucket_sums import BucketSums
from pbft.storage.changes import HashedChange, Latest, Layer, SealedLayer

PORTION_CHANGES = 512
"""Changes accounted for at once by who is in a hurry: a pause of about three milliseconds ..."""
PORTION_BYTES = MIB // 2
"""... and so much of values, old and new, takes about two."""
SMALL_PORTION_CHANGES = 256
"""Changes accounted for at once by who is not. (Measured: with fewer, the portions together cost
noticeably more.)"""
PORTION_LEAVES = 512
"""Leaves hashed at once: about a millisecond."""


class Sealing:
    """The layers whose digest is to be computed, in their order."""

    def __init__(self, sums: BucketSums) -> None:
        """`sums` are those of the state below the first of them."""
        self._sums = sums
        self._layers: deque[SealedLayer] = deque()

    def __bool__(self) -> bool:
        return bool(self._layers)

    def add(self, layer: SealedLayer) -> None:
        """Takes in a layer that was just sealed."""
        self._layers.append(layer)

    def clear(self) -> None:
        """Forgets all of them."""
        self._layers.clear()

    def relieve(self, opened: Layer) -> SealedLayer | None:
        """Does one portion of what is first: of the layers, or else of `opened`, the one that is
        written, which so has less left when it is sealed."""
        if self._layers:
            return self._account(PORTION_CHANGES)
        self._sums.replace(_portion(opened, PORTION_CHANGES))
        return None

    def advance(self) -> SealedLayer | None:
        """Does one portion for the first of them, a small one unless another waits; returns the
        layer if it has its digest now."""
        is_late = len(self._layers) > 1
        return self._account(PORTION_CHANGES if is_late else SMALL_PORTION_CHANGES)

    def _account(self, changes: int) -> SealedLayer | None:
        layer = self._layers[0]
        if portion := _portion(layer.layer, changes):
            self._sums.replace(portion)
            return None
        done = self._sums.seal(PORTION_LEAVES)
        if done is None:
            return None
        layer.digest, layer.leaves = done
        return self._layers.popleft()


def _portion(layer: Layer, changes: int) -> list[HashedChange]:
    portion: list[HashedChange] = []
    size = 0
    for change in layer.take_found():
        portion.append(change)
        size += _value_bytes(change[2]) + _value_bytes(change[3])
        if len(portion) >= changes or size >= PORTION_BYTES:
            break
    return portion


def _value_bytes(record: Latest | None) -> int:
    return 0 if record is None else len(record[1])
