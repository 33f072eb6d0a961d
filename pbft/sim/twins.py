"""Twins (Bano et al., arXiv 2004.10617; adversary.md section 4).

A twin runs twice: two unmodified copies of a replica with one key and separate stores, each seen by
a part of the cluster, in phases. Nobody has to think of a crime: equivocation, double votes and
lost state come from honest code.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from pbft.core.effects import Answer, Broadcast, Effect, Send
from pbft.core.settings import MILLISECOND
from pbft.faults.api import Rewriter
from pbft.sim.network import Network, Notice, Place, Receive
from pbft.sim.scheduler import Scheduler
from pbft.types import Instant, Micros, ReplicaId

PHASES_US = tuple(length * MILLISECOND for length in (20, 50, 100, 200, 400, 800))
POLL_US = 10 * MILLISECOND
ALL_SEE_BOTH = 0.1
"""Share of the phases in which nobody is parted from anybody."""
HONEST_PARTED = 0.5
"""Share of the others in which the two sides do not see each other either."""
SOME_SEE_BOTH = (0.0, 0.0, 0.2)
"""Shares of the places that are on both sides."""
COPY_ALONE = 0.3
"""Share of the phases in which no replica sees one of the copies."""

Directions: TypeAlias = tuple[tuple[Place, Place], ...]


class Twin(Rewriter):
    """Changes nothing: what is wrong with the replica is that there are two of it."""

    name = "twin"

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """Counts what leaves."""
        self.acted += sum(isinstance(effect, Answer | Broadcast | Send) for effect in effects)
        return effects


class CopysNetwork:
    """The network as the second copy of a replica has it: it thinks itself at the place of the
    first."""

    def __init__(self, network: Network, copy: Place) -> None:
        """`copy`: where it really is."""
        self._network = network
        self._copy = copy

    def attach(self, place: Place, receive: Receive, notice: Notice | None = None) -> None:
        """See Network.attach."""
        self._network.attach(self._copy, receive, notice)

    def detach(self, place: Place) -> None:
        """See Network.detach."""
        self._network.detach(self._copy)

    def send(self, origin: Place, to: Place, data: bytes) -> None:
        """See Network.send."""
        self._network.send(self._copy, to, data)


class Phases:
    """Who sees which copy, for a while at a time, until all is healed."""

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network,
        draw: Callable[[], Directions],
        random: Random,
        end_us: Micros,
    ) -> None:
        """`draw` gives the directions that carry nothing in the next phase."""
        self._scheduler = scheduler
        self._network = network
        self._draw = draw
        self._random = random
        self._end_us = end_us
        self._cut: Directions = ()

    def begin(self, is_ready: Callable[[], bool]) -> None:
        """The first phase begins when `is_ready`."""
        if is_ready():
            self._next()
        else:
            self._scheduler.after(POLL_US, self.begin, is_ready)

    def _next(self) -> None:
        now_us = self._scheduler.now_us
        if now_us >= self._end_us:
            # Everything was healed, this cut as well.
            return
        self._network.mend(self._cut, noticed=False)
        self._cut = self._draw()
        self._network.cut(self._cut, noticed=False)
        end_us = min(self._end_us, now_us + self._random.choice(PHASES_US))
        self._scheduler.at(end_us, self._next)


def draw_parts(
    random: Random, others: Sequence[Place], twins: Sequence[tuple[ReplicaId, Place]], replicas: int
) -> Directions:
    """The directions between two sides, the one with the first copies and the one with the second.

    `others`: every other place. `twins`: the places of both copies of each. `replicas`: how many
    places are those of replicas.
    """
    if random.random() < ALL_SEE_BOTH:
        return ()
    side = {place: random.random() < 0.5 for place in others}
    side |= {first: False for first, _ in twins} | {second: True for _, second in twins}
    copies = {place for twin in twins for place in twin}
    honest_parted = random.random() < HONEST_PARTED
    share = random.choice(SOME_SEE_BOTH)
    both = {place for place in others if random.random() < share}
    parted = [
        (one, other)
        for one in side
        for other in side
        if side[one] != side[other]
        and not both & {one, other}
        and (honest_parted or copies & {one, other})
    ]
    if random.random() < COPY_ALONE:
        alone = random.choice(sorted(copies))
        for place in others:
            if place < replicas:
                parted += [(alone, place), (place, alone)]
    return tuple(parted)
