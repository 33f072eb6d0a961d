"""The leaves of the state digest as bytes on disk."""

import struct

from pbft.crypto.lthash import SUM_BYTES
from pbft.messages import Leaf
from pbft.storage.api import StorageCorrupt

EMPTY_LEAF = Leaf(0, 0, b"")
_KEY = struct.Struct(">I")
_HEAD = struct.Struct(">QQ")


def is_well_formed(leaf: Leaf) -> bool:
    """Whether a leaf has the form that honest ones have: a sum if and only if there are records."""
    if leaf.count == 0:
        return leaf == EMPTY_LEAF
    in_range = 0 < leaf.count < 1 << 64 and 0 <= leaf.size < 1 << 64
    return in_range and len(leaf.sum) == SUM_BYTES


def leaf_key(index: int) -> bytes:
    """Key of a bucket's leaf."""
    return _KEY.pack(index)


def leaf_index(key: bytes, buckets: int) -> int:
    """The bucket of a leaf's key. Raises StorageCorrupt if this state has no such bucket."""
    index = int.from_bytes(key, "big")
    if len(key) != _KEY.size or index >= buckets:
        raise StorageCorrupt(f"there is a leaf {index}, but the state has {buckets} buckets")
    return index


def encode_leaf(leaf: Leaf) -> bytes:
    """Count, size, sum."""
    return _HEAD.pack(leaf.count, leaf.size) + leaf.sum


def decode_leaf(value: bytes) -> Leaf:
    """Raises StorageCorrupt unless it is a well-formed leaf."""
    if len(value) >= _HEAD.size:
        count, size = _HEAD.unpack_from(value)
        leaf = Leaf(count, size, value[_HEAD.size :])
        if is_well_formed(leaf):
            return leaf
    raise StorageCorrupt("a leaf of the state is malformed")
