"""A network that loses, duplicates, delays, reorders and parts (adversary.md 2.8, F11).

Places are numbered: replicas by their index, clients after them. A message between two places is
bytes. A cut stops one direction between two places; messages under way when it begins still arrive.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeAlias

from pbft.sim.scheduler import Scheduler
from pbft.types import Micros

Place: TypeAlias = int
Receive: TypeAlias = Callable[[Place, bytes], None]
Notice: TypeAlias = Callable[[Place, bool], None]

LOCAL_DELAY_US = 50
"""The least that any message takes."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How bad the network is. Shares are of all messages, 0 to 1."""

    lost: float = 0.0
    duplicated: float = 0.0
    delay_us: Micros = 1_000
    """Typical one-way delay; each message draws between half and one and a half of it."""
    late: float = 0.0
    """Share that takes up to `late_us` more, and so is overtaken by many."""
    late_us: Micros = 50_000
    ordered: bool = True
    """Whether messages of one direction arrive in the order in which they were sent, as they do on
    one stream; else each takes its own time."""


CALM = Conditions()
"""After the global stabilisation time: nothing lost, about a millisecond each way."""


class Links(Protocol):
    """What a network is to a replica."""

    def attach(self, place: Place, receive: Receive, notice: Notice | None = None) -> None:
        """See Network.attach."""
        ...

    def detach(self, place: Place) -> None:
        """See Network.detach."""
        ...

    def send(self, origin: Place, to: Place, data: bytes) -> None:
        """See Network.send."""
        ...


class Network:
    """Carries bytes between places and tells the ends of a link when it breaks or heals."""

    def __init__(
        self, scheduler: Scheduler, random: Random, conditions: Conditions, replicas: int
    ) -> None:
        """`replicas`: how many places are replicas; the clients after them have no links among
        themselves."""
        self.conditions = conditions
        self._replicas = replicas
        self.sent = 0
        self._scheduler = scheduler
        self._random = random
        self._receivers: dict[Place, Receive] = {}
        self._notices: dict[Place, Notice] = {}
        self._places: set[Place] = set()
        """Where anybody has ever been."""
        self._told: dict[tuple[Place, Place], bool] = {}
        """What place a was last told about its link to b; nothing at first."""
        self._arrivals_us: dict[tuple[Place, Place], Micros] = {}
        """When the last message of each direction arrives."""
        self._cuts: Counter[tuple[Place, Place]] = Counter()
        """Cuts in force per direction; a direction without any is open."""
        self._hidden: Counter[tuple[Place, Place]] = Counter()
        """The part of those cuts that nobody notices."""
        self._copies: dict[Place, Place] = {}
        """The second place of who is in two, by the first."""
        self._originals: dict[Place, Place] = {}
        """The first, by the second."""

    def add_copy(self, original: Place, copy: Place) -> None:
        """Who is at `original` is at `copy` as well: what is sent there reaches both, and what
        either sends comes from `original`."""
        self._copies[original] = copy
        self._originals[copy] = original

    def attach(self, place: Place, receive: Receive, notice: Notice | None = None) -> None:
        """Puts somebody at a place. Whoever takes notices soon hears of every link it has."""
        self._places.add(place)
        self._receivers[place] = receive
        if notice is not None:
            self._notices[place] = notice
        self.links_changed(place)

    def detach(self, place: Place) -> None:
        """Nobody is there any more: what arrives is lost, and the others notice."""
        self._receivers.pop(place, None)
        self._notices.pop(place, None)
        for link in [link for link in self._told if link[0] == place]:
            del self._told[link]
        self.links_changed(place)

    def send(self, origin: Place, to: Place, data: bytes) -> None:
        """Puts a message on its way, if it is not lost at once."""
        self._carry(origin, to, data)
        copy = self._copies.get(to)
        if copy is not None:
            self._carry(origin, copy, data)

    def _carry(self, origin: Place, to: Place, data: bytes) -> None:
        conditions, random = self.conditions, self._random
        self.sent += 1
        if self._cuts and self._cuts[origin, to]:
            return
        if conditions.lost and random.random() < conditions.lost:
            return
        copies = 1
        if conditions.duplicated and random.random() < conditions.duplicated:
            copies = 2
        for _ in range(copies):
            delay_us = int(conditions.delay_us * (0.5 + random.random()))
            if conditions.late and random.random() < conditions.late:
                delay_us += int(random.random() * conditions.late_us)
            at_us = self._scheduler.now_us + max(LOCAL_DELAY_US, delay_us)
            if conditions.ordered:
                at_us = max(at_us, self._arrivals_us.get((origin, to), 0))
                self._arrivals_us[origin, to] = at_us
            self._scheduler.at(at_us, self._arrive, origin, to, data)

    def _arrive(self, origin: Place, to: Place, data: bytes) -> None:
        receive = self._receivers.get(to)
        if receive is not None:
            receive(self._originals.get(origin, origin), data)

    def cut(self, directions: Iterable[tuple[Place, Place]], noticed: bool) -> None:
        """Stops these directions. An unnoticed cut swallows messages while the link seems up."""
        for direction in directions:
            self._cuts[direction] += 1
            self._hidden[direction] += not noticed
            self._link_changed(*direction)

    def mend(self, directions: Iterable[tuple[Place, Place]], noticed: bool) -> None:
        """Undoes one earlier cut of these directions."""
        for direction in directions:
            self._cuts[direction] -= 1
            self._hidden[direction] -= not noticed
            self._link_changed(*direction)

    def mend_all(self) -> None:
        """Undoes every cut."""
        cut = [direction for direction, count in self._cuts.items() if count]
        self._cuts.clear()
        self._hidden.clear()
        for direction in cut:
            self._link_changed(*direction)

    def links_changed(self, place: Place) -> None:
        """Somebody came to this place or left it: whoever takes notices will see."""
        for other in sorted(self._places):
            if other != place:
                self._link_changed(place, other)

    def _link_changed(self, one: Place, other: Place) -> None:
        for place, peer in ((one, other), (other, one)):
            if place in self._notices and min(place, peer) < self._replicas:
                delay_us = 1_000 + self._random.randrange(20_000)
                self._scheduler.after(delay_us, self._tell, place, peer)

    def _tell(self, place: Place, peer: Place) -> None:
        notice = self._notices.get(place)
        if notice is None or peer in self._originals or self._originals.get(place) == peer:
            # One link to a peer is told of, whether there is one of it or two.
            return
        up = self._seems_up(place, peer)
        if self._told.get((place, peer)) != up:
            self._told[place, peer] = up
            notice(peer, up)

    def _seems_up(self, one: Place, other: Place) -> bool:
        if one not in self._receivers or other not in self._receivers:
            return False
        return all(
            self._cuts[direction] == self._hidden[direction]
            for direction in ((one, other), (other, one))
        )
