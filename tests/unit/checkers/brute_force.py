"""Linearizability of tiny histories of one key by trying every order of every subset."""

from itertools import combinations, permutations

from pbft.sim.checkers import Operation, Outcome
from pbft.sim.checkers.history import apply, is_read


def is_linearizable(history: list[Operation]) -> bool:
    known = [operation for operation in history if operation.outcome is Outcome.OK]
    unknown = [
        operation
        for operation in history
        if operation.outcome is Outcome.UNKNOWN and not is_read(operation.action)
    ]
    return any(
        _explains(order)
        for size in range(len(unknown) + 1)
        for chosen in combinations(unknown, size)
        for order in permutations([*known, *chosen])
    )


def _explains(order: tuple[Operation, ...]) -> bool:
    value = None
    for index, operation in enumerate(order):
        for later in order[index + 1 :]:
            if later.outcome is Outcome.OK and later.completed_us < operation.invoked_us:
                return False
        value, result = apply(operation.action, value)
        if operation.outcome is Outcome.OK and result != operation.result:
            return False
    return True
