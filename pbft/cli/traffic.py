"""Clients that read and write a few contended keys all the time, and remember what they saw."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pbft.sim.checkers.history import (
    Action,
    Cas,
    Delete,
    Get,
    Operation,
    Outcome,
    Put,
    Result,
)
from pbft.types import Micros
from pbft_client import Client
from pbft_client.errors import ClientError, may_take_effect
from pbft_client.results import Execution

KEY_PREFIX = b"traffic/"
FAILURES_KEPT = 20


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """How much load, on what."""

    keys: int = 10
    workers_per_client: int = 2
    pause_seconds: float = 0.01
    """Between two operations of one worker: the machine has other things to do."""
    operation_seconds: float = 30.0
    seed: int = 0


@dataclass(slots=True)
class Worker:
    """One sequence of operations: the next begins when the last has ended."""

    name: str
    client: Client
    random: random.Random
    written: int = 0
    seen: dict[bytes, bytes | None] = field(default_factory=dict)
    """The last value seen or written per key: what a compare-and-swap expects."""


class Traffic:
    """Runs from entering the context to leaving it; the history is complete after that."""

    def __init__(self, clients: Sequence[Client], plan: TrafficPlan | None = None) -> None:
        """The clients stay the caller's to close, after the traffic has ended."""
        self.plan = plan or TrafficPlan()
        self.history: list[Operation] = []
        self.failures: list[str] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._workers = [
            Worker(f"{index}.{number}", client, random.Random(f"{self.plan.seed}/{index}/{number}"))
            for index, client in enumerate(clients)
            for number in range(self.plan.workers_per_client)
        ]

    @property
    def acknowledged(self) -> int:
        """Operations that were answered so far."""
        return sum(operation.outcome is Outcome.OK for operation in self.history)

    @property
    def failed(self) -> int:
        """Operations that ended without an answer so far."""
        return len(self.history) - self.acknowledged

    async def __aenter__(self) -> Self:
        # Keys of an earlier run would be values that nobody wrote in this history.
        for number in range(self.plan.keys):
            await self._workers[0].client.delete(self._key(number))
        self._tasks = [asyncio.create_task(self._work(worker)) for worker in self._workers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """No new operation begins; waits for those under way."""
        self._stopping = True
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def check_running(self) -> None:
        """Raises what ended a worker before its time."""
        for task in self._tasks:
            if task.done() and not self._stopping:
                task.result()

    async def read_all(self) -> None:
        """Reads every key once: what was acknowledged and is lost shows at the latest now."""
        for number in range(self.plan.keys):
            await self._operate(self._workers[0], Get(self._key(number)))

    async def _work(self, worker: Worker) -> None:
        while not self._stopping:
            await self._operate(worker, self._draw(worker))
            await asyncio.sleep(self.plan.pause_seconds)

    async def _operate(self, worker: Worker, action: Action) -> None:
        """One operation of a worker, recorded whatever its outcome."""
        invoked_us = _now_us()
        outcome, result, position = Outcome.OK, None, None
        try:
            result, position = await self._perform(worker.client, action)
        except ClientError as error:
            unknown = may_take_effect(error)
            outcome = Outcome.UNKNOWN if unknown else Outcome.FAILED
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append(f"{action}: {type(error).__name__}: {error}")
        else:
            _learn(worker, action, result)
        self.history.append(
            Operation(
                client=worker.name,
                action=action,
                invoked_us=invoked_us,
                completed_us=_now_us(),
                outcome=outcome,
                result=result,
                position=position,
            )
        )

    def _draw(self, worker: Worker) -> Action:
        """The next operation: every value is written at most once, so that a read tells whose."""
        key = self._key(worker.random.randrange(self.plan.keys))
        worker.written += 1
        value = f"{worker.name}/{worker.written}".encode()
        share = worker.random.random()
        if share < 0.40:
            return Get(key)
        if share < 0.70:
            return Put(key, value)
        if share < 0.95:
            return Cas(key, worker.seen.get(key), value)
        return Delete(key)

    async def _perform(
        self, client: Client, action: Action
    ) -> tuple[Result, tuple[int, int] | None]:
        """Result and place in the common order of an operation that was answered."""
        timeout = self.plan.operation_seconds
        match action:
            case Get():
                found = await client.get(action.key, timeout=timeout)
                return (None if found is None else found.value), None
            case Put():
                put = await client.put(action.key, action.value, timeout=timeout)
                return None, _position(put.execution, put.revision, changed=True)
            case Cas():
                cas = await client.cas(
                    action.key, expect=action.expect, value=action.value, timeout=timeout
                )
                place = _position(cas.execution, cas.revision, changed=cas.succeeded)
                return cas.succeeded, place
            case Delete():
                delete = await client.delete(action.key, timeout=timeout)
                deleted = delete.deleted > 0
                return deleted, _position(delete.execution, delete.revision, changed=deleted)
            case _:
                raise AssertionError(f"traffic never draws {action}")

    def _key(self, number: int) -> bytes:
        return KEY_PREFIX + str(number).encode()


def _position(execution: Execution, revision: int, *, changed: bool) -> tuple[int, int]:
    """The order of operations in one batch: a change has its revision, and what changed nothing
    comes after the change that made the revision it saw."""
    return execution.sequence, 2 * revision + (0 if changed else 1)


def _learn(worker: Worker, action: Action, result: Result) -> None:
    match action:
        case Get():
            assert result is None or isinstance(result, bytes)
            worker.seen[action.key] = result
        case Put():
            worker.seen[action.key] = action.value
        case Cas() if result is True:
            worker.seen[action.key] = action.value
        case Delete():
            worker.seen[action.key] = None


def _now_us() -> Micros:
    return time.monotonic_ns() // 1_000
