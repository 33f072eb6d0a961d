"""Merges and installations: one at a time, begun and finished in the event loop."""

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from pbft.core.effects import Install, Merge
from pbft.node.inbox import Inbox
from pbft.node.state_disk import DiskJobDone, DiskJobFailed, StateDisk
from pbft.node.worker import WorkerThread
from pbft.storage.api import StorageCorrupt
from tests.unit.node.support import DIGEST, INSTALL, MERGE, Failures, breathe, until


@dataclass
class Plan:
    name: str
    trace: list[str]
    failure: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        assert self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        self.trace.append(f"run {self.name} in {threading.current_thread().name}")


@dataclass
class State:
    """Remembers the order of calls."""

    trace: list[str] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    failure: Exception | None = None

    def _begin(self, name: str) -> Plan:
        self.trace.append(f"begin {name}")
        plan = Plan(name, self.trace, self.failure)
        self.plans.append(plan)
        return plan

    def begin_merge(self, effect: Merge) -> Plan:
        return self._begin(f"merge {effect.sequence}")

    def finish_merge(self, plan: Plan) -> None:
        self.trace.append(f"finish {plan.name}")

    def begin_install(self, effect: Install) -> Plan:
        return self._begin(f"install {effect.sequence}")

    def finish_install(self, plan: Plan) -> None:
        self.trace.append(f"finish {plan.name}")


def test_one_after_the_other_and_told_through_the_inbox() -> None:
    async def scenario() -> None:
        state, inbox, failures, worker = State(), Inbox(4), Failures(), WorkerThread("disk")
        disk = StateDisk(state, worker, inbox.put_own, failures)
        disk.perform(MERGE)
        disk.perform(INSTALL)
        await breathe()
        assert state.trace == ["begin merge 64"]
        state.plans[0].gate.set()
        await inbox.wait(5)
        done = inbox.take_own()
        assert isinstance(done, DiskJobDone) and done.effect == MERGE
        assert state.trace[1:] == ["run merge 64 in disk"]
        disk.finish(done)
        assert state.trace[2:] == ["finish merge 64", "begin install 128"]
        state.plans[1].gate.set()
        await inbox.wait(5)
        done = inbox.take_own()
        assert isinstance(done, DiskJobDone) and done.effect == INSTALL
        disk.finish(done)
        assert state.trace[4:] == ["run install 128 in disk", "finish install 128"]
        disk.perform(Merge(192, DIGEST, ()))
        assert state.trace[-1] == "begin merge 192"
        state.plans[2].gate.set()
        await worker.close()
        assert not failures.texts

    asyncio.run(scenario())


@pytest.mark.parametrize("effect", [MERGE, INSTALL], ids=["merge", "installation"])
def test_what_is_corrupt_is_told_and_nothing_more_is_performed(effect: Merge | Install) -> None:
    async def scenario() -> None:
        state, inbox, failures, worker = State(), Inbox(4), Failures(), WorkerThread("disk")
        state.failure = StorageCorrupt("the record with key 00 fails its checksum")
        disk = StateDisk(state, worker, inbox.put_own, failures)
        disk.perform(effect)
        disk.perform(MERGE)
        state.plans[0].gate.set()
        await worker.close()
        told = inbox.take_own()
        assert isinstance(told, DiskJobFailed) and told.error is state.failure
        assert not failures.texts
        assert len(state.plans) == 1

    asyncio.run(scenario())


def test_a_disk_that_refuses_is_fatal() -> None:
    async def scenario() -> None:
        state, inbox, failures, worker = State(), Inbox(4), Failures(), WorkerThread("disk")
        state.failure = OSError("read-only")
        disk = StateDisk(state, worker, inbox.put_own, failures)
        disk.perform(MERGE)
        disk.perform(INSTALL)
        state.plans[0].gate.set()
        await until(lambda: bool(failures.texts))
        assert failures.texts == ["the state could not be made durable: read-only"]
        assert inbox.take_own() is None
        assert state.trace == ["begin merge 64"]
        await worker.close()

    asyncio.run(scenario())
