"""The digest of the replicated state, updated at a cost of the changes (protocol.md section 6).

A record (domain, key, version) -> value is hashed to 4096 bits; a bucket keeps the sum of its
records' hashes modulo 2^4096 (a homomorphic hash: the order of changes does not matter, and a
change is one subtraction and one addition); the buckets are the leaves of a Merkle tree, whose root
is the digest. With sums of 2^4096, Wagner's generalised birthday attack costs about 2^128.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable
from functools import cache

from pbft.messages import Leaf
from pbft.types import Digest

SUM_BYTES = 512
_MODULUS_MASK = (1 << 8 * SUM_BYTES) - 1

_RECORD = b"pbft/1/record"
_LEAF = b"pbft/1/leaf"
_NODE = b"pbft/1/node"
_record_head = struct.Struct(f">{len(_RECORD)}sBQII").pack
_leaf_head = struct.Struct(">QQQ").pack
_shake_128 = hashlib.shake_128
_sha256 = hashlib.sha256


def record_hash(domain: int, key: bytes, version: int, value: bytes) -> int:
    """The hash of one record, 0 <= hash < 2^4096.

    The encoding is domain (1 byte), version (8 bytes), the lengths of key and value (4 bytes each),
    key, value: no two records share it. Raises struct.error for a domain above 255, a version
    outside 64 bits, or a length outside 32.
    """
    head = _record_head(_RECORD, domain, version, len(key), len(value))
    return int.from_bytes(_shake_128(head + key + value).digest(SUM_BYTES), "little")


def add(total: int, record: int) -> int:
    """The sum of a bucket with one record's hash more."""
    return (total + record) & _MODULUS_MASK


def subtract(total: int, record: int) -> int:
    """The sum of a bucket with one record's hash less; the inverse of `add`."""
    return (total - record) & _MODULUS_MASK


def reduced(total: int) -> int:
    """A sum to which hashes were added, and from which they were taken, as plain integers."""
    return total & _MODULUS_MASK


def sum_to_bytes(total: int, count: int) -> bytes:
    """The sum as it travels in a Leaf: 512 bytes, empty for a bucket without records."""
    return total.to_bytes(SUM_BYTES, "little") if count else b""


def sum_from_bytes(data: bytes) -> int:
    """The inverse of `sum_to_bytes`."""
    return int.from_bytes(data, "little")


def bucket_of(domain: int, key: bytes, salt: int, buckets: int) -> int:
    """The bucket of a key, all its versions together; `buckets` is a power of two, `salt` is the
    genesis's."""
    return zlib.crc32(key, _checksum_of_domain(domain, salt)) & (buckets - 1)


@cache
def _checksum_of_domain(domain: int, salt: int) -> int:
    return zlib.crc32(bytes((domain,)), salt)


def leaf_hash(index: int, leaf: Leaf) -> Digest:
    """H(index, count, bytes, sum) of one bucket."""
    return _sha256(_LEAF + _leaf_head(index, leaf.count, leaf.size) + leaf.sum).digest()


class MerkleTree:
    """A binary tree over a power of two of leaf hashes; only paths above changed leaves are hashed
    again.

    The number of leaves is not part of the root: the genesis fixes it.
    """

    def __init__(self, leaves: Iterable[Digest]) -> None:
        """A tree over these leaf hashes. Raises ValueError unless they are a power of two."""
        hashes = list(leaves)
        self._count = len(hashes)
        if self._count < 1 or self._count & (self._count - 1):
            raise ValueError(f"a Merkle tree has a power of two of leaves, not {self._count}")
        # The children of node i are 2i and 2i + 1; node 1 is the root, leaf k is node count + k.
        self._nodes = [b""] * self._count + hashes
        self._dirty = set(range(self._count, 2 * self._count))

    def update(self, index: int, leaf: Digest) -> None:
        """Replaces one leaf hash; 0 <= index < number of leaves. Hashes nothing yet."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        self._nodes[self._count + index] = leaf
        self._dirty.add(self._count + index)

    def root(self) -> Digest:
        """The digest of the state, after hashing what lies above the leaves changed since the last
        call."""
        nodes, level = self._nodes, self._dirty
        while level and level != {1}:
            level = {node >> 1 for node in level}
            for node in level:
                nodes[node] = _sha256(_NODE + nodes[2 * node] + nodes[2 * node + 1]).digest()
        self._dirty = set()
        return nodes[1]
