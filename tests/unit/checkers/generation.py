"""Histories made by executing operations atomically at drawn instants: linearizable by
construction, until a test breaks them."""

from dataclasses import replace
from random import Random

from pbft.sim.checkers import Action, Cas, Delete, Get, Operation, Outcome, Put
from pbft.sim.checkers.history import apply


def executed_history(
    seed: int,
    operations: int,
    clients: int,
    keys: int,
    unknown: float = 0.0,
    fast_reads: float = 0.3,
    values: int | None = None,
) -> list[Operation]:
    """`unknown` is the share of operations whose client hears nothing (half of them are executed);
    `values` the number of different ones, None for a new one with every write."""
    random = Random(seed)
    state: dict[bytes, bytes | None] = {}
    history = []
    for number, (invoked, completed, client) in enumerate(_intervals(random, operations, clients)):
        key = b"key-%d" % random.randrange(keys)
        value = b"value-%d" % (number if values is None else random.randrange(values))
        action = _action(random, key, value, state.get(key))
        is_lost = random.random() < unknown
        if is_lost and random.random() < 0.5:
            history.append(Operation(client, action, invoked, completed, Outcome.UNKNOWN))
            continue
        state[key], result = apply(action, state.get(key))
        position = (number // 10, number % 10)
        if is_lost:
            history.append(Operation(client, action, invoked, completed, Outcome.UNKNOWN))
        elif isinstance(action, Get) and random.random() < fast_reads:
            history.append(Operation(client, action, invoked, completed, Outcome.OK, result))
        else:
            history.append(
                Operation(client, action, invoked, completed, Outcome.OK, result, position)
            )
    random.shuffle(history)
    return history


def _intervals(random: Random, operations: int, clients: int) -> list[tuple[int, int, str]]:
    """Invocation, completion and client of each operation, in the order of their execution."""
    intervals = []
    for client in range(clients):
        now = random.randrange(100)
        for _ in range(operations // clients):
            executed = now + random.randrange(1, 100)
            completed = executed + random.randrange(1, 100)
            intervals.append((executed, now, completed, f"client {client}"))
            now = completed + random.randrange(1, 20)
    return [(invoked, completed, client) for _, invoked, completed, client in sorted(intervals)]


def _action(random: Random, key: bytes, value: bytes, current: bytes | None) -> Action:
    kind = random.random()
    if kind < 0.4:
        return Put(key, value)
    if kind < 0.8:
        return Get(key)
    if kind < 0.85:
        return Delete(key)
    return Cas(key, current if random.random() < 0.6 else b"other", value)


def without_positions(history: list[Operation]) -> list[Operation]:
    return [replace(operation, position=None) for operation in history]
