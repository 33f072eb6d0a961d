"""What a disk does to records that were synced: it flips, tears or misdirects one (adversary.md
group S)."""

from collections.abc import Callable
from random import Random
from typing import TypeAlias

Rot: TypeAlias = Callable[[dict[bytes, bytes], Random], bool]
"""Damages one of the records, which are not empty; False if there is none to be damaged."""


def flip(items: dict[bytes, bytes], random: Random) -> bool:
    """One bit of one record rots."""
    if not items:
        return False
    key = random.choice(sorted(items))
    items[key] = flipped(items[key], random)
    return True


def tear(items: dict[bytes, bytes], random: Random) -> bool:
    """Of one record only the beginning reached the disk."""
    if not items:
        return False
    key = random.choice(sorted(items))
    items[key] = items[key][: random.randrange(len(items[key]))]
    return True


def misdirect(items: dict[bytes, bytes], random: Random) -> bool:
    """One record was written in the place of another. False if there are no two."""
    if len(items) < 2:
        return False
    source, target = random.sample(sorted(items), 2)
    items[target] = items[source]
    return True


def flipped(data: bytes, random: Random) -> bytes:
    """The bytes, which are not empty, with one bit changed."""
    changed = bytearray(data)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)
