"""Runs that must go wrong: they show that the simulator would see it (adversary.md, rules of
honest testing).

With more than f faults agreement breaks. With n = 3 and f = 1 either nothing happens (q = 3) or
agreement breaks (q = 2).
"""

from dataclasses import dataclass

from pbft.core.settings import MILLISECOND, SECOND, Timers
from pbft.faults.delivery import Silent
from pbft.faults.primary import Equivocate, Split
from pbft.faults.votes import Collude
from pbft.quorum import Thresholds
from pbft.sim.invariants import Violation
from pbft.sim.scenario import Crime, Scenario
from pbft.sim.trace import Line, Trace
from pbft.sim.twins import Twin
from pbft.sim.world import World

PATIENCE_US = 3 * SECOND
TIMERS = Timers(request_timeout_us=500 * MILLISECOND, request_timeout_cap_us=8 * SECOND)


def two_traitors_of_four(seed: int = 0, write_line: Line | None = None) -> "Sight":
    """The primary equivocates and a backup votes on both sides: 2 > f = 1 faults.

    A simulator that does not see agreement break here is blind.
    """
    world = World(Scenario(seed, replicas=4, timers=TIMERS), Trace(4, write_line))
    primary = Equivocate(world.corruption(Crime(0, Equivocate.name)), Split.HALF)
    world.corrupt(0, primary)
    world.corrupt(1, Collude(world.corruption(Crime(1, Collude.name)), primary))
    return _watch(world)


def two_twins_of_four(seed: int = 0, write_line: Line | None = None) -> "Sight":
    """Two replicas run twice: 2 > f = 1 faults, though no line of code is corrupt."""
    crimes = (Crime(0, Twin.name), Crime(1, Twin.name))
    return _watch(
        World(Scenario(seed, replicas=4, timers=TIMERS, crimes=crimes), Trace(4, write_line))
    )


def one_traitor_of_three(
    quorum: int, *, silent: bool, seed: int = 0, write_line: Line | None = None
) -> "Sight":
    """Three replicas with f forced to 1 and this quorum. The traitor is a silent backup, or a
    primary that equivocates."""
    thresholds = Thresholds(replicas=3, faulty=1, quorum=quorum)
    scenario = Scenario(seed, replicas=3, timers=TIMERS, forced=thresholds)
    world = World(scenario, Trace(3, write_line))
    if silent:
        world.corrupt(2, Silent(world.corruption(Crime(2, Silent.name))))
    else:
        world.corrupt(0, Equivocate(world.corruption(Crime(0, Equivocate.name)), Split.HALF))
    return _watch(world)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a cluster that could not do right."""

    violation: Violation | None
    """The first invariant that broke."""
    requests: int
    """Requests that were answered before that, or at all."""


def _watch(world: World) -> Sight:
    try:
        world.start()
        world.scheduler.run_until(PATIENCE_US)
    except Violation as violation:
        return Sight(violation, world.requests_settled)
    return Sight(None, world.requests_settled)
