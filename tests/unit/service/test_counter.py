"""The worked example of a user's own service."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.core.ports import Service
from pbft.limits import ProtocolLimits
from pbft.service import counter
from pbft.service.api import ServiceFactory
from pbft.service.counter import Counter
from tests.harness.records import DictState

CLIENT = b"c" * 32
MAKE: ServiceFactory = Counter


def test_it_counts() -> None:
    service: Service = MAKE(DictState(), ProtocolLimits())
    assert service.execute(b"read", 0, CLIENT) == b"0"
    assert service.execute(b"add 40", 0, CLIENT) == b"40"
    assert service.execute(b"add 2", 0, CLIENT) == b"42"
    assert service.query(b"read", 0) == b"42"


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
