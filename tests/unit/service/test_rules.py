"""service.md section 3, rule by rule: revisions, ranges, puts and deletes."""

import pytest

from pbft.service.kv.store import KEY_VALUE_DOMAIN
from tests.unit.service.kv_harness import (
    COMPACTED,
    EMPTY_KEY,
    FUTURE,
    INVALID_SORT,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    LEASE_PROVIDED,
    RANGE,
    VALUE_PROVIDED,
    Op,
    Store,
    compare,
    delete,
    get,
    keys,
    put,
    txn,
)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def abc() -> Store:
    """a, b, c written in the order c, a, b, then a once more: revisions 4, 3 | 5."""
    store = Store()
    store.put(b"c", b"2")
    store.put(b"a", b"3")
    store.put(b"b", b"1")
    store.put(b"a", b"3")
    return store


def test_rule_1_the_empty_store_has_revision_1(store: Store) -> None:
    assert store.get(b"a").header.revision == 1
    assert store.put(b"a", b"1").header.revision == 2


def test_rule_2_one_request_one_revision(store: Store) -> None:
    response = store.txn([], [put(b"a"), put(b"b"), txn([], [put(b"c")])])
    assert response.header.revision == 2
    assert [pair.mod_revision for pair in store.get(b"a", b"\0").kvs] == [2, 2, 2]
    assert store.delete(b"a", b"\0").header.revision == 3


def test_rule_2_what_changes_nothing_takes_no_revision(store: Store) -> None:
    assert store.delete(b"missing").header.revision == 1
    assert store.txn([], [get(b"a"), delete(b"missing")]).header.revision == 1
    assert store.txn().header.revision == 1
    store.fails(put(b""))
    assert store.put(b"a").header.revision == 2


def test_rule_3_an_identical_value_is_a_new_version(store: Store) -> None:
    store.put(b"a", b"1")
    store.put(b"a", b"1")
    (pair,) = store.get(b"a").kvs
    assert (pair.create_revision, pair.mod_revision, pair.version) == (2, 3, 2)
    store.put(b"a", b"1", prev_kv=True)
    store.txn([], [put(b"a", b"1")])
    (pair,) = store.get(b"a").kvs
    assert (pair.create_revision, pair.mod_revision, pair.version) == (2, 5, 4)


def test_rule_4_a_deleted_key_starts_again(store: Store) -> None:
    store.put(b"a", b"1")
    store.put(b"a", b"2")
    store.delete(b"a")
    store.put(b"a", b"3")
    (pair,) = store.get(b"a").kvs
    assert (pair.create_revision, pair.mod_revision, pair.version, pair.lease) == (5, 5, 1, 0)
    assert pair.value == b"3"


def test_records_carry_key_and_revision_and_only_the_latest_is_kept(abc: Store) -> None:
    abc.delete(b"b")
    records = abc.state.domain(KEY_VALUE_DOMAIN).items()
    assert [(key, version) for key, version, _ in records] == [(b"a", 5), (b"c", 2)]


def test_rule_5_a_range_tells_the_current_revision(abc: Store) -> None:
    assert abc.get(b"c").header.revision == 5
    assert abc.get(b"c", revision=5).header.revision == 5


@pytest.mark.parametrize(
    ("start", "range_end", "expected"),
    [
        (b"b", b"", [b"b"]),
        (b"x", b"", []),
        (b"a", b"c", [b"a", b"b"]),
        (b"a\0", b"c\0", [b"b", b"c"]),
        (b"b", b"\0", [b"b", b"c"]),
        (b"\0", b"\0", [b"a", b"b", b"c"]),
        (b"b", b"b", []),
        (b"c", b"a", []),
    ],
)
def test_rule_6_ranges(abc: Store, start: bytes, range_end: bytes, expected: list[bytes]) -> None:
    assert keys(abc.get(start, range_end)) == expected
    assert abc.delete(start, range_end).deleted == len(expected)


def test_rule_6_the_order_is_by_bytes(store: Store) -> None:
    for key in (b"a\xff", b"b", b"a", b"a\x00", b"\xc3\xa4"):
        store.put(key)
    assert keys(store.get(b"\0", b"\0")) == [b"a", b"a\x00", b"a\xff", b"b", b"\xc3\xa4"]
    assert keys(store.get(b"a", b"b")) == [b"a", b"a\x00", b"a\xff"]


@pytest.mark.parametrize(
    "operation",
    [
        get(b""),
        get(b"", b"\0"),
        put(b""),
        delete(b""),
        delete(b"", b"\0"),
        txn([compare(b"", 0, 0)]),
        txn([], [get(b"")]),
        txn([], [], [put(b"")]),
        txn([], [txn([], [], [delete(b"")])]),
    ],
)
def test_rule_7_an_empty_key(store: Store, operation: Op) -> None:
    assert store.fails(operation) == EMPTY_KEY


def test_rule_8_revisions(abc: Store) -> None:
    for revision in (-1, 0, 5):
        assert len(abc.get(b"a", revision=revision).kvs) == 1
    assert abc.fails(get(b"a", revision=4)) == COMPACTED
    assert abc.fails(get(b"a", revision=1)) == COMPACTED
    assert abc.fails(get(b"a", revision=6)) == FUTURE
    # A range of no key is checked all the same.
    assert abc.fails(get(b"b", b"a", revision=6)) == FUTURE


def test_rule_9_count_and_more(abc: Store) -> None:
    response = abc.get(b"a", b"\0", limit=2)
    assert (keys(response), response.count, response.more) == ([b"a", b"b"], 3, True)
    response = abc.get(b"a", b"\0", limit=3)
    assert (len(response.kvs), response.count, response.more) == (3, 3, False)
    response = abc.get(b"a", b"\0", count_only=True, limit=1)
    assert (len(response.kvs), response.count, response.more) == (0, 3, False)
    response = abc.get(b"a", b"\0", min_mod_revision=4)
    assert (keys(response), response.count, response.more) == ([b"a", b"b"], 3, False)
    for order in (RANGE.NONE, RANGE.DESCEND):
        response = abc.get(b"a", b"\0", limit=-1, sort_order=order)
        assert (len(response.kvs), response.more) == (3, False)


def test_rule_10_filter_then_sort_then_limit(abc: Store) -> None:
    response = abc.get(
        b"a",
        b"\0",
        max_create_revision=3,
        sort_target=RANGE.MOD,
        sort_order=RANGE.DESCEND,
        limit=1,
    )
    assert (keys(response), response.more) == ([b"a"], True)
    # The first by value is the second by key: a limit before the sort would not see it.
    response = abc.get(b"a", b"\0", sort_target=RANGE.VALUE, limit=1)
    assert (keys(response), response.more) == ([b"b"], True)
    assert keys(abc.get(b"a", b"\0", max_mod_revision=4, limit=1)) == [b"b"]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ({"min_mod_revision": 4}, [b"a", b"b"]),
        ({"max_mod_revision": 4}, [b"b", b"c"]),
        ({"min_create_revision": 3}, [b"a", b"b"]),
        ({"max_create_revision": 3}, [b"a", b"c"]),
        ({"min_mod_revision": 3, "max_mod_revision": 4}, [b"b"]),
    ],
)
def test_rule_10_filters(abc: Store, bound: dict[str, int], expected: list[bytes]) -> None:
    assert keys(abc.get(b"a", b"\0", **bound)) == expected


@pytest.mark.parametrize(
    ("target", "order", "expected"),
    [
        (RANGE.KEY, RANGE.NONE, b"abc"),
        (RANGE.KEY, RANGE.ASCEND, b"abc"),
        (RANGE.KEY, RANGE.DESCEND, b"cba"),
        (RANGE.VERSION, RANGE.NONE, b"bca"),
        (RANGE.VERSION, RANGE.DESCEND, b"abc"),
        (RANGE.CREATE, RANGE.NONE, b"cab"),
        (RANGE.CREATE, RANGE.DESCEND, b"bac"),
        (RANGE.MOD, RANGE.ASCEND, b"cba"),
        (RANGE.MOD, RANGE.DESCEND, b"abc"),
        (RANGE.VALUE, RANGE.NONE, b"bca"),
        (RANGE.VALUE, RANGE.DESCEND, b"acb"),
    ],
)
def test_rule_11_sorting(abc: Store, target: int, order: int, expected: bytes) -> None:
    response = abc.get(b"a", b"\0", sort_target=target, sort_order=order)
    assert b"".join(keys(response)) == expected


def test_rule_11_ties_are_broken_by_key_in_both_directions(store: Store) -> None:
    store.txn([], [put(key, b"same") for key in (b"c", b"a", b"b")])
    for order in (RANGE.ASCEND, RANGE.DESCEND):
        for target in (RANGE.VERSION, RANGE.CREATE, RANGE.MOD, RANGE.VALUE):
            response = store.get(b"a", b"\0", sort_target=target, sort_order=order)
            assert keys(response) == [b"a", b"b", b"c"]


def test_rule_11_keys_only_still_sorts_by_value(abc: Store) -> None:
    response = abc.get(b"a", b"\0", keys_only=True, sort_target=RANGE.VALUE)
    assert keys(response) == [b"b", b"c", b"a"]
    assert [pair.value for pair in response.kvs] == [b"", b"", b""]
    assert response.kvs[2].version == 2


@pytest.mark.parametrize("options", [{"sort_order": 3}, {"sort_target": 5}, {"sort_order": -1}])
def test_rule_11_an_unknown_sort_option(store: Store, options: dict[str, int]) -> None:
    assert store.fails(get(b"a", **options)) == INVALID_SORT


def test_rule_12_the_pair_before(store: Store) -> None:
    assert not store.put(b"a", b"1", prev_kv=True).HasField("prev_kv")
    response = store.put(b"a", b"2", prev_kv=True)
    assert (response.prev_kv.value, response.prev_kv.mod_revision) == (b"1", 2)
    assert not store.put(b"a", b"3").HasField("prev_kv")
    response = store.delete(b"a", prev_kv=True)
    assert [(pair.value, pair.version) for pair in response.prev_kvs] == [(b"3", 3)]


def test_rule_12_what_is_ignored_must_exist_and_not_be_provided(store: Store) -> None:
    assert store.fails(put(b"a", ignore_value=True)) == KEY_NOT_FOUND
    assert store.fails(put(b"a", b"1", ignore_lease=True)) == KEY_NOT_FOUND
    store.put(b"a", b"1")
    assert store.fails(put(b"a", b"2", ignore_value=True)) == VALUE_PROVIDED
    assert store.fails(put(b"a", lease=7, ignore_lease=True)) == LEASE_PROVIDED
    store.put(b"a", ignore_value=True)
    (pair,) = store.get(b"a").kvs
    assert (pair.value, pair.version) == (b"1", 2)
    store.put(b"a", b"3", ignore_lease=True)
    assert store.get(b"a").kvs[0].value == b"3"


def test_rule_12_an_unknown_lease(store: Store) -> None:
    assert store.fails(put(b"a", lease=7)) == LEASE_NOT_FOUND
    # Alone, a put looks for its lease first; in a transaction for its key (as etcd does).
    assert store.fails(put(b"a", lease=7, ignore_value=True)) == LEASE_NOT_FOUND
    inside = txn([], [put(b"a", lease=7, ignore_value=True)])
    assert store.fails(inside) == KEY_NOT_FOUND


def test_rule_14_delete_range_counts_and_returns_in_key_order(abc: Store) -> None:
    response = abc.delete(b"a", b"c", prev_kv=True)
    assert response.deleted == 2
    assert [pair.key for pair in response.prev_kvs] == [b"a", b"b"]
    assert response.header.revision == 6
    assert keys(abc.get(b"a", b"\0")) == [b"c"]
    assert not abc.delete(b"c").prev_kvs


def test_rule_20_an_operation_without_a_request(store: Store) -> None:
    assert store.fails(Op()) == KEY_NOT_FOUND
    assert store.fails(txn([], [Op()])) == KEY_NOT_FOUND
