"""The load: what is counted, and what is not."""

import asyncio
from array import array
from collections.abc import Awaitable

import pytest

from pbft.cli.load import (
    Measurement,
    Plan,
    Workload,
    key_of,
    operations_of,
    preload,
    run_load,
)


class Refused(Exception):
    """An expected failure."""


class Recorder:
    """A store that remembers what it was asked, and how many asked at once."""

    def __init__(self, seconds: float = 0.001) -> None:
        self.seconds = seconds
        self.values: dict[bytes, bytes] = {}
        self.writes: list[bytes] = []
        self.reads = 0
        self.under_way = 0
        self.under_way_max = 0

    async def _wait(self) -> None:
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1

    def put(self, key: bytes, value: bytes) -> Awaitable[object]:
        self.values[key] = value
        self.writes.append(value)
        return self._wait()

    def get(self, key: bytes) -> Awaitable[object]:
        self.reads += 1
        return self._wait()


def run(plan: Plan, store: Recorder) -> Measurement:
    return asyncio.run(run_load(plan, [operations_of(store, plan, 0)], Refused))


def test_the_planned_number_is_in_flight() -> None:
    store = Recorder()
    measurement = run(Plan(in_flight=7, seconds=0.5), store)
    assert store.under_way_max == 7
    assert store.under_way == 0
    assert measurement.errors == 0
    assert 0 < measurement.operations < len(store.writes)
    assert measurement.per_second == measurement.operations / 0.5


def test_values_have_their_size_and_differ() -> None:
    store = Recorder()
    run(Plan(in_flight=2, value_bytes=100, seconds=0.5), store)
    assert {len(value) for value in store.writes} == {100}
    assert len(set(store.writes)) == len(store.writes)
    for size in (0, 3):
        store = Recorder()
        run(Plan(in_flight=1, value_bytes=size, seconds=0.1), store)
        assert {len(value) for value in store.writes} == {size}


@pytest.mark.parametrize(
    ("workload", "writes", "reads"),
    [(Workload.PUT, True, False), (Workload.GET, False, True), (Workload.MIXED, True, True)],
)
def test_a_workload_does_what_it_is_called(workload: Workload, writes: bool, reads: bool) -> None:
    store = Recorder()
    run(Plan(workload, in_flight=4, seconds=0.5), store)
    assert (bool(store.writes), store.reads > 0) == (writes, reads)


def test_the_load_is_spread_over_the_clients() -> None:
    stores = [Recorder() for _ in range(3)]
    plan = Plan(in_flight=6, clients=3, seconds=0.5)
    operations = [operations_of(store, plan, seed) for seed, store in enumerate(stores)]
    asyncio.run(run_load(plan, operations, Refused))
    assert [store.under_way_max for store in stores] == [2, 2, 2]


def test_preloading_writes_every_key() -> None:
    store = Recorder(seconds=0)
    asyncio.run(preload(store, Plan(value_bytes=5, keys=2_000)))
    assert len(store.values) == 2_000
    assert store.values[key_of(1_999)] == store.values[key_of(0)]
    assert len(store.values[key_of(0)]) == 5


def test_an_expected_failure_is_counted_and_another_ends_the_load() -> None:
    async def refuse(key: int) -> None:
        raise Refused(f"key {key}")

    async def crash(key: int) -> None:
        raise KeyError(key)

    plan = Plan(in_flight=3, seconds=0.5)
    measurement = asyncio.run(run_load(plan, [refuse], Refused))
    assert measurement.operations == 0
    assert measurement.errors > 0
    assert all(text.startswith("Refused: key ") for text in measurement.first_errors)
    assert len(measurement.first_errors) <= 5
    with pytest.raises(KeyError):
        asyncio.run(run_load(plan, [crash], Refused))


def test_the_warm_up_is_not_measured() -> None:
    begun_after = []

    async def story() -> Measurement:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        store = Recorder()
        plan = Plan(in_flight=1, seconds=0.5)
        return await run_load(
            plan,
            [operations_of(store, plan, 0)],
            Refused,
            at_start=lambda: begun_after.append(loop.time() - begin),
        )

    assert asyncio.run(story()).seconds == 0.5
    assert begun_after[0] >= 0.1
    assert Plan(seconds=100).warm_up_seconds == 2.0


def test_percentiles() -> None:
    measurement = Measurement(array("q", [i * 1_000_000 for i in range(1, 1002)]), seconds=1.0)
    assert measurement.latency_ms() == {"p50": 501.0, "p90": 901.0, "p99": 991.0, "p999": 1000.0}
    assert Measurement().latency_ms() == {}
    assert Measurement().per_second == 0.0
