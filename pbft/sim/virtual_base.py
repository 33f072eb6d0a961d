"""The state as the disk sees it: records with checksums, and leaves, which can rot."""

from dataclasses import replace
from random import Random

from pbft.sim.rot import Rot, flipped
from pbft.storage.memory import Image, MemoryBase


class VirtualBase(MemoryBase):
    """A MemoryBase whose durable checkpoint can be damaged."""

    def damage(self, rot: Rot, random: Random) -> bool:
        """Damages one record. False if there is none to be damaged."""
        items = self._image.items.copy()
        if not rot(items, random):
            return False
        self._replace(Image(items, self._image.leaves, self._image.checkpoint))
        return True

    def damage_leaf(self, random: Random) -> bool:
        """One bit of one leaf rots. False if there is no leaf."""
        leaves = self._image.leaves.copy()
        if not leaves:
            return False
        index = random.choice(sorted(leaves))
        leaves[index] = replace(leaves[index], sum=flipped(leaves[index].sum, random))
        self._replace(Image(self._image.items, leaves, self._image.checkpoint))
        return True
