"""Closed-loop load: so many operations in flight at any time, each latency recorded."""

import asyncio
import random
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

KEYS = 10_000
"""Keys that the load is spread over, unless the plan says otherwise."""
WARM_UP_SECONDS_MAX = 2.0
WARM_UP_SHARE = 0.2
PRELOAD_IN_FLIGHT = 1024
ERRORS_KEPT = 5
ERROR_PAUSE_SECONDS = 0.05
"""After a failed operation, so that a cluster that is down is not hammered by a busy loop."""
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

Operation = Callable[[int], Awaitable[object]]
"""One operation on key number k."""


class Store(Protocol):
    """What the load needs of a client; what another store's client can be measured with too."""

    def put(self, key: bytes, value: bytes) -> Awaitable[object]:
        """Sets a key; done when it is acknowledged."""
        ...

    def get(self, key: bytes) -> Awaitable[object]:
        """Reads a key linearizably."""
        ...


class Workload(Enum):
    """What is measured."""

    PUT = "put"
    GET = "get"
    MIXED = "mixed"
    """Puts and gets in turn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    workload: Workload = Workload.PUT
    in_flight: int = 256
    """Operations under way at any time, over all clients."""
    clients: int = 1
    """Client identities that the operations are spread over."""
    value_bytes: int = 100
    seconds: float = 10.0
    """Measured, after the warm-up."""
    keys: int = KEYS
    """Keys that the operations are spread over."""

    @property
    def warm_up_seconds(self) -> float:
        """Load that is not measured: connections open, queues fill."""
        return min(WARM_UP_SECONDS_MAX, WARM_UP_SHARE * self.seconds)


@dataclass(slots=True)
class Measurement:
    """What happened between the end of the warm-up and the end of the load."""

    latencies_ns: "array[int]" = field(default_factory=lambda: array("q"))
    """One per operation that was acknowledged."""
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def operations(self) -> int:
        """How many were acknowledged."""
        return len(self.latencies_ns)

    @property
    def per_second(self) -> float:
        """Acknowledged operations per second."""
        return self.operations / self.seconds if self.seconds else 0.0

    def latency_ms(self) -> dict[str, float]:
        """Percentiles in milliseconds; empty if nothing was acknowledged."""
        ordered = sorted(self.latencies_ns)
        last = len(ordered) - 1
        if last < 0:
            return {}
        return {
            name: round(ordered[round(share * last)] / 1e6, 3)
            for name, share in PERCENTILES.items()
        }

    def note_error(self, error: Exception) -> None:
        """Counts a failed operation and keeps the first few texts."""
        self.errors += 1
        if len(self.first_errors) < ERRORS_KEPT:
            self.first_errors.append(f"{type(error).__name__}: {error}")


def key_of(number: int) -> bytes:
    """The name of key number `number`."""
    return b"bench/%08d" % number


def operations_of(client: Store, plan: Plan, seed: int) -> Operation:
    """What one client does with key number k. Values differ, so that nothing can be deduplicated
    on the way."""
    source = random.Random(seed)
    value = bytearray(source.randbytes(plan.value_bytes))
    turn = 0

    def put(key: int) -> Awaitable[object]:
        nonlocal turn
        turn += 1
        mark = turn.to_bytes(8, "big")[-len(value) :] if value else b""
        value[: len(mark)] = mark
        return client.put(key_of(key), bytes(value))

    def mixed(key: int) -> Awaitable[object]:
        return put(key) if source.random() < 0.5 else client.get(key_of(key))

    if plan.workload is Workload.PUT:
        return put
    if plan.workload is Workload.MIXED:
        return mixed
    return lambda key: client.get(key_of(key))


async def preload(client: Store, plan: Plan) -> None:
    """Writes every key once, so that reads find something."""
    numbers = iter(range(plan.keys))
    value = random.Random(0).randbytes(plan.value_bytes)

    async def worker() -> None:
        for number in numbers:
            await client.put(key_of(number), value)

    await asyncio.gather(*(worker() for _ in range(PRELOAD_IN_FLIGHT)))


async def run_load(
    plan: Plan,
    operations: Sequence[Operation],
    expected: type[Exception],
    at_start: Callable[[], object] = lambda: None,
) -> Measurement:
    """Keeps the planned number of operations going, spread over `operations` (one per client).

    `at_start` is called when the warm-up is over. An exception of the type `expected` counts as a
    failed operation; any other ends the load. Operations that are still under way when the time is
    up are waited for but not counted.
    """
    measurement = Measurement()
    started = time.monotonic_ns() + int(plan.warm_up_seconds * 1e9)
    end = started + int(plan.seconds * 1e9)

    async def worker(index: int) -> None:
        operation = operations[index % len(operations)]
        draw, keys = random.Random(index).random, plan.keys
        clock, note_latency = time.monotonic_ns, measurement.latencies_ns.append
        while (begin := clock()) < end:
            try:
                await operation(int(draw() * keys))
            except expected as error:
                if started <= clock() < end:
                    measurement.note_error(error)
                await asyncio.sleep(ERROR_PAUSE_SECONDS)
                continue
            if started <= (now := clock()) < end:
                note_latency(now - begin)

    async def announce() -> None:
        await asyncio.sleep(plan.warm_up_seconds)
        at_start()

    await asyncio.gather(announce(), *(worker(index) for index in range(plan.in_flight)))
    measurement.seconds = plan.seconds
    return measurement
