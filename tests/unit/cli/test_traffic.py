"""What the traffic records is what happened: a store that errs is found out by its history."""

import asyncio
from typing import Any, cast

import pytest

from pbft.cli.traffic import Traffic, TrafficPlan
from pbft.sim.checkers import Outcome, check_black_box, check_witness
from pbft_client import Client
from pbft_client.errors import DefiniteFailure, OutcomeUnknown
from pbft_client.results import CasResult, DeleteResult, Execution, KeyValue, PutResult

WAITS_MAX = 10_000
PLAN = TrafficPlan(keys=3, workers_per_client=2, pause_seconds=0.0)


class Store:
    """A correct store in memory with the client's calls, each taking a moment."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.revision = 1
        self.sequence = 0

    def _execute(self, changed: bool) -> Execution:
        self.sequence += 1
        self.revision += changed
        return Execution(self.sequence, session=1, number=1, index=0, agreed_time_us=0)

    async def put(self, key: bytes, value: bytes, **_: Any) -> PutResult:
        await asyncio.sleep(0)
        self.values[key] = value
        execution = self._execute(True)
        await asyncio.sleep(0)
        return PutResult(self.revision, None, execution)

    async def get(self, key: bytes, **_: Any) -> KeyValue | None:
        await asyncio.sleep(0)
        value = self.values.get(key)
        return None if value is None else KeyValue(key, value, 1, 1, 1)

    async def cas(self, key: bytes, *, expect: bytes | None, value: bytes, **_: Any) -> CasResult:
        await asyncio.sleep(0)
        swapped = self.values.get(key) == expect
        if swapped:
            self.values[key] = value
        execution = self._execute(swapped)
        return CasResult(swapped, self.revision, execution)

    async def delete(self, key: bytes, **_: Any) -> DeleteResult:
        await asyncio.sleep(0)
        existed = self.values.pop(key, None) is not None
        execution = self._execute(existed)
        return DeleteResult(self.revision, int(existed), (), execution)


class ForgetfulStore(Store):
    """Loses every seventh write after acknowledging it."""

    async def put(self, key: bytes, value: bytes, **_: Any) -> PutResult:
        before = self.values.get(key)
        result = await super().put(key, value)
        if self.sequence % 7 == 0 and before is not None:
            self.values[key] = before
        return result


class FailingStore(Store):
    """Refuses some writes for sure, and leaves the fate of others open."""

    async def put(self, key: bytes, value: bytes, **_: Any) -> PutResult:
        if value.endswith(b"3"):
            raise DefiniteFailure("refused")
        if value.endswith(b"5"):
            await super().put(key, value)
            raise OutcomeUnknown("no answer")
        return await super().put(key, value)


def run(store: Store, operations: int = 300) -> Traffic:
    async def story() -> Traffic:
        clients = [cast(Client, store)] * 2
        async with Traffic(clients, PLAN) as traffic:
            for _ in range(WAITS_MAX):
                await asyncio.sleep(0.001)
                traffic.check_running()
                if len(traffic.history) >= operations:
                    break
        await traffic.read_all()
        return traffic

    return asyncio.run(story())


def test_a_correct_store_has_a_linearizable_history() -> None:
    traffic = run(Store())
    assert traffic.failed == 0
    assert traffic.acknowledged == len(traffic.history) >= 300
    assert check_witness(traffic.history) is None
    assert check_black_box(traffic.history) is None
    kinds = {type(operation.action).__name__ for operation in traffic.history}
    assert kinds == {"Put", "Get", "Cas", "Delete"}
    swapped = [one.result for one in traffic.history if type(one.action).__name__ == "Cas"]
    assert {True, False} == set(swapped)


def test_a_lost_write_is_found() -> None:
    traffic = run(ForgetfulStore())
    assert check_witness(traffic.history) is not None
    assert check_black_box(traffic.history) is not None


def test_failures_are_told_apart() -> None:
    traffic = run(FailingStore())
    outcomes = {one.outcome for one in traffic.history}
    assert outcomes == {Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN}
    assert traffic.failed == sum(one.outcome is not Outcome.OK for one in traffic.history)
    assert any("DefiniteFailure: refused" in text for text in traffic.failures)
    assert check_witness(traffic.history) is None
    assert check_black_box(traffic.history) is None


def test_every_value_is_written_once() -> None:
    values = [one.action.value for one in run(Store()).history if hasattr(one.action, "value")]
    assert len(set(values)) == len(values)


class BrokenStore(Store):
    """Fails as only a bug of ours does."""

    async def get(self, key: bytes, **_: Any) -> KeyValue | None:
        raise AssertionError("ours")


def test_a_bug_is_noticed_while_the_traffic_runs() -> None:
    with pytest.raises(AssertionError, match="ours"):
        run(BrokenStore())


def test_a_bug_is_not_swallowed_at_the_end() -> None:
    async def story() -> None:
        async with Traffic([cast(Client, BrokenStore())], PLAN):
            await asyncio.sleep(0.1)

    with pytest.raises(AssertionError, match="ours"):
        asyncio.run(story())
