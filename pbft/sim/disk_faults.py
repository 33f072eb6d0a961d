"""Disks that refuse, rot, forget or are set back (adversary.md group S), done to simulated nodes.

A replica whose disk lost something that was synced counts against f until it has rejoined. What its
core then does is held to every invariant all the same: a damaged disk is no licence to vote twice.
"""

from random import Random
from typing import TYPE_CHECKING

from pbft.sim.disk import Refusal
from pbft.sim.rot import flip, misdirect, tear
from pbft.sim.scenario import HARMLESS, Damage, DiskFault
from pbft.sim.virtual_base import VirtualBase
from pbft.sim.virtual_log import VirtualLog

if TYPE_CHECKING:
    from pbft.sim.world import World

LEAF_SHARE = 0.25
"""Of the damaged states, those in which a leaf rots: it is seen at the start. A record is seen when
it is read."""


class DamagedDisk:
    """One disk fault of a scenario; the world calls `copy`, `begin` and `end` when it is time."""

    def __init__(self, world: "World", fault: DiskFault) -> None:
        """The log of the node must be a VirtualLog."""
        self._world = world
        self._fault = fault
        self._node = world.nodes[fault.replica]
        self._random = Random(f"disk {world.scenario.seed} {fault.replica} {fault.start_us}")
        self._backup: tuple[VirtualLog, VirtualBase] | None = None

    def copy(self) -> None:
        """Somebody makes a backup of the data directory."""
        self._backup = (self._log.copy(), self._node.base.copy())

    def begin(self) -> None:
        """The disk refuses, or the replica loses power and the disk more than that."""
        node, damage = self._node, self._fault.damage
        if not node.is_up or (damage not in HARMLESS and self._is_another_rejoining()):
            return
        self._world.note(f"the disk of replica {node.place}: {damage.value}")
        self._world.counters.disk_faults += 1
        if damage in HARMLESS:
            node.outbox.refusal = Refusal(damage.value)
            return
        node.crash()
        self._world.count_power_loss()
        if self._is_damaged():
            self._world.watch.damaged.add(node.place)
            # What is new can be read; a copy may have been made of what could not.
            mark = self._world.rotten.discard if damage is Damage.LOST else self._world.rotten.add
            mark(node.place)

    @property
    def _log(self) -> VirtualLog:
        log = self._node.log
        assert isinstance(log, VirtualLog), "it cannot be damaged"
        return log

    def _is_another_rejoining(self) -> bool:
        """Whether somebody else has lost its votes: one whose first start came late, because it was
        cut off from the others, counts as such, and no more than f at a time can."""
        others = (node.replica for node in self._world.honest if node is not self._node)
        return any(replica is not None and replica.core.rejoining for replica in others)

    def _is_damaged(self) -> bool:
        """Does the damage; False if there was nothing on the disk to be damaged."""
        node, random = self._node, self._random
        match self._fault.damage:
            case Damage.FLIPPED:
                return self._log.damage(flip, random)
            case Damage.TORN:
                return self._log.damage(tear, random)
            case Damage.MISDIRECTED:
                return self._log.damage(misdirect, random)
            case Damage.STATE:
                if random.random() < LEAF_SHARE:
                    return node.base.damage_leaf(random)
                return node.base.damage(random.choice((flip, tear, misdirect)), random)
            case Damage.ROLLED_BACK:
                assert self._backup is not None
                node.log, node.base = self._backup
            case _:
                node.initialise()
        return True

    def end(self) -> None:
        """The replica is started again; a disk that was full has room."""
        node = self._node
        if not node.is_up and not node.is_broken:
            self._world.note(f"replica {node.place} starts on what its disk holds")
            node.start()
        elif node.is_up:
            node.outbox.refusal = None
