"""Runs of removed keys: against a set of keys, and what scans make of them."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.storage.dead_runs import RUN_KEYS_MIN, DeadRuns, within_keys
from pbft.storage.layers import DomainRecords
from pbft.storage.memory import MemoryBase
from pbft.storage.state import LayeredState
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
        bounds = list(chain(*runs._runs.items()))
        assert all(low < high for low, high in pairwise(bounds)), (
            "they are apart, and none is empty"
        )


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


def filled() -> tuple[LayeredState, list[bytes]]:
    """A state with a thousand keys in domain 1, durable."""
    state = new_state(MemoryBase())
    keys = [b"%05d" % number for number in range(1_000)]
    for key in keys:
        state.domain(1).put(key, 1, b"")
    merge(state, 1)
    return state, keys


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that scans look at."""
    looked: list[bytes] = []
    changed = DomainRecords._changed

    def noted(self: DomainRecords, key: bytes) -> object:
        looked.append(key)
        return changed(self, key)

    monkeypatch.setattr(DomainRecords, "_changed", noted)
    return looked


def test_a_scan_passes_removed_keys_at_once_after_the_first_time(looks: list[bytes]) -> None:
    """How many there are depends on merges: no budget can count them, so they must not cost."""
    state, keys = filled()
    records = state.domain(1)
    for key in keys[1:-1]:
        records.delete(key, 1)
    both = [(keys[0], 1, b""), (keys[-1], 1, b"")]
    assert list(records.scan(b"", None)) == both
    assert looks == keys
    looks.clear()
    assert list(records.scan(b"", None)) == both
    assert list(records.scan(keys[500], None)) == both[1:]
    assert list(records.scan(keys[500], keys[600])) == []
    assert looks == [keys[0], keys[-1], keys[-1]]
    records.put(keys[700], 2, b"back")
    looks.clear()
    assert list(records.scan(b"", None)) == [both[0], (keys[700], 2, b"back"), both[1]]
    assert looks == [keys[0], keys[700], keys[-1]]
    records.delete(keys[700], 2)
    assert list(records.scan(b"", None)) == both
    looks.clear()
    assert list(records.scan(b"", None)) == both
    assert looks == [keys[0], keys[-1]]
    assert len(records._dead) == 1, "the run is one again"
    merge(state, 2)
    assert len(records._dead) == 0
    assert list(records.scan(b"", None)) == both


@pytest.mark.parametrize("removed", [RUN_KEYS_MIN, 63])
def test_removed_keys_between_records_cost_no_look_either(looks: list[bytes], removed: int) -> None:
    state = new_state(MemoryBase())
    records = state.domain(1)
    keys = [b"%05d" % number for number in range(200 * (removed + 1))]
    for key in keys:
        records.put(key, 1, b"")
    merge(state, 1)
    living = keys[:: removed + 1]
    for key in set(keys).difference(living):
        records.delete(key, 1)
    expected = [(key, 1, b"") for key in living]
    assert list(records.scan(b"", None)) == expected
    assert looks == keys
    looks.clear()
    assert list(records.scan(b"", None)) == expected
    assert list(records.scan(keys[1], keys[removed + 2])) == expected[1:2]
    assert looks == [*living, living[1]]


def test_a_single_removed_key_belongs_to_the_run_that_it_touches(looks: list[bytes]) -> None:
    """Or a scan after every deletion would be longer each time."""
    state, keys = filled()
    records = state.domain(1)

    def looks_after(removed: int, end: int) -> list[bytes]:
        """What the second scan looks at."""
        records.delete(keys[removed], 1)
        list(records.scan(keys[450], keys[end]))
        looks.clear()
        list(records.scan(keys[450], keys[end]))
        return looks

    for key in keys[490:510]:
        records.delete(key, 1)
    list(records.scan(b"", None))
    for below in range(489, 485, -1):
        assert looks_after(below, 550) == keys[450:below] + keys[510:550]
    for above in range(510, 514):
        assert looks_after(above, 550) == keys[450:486] + keys[above + 1 : 550]
    for below in range(485, 480, -1):
        assert looks_after(below, 500) == keys[450:below], "the range ends within the run"
    assert len(records._dead) == 1


def test_keys_that_come_back_here_and_there_are_all_that_a_scan_looks_at(
    looks: list[bytes],
) -> None:
    state, keys = filled()
    records = state.domain(1)
    for key in keys:
        records.delete(key, 1)
    assert list(records.scan(b"", None)) == []
    back = [(key, 2, b"back") for key in keys[::2]]
    for key, version, value in back:
        records.put(key, version, value)
    looks.clear()
    assert list(records.scan(b"", None)) == back
    assert looks == keys[::2]


def test_runs_do_not_keep_what_clients_send_as_bounds() -> None:
    state, keys = filled()
    records = state.domain(1)
    for key in keys:
        records.delete(key, 1)
    for first in range(0, 900, 100):
        junk = b"x" * 100_000
        assert list(records.scan(keys[first] + junk, keys[first + 90] + junk)) == []
    runs = records._dead
    assert len(runs) == 9
    assert max(map(len, chain(*runs._runs.items()))) <= RECORD_KEY_BYTES_MAX + 1


@given(st.binary(min_size=495, max_size=505), st.binary(min_size=495, max_size=600))
def test_a_bound_is_no_longer_than_a_key_and_one_byte(key: bytes, bound: bytes) -> None:
    for start in (bound, key[:500] + bound[:9], key + b"\x00" * 9, key):
        short = within_keys(start)
        assert len(short) <= RECORD_KEY_BYTES_MAX + 1
        assert (key[:500] < short) == (key[:500] < start)
