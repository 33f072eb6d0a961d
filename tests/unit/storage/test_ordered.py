"""The order of records on disk."""

from collections.abc import Iterator
from itertools import chain
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.storage import sorted_keys
from pbft.storage.memory import MemoryBase, MemoryView
from pbft.storage.ordered import (
    KEY_BYTES_MAX,
    decode_key,
    encode_key,
    is_storable,
    key_prefix,
)
from pbft.storage.sorted_keys import RECENT_KEYS_MAX, RUN_KEYS_MAX, KeyWalk, SortedKeys
from pbft.types import UINT64_MAX
from tests.unit.storage.builders import merge, new_state

DOMAINS = st.integers(0, 255)
KEYS = st.lists(st.sampled_from([0, 1, 2, 97, 254, 255]), max_size=6).map(bytes)
VERSIONS = st.integers(0, UINT64_MAX) | st.integers(0, 3)
NAMES = st.tuples(DOMAINS, KEYS, VERSIONS)


@given(NAMES, NAMES)
def test_records_sort_by_domain_then_key_then_version_from_the_highest(
    one: tuple[int, bytes, int], other: tuple[int, bytes, int]
) -> None:
    def order(name: tuple[int, bytes, int]) -> tuple[int, bytes, int]:
        return name[0], name[1], -name[2]

    assert (encode_key(*one) < encode_key(*other)) == (order(one) < order(other))
    assert decode_key(encode_key(*one)) == one


@given(NAMES, NAMES)
def test_a_prefix_is_that_of_one_key_only(
    one: tuple[int, bytes, int], other: tuple[int, bytes, int]
) -> None:
    same_key = one[:2] == other[:2]
    assert encode_key(*one).startswith(key_prefix(*other[:2])) == same_key


@pytest.mark.parametrize(
    ("domain", "key", "version", "storable"),
    [
        (0, b"", 0, True),
        (255, b"k" * 500, UINT64_MAX, True),
        (255, bytes(250), UINT64_MAX, True),
        (0, b"k" * 501, 0, False),
        (0, bytes(250) + b"k", 0, False),
        (256, b"k", 0, False),
        (-1, b"k", 0, False),
        (0, b"k", UINT64_MAX + 1, False),
        (0, b"k", -1, False),
    ],
)
def test_what_can_be_stored(domain: int, key: bytes, version: int, storable: bool) -> None:
    assert is_storable(domain, key, version) == storable
    if storable:
        assert len(encode_key(domain, key, version)) <= KEY_BYTES_MAX


def test_older_versions_are_read_without_the_one_that_they_are_older_than(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be large, and everything read is copied."""
    base = MemoryBase()
    state = new_state(base)
    for key in (b"k", b"l"):
        for version in range(4):
            state.domain(1).put(key, version, b"%d" % version)
    merge(state, 1)
    copied = []
    items = MemoryView._items

    def noted(self: MemoryView, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        for item in items(self, key):
            copied.append(decode_key(item[0]))
            yield item

    monkeypatch.setattr(MemoryView, "_items", noted)
    assert list(base.view.older(1, b"k", 3)) == [(2, b"2"), (1, b"1"), (0, b"0")]
    assert copied == [(1, b"k", 2), (1, b"k", 1), (1, b"k", 0), (1, b"l", 3)]
    assert list(base.view.older(1, b"k", 0)) == []
    assert next(base.view.older(1, b"k", UINT64_MAX)) == (3, b"3")


def number_key(number: int) -> bytes:
    return b"%06d" % number


def walked(sets: list[SortedKeys], start: bytes, end: bytes | None) -> Iterator[bytes]:
    """All keys of a range, as a scan walks them."""
    walk, bound = KeyWalk(sets, start, end), start
    while (key := walk.go_to(bound)) is not None:
        yield key
        bound = key + b"\x00"


BOUNDS = st.integers(0, 3_000).map(number_key)


@given(
    st.sets(st.integers(0, 3_000), max_size=400).flatmap(
        lambda numbers: st.permutations(sorted(numbers))
    ),
    st.lists(st.tuples(BOUNDS, BOUNDS | st.none()), min_size=1, max_size=5),
)
def test_keys_added_in_any_order_are_walked_in_order(
    numbers: list[int], ranges: list[tuple[bytes, bytes | None]]
) -> None:
    keys = SortedKeys()
    added = []
    for position, number in enumerate(numbers):
        keys.add(number_key(number))
        added.append(number_key(number))
        if position % 100 == 0:
            for start, end in ranges:
                expected = [key for key in added if key >= start and (end is None or key < end)]
                assert list(walked([keys], start, end)) == sorted(expected)


SMALL = st.integers(0, 60)


@given(
    st.lists(st.lists(SMALL, unique=True), max_size=4),
    SMALL,
    SMALL | st.none(),
    st.lists(SMALL, max_size=12),
    st.lists(SMALL, max_size=12),
)
def test_a_walk_goes_to_the_next_key_of_any_set(
    several: list[list[int]], start: int, end: int | None, bounds: list[int], later: list[int]
) -> None:
    with (
        mock.patch.object(sorted_keys, "RECENT_KEYS_MAX", 3),
        mock.patch.object(sorted_keys, "RUN_KEYS_MAX", 12),
    ):
        sets = [SortedKeys() for _ in several]
        for keys, numbers in zip(sets, several, strict=True):
            for number in numbers:
                keys.add(number_key(number))
        stop = 99 if end is None else end
        expected = sorted({number for number in chain(*several) if start <= number < stop})
        walk = KeyWalk(sets, number_key(start), None if end is None else number_key(end))
        for keys, numbers in zip(sets, several, strict=True):
            for number in set(later).difference(numbers):
                keys.add(number_key(number))
        for bound in bounds:
            while expected and expected[0] < bound:
                expected.pop(0)
            assert walk.go_to(number_key(bound)) == (number_key(expected[0]) if expected else None)


def test_many_keys_are_kept_in_few_runs_that_no_add_merges_without_bound() -> None:
    keys = SortedKeys()
    count = 3 * RUN_KEYS_MAX + 9 * RECENT_KEYS_MAX + 1
    for number in range(count):
        keys.add(number_key(number * 7919 % count))
        assert len(keys._runs) <= 3 + 5
    every = [number_key(number) for number in range(count)]
    assert list(walked([keys], b"", None)) == every
    lengths = [len(run) for run in keys._runs]
    assert lengths == [RUN_KEYS_MAX] * 3 + [8 * RECENT_KEYS_MAX, RECENT_KEYS_MAX]
    assert list(keys.ascending()) == every


def test_runs_without_a_key_in_the_range_take_no_part_in_a_walk() -> None:
    keys = SortedKeys()
    for number in range(0, 3 * RUN_KEYS_MAX, 2):
        keys.add(number_key(number))
    assert len(keys._runs) > 1
    assert len(KeyWalk([keys], number_key(500), number_key(600))._heads) == 1
    assert len(KeyWalk([keys], number_key(501), number_key(502))._heads) == 0
