"""The outbox: nothing leaves before what it depends on is durable, and a crash loses the rest."""

from random import Random

import pytest

from pbft.core.effects import Effect, Persist, Send, StableRecord, Truncate, ViewChangeRecord
from pbft.messages import Kind, Signed, StateRequest
from pbft.sim.disk import DiskSpeed, Leaving, Outbox, Refusal
from pbft.sim.scheduler import Scheduler
from pbft.storage.memory import MemoryLog

SYNC_US = 1_000


def record(view: int, *, gates: bool = True) -> Persist:
    return Persist(ViewChangeRecord(view, Signed(Kind.VIEW_CHANGE, 0, b"", b"")), gates)


def word(number: int) -> Send:
    return Send(1, StateRequest(number, 0))


class Machine:
    """An outbox whose words are noted with what was durable when they left."""

    def __init__(self, seed: int = 1) -> None:
        self.scheduler = Scheduler()
        self.log = MemoryLog()
        self.left: list[tuple[int, int]] = []
        speed = DiskSpeed(SYNC_US, SYNC_US)
        self.failures = 0
        self.outbox = Outbox(self.scheduler, Random(seed), self.log, speed, self.release, self.fail)

    def fail(self) -> None:
        self.failures += 1
        self.outbox.crash()

    def release(self, effect: Leaving) -> None:
        assert isinstance(effect, Send) and isinstance(effect.item, StateRequest)
        self.left.append((effect.item.at_least, self.durable_view))

    @property
    def durable_view(self) -> int:
        saved = self.log.load().view_change
        return 0 if saved is None else saved.view

    def perform(self, *effects: Effect) -> None:
        self.outbox.perform(list(effects))

    def run(self) -> None:
        self.scheduler.run_until(self.scheduler.now_us + 10 * SYNC_US)


def test_what_depends_on_nothing_leaves_at_once() -> None:
    machine = Machine()
    machine.perform(word(1))
    assert machine.left == [(1, 0)]


def test_a_word_waits_for_the_records_before_it_but_not_for_those_after_it() -> None:
    machine = Machine()
    machine.perform(word(1), record(1), word(2), record(2), word(3))
    assert machine.left == [(1, 0)]
    machine.run()
    assert [number for number, _ in machine.left] == [1, 2, 3]
    assert machine.left[1][1] >= 1
    assert machine.left[2][1] == 2


def test_a_later_step_waits_for_the_records_of_an_earlier_one() -> None:
    machine = Machine()
    machine.perform(record(1))
    machine.perform(word(1))
    assert machine.left == []
    machine.run()
    assert machine.left == [(1, 1)]


def test_a_record_that_gates_nothing_is_written_all_the_same() -> None:
    machine = Machine()
    machine.perform(record(1, gates=False), word(1))
    assert machine.left == [(1, 0)]
    machine.run()
    assert machine.durable_view == 1


def test_a_record_waits_for_the_sync_that_is_under_way() -> None:
    machine = Machine()
    machine.perform(record(1), word(1))
    machine.perform(record(2), word(2))
    machine.run()
    assert machine.left == [(1, 1), (2, 2)]


def test_a_truncation_is_written_in_order() -> None:
    machine = Machine()
    machine.perform(Persist(StableRecord(4, b"", ())), Truncate(4), word(1))
    machine.run()
    assert len(machine.left) == 1
    assert machine.log.load().stable == StableRecord(4, b"", ())


def test_a_crash_loses_what_was_not_synced_and_nothing_leaves_after_it() -> None:
    outcomes = set()
    for seed in range(20):
        machine = Machine(seed)
        machine.perform(record(1), word(1))
        machine.perform(record(2), word(2))
        machine.outbox.crash()
        machine.run()
        assert machine.left == []
        outcomes.add(machine.durable_view)
    # The sync under way may have reached the disk; what came after it cannot.
    assert outcomes == {0, 1}


@pytest.mark.parametrize("refusal", Refusal)
def test_a_disk_that_refuses_ends_the_process_and_nothing_leaves(refusal: Refusal) -> None:
    kept = set()
    for seed in range(20):
        machine = Machine(seed)
        machine.perform(record(1), word(1))
        machine.run()
        machine.outbox.refusal = refusal
        machine.perform(record(2), word(2))
        machine.run()
        machine.perform(record(3), word(3))
        machine.run()
        assert machine.failures == 1
        assert [number for number, _ in machine.left] == [1]
        kept.add(machine.durable_view)
    assert kept == ({1} if refusal is Refusal.FULL else {1, 2}), "nobody knows what a sync left"
