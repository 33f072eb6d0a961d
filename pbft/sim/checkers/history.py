"""What clients saw: the history that both linearizability checkers judge, and its model.

A history is a list of `Operation`, in any order. The model is one value (or None) per key; results
are what the model returns: `Put` None, `Get` the value or None, `Delete` whether there was a value,
`Cas` whether it was exchanged, `Range` the pairs in order of their keys.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from pbft.types import Micros

Value: TypeAlias = bytes | None
"""The value of a key; None for a key that does not exist."""


@dataclass(frozen=True, slots=True)
class Put:
    """Writes a key. Result: None."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """Reads a key. Result: its value, None if there is none."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a key. Result: whether it existed."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Cas:
    """Writes a key if its value is `expect` (None: if it does not exist). Result: whether it
    did."""

    key: bytes
    expect: Value
    value: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """Reads all keys from `start` to below `end` (None: to the end). Result: pairs by key."""

    start: bytes
    end: bytes | None

    def covers(self, key: bytes) -> bool:
        """Whether `key` is within the range."""
        return self.start <= key and (self.end is None or key < self.end)


KeyAction: TypeAlias = Put | Get | Delete | Cas
"""What concerns one key: all that the black-box check can judge exactly."""
Action: TypeAlias = KeyAction | Range
Result: TypeAlias = bytes | bool | tuple[tuple[bytes, bytes], ...] | None


class Outcome(Enum):
    """What the client knows about its operation in the end."""

    OK = "ok"
    """It took effect once, between invocation and completion, and had this result."""
    FAILED = "failed"
    """It took no effect and never will."""
    UNKNOWN = "unknown"
    """It may have taken effect, may do so at any later time, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client, between two instants of one clock (microseconds).

    `result` matters for OK only; `completed_us` does not for UNKNOWN. `position` is where it was
    executed, for the witness check: (sequence, index within the batch), None where that is not
    known, and for a fast read, which is executed nowhere. Operations without an effect may share a
    position with others. Where replies do not tell the index, twice the store's revision in the
    result, plus one if the operation changed nothing, stands for it: the order is the same.
    """

    client: str
    action: Action
    invoked_us: Micros
    completed_us: Micros
    outcome: Outcome = Outcome.OK
    result: Result = None
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        end = "?" if self.outcome is Outcome.UNKNOWN else str(self.completed_us)
        told = f" -> {self.result!r}" if self.outcome is Outcome.OK else f" ({self.outcome.value})"
        place = "" if self.position is None else f" at {self.position[0]}/{self.position[1]}"
        return f"{self.client}: {self.action}{told} in [{self.invoked_us}, {end}] us{place}"


@dataclass(frozen=True, slots=True)
class Violation:
    """The first thing found that no linearizable store does."""

    check: str
    operation: Operation
    explanation: str

    def __str__(self) -> str:
        return f"{self.check}: {self.operation}: {self.explanation}"


def apply(action: KeyAction, value: Value) -> tuple[Value, Result]:
    """The model: the value after the action on a key with this value, and the action's result."""
    match action:
        case Put():
            return action.value, None
        case Get():
            return value, value
        case Delete():
            return None, value is not None
        case Cas():
            return (action.value, True) if value == action.expect else (value, False)


def is_read(action: Action) -> bool:
    """Whether it never changes anything."""
    return isinstance(action, Get | Range)
