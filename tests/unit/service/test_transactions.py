"""service.md section 3, rules 15 to 20: Txn."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.service.kv.errors import OperationError
from pbft.service.kv.requests import (
    TRANSACTION_DEPTH_MAX,
    TRANSACTION_TOTAL_MAX,
    check_transaction,
)
from tests.unit.service import strategies
from tests.unit.service.kv_harness import (
    COMPACTED,
    COMPARE,
    DUPLICATE_KEY,
    FUTURE,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    TOO_MANY_OPERATIONS,
    Op,
    Store,
    compare,
    delete,
    get,
    keys,
    put,
    txn,
)
from tests.unit.service.reference import ReferenceStore

EQUAL, GREATER, LESS, NOT_EQUAL = 0, 1, 2, 3
VERSION, CREATE, MOD, VALUE, LEASE = 0, 1, 2, 3, 4


@pytest.fixture
def store() -> Store:
    """a (create 2, mod 3, version 2, value 5) and b (create 4, mod 4, version 1, value 6)."""
    store = Store()
    store.put(b"a", b"4")
    store.put(b"a", b"5")
    store.put(b"b", b"6")
    return store


def holds(store: Store, *compares: COMPARE) -> bool:
    return store.txn(list(compares)).succeeded


def test_rule_15_compares_are_a_conjunction(store: Store) -> None:
    true, false = compare(b"a", VALUE, EQUAL, value=b"5"), compare(b"a", VALUE, EQUAL, value=b"6")
    assert holds(store, true, true)
    assert not holds(store, true, false)
    assert not holds(store, false, true)
    assert holds(store)


@pytest.mark.parametrize(
    ("target", "field", "actual"),
    [
        (VERSION, "version", 2),
        (CREATE, "create_revision", 2),
        (MOD, "mod_revision", 3),
        (LEASE, "lease", 0),
    ],
)
def test_rule_15_operators_on_numbers(store: Store, target: int, field: str, actual: int) -> None:
    def test(result: int, value: int) -> bool:
        return holds(store, compare(b"a", target, result, **{field: value}))

    below, above = actual - 1, actual + 1
    assert [test(EQUAL, value) for value in (below, actual, above)] == [False, True, False]
    assert [test(NOT_EQUAL, value) for value in (below, actual, above)] == [True, False, True]
    assert [test(GREATER, value) for value in (below, actual, above)] == [True, False, False]
    assert [test(LESS, value) for value in (below, actual, above)] == [False, False, True]


def test_rule_15_operators_on_values(store: Store) -> None:
    def test(result: int, value: bytes) -> bool:
        return holds(store, compare(b"a", VALUE, result, value=value))

    values = (b"4\xff", b"5", b"5\x00")
    assert [test(EQUAL, value) for value in values] == [False, True, False]
    assert [test(NOT_EQUAL, value) for value in values] == [True, False, True]
    assert [test(GREATER, value) for value in values] == [True, False, False]
    assert [test(LESS, value) for value in values] == [False, False, True]


def test_rule_15_nested_compares_see_the_state_before(store: Store) -> None:
    unchanged = compare(b"a", VALUE, EQUAL, value=b"5")
    response = store.txn([], [put(b"a", b"9"), txn([unchanged], [put(b"c")], [put(b"d")])])
    assert response.responses[1].response_txn.succeeded
    assert keys(store.get(b"c", b"\0")) == [b"c"]


def test_rule_15_the_other_branch(store: Store) -> None:
    response = store.txn([compare(b"a", VALUE, EQUAL)], [put(b"c")], [put(b"d")])
    assert not response.succeeded
    assert keys(store.get(b"c", b"\0")) == [b"d"]


def test_rule_16_a_missing_key(store: Store) -> None:
    for result in (EQUAL, GREATER, LESS, NOT_EQUAL):
        assert not holds(store, compare(b"x", VALUE, result, value=b""))
        assert not holds(store, compare(b"x", VALUE, result, value=b"1", range_end=b"z"))
    for target in (VERSION, CREATE, MOD, LEASE):
        assert holds(store, compare(b"x", target, EQUAL))
        assert holds(store, compare(b"x", target, EQUAL, range_end=b"z"))
        assert not holds(store, compare(b"x", target, GREATER))


def test_rule_16_a_range_holds_for_all_its_keys(store: Store) -> None:
    assert holds(store, compare(b"a", MOD, GREATER, mod_revision=2, range_end=b"\0"))
    assert not holds(store, compare(b"a", MOD, GREATER, mod_revision=3, range_end=b"\0"))
    assert not holds(store, compare(b"a", MOD, LESS, mod_revision=4, range_end=b"\0"))
    assert holds(store, compare(b"a", MOD, LESS, mod_revision=4, range_end=b"b"))


def test_a_union_of_another_target_compares_with_nothing(store: Store) -> None:
    assert not holds(store, compare(b"a", VERSION, EQUAL, mod_revision=2))
    assert holds(store, compare(b"a", LEASE, EQUAL, mod_revision=2))


def test_an_unknown_comparison_is_an_error(store: Store) -> None:
    error = (3, "etcdserver: invalid compare option")
    assert store.fails(txn([compare(b"a", 5, EQUAL)])) == error
    assert store.fails(txn([compare(b"a", VERSION, 4)])) == error


def test_rule_17_operations_see_earlier_writes(store: Store) -> None:
    response = store.txn(
        [],
        [
            get(b"a", b"\0"),
            put(b"c", b"7"),
            get(b"a", b"\0"),
            delete(b"a"),
            delete(b"a", b"c"),
            get(b"a", b"\0", count_only=True),
            get(b"a"),
        ],
    )
    first, _, second, _, deletion, third, fourth = response.responses
    assert keys(first.response_range) == [b"a", b"b"]
    assert keys(second.response_range) == [b"a", b"b", b"c"]
    assert second.response_range.kvs[2].mod_revision == 5
    assert deletion.response_delete_range.deleted == 1
    assert third.response_range.count == 1
    assert fourth.response_range.count == 0


def test_rule_17_a_changed_pair_stands_in_its_place(store: Store) -> None:
    response = store.txn([], [put(b"a", b"new"), put(b"aa"), get(b"a", b"\0")])
    pairs = response.responses[2].response_range.kvs
    assert [(pair.key, pair.value) for pair in pairs] == [
        (b"a", b"new"),
        (b"aa", b""),
        (b"b", b"6"),
    ]


def test_rule_17_changed_pairs_stand_in_the_order_of_their_keys(store: Store) -> None:
    """Whatever the order in which they were put, and whatever the hashes of this process are."""
    names = [b"c%02d" % (7 * number % 20) for number in range(20)]
    response = store.txn([], [*map(put, names), get(b"a", b"\0")])
    assert keys(response.responses[-1].response_range) == [b"a", b"b", *sorted(names)]


def test_rule_17_headers(store: Store) -> None:
    response = store.txn([], [get(b"a"), put(b"c"), get(b"a"), delete(b"x"), txn([], [put(b"d")])])
    assert response.header.revision == 5
    read, write, again, deletion, nested = response.responses
    assert read.response_range.header.revision == 4  # Nothing is written yet, as in etcd.
    assert write.response_put.header.revision == 5
    assert again.response_range.header.revision == 5
    assert deletion.response_delete_range.header.revision == 5
    assert nested.response_txn.header.revision == 0
    assert nested.response_txn.responses[0].response_put.header.revision == 5


def test_rule_17_a_given_revision_shows_the_state_before(store: Store) -> None:
    response = store.txn([], [put(b"a", b"9"), get(b"a", revision=4), get(b"a", b"\0", revision=4)])
    assert response.responses[1].response_range.kvs[0].value == b"5"
    assert response.responses[2].response_range.kvs[0].value == b"5"


@pytest.mark.parametrize(
    "operations",
    [
        [put(b"a"), put(b"a")],
        [put(b"a"), delete(b"a")],
        [delete(b"a"), put(b"a")],
        [delete(b"a", b"c"), put(b"b")],
        [put(b"c"), delete(b"b", b"\0")],
        [txn([], [put(b"a")]), put(b"a")],
        [txn([], [], [put(b"a")]), put(b"a")],
        [txn([], [put(b"a")]), txn([], [put(b"a")])],
        [txn([], [delete(b"a")]), txn([], [], [put(b"a")])],
        [txn([], [put(b"a")]), txn([], [], [delete(b"a")])],
        [txn([], [put(b"a"), put(b"a")])],
        [txn([], [txn([], [], [delete(b"a")])]), put(b"a")],
    ],
)
def test_rule_18_a_key_written_twice(store: Store, operations: list[Op]) -> None:
    assert store.fails(txn([], operations)) == DUPLICATE_KEY
    # Of a branch that is not taken too.
    assert store.fails(txn([], [], operations)) == DUPLICATE_KEY


@pytest.mark.parametrize(
    "operations",
    [
        [delete(b"a", b"c"), delete(b"a"), delete(b"b", b"\0")],
        [put(b"a"), put(b"b")],
        [put(b"a"), delete(b"a\0", b"\0"), delete(b"b", b"a")],
        [txn([], [put(b"a")], [put(b"a")])],
        [txn([], [put(b"a")], [delete(b"a")])],
        [txn([], [txn([], [put(b"a")])], [put(b"a")])],
    ],
)
def test_rule_18_what_is_not_twice(store: Store, operations: list[Op]) -> None:
    assert store.txn([], operations).succeeded


def test_rule_18_then_and_else_are_apart(store: Store) -> None:
    assert store.txn([], [put(b"a")], [put(b"a")]).succeeded


def test_rule_19_the_number_of_operations(store: Store) -> None:
    def read(count: int) -> list[Op]:
        return [get(b"a")] * count

    assert len(store.txn([], read(128)).responses) == 128
    assert store.fails(txn([], read(129))) == TOO_MANY_OPERATIONS
    assert store.fails(txn([], [], read(129))) == TOO_MANY_OPERATIONS
    true = compare(b"a", VERSION, EQUAL, version=2)
    assert store.fails(txn([true] * 129)) == TOO_MANY_OPERATIONS
    # The longest list counts, and nested transactions get what their parent leaves.
    assert store.txn([true] * 128, read(128), read(128)).succeeded
    assert store.txn([], [txn([], read(127))]).succeeded
    assert store.fails(txn([], [txn([], read(128))])) == TOO_MANY_OPERATIONS
    assert store.fails(txn([true, true], [txn([], read(127))])) == TOO_MANY_OPERATIONS


def test_the_depth_and_the_total_are_bounded(store: Store) -> None:
    operation = txn()
    for _ in range(TRANSACTION_DEPTH_MAX - 1):
        operation = txn([], [operation])
    assert store.txn([], list(operation.request_txn.success)).succeeded
    assert store.fails(txn([], [operation])) == TOO_MANY_OPERATIONS
    wide = txn([], [txn([], [get(b"a")] * 64)] * 15)
    assert store.txn([], list(wide.request_txn.success)).succeeded
    wider = txn([], [txn([], [get(b"a")] * 64)] * (TRANSACTION_TOTAL_MAX // 64))
    assert store.fails(wider) == TOO_MANY_OPERATIONS


@given(
    st.lists(
        st.recursive(
            strategies.puts() | strategies.deletes() | strategies.ranges(),
            lambda inner: st.builds(
                txn, st.just([]), st.lists(inner, max_size=3), st.lists(inner, max_size=2)
            ),
            max_leaves=8,
        ),
        max_size=6,
    )
)
def test_rule_18_is_the_same_as_trying_all_pairs(operations: list[Op]) -> None:
    """The store sorts; the reference compares every two writes that could happen together."""
    reference = ReferenceStore()
    clashes = any(
        reference.clash(one, other)
        for world in reference.worlds(operations)
        for one in world
        for other in world
        if one is not other
    )
    try:
        check_transaction(txn([], operations).request_txn)
    except OperationError as error:
        assert clashes or "duplicate" not in error.text
    else:
        assert not clashes


def test_the_check_of_writes_does_not_compare_every_two() -> None:
    """Some 14 KB of it took 40 ms of every replica's time."""
    numbers = range(0, 952, 2)
    writes = [w for n in numbers for w in (delete(b"z%d" % n, b"z%dz" % n), put(b"p%d" % n))]
    nested = [txn([], writes[start : start + 119]) for start in range(0, len(writes), 119)]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    request = txn([], nested).request_txn
    sys.setprofile(count)
    try:
        assert check_transaction(request) == len(writes) + len(nested)
    finally:
        sys.setprofile(None)
    assert calls < 40 * len(writes)


def test_rule_20_checks_come_before_any_write(store: Store) -> None:
    first = put(b"c")
    assert store.fails(txn([], [first, put(b"x", ignore_value=True)])) == KEY_NOT_FOUND
    assert store.fails(txn([], [first, put(b"d", lease=7)])) == LEASE_NOT_FOUND
    assert store.fails(txn([], [first, get(b"a", revision=5)])) == FUTURE
    assert store.fails(txn([], [first, get(b"a", revision=3)])) == COMPACTED
    assert store.fails(txn([], [txn([], [first, get(b"a", revision=5)])])) == FUTURE
    # A key that this transaction creates is not there for the check.
    nested = txn([], [txn([], [put(b"x")]), txn([], [put(b"y", ignore_value=True)])])
    assert store.fails(nested) == KEY_NOT_FOUND


def test_rule_20_puts_are_checked_before_ranges(store: Store) -> None:
    operations = [get(b"a", revision=9), put(b"x", ignore_value=True)]
    assert store.fails(txn([], operations)) == KEY_NOT_FOUND


def test_rule_20_only_the_chosen_path_is_checked(store: Store) -> None:
    bad = [put(b"x", ignore_value=True), put(b"c", lease=7), get(b"a", revision=9)]
    assert store.txn([], [get(b"a")], bad).succeeded
    assert store.txn([], [txn([], [get(b"a")], bad)]).succeeded


def test_compare_and_swap_as_the_client_does_it(store: Store) -> None:
    absent = compare(b"lock", VERSION, EQUAL, version=0)
    assert store.txn([absent], [put(b"lock", b"me")]).succeeded
    assert not store.txn([absent], [put(b"lock", b"you")]).succeeded
    mine = compare(b"lock", VALUE, EQUAL, value=b"me")
    assert store.txn([mine], [put(b"lock", b"you")], [get(b"lock")]).succeeded
    response = store.txn([mine], [put(b"lock", b"him")], [get(b"lock")])
    assert not response.succeeded
    assert response.responses[0].response_range.kvs[0].value == b"you"
