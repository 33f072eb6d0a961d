"""Runs of removed keys: against a set of keys, and what scans make of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.storage.dead_runs import DeadRuns
from pbft.storage.layers import DomainRecords
from pbft.storage.memory import MemoryBase
from tests.unit.storage.builders import merge, new_state

KEYS = [bytes((number,)) for number in range(24)]
NUMBERS = st.integers(0, len(KEYS) - 1)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "born"]), NUMBERS, NUMBERS), max_size=40)


@given(STEPS)
def test_a_key_lies_in_a_run_from_its_death_to_its_birth(
    steps: list[tuple[str, int, int]],
) -> None:
    runs, dead = DeadRuns(), set[bytes]()
    for kind, low, high in steps:
        if kind == "born":
            runs.on_birth(KEYS[low])
            dead.discard(KEYS[low])
        elif low < high:
            runs.add(KEYS[low], KEYS[high])
            dead.update(KEYS[low:high])
        for key in KEYS:
            past = runs.past(key)
            assert (past > key) == (key in dead)
            assert dead.issuperset(other for other in KEYS if key <= other < past)


def test_runs_that_touch_are_one() -> None:
    runs = DeadRuns()
    runs.add(b"a", b"c")
    runs.add(b"e", b"g")
    assert len(runs) == 2
    runs.add(b"c", b"e")
    assert len(runs) == 1
    assert runs.past(b"a") == b"g"
    runs.on_birth(b"a")
    assert runs.past(b"a") == b"a"
    assert runs.past(b"a\x00") == b"g"
    assert len(runs) == 1
    runs.clear()
    assert len(runs) == 0
    assert runs.past(b"b") == b"b"


def test_a_scan_passes_removed_keys_at_once_after_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How many there are depends on merges: no budget can count them, so they must not cost."""
    state = new_state(MemoryBase())
    records = state.domain(1)
    keys = [b"%05d" % number for number in range(1_000)]
    for key in keys:
        records.put(key, 1, b"")
    merge(state, 1)
    for key in keys[1:-1]:
        records.delete(key, 1)
    looks = 0
    changed = DomainRecords._changed

    def counted(self: DomainRecords, key: bytes) -> object:
        nonlocal looks
        looks += 1
        return changed(self, key)

    monkeypatch.setattr(DomainRecords, "_changed", counted)
    both = [(keys[0], 1, b""), (keys[-1], 1, b"")]
    assert list(records.scan(b"", None)) == both
    assert looks == len(keys)
    looks = 0
    assert list(records.scan(b"", None)) == both
    assert list(records.scan(keys[500], None)) == both[1:]
    assert list(records.scan(keys[500], keys[600])) == []
    assert looks <= 6
    records.put(keys[700], 2, b"back")
    looks = 0
    assert list(records.scan(b"", None)) == [both[0], (keys[700], 2, b"back"), both[1]]
    assert looks <= 6
    records.delete(keys[700], 2)
    assert list(records.scan(b"", None)) == both
    looks = 0
    assert list(records.scan(b"", None)) == both
    assert looks <= 4, "the run is one again"
    assert len(records._dead) == 1
    merge(state, 2)
    assert len(records._dead) == 0
    assert list(records.scan(b"", None)) == both
