"""The worked example of a user's own service."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.core.ports import Service
from pbft.limits import ProtocolLimits
from pbft.service import counter
from pbft.service.api import Room, ServiceFactory
from pbft.service.counter import Counter
from tests.harness.records import DictState

CLIENT = b"c" * 32
MAKE: ServiceFactory = Counter


def test_it_counts() -> None:
    service: Service = MAKE(DictState(), ProtocolLimits())
    operations = (b"read", b"add 40", b"add 2")
    assert service.execute_all(operations, 0, CLIENT, Room(99, 99)) == [b"0", b"40", b"42"]
    assert service.query(b"read", 0) == b"42"


@pytest.mark.parametrize(
    ("room", "executed"),
    [(Room(3, 99), 2), (Room(99, 2), 2), (Room(5, 3), 3), (Room(0, 9), 0), (Room(9, -1), 0)],
)
def test_what_has_no_room_is_not_executed(room: Room, executed: int) -> None:
    """Results are of two bytes; each operation looks at one record."""
    service = Counter(DictState(), ProtocolLimits())
    service.execute(b"add 10", 0, CLIENT)
    before = Room(room.results_bytes, room.records)
    results = service.execute_all((b"add 1",) * 4, 0, CLIENT, room)
    assert results == [b"11", b"12", b"13"][:executed] + [b"error"] * (4 - executed)
    assert room.results_bytes == before.results_bytes - 2 * executed
    assert room.records == before.records - executed


def test_its_count_is_a_record() -> None:
    state = DictState()
    Counter(state, ProtocolLimits()).execute(b"add 7", 0, CLIENT)
    assert Counter(state, ProtocolLimits()).query(b"read", 0) == b"7"


@pytest.mark.parametrize(
    "operation", [b"", b"add", b"add ", b"add -1", b"add 1 1", b"add 1" + b"0" * 18, b"\xff"]
)
def test_anything_else_is_an_error_and_changes_nothing(operation: bytes) -> None:
    state = DictState()
    service = Counter(state, ProtocolLimits())
    assert service.execute(operation, 0, CLIENT) == b"error"
    assert state.items() == []


@given(st.binary())
def test_it_is_total(operation: bytes) -> None:
    service = Counter(DictState(), ProtocolLimits())
    assert isinstance(service.execute(operation, 0, CLIENT), bytes)
    assert isinstance(service.query(operation, 0), bytes)


def test_it_stays_an_example() -> None:
    assert len(Path(counter.__file__).read_text().splitlines()) < 40
