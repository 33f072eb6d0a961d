"""What a whole run must see: each of these breaks something on purpose."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pbft.core import invariants as core_invariants
from pbft.core.effects import Effect, Halt, Persist, RejoinRecord, SavedLog
from pbft.core.replica import Replica
from pbft.core.settings import MILLISECOND, SECOND, Timers
from pbft.sim import world as world_module
from pbft.sim.runner import Outcome, run_scenario
from pbft.sim.scenario import Damage, DiskFault, Scenario
from pbft.sim.settle import progress_bound_us, settle
from pbft.sim.trace import Trace
from pbft.sim.virtual_log import VirtualLog
from pbft.sim.world import World
from pbft.storage.api import StorageCorrupt
from pbft.storage.memory import MemoryLog
from pbft.types import Instant
from tests.unit.storage.builders import stable

TIMERS = Timers(request_timeout_us=300 * MILLISECOND, request_timeout_cap_us=5 * SECOND)
SCENARIO = Scenario(1, 4, timers=TIMERS, faults_end_us=1 * SECOND)


def run() -> Outcome:
    return run_scenario(SCENARIO)


def test_an_undisturbed_run_violates_nothing() -> None:
    outcome = run()
    assert outcome.invariant is None, outcome.detail
    assert outcome.counters.new_views == 0
    assert outcome.counters.delivered_again > 0
    assert outcome.counters.fast_reads > 0


def test_a_crash_of_an_honest_replica_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(replica: Replica, now: Instant) -> list[Effect]:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr(Replica, "tick", fail)
    outcome = run()
    assert outcome.invariant == "I17" and "what nobody thought of" in outcome.detail


def test_an_honest_replica_that_halts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "tick", lambda replica, now: [Halt("contradiction")])
    outcome = run()
    assert outcome.invariant == "I17" and "contradiction" in outcome.detail


def test_a_breach_of_the_cores_own_invariants_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(core: object) -> None:
        raise AssertionError("too many slots")

    monkeypatch.setattr(core_invariants, "check", fail)
    assert run().invariant == "I12"


def test_a_duplicate_that_changes_something_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "DELIVERED_AGAIN", 1.0)
    take_in = world_module.Node.take_in
    seen: list[object] = []

    def count_duplicates(node: Any, origin: int, inbound: object) -> None:
        if seen and seen[-1] is inbound:
            node.replica.core.agreed_time_us += 1
        seen.append(inbound)
        take_in(node, origin, inbound)  # type: ignore[arg-type]

    monkeypatch.setattr(world_module.Node, "take_in", count_duplicates)
    assert run().invariant == "I7"


def test_a_view_change_in_the_quiet_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Restless(World):
        """Some replica begins a view change every 20 ms once everything is healed."""

        def note(self, text: str) -> None:
            super().note(text)
            if "healed" in text:
                for delay_ms in range(0, 20_000, 20):
                    self.scheduler.after(delay_ms * MILLISECOND, self.view_changes.update, [1])

    monkeypatch.setattr("pbft.sim.runner.World", Restless)
    assert run().invariant == "I14"


def test_a_lost_write_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: ordered reads that see an empty store."""

    def forget(action: object, encoded: bytes) -> tuple[None, int]:
        return None, 1

    monkeypatch.setattr("pbft.sim.clients.decode_result", forget)
    assert run().invariant == "I10"


def test_a_disk_that_cannot_be_read_before_a_message_is_verified_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(replica: Replica, sender: object, message: object) -> None:
        raise StorageCorrupt("a session")

    monkeypatch.setattr(Replica, "relevance", read)
    outcome = run()
    assert outcome.invariant == "I17" and "a session" in outcome.detail


def test_a_disk_that_nobody_damaged_and_that_cannot_be_read_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were it replaced in silence, a replica that cannot read what it wrote would look amnesiac."""
    load = VirtualLog.load

    def fail(log: VirtualLog, above: int = 0) -> SavedLog:
        if load(log, above) != SavedLog():
            raise StorageCorrupt("what was written does not decode")
        return load(log)

    monkeypatch.setattr(VirtualLog, "load", fail)
    fault = DiskFault(1, 300 * MILLISECOND, 500 * MILLISECOND, 2, Damage.FULL)
    outcome = run_scenario(replace(SCENARIO, disk_faults=(fault,)))
    assert outcome.invariant == "I17" and "does not decode" in outcome.detail


WITHOUT_POWER = replace(SCENARIO, power_loss_at_end=True)


def test_a_loss_of_power_at_the_end_leaves_no_replica_up() -> None:
    world = World(WITHOUT_POWER, Trace(WITHOUT_POWER.replicas))
    world.start()
    world.scheduler.run_until(WITHOUT_POWER.faults_end_us)
    settle(world)
    assert world.counters.power_losses_of_all == 1
    assert [node.starts for node in world.nodes] == [2] * WITHOUT_POWER.replicas


def test_what_is_lost_with_the_power_at_the_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it takes what was synced, too, and its owners vote once more."""
    monkeypatch.setattr(MemoryLog, "crash", MemoryLog.__init__)
    assert run_scenario(WITHOUT_POWER).invariant == "I6"


def test_a_record_that_changed_behind_a_replicas_back_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No checkpoint comes after it that could tell."""

    def change(world: World) -> None:
        world.nodes[3].state.domain(1).put(b"key0", 1, b"what nobody wrote")

    monkeypatch.setattr("pbft.sim.settle.read_everything", change)
    outcome = run()
    assert outcome.invariant == "I11" and "other records" in outcome.detail


def test_a_disk_is_blank_until_the_first_recall_is_recorded() -> None:
    """What peers sent a replica that does not know yet whether it lost something is no proof that
    it did not; once it knows, a loss is one."""
    world = World(SCENARIO, Trace(4))
    node = world.nodes[1]
    node.state = SimpleNamespace(durable_sequence=0)  # type: ignore[assignment]
    world.began(node)
    assert node.place in world.watch._blank
    for record, is_blank in ((stable(8), True), (RejoinRecord(0, done=True), False)):
        node.log.sync(node.log.append([Persist(record)]))
        world.began(node)
        assert (node.place in world.watch._blank) is is_blank


def test_what_is_pending_when_all_is_healed_has_seconds_not_minutes() -> None:
    """I13 with a generous bound would say nothing: f + 1 views, what is pending, and a little."""
    world = World(SCENARIO, Trace(4))
    assert progress_bound_us(world) < 5 * SECOND
    assert progress_bound_us(world) > 3 * TIMERS.request_timeout_us
