"""What the calls of the client return: plain values, every one verified by f + 1 or q replicas.

What every put makes is not frozen: a frozen object takes three times as long to make, and nobody
else has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pbft.types import Micros, SequenceNumber


@dataclass(slots=True)
class Execution:
    """Where in the common order an operation was executed: for checking a history afterwards."""

    sequence: SequenceNumber
    """Sequence number of the batch."""
    session: int
    number: int
    """The request (session, number) that carried the operation."""
    index: int
    """Position of the operation in its request."""
    agreed_time_us: Micros
    """Agreed time of the batch: wall clock, microseconds."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value and etcd's revisions (service.md section 3, rule 4)."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(slots=True)
class PutResult:
    """A put that was executed."""

    revision: int
    """Revision of the store that this put made."""
    previous: KeyValue | None
    """The pair before the put, if it was asked for and there was one."""
    execution: Execution


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """A delete that was executed."""

    revision: int
    deleted: int
    """How many keys it deleted."""
    previous: tuple[KeyValue, ...]
    """The pairs before the delete, if they were asked for."""
    execution: Execution


@dataclass(frozen=True, slots=True)
class CasResult:
    """A compare-and-swap that was executed; true when it swapped."""

    succeeded: bool
    revision: int
    """Revision of the store afterwards."""
    execution: Execution

    def __bool__(self) -> bool:
        return self.succeeded


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Keys of a range in ascending order, unless another order was asked for."""

    items: tuple[KeyValue, ...]
    count: int
    """Keys in the range, whatever the limit."""
    more: bool
    """Whether the limit cut something off."""
    revision: int | None
    """Revision of the store at the read; None for a fast read that did not ask for it."""
    execution: Execution | None
    """None for a fast read, which has no place of its own in the order."""

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Executed:
    """The result of an operation of any service."""

    result: bytes
    execution: Execution
