"""Named scenarios: the moments at which it hurts most."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pbft.codec import decode_message
from pbft.core.effects import Broadcast, Effect, Event, EventName, NewViewRecord, Persist
from pbft.core.settings import MILLISECOND, SECOND, Timers
from pbft.genesis import ProtocolConstants
from pbft.messages import Kind, Prepare, Signed
from pbft.sim.disk import Leaving
from pbft.sim.history import check_history
from pbft.sim.node import Node
from pbft.sim.scenario import Crime, Cut, Outage, Scenario
from pbft.sim.settle import settle
from pbft.sim.trace import Trace
from pbft.sim.world import World

TIMERS = Timers(request_timeout_us=300 * MILLISECOND, request_timeout_cap_us=5 * SECOND)
SMALL_WINDOW = ProtocolConstants(checkpoint_interval=4, window=8, buckets=8)
DOWN_US = 150 * MILLISECOND


def run(world: World) -> None:
    """Both phases and the final checks; a Violation is a failure."""
    world.start()
    world.scheduler.run_until(world.scenario.faults_end_us)
    settle(world)
    check_history(world)


def scenario(**values: object) -> Scenario:
    defaults: dict[str, object] = {
        "seed": 1,
        "replicas": 4,
        "constants": SMALL_WINDOW,
        "timers": TIMERS,
        "pipeline_depth": 4,
        "faults_end_us": 2 * SECOND,
    }
    return Scenario(**{**defaults, **values})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Moment:
    """When to kill whom."""

    victim: int
    in_step: Callable[[Effect], bool] | None = None
    """Seen in a step of the core: killed right after it, before anything is on disk."""
    leaving: Callable[[Leaving], bool] | None = None
    """About to leave: everything before is on disk."""
    sent: bool = False
    """Whether it still leaves."""


def begins_view_change(effect: Effect) -> bool:
    return isinstance(effect, Event) and effect.name is EventName.VIEW_CHANGE_STARTED


def stores_new_view(effect: Effect) -> bool:
    return isinstance(effect, Persist) and isinstance(effect.record, NewViewRecord)


def is_kind(kind: Kind) -> Callable[[Leaving], bool]:
    return lambda effect: (
        isinstance(effect, Broadcast)
        and isinstance(effect.item, Signed)
        and effect.item.kind is kind
    )


def is_prepare_of_new_view(effect: Leaving) -> bool:
    if not is_kind(Kind.PREPARE)(effect):
        return False
    assert isinstance(effect, Broadcast) and isinstance(effect.item, Signed)
    message = decode_message(Kind.PREPARE, effect.item.payload)
    assert isinstance(message, Prepare)
    return message.view > 0


NEW_PRIMARY, BACKUP = 1, 2
MOMENTS = {
    "view-change signed, not on disk": Moment(BACKUP, in_step=begins_view_change),
    "view-change on disk, not sent": Moment(BACKUP, leaving=is_kind(Kind.VIEW_CHANGE)),
    "view-change sent": Moment(BACKUP, leaving=is_kind(Kind.VIEW_CHANGE), sent=True),
    "primary's view-change sent": Moment(NEW_PRIMARY, leaving=is_kind(Kind.VIEW_CHANGE), sent=True),
    "new-view made, not on disk": Moment(NEW_PRIMARY, in_step=stores_new_view),
    "new-view on disk, not sent": Moment(NEW_PRIMARY, leaving=is_kind(Kind.NEW_VIEW)),
    "new-view sent": Moment(NEW_PRIMARY, leaving=is_kind(Kind.NEW_VIEW), sent=True),
    "new-view entered, not on disk": Moment(BACKUP, in_step=stores_new_view),
    "first prepare of the view on disk, not sent": Moment(BACKUP, leaving=is_prepare_of_new_view),
    "first prepare of the view sent": Moment(BACKUP, leaving=is_prepare_of_new_view, sent=True),
}


class CrashingWorld(World):
    """Kills one replica at one moment, once, and starts it again a little later."""

    def __init__(self, scenario: Scenario, moment: Moment) -> None:
        super().__init__(scenario, Trace(scenario.replicas))
        self.moment = moment
        self.killed = False

    def stepped(self, node: Node, effects: list[Effect]) -> None:
        super().stepped(node, effects)
        condition = self.moment.in_step
        if condition is not None and self._is_due(node) and any(map(condition, effects)):
            self._kill(node, at_once=False)

    def left(self, node: Node, effect: Leaving) -> None:
        condition = self.moment.leaving
        if condition is not None and self._is_due(node) and condition(effect):
            self._kill(node, at_once=not self.moment.sent)
            if not self.moment.sent:
                return
        super().left(node, effect)

    def _is_due(self, node: Node) -> bool:
        return node.place == self.moment.victim and not self.killed

    def _kill(self, node: Node, *, at_once: bool) -> None:
        self.killed = True
        if at_once:
            node.crash()
        else:
            self.scheduler.after(0, node.crash)
        self.scheduler.after(DOWN_US, node.start)


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("seed", range(2))
def test_a_crash_in_every_sub_step_of_a_view_change(name: str, seed: int) -> None:
    """V14. The first primary is down, a second replica dies in the middle of replacing it."""
    outage = Outage(400 * MILLISECOND, 1_600 * MILLISECOND, 0, frozen=False)
    world = CrashingWorld(scenario(seed=seed, outages=(outage,)), MOMENTS[name])
    run(world)
    assert world.killed, "the moment never came"
    assert world.counters.new_views >= 1
    assert world.counters.restarts >= 2


def test_a_primary_that_withholds_every_body_is_replaced() -> None:
    """P9. Nobody helps with the bodies that only the primary has."""
    world = World(scenario(crimes=(Crime(0, "withhold-body"),)), Trace(4))
    run(world)
    assert world.behaviours()["withhold-body"] > 0
    assert world.requests_settled >= world.scenario.requests


def test_a_poisoned_source_does_not_spoil_a_state_transfer() -> None:
    """T1. Replica 3 misses many checkpoints, and then hears nobody but the liar for a while."""
    others = [0, 1, 2, 4, 5, 6]
    away = tuple((place, 3) for place in others) + tuple((3, place) for place in others)
    cuts = (
        Cut(100 * MILLISECOND, 1_200 * MILLISECOND, away, noticed=True),
        Cut(1_200 * MILLISECOND, 1_950 * MILLISECOND, ((0, 3), (2, 3)), noticed=False),
    )
    refused = 0
    for seed in range(3):
        crimes = (Crime(1, "poison-transfer"),)
        world = World(scenario(crimes=crimes, cuts=cuts, seed=seed), Trace(4))
        run(world)
        assert world.behaviours()["poison-transfer"] > 0
        assert world.counters.state_transfers > 0
        refused += world.nodes[3].rejections["bad_snapshot"]
    assert refused > 0, "no poison was refused"


def test_power_loss_of_all_under_load_loses_nothing() -> None:
    """S11."""
    outages = tuple(
        Outage(700 * MILLISECOND, (900 + 50 * replica) * MILLISECOND, replica, frozen=False)
        for replica in range(4)
    )
    world = World(scenario(outages=outages, power_loss_at_end=True), Trace(4))
    run(world)
    assert world.counters.restarts == 8


def test_a_frozen_primary_is_replaced_and_does_not_disrupt_when_it_runs_on() -> None:
    """S10."""
    outage = Outage(400 * MILLISECOND, 1_600 * MILLISECOND, 0, frozen=True)
    world = World(scenario(outages=(outage,)), Trace(4))
    run(world)
    assert world.counters.new_views == 1


def test_a_primary_cut_off_from_one_backup_stays() -> None:
    """One bad link is no reason for a view change (protocol.md section 7)."""
    cut = Cut(300 * MILLISECOND, 1_800 * MILLISECOND, ((0, 3), (3, 0)), noticed=True)
    world = World(scenario(cuts=(cut,)), Trace(4))
    run(world)
    assert world.counters.new_views == 0
