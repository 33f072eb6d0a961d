"""Sets of buckets as they travel: bucket k is bit k % 8 of byte k // 8."""

from collections.abc import Iterable


def to_bitmap(members: Iterable[int], buckets: int) -> bytes:
    """The bitmap of members of 0 .. buckets - 1."""
    bits = bytearray((buckets + 7) // 8)
    for index in members:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def from_bitmap(bitmap: bytes, buckets: int) -> frozenset[int]:
    """The members below `buckets`. A bitmap of any length is legal: what it lacks is not in it."""
    return frozenset(
        index
        for index in range(min(buckets, 8 * len(bitmap)))
        if bitmap[index >> 3] >> (index & 7) & 1
    )
