"""The black-box check: is there an order that explains what the clients saw?

Wing and Gong's search ("Testing and verifying concurrent objects", 1993) with Lowe's memoisation
("Testing for linearizability", 2017), for each key alone: a history is linearizable if it is for
each object (Herlihy and Wing, 1990). The search is exact, and exponential in the worst case; four
rules, each with its argument below, keep it near linear for histories of a key-value store.

1. An operation that changed nothing (a read, a failed cas) and fits the value is placed at once: in
   any order that goes on from here it can be moved to the front.
2. A value that is still to be read, and that nothing can write again, is not overwritten; nor one
   from which only a cas of unknown outcome leads to such a value.
3. An operation of unknown outcome is placed only where something notices it: if the next one has
   the same result and leaves the same value without it, the order without it is just as good.
4. What failed with some operations of unknown outcome spent fails with more of them spent.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pbft.errors import PbftError
from pbft.sim.checkers.history import (
    Cas,
    Delete,
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

CHECK = "black box"
STEPS_MAX = 5_000_000
NEVER = float("inf")


class CheckUndecided(PbftError):
    """The search gave up: neither verdict is known. Less concurrency or fewer keys would help."""


def check_black_box(history: Iterable[Operation], steps_max: int = STEPS_MAX) -> Violation | None:
    """The first violation that the clients could see, None if the history is linearizable.

    A range counts as a read of each key in it; that the keys were read at one instant is for the
    witness check. Raises CheckUndecided after `steps_max` placements on one key.
    """
    for key, operations in sorted(_by_key(list(history)).items()):
        if not _Search(operations, steps_max).finds_an_order():
            return _first_violation(key, operations, steps_max)
    return None


def _first_violation(key: bytes, operations: list[Operation], steps_max: int) -> Violation:
    """Names the operation whose completion ends the shortest prefix that nothing explains.

    Prefixes of a linearizable history are linearizable, so that halving finds it.
    """
    completed = [operation for operation in operations if operation.outcome is Outcome.OK]
    completed.sort(key=lambda operation: operation.completed_us)
    low, high = 0, len(completed) - 1
    while low < high:
        middle = (low + high) // 2
        prefix = list(_prefix(operations, completed[: middle + 1]))
        try:
            is_explained = _Search(prefix, steps_max).finds_an_order()
        except CheckUndecided:
            is_explained = True
        low, high = (middle + 1, high) if is_explained else (low, middle)
    blamed = completed[high]
    begun = [other for other in operations if other.invoked_us <= blamed.completed_us]
    value = blamed.result
    if isinstance(value, bytes) and not any(value in _Step.of(other).writes for other in begun):
        return Violation(CHECK, blamed, "nobody had begun to write this value")
    text = f"no order of the operations on {key!r} that had begun by then explains this result"
    return Violation(CHECK, blamed, text)


def _prefix(operations: list[Operation], completed: list[Operation]) -> Iterator[Operation]:
    """The history up to the last of `completed`: what was still running then is unknown."""
    end_us = completed[-1].completed_us
    is_completed = set(map(id, completed))
    for operation in operations:
        if id(operation) in is_completed:
            yield operation
        elif operation.invoked_us <= end_us and not is_read(operation.action):
            yield replace(operation, outcome=Outcome.UNKNOWN)


def _by_key(history: list[Operation]) -> dict[bytes, list[Operation]]:
    """What constrains or may change each key: no failed operations, no reads without an answer."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    ranges = []
    for operation in history:
        action = operation.action
        if operation.outcome is Outcome.FAILED:
            continue
        if is_read(action) and operation.outcome is Outcome.UNKNOWN:
            continue
        if isinstance(action, Range):
            ranges.append(operation)
        else:
            by_key[action.key].append(operation)
    for operation in ranges:
        for key, value in _range_reads(operation, by_key):
            by_key[key].append(replace(operation, action=Get(key), result=value))
    return by_key


def _range_reads(operation: Operation, known: Iterable[bytes]) -> Iterator[tuple[bytes, Value]]:
    """What a range says about each key that it covers."""
    assert isinstance(operation.action, Range) and isinstance(operation.result, tuple)
    found = dict(operation.result)
    absent = [key for key in known if operation.action.covers(key) and key not in found]
    yield from found.items()
    for key in absent:
        yield key, None


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation as the search needs it."""

    operation: Operation
    action: KeyAction
    is_passive: bool
    """Its result says that it changed nothing."""
    needs: tuple[Value, ...]
    """The one value before it that its result allows; empty if there is no single one."""
    writes: tuple[Value, ...]
    """The value after it; empty if it changes nothing."""
    rank: int = 0
    """The search tries lower ranks first. A guess that only costs time if wrong."""

    @classmethod
    def of(cls, operation: Operation) -> "_Step":
        action, result = operation.action, operation.result
        is_known = operation.outcome is Outcome.OK
        match action:
            case Put():
                return cls(operation, action, False, (), (action.value,))
            case Get():
                assert result is None or isinstance(result, bytes)
                return cls(operation, action, True, (result,), ())
            case Delete():
                if is_known and result is False:
                    return cls(operation, action, True, (None,), ())
                return cls(operation, action, False, (), (None,))
            case Cas():
                if is_known and result is False:
                    return cls(operation, action, True, (), ())
                needs = (action.expect,) if is_known else ()
                return cls(operation, action, False, needs, (action.value,))
            case Range():
                raise AssertionError("a range is taken apart before")

    def after(self, value: Value) -> tuple[bool, Value]:
        """Whether the operation fits this value, and the value after it."""
        new_value, result = apply(self.action, value)
        if self.operation.outcome is Outcome.UNKNOWN:
            return True, new_value
        return result == self.operation.result, new_value


@dataclass(slots=True)
class _Frame:
    """A configuration of the search: what is placed, and what it has led to."""

    low: int
    """All required steps below are placed."""
    mask: int
    """Bit i: required step low + i is placed."""
    spent: int
    """Bit i: optional step i is placed."""
    value: Value
    unnoticed: tuple[Value, ...]
    """The value before the last step, if that is an optional one that nothing has noticed yet."""
    placed: list[_Step]
    """The steps that led here from the frame below."""
    options: Iterator[tuple[_Step, int, bool]]
    """Steps to try next, with their index and whether they are required."""


class _Search:
    """The search for an order of the operations on one key."""

    def __init__(self, operations: list[Operation], steps_max: int) -> None:
        self._steps_left = steps_max
        steps = [_Step.of(operation) for operation in operations]
        steps.sort(key=lambda step: (step.operation.invoked_us, step.operation.completed_us))
        self._to_read = Counter(value for step in steps for value in step.needs)
        self._to_write = Counter(value for step in steps for value in step.writes)
        steps = self._rank(steps)
        self._required = [step for step in steps if step.operation.outcome is Outcome.OK]
        self._optional = [step for step in steps if step.operation.outcome is Outcome.UNKNOWN]
        # For each value what optional exchanges would make of it, with their indices.
        self._exchanges: dict[Value, list[tuple[int, Value]]] = defaultdict(list)
        for index, step in enumerate(self._optional):
            if isinstance(step.action, Cas):
                self._exchanges[step.action.expect].append((index, step.action.value))
        # For each (low, mask, value) the sets of spent steps that were tried and not contained in
        # one another.
        self._tried: dict[tuple[int, int, Value], list[int]] = {}

    def finds_an_order(self) -> bool:
        """Whether the operations are linearizable. Raises CheckUndecided."""
        if self._is_seen_before_written():
            return False
        start = self._enter(0, 0, 0, None, (), [])
        assert start is not None, "nothing was tried before"
        stack = [start]
        while stack:
            frame = stack[-1]
            if frame.low == len(self._required):
                return True
            option = next(frame.options, None)
            if option is None:
                self._undo(stack.pop().placed)
            elif (child := self._place(frame, *option)) is not None:
                stack.append(child)
        return False

    def _is_seen_before_written(self) -> bool:
        """The commonest violation, found without a search."""
        written: dict[Value, float] = {None: -NEVER}
        for step in (*self._required, *self._optional):
            for value in step.writes:
                written[value] = min(written.get(value, NEVER), step.operation.invoked_us)
        return any(
            written.get(value, NEVER) > step.operation.completed_us
            for step in self._required
            for value in step.needs
        )

    def _place(self, frame: _Frame, step: _Step, index: int, is_required: bool) -> _Frame | None:
        """The configuration after one more step; None if it leads nowhere."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise CheckUndecided("no order was found in the steps allowed, and none ruled out")
        fits, value = step.after(frame.value)
        if not fits:
            return None
        if not is_required and value == frame.value:
            return None  # Rule 3: it leaves no trace at all.
        if frame.unnoticed and step.after(frame.unnoticed[0]) == (True, value):
            return None  # Rule 3.
        self._count(step, -1)
        mask, spent = frame.mask, frame.spent
        if is_required:
            mask |= 1 << (index - frame.low)
        else:
            spent |= 1 << index
        if (
            value != frame.value
            and self._to_write[frame.value] == 0
            and self._would_miss(frame.value, spent, value)
        ):
            self._count(step, 1)
            return None  # Rule 2.
        unnoticed = () if is_required else (frame.value,)
        return self._enter(frame.low, mask, spent, value, unnoticed, [step])

    def _would_miss(self, lost: Value, spent: int, current: Value) -> bool:
        """Whether `lost`, which nothing can write again, is still to be read, or is what the only
        writer of such a value expects."""
        if self._to_read[lost] > 0:
            return True
        return any(
            not spent >> index & 1
            and self._to_write[value] == 1
            and value != current
            and self._would_miss(value, spent, current)
            for index, value in self._exchanges.get(lost, ())
        )

    def _enter(
        self,
        low: int,
        mask: int,
        spent: int,
        value: Value,
        unnoticed: tuple[Value, ...],
        placed: list[_Step],
    ) -> _Frame | None:
        """Places what rule 1 allows and finds the options; None if it was tried before."""
        while True:
            low, mask, options, deadline, passive = self._candidates(low, mask, value)
            if not passive:
                break
            unnoticed = ()
            for step, index in passive:
                mask |= 1 << (index - low)
                placed.append(step)
                self._count(step, -1)
        tried = self._tried.setdefault((low, mask, value), [])
        if any(other & ~spent == 0 for other in tried):
            self._undo(placed)
            return None  # Rule 4.
        tried[:] = [other for other in tried if spent & ~other]
        tried.append(spent)
        for index, step in enumerate(self._optional):
            if step.operation.invoked_us > deadline:
                break
            if not spent >> index & 1:
                options.append((step, index, False))
        options.sort(key=self._guess)
        return _Frame(low, mask, spent, value, unnoticed, placed, iter(options))

    def _guess(self, option: tuple[_Step, int, bool]) -> tuple[bool, int]:
        """What to try first: what must be placed or is still read, in the order of the ranks."""
        step, _, is_required = option
        return not is_required and not any(self._to_read[value] for value in step.writes), step.rank

    def _candidates(
        self, low: int, mask: int, value: Value
    ) -> tuple[int, int, list[tuple[_Step, int, bool]], float, list[tuple[_Step, int]]]:
        """The required steps that may come next: invoked before any other that is not placed has
        completed. Returns the shifted mask, the active ones, the earliest completion, and the
        passive ones that fit the value."""
        shift = _trailing_ones(mask)
        low, mask = low + shift, mask >> shift
        deadline = NEVER
        active: list[tuple[_Step, int, bool]] = []
        passive: list[tuple[_Step, int]] = []
        index, rest = low, mask
        while index < len(self._required):
            if skip := _trailing_ones(rest):
                index, rest = index + skip, rest >> skip
                continue
            step = self._required[index]
            if step.operation.invoked_us > deadline:
                break
            if step.is_passive and step.after(value)[0]:
                passive.append((step, index))
            else:
                deadline = min(deadline, step.operation.completed_us)
                if not step.is_passive:
                    active.append((step, index, True))
            index, rest = index + 1, rest >> 1
        return low, mask, active, deadline, passive

    def _count(self, step: _Step, difference: int) -> None:
        for value in step.needs:
            self._to_read[value] += difference
        for value in step.writes:
            self._to_write[value] += difference

    def _undo(self, placed: list[_Step]) -> None:
        for step in placed:
            self._count(step, 1)

    def _rank(self, steps: list[_Step]) -> list[_Step]:
        """A write comes before those whose value is still read later."""
        last_read: dict[Value, int] = {}
        for step in steps:
            for value in step.needs:
                last_read[value] = max(last_read.get(value, 0), step.operation.invoked_us)
        return [
            replace(
                step,
                rank=max(
                    step.operation.invoked_us, *(last_read.get(value, 0) for value in step.writes)
                )
                if step.writes
                else step.operation.invoked_us,
            )
            for step in steps
        ]


def _trailing_ones(mask: int) -> int:
    return (~mask & (mask + 1)).bit_length() - 1
