"""Nothing is ever lost: disks that refuse, rot or forget, and power that fails everywhere."""

import pytest

from pbft.core.settings import MILLISECOND, SECOND, Timers
from pbft.faults.registry import make_behaviour
from pbft.genesis import ProtocolConstants
from pbft.sim.disk import DiskSpeed
from pbft.sim.history import check_history
from pbft.sim.scenario import HARMLESS, Crime, Cut, Damage, DiskFault, Scenario
from pbft.sim.settle import settle
from pbft.sim.trace import Trace
from pbft.sim.world import World

TIMERS = Timers(request_timeout_us=300 * MILLISECOND, request_timeout_cap_us=5 * SECOND)
CONSTANTS = ProtocolConstants(checkpoint_interval=4, window=8, buckets=8)
FAULT = DiskFault(200 * MILLISECOND, 700 * MILLISECOND, 900 * MILLISECOND, 2, Damage.LOST)


def scenario(**values: object) -> Scenario:
    defaults: dict[str, object] = {
        "seed": 1,
        "replicas": 4,
        "constants": CONSTANTS,
        "timers": TIMERS,
        "pipeline_depth": 4,
        "faults_end_us": 2 * SECOND,
    }
    return Scenario(**{**defaults, **values})  # type: ignore[arg-type]


def run(world: World) -> None:
    """Both phases and the final checks; a Violation is a failure."""
    world.start()
    world.scheduler.run_until(world.scenario.faults_end_us)
    settle(world)
    check_history(world)


@pytest.mark.parametrize("damage", [one for one in Damage if one is not Damage.STATE])
def test_a_damaged_disk_loses_nothing_and_votes_twice_for_nothing(damage: Damage) -> None:
    """S3 to S8. One replica's disk fails while requests go on."""
    amnesias = 0
    # Votes at or below h may be forgotten: with a long interval there are others.
    constants = ProtocolConstants(checkpoint_interval=64, window=128, buckets=8)
    for seed in range(2):
        fault = DiskFault(FAULT.copy_us, FAULT.start_us, FAULT.end_us, 2, damage)
        world = World(scenario(seed=seed, constants=constants, disk_faults=(fault,)), Trace(4))
        run(world)
        assert world.counters.disk_faults == 1
        assert world.counters.restarts >= 1
        amnesias += world.counters.amnesias
    assert (amnesias == 0) if damage in HARMLESS else (amnesias > 0)


def test_a_damaged_state_is_never_used() -> None:
    """S3. What rots is a record, which is noticed when it is read, or a leaf, at the start; a new
    data directory then takes its place."""
    noticed = amnesias = 0
    for seed in range(6):
        fault = DiskFault(FAULT.copy_us, FAULT.start_us, FAULT.end_us, 2, Damage.STATE)
        lines: list[str] = []
        world = World(scenario(seed=seed, disk_faults=(fault,)), Trace(4, lines.append))
        run(world)
        noticed += any("replica 2 ends: " in line for line in lines)
        amnesias += world.counters.amnesias
    assert noticed >= 4, "a state that is transferred next repairs a record that nobody read"
    assert amnesias >= 4


def test_a_replica_that_lost_its_disk_rejoins_by_itself() -> None:
    world = World(scenario(disk_faults=(FAULT,), requests_per_client=80), Trace(4))
    run(world)
    assert (world.counters.amnesias, world.counters.rejoins) == (1, 1)
    node = world.nodes[2]
    assert node.replica is not None
    assert node.replica.core.rejoining is None
    log = node.log.load()
    assert log.rejoin is not None and log.rejoin.done


def test_batches_each_learned_partly_by_certificate_survive_a_power_loss_of_all() -> None:
    """The case of protocol.md section 6. Replicas 0, 1 and 2 take turns in being cut off, so that
    each learns some batches by certificate only. The checkpoint over them is signed and stable, the
    state itself on no disk yet. All lose power, and replica 3, whose votes were part of every
    certificate, never says a word again."""
    span_us = 200 * MILLISECOND
    cuts = tuple(
        Cut(
            (turn + 1) * span_us,
            (turn + 2) * span_us - 100 * MILLISECOND,
            tuple((place, victim) for place in range(4) if place != victim),
            noticed=False,
        )
        for turn, victim in enumerate((1, 2, 1, 2))
    )
    world = World(
        scenario(
            cuts=cuts,
            constants=ProtocolConstants(checkpoint_interval=64, window=128, buckets=8),
            speed=DiskSpeed(500, merge_us=60 * SECOND),
            requests_per_client=60,
            pipeline_depth=1,
        ),
        Trace(4),
    )
    world.start()
    honest = world.nodes[:3]

    def is_stable_everywhere() -> bool:
        return all(
            node.replica is not None
            and node.replica.core.stable.sequence == 64
            and node.replica.core.executed >= 64
            for node in honest
        )

    assert world.scheduler.run_until(20 * SECOND, is_stable_everywhere)
    world.scheduler.run_until(world.scheduler.now_us + 5 * MILLISECOND)
    for node in honest:
        saved = node.log.load()
        accepted = {record.sequence for record in saved.accepted}
        decided = {record.sequence for record in saved.decided}
        assert node.state.durable_sequence == 0, "the state is on no disk"
        assert decided >= set(range(1, 65)), "what the vote vouches for is"
        if node.place in (1, 2):
            assert decided - accepted, "and some of it was learned by certificate only"
        node.crash()
    crime = Crime(3, "silent")
    world.corrupt(3, make_behaviour("silent", world.corruption(crime)))
    settle(world)
    check_history(world)
    assert world.requests_settled >= world.scenario.requests
