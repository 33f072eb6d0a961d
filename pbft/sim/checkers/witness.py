"""The witness check: replay the order of execution, hold results and real time against it.

Operations name the position at which they were executed. Then linearizability needs no search:
the order must respect real time, each result must be the model's, and a fast read (which has no
position) must match some state between what was complete before it and what began after it.

An operation of unknown outcome without a position may stand anywhere from its invocation on. It is
brought in only where a result cannot be explained otherwise. For executed operations it is spent
once no choice of the others explains the result; until then, and for fast reads, it may explain any
number of them. So a history with such operations may pass here and fail the black-box check, but no
linearizable history is rejected.
"""

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from pbft.sim.checkers.history import (
    Cas,
    Get,
    KeyAction,
    Operation,
    Outcome,
    Put,
    Range,
    Value,
    Violation,
    apply,
    is_read,
)

CHECK = "witness"
NEVER = float("inf")


def check_witness(history: Iterable[Operation]) -> Violation | None:
    """The first violation, None if the order of execution explains the history.

    Raises ValueError if a write that took effect has no position: there is no witness then.
    """
    operations = list(history)
    executed = sorted(
        (operation for operation in operations if operation.position is not None), key=_order
    )
    unplaced = defaultdict(list)
    fast_reads = []
    for operation in operations:
        if operation.position is not None or operation.outcome is Outcome.FAILED:
            continue
        if operation.outcome is Outcome.OK:
            if not is_read(operation.action):
                raise ValueError(f"no position is known: {operation}")
            fast_reads.append(operation)
        elif not isinstance(operation.action, Get | Range):
            unplaced[operation.action.key].append(operation)
    for operation in operations:
        if not _is_well_formed(operation):
            return Violation(CHECK, operation, "these are not pairs of the range in order")
    if (violation := _check_order(executed)) is not None:
        return violation
    keys = sorted({key for operation in operations for key in _keys_of(operation)})
    replay = _Replay(keys, unplaced, executed)
    return replay.run() or _FastReads(replay, executed).check(fast_reads)


def _order(operation: Operation) -> tuple[tuple[int, int], int]:
    assert operation.position is not None
    return operation.position, operation.invoked_us


def _completed_us(operation: Operation) -> float:
    return NEVER if operation.outcome is Outcome.UNKNOWN else operation.completed_us


def _keys_of(operation: Operation) -> tuple[bytes, ...]:
    if not isinstance(operation.action, Range):
        return (operation.action.key,)
    return tuple(key for key, _ in _pairs_of(operation))


def _pairs_of(operation: Operation) -> tuple[tuple[bytes, bytes], ...]:
    return operation.result if isinstance(operation.result, tuple) else ()


def _is_well_formed(operation: Operation) -> bool:
    """Whether the result of a range has keys of the range, ascending, each once."""
    if not isinstance(operation.action, Range) or operation.outcome is not Outcome.OK:
        return True
    keys = [key for key, _ in _pairs_of(operation)]
    return keys == sorted(set(keys)) and all(map(operation.action.covers, keys))


def _has_effect(operation: Operation) -> bool:
    """Whether it may have changed the value, as far as its client knows."""
    if operation.outcome is Outcome.UNKNOWN:
        return not is_read(operation.action)
    return not is_read(operation.action) and operation.result is not False


def _check_order(executed: list[Operation]) -> Violation | None:
    """Positions are unique, only what was reported as done has one, and they respect real time."""
    latest: Operation | None = None
    previous: Operation | None = None
    for operation in executed:
        if operation.outcome is Outcome.FAILED:
            return Violation(CHECK, operation, "it was executed, but reported as failed")
        if (
            previous is not None
            and previous.position == operation.position
            and (_has_effect(previous) or _has_effect(operation))
        ):
            return Violation(CHECK, operation, f"it shares its position with {previous}")
        if latest is not None and latest.invoked_us > _completed_us(operation):
            text = f"it was complete before one that was executed earlier had begun: {latest}"
            return Violation(CHECK, operation, text)
        if latest is None or operation.invoked_us > latest.invoked_us:
            latest = operation
        previous = operation
    return None


@dataclass(slots=True)
class _Timeline:
    """The values one key had. State number j is the one after j executed operations."""

    values: frozenset[Value] = frozenset((None,))
    """Now. More than one where operations of unknown outcome leave it open."""
    since: int = 0
    intervals: dict[object, list[tuple[int, float]]] = field(default_factory=dict)
    """For each value the states [from, before) in which the key may have had it, ascending."""

    def change(self, values: frozenset[Value], state: int) -> None:
        """From this state on the key has one of `values`."""
        if values != self.values:
            self._close(state)
            self.values, self.since = values, state

    def finish(self) -> None:
        """What is now lasts for ever."""
        self._close(NEVER)

    def _close(self, before: float) -> None:
        for value in self.values:
            self.intervals.setdefault(value, []).append((self.since, before))

    def first_state(self, value: object, low: float) -> float:
        """The first state at or after `low` with this value, NEVER if there is none."""
        intervals = self.intervals.get(value, [])
        index = bisect_right(intervals, low, key=lambda interval: interval[1])
        return max(low, intervals[index][0]) if index < len(intervals) else NEVER


class _Replay:
    """The executed operations, one after the other, through the model."""

    def __init__(
        self,
        keys: list[bytes],
        unplaced: Mapping[bytes, list[Operation]],
        executed: list[Operation],
    ) -> None:
        self.timelines = {key: _Timeline() for key in keys}
        self._keys = keys
        self._executed = executed
        self._unplaced = unplaced
        self._unspent = {key: list(operations) for key, operations in unplaced.items()}
        # An operation may stand before number j only if it began before all from j on completed.
        completions = [_completed_us(operation) for operation in reversed(executed)]
        self._open_until_us = list(accumulate(completions, min))[::-1]

    def run(self) -> Violation | None:
        """The first result that is not the model's."""
        for index, operation in enumerate(self._executed):
            for key, action, result in self.observations(operation):
                if not self._step(key, action, operation, result, index):
                    values = sorted(map(repr, self.timelines[key].values))
                    text = f"at its position {key!r} has the value {' or '.join(values)}"
                    return Violation(CHECK, operation, text)
        for timeline in self.timelines.values():
            timeline.finish()
        return None

    def observations(self, operation: Operation) -> list[tuple[bytes, KeyAction, object]]:
        """What an operation does to each key, with its result: a range is a read of each key."""
        action = operation.action
        if not isinstance(action, Range):
            return [(action.key, action, operation.result)]
        if operation.outcome is Outcome.UNKNOWN:
            return []
        found = dict(_pairs_of(operation))
        first = bisect_left(self._keys, action.start)
        last = len(self._keys) if action.end is None else bisect_left(self._keys, action.end)
        return [(key, Get(key), found.get(key)) for key in self._keys[first : max(first, last)]]

    def could_be(self, key: bytes, value: object, latest_invocation_us: float) -> bool:
        """Whether an operation of unknown outcome, begun by then, may have left this value."""
        return any(
            operation.invoked_us <= latest_invocation_us and _value_after(operation) == value
            for operation in self._unplaced.get(key, ())
        )

    def _step(
        self, key: bytes, action: KeyAction, operation: Operation, result: object, index: int
    ) -> bool:
        timeline = self.timelines[key]
        is_known = operation.outcome is Outcome.OK
        values = _after(timeline.values, action, result, is_known)
        lacking = _lacking(timeline.values, action, result, is_known)
        if lacking and (unspent := self._unspent.get(key)):
            begun = [other for other in unspent if other.invoked_us <= self._open_until_us[index]]
            brought_in = _after(_reachable(lacking, begun), action, result, is_known)
            if not values:
                for other in begun:
                    rest = [write for write in begun if write is not other]
                    if not _after(_reachable(lacking, rest), action, result, is_known):
                        unspent.remove(other)
            values |= brought_in
        if values:
            timeline.change(values, index + 1)
        return bool(values)


def _after(
    values: Iterable[Value], action: KeyAction, result: object, is_known: bool
) -> frozenset[Value]:
    """The values after the action, from those before it that give the result."""
    outcomes = (apply(action, value) for value in values)
    return frozenset(value for value, told in outcomes if not is_known or told == result)


def _lacking(
    values: frozenset[Value], action: KeyAction, result: object, is_known: bool
) -> frozenset[Value]:
    """The values before the action for which it matters whether an unplaced write comes between.

    Where the result is right without, the write may as well come later: nothing else changes. Not
    so if the result is unknown and depends on the value.
    """
    if isinstance(action, Cas) and not is_known:
        return values
    return frozenset(value for value in values if not _after([value], action, result, is_known))


def _value_after(operation: Operation) -> Value:
    """The value after a write that takes effect."""
    match operation.action:
        case Put() | Cas():
            return operation.action.value
        case _:
            return None


def _reachable(values: frozenset[Value], writes: list[Operation]) -> frozenset[Value]:
    """All values that some of the writes, in some order, may lead to."""
    reachable = values
    while True:
        more = reachable | {
            _value_after(write)
            for write in writes
            if not isinstance(write.action, Cas) or write.action.expect in reachable
        }
        if more == reachable:
            return reachable
        reachable = more


class _FastReads:
    """Finds for each fast read a state that it matches (protocol.md section 11).

    State number j is the one after j executed operations. A read gets the first state that matches
    and is not before what had completed when it began: the earlier it is placed, the more room is
    left for the reads after it, so that taking the first never misses a solution.
    """

    def __init__(self, replay: _Replay, executed: list[Operation]) -> None:
        self._replay = replay
        by_completion = sorted(
            (_completed_us(operation), index + 1) for index, operation in enumerate(executed)
        )
        self._completions = [instant for instant, _ in by_completion]
        self._lowest = list(accumulate((state for _, state in by_completion), max))
        by_invocation = sorted(
            (operation.invoked_us, index) for index, operation in enumerate(executed)
        )
        self._invocations = [instant for instant, _ in by_invocation]
        self._highest = list(accumulate((state for _, state in by_invocation[::-1]), min))[::-1]
        self._states = len(executed)

    def check(self, reads: list[Operation]) -> Violation | None:
        """The first read, by invocation, that matches no state it may have seen."""
        reads = sorted(reads, key=lambda read: (read.invoked_us, read.completed_us))
        running: list[tuple[int, int]] = []
        seen = 0
        for read in reads:
            while running and running[0][0] < read.invoked_us:
                seen = max(seen, heapq.heappop(running)[1])
            before = bisect_left(self._completions, read.invoked_us)
            low = max(seen, self._lowest[before - 1] if before else 0)
            after = bisect_right(self._invocations, read.completed_us)
            high = self._highest[after] if after < len(self._highest) else self._states
            state = self._first_match(read, low)
            if state > high:
                text = f"it matches no state between number {low} and {high} of the execution"
                return Violation(CHECK, read, text)
            heapq.heappush(running, (read.completed_us, int(state)))
        return None

    def _first_match(self, read: Operation, low: int) -> float:
        """The first state at or after `low` in which every key has the value read."""
        state: float = low
        observations = [
            (self._replay.timelines[key], result)
            for key, _, result in self._replay.observations(read)
            if not self._replay.could_be(key, result, read.completed_us)
        ]
        moved = True
        while moved and state != NEVER:
            moved = False
            for timeline, result in observations:
                if (first := timeline.first_state(result, state)) > state:
                    state, moved = first, True
        return state
