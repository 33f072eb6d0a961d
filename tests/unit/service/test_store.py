"""The store as a whole: against the reference, on any bytes, on any replica, within its limits."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.errors import ConfigurationError
from pbft.limits import EXHAUSTED_BYTES_MAX, ProtocolLimits
from pbft.service.api import Room
from pbft.service.kv import plain as plain_module
from pbft.service.kv import store as store_module
from pbft.service.kv.plain import read_plain_put
from pbft.service.kv.store import STORE_DOMAIN, KeyValueStore
from pbft.storage.memory import MemoryBase
from pbft.storage.state import LayeredState
from pbft.wire import kv_pb2
from tests.harness.records import DictState
from tests.unit.service import strategies
from tests.unit.service.kv_harness import (
    CLIENT,
    MOMENT_US,
    REQUEST_TOO_LARGE,
    RESULT_TOO_LARGE,
    TOO_MANY_RECORDS,
    Op,
    Store,
    delete,
    get,
    plenty,
    put,
    txn,
)
from tests.unit.service.reference import ReferenceStore

ROOT = Path(__file__).resolve().parents[3]


@settings(max_examples=250, deadline=None)
@given(st.lists(strategies.operations(), min_size=1, max_size=12))
def test_it_agrees_with_the_reference(operations: list[Op]) -> None:
    store, reference = Store(), ReferenceStore()
    for operation in operations:
        result = store.execute(operation)
        assert result == reference.execute(operation), operation
        assert store.execute(get(b"\0", b"\0")).response.response_range.kvs == [
            reference.pair(reference.pairs, key) for key in sorted(reference.pairs)
        ]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(strategies.plain_puts(), strategies.operations()), min_size=1, max_size=12),
    st.one_of(st.just(1 << 30), st.integers(-1, 60)),
)
def test_the_plain_paths_give_the_same_bytes_and_records(
    operations: list[Op], results_bytes: int
) -> None:
    plain, general = DictState(), DictState()
    one = KeyValueStore(plain, ProtocolLimits())
    other = KeyValueStore(general, ProtocolLimits())
    encoded = [operation.SerializeToString() for operation in operations]
    room, same_room = plenty(), plenty()
    room.results_bytes = same_room.results_bytes = results_bytes
    results = one.execute_all(encoded, MOMENT_US, CLIENT, room)
    queries = [one.query(query, MOMENT_US) for query in encoded]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_module, "read_plain_put", lambda operation: None)
        patch.setattr(store_module, "is_plain_range", lambda request: False)
        assert other.execute_all(encoded, MOMENT_US, CLIENT, same_room) == results
        assert [other.query(query, MOMENT_US) for query in encoded] == queries
    assert room.results_bytes == same_room.results_bytes
    assert plain.items() == general.items()


@pytest.mark.parametrize("records", [-1, 0, 2, 4, 9])
def test_each_plain_put_takes_one_record_of_the_room(records: int) -> None:
    store = Store()
    operations = [put(b"a", b"1"), put(b"b", b"2"), get(b"a"), put(b"c", b"3")]
    encoded = [operation.SerializeToString() for operation in operations]
    room = Room(1 << 30, records)
    results = store.service.execute_all(encoded, MOMENT_US, CLIENT, room)
    executed = min(4, max(0, records))
    assert [result == store.service.exhausted() for result in results] == (
        [False] * executed + [True] * (4 - executed)
    )
    assert store.service.touched == executed and room.records == records - executed


@pytest.mark.parametrize("revision", [1, 126, 16_382, 2**21 - 2, 2**28 - 2, 2**56 - 2, 2**63 - 9])
def test_results_of_plain_puts_are_spelled_as_protobuf_spells_them(revision: int) -> None:
    store = Store()
    store.state.domain(STORE_DOMAIN).put(b"revision", 0, revision.to_bytes(8, "big"))
    encoded = [put(b"k", b"v").SerializeToString()] * 6
    results = store.service.execute_all(encoded, MOMENT_US, CLIENT, plenty())
    for number, result in enumerate(results, revision + 1):
        expected = kv_pb2.Result()
        expected.response.response_put.header.revision = number
        assert result == expected.SerializeToString()


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=1, max_size=127),
    st.one_of(
        st.binary(min_size=1, max_size=9), st.integers(100, 300).map(bytes), st.just(bytes(16_000))
    ),
    st.data(),
)
def test_plain_puts_are_read_like_protobuf_reads_them(
    key: bytes, value: bytes, data: st.DataObject
) -> None:
    encoded = bytearray(put(key, value).SerializeToString())
    assert read_plain_put(bytes(encoded)) == (key, value)
    encoded[data.draw(st.integers(0, min(len(encoded) - 1, 9)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    for other in (bytes(encoded), bytes(encoded[:cut]), bytes(encoded) + b"\0"):
        found = read_plain_put(other)
        assert found is None or put(*found).SerializeToString() == other


@pytest.mark.parametrize(
    "encoded",
    [
        put(b"k", b"").SerializeToString(),
        put(b"k" * 128, b"v").SerializeToString(),
        b"\x12\x86\x00\x0a\x01k\x12\x01v",  # a padded length
        b"\x12\x07\x0a\x01k\x12\x81\x00v",  # another
        b"\x12\x06\x12\x01v\x0a\x01k",  # the value first
        b"\x12\x81",
        b"",
    ],
)
def test_what_is_not_quite_a_plain_put_is_left_to_the_general_path(encoded: bytes) -> None:
    assert read_plain_put(encoded) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(strategies.operations(), max_size=4), st.binary(max_size=64), st.data())
def test_any_bytes_give_a_result(operations: list[Op], noise: bytes, data: st.DataObject) -> None:
    store = Store()
    for operation in operations:
        encoded = bytearray(operation.SerializeToString())
        if encoded:
            encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
        for attempt in (noise, bytes(encoded), bytes(encoded[:-1]), bytes(encoded) + noise):
            for encoded_result in (
                store.execute_encoded(attempt),
                store.service.query(attempt, MOMENT_US),
            ):
                result = kv_pb2.Result.FromString(encoded_result)
                assert result.WhichOneof("result") in ("response", "error")


UNKNOWN_FIELD = b"\x9a\x06\x01x"
"""Field 99, one byte."""


def length_prefixed(tag: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([tag << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    "encoded",
    [
        put(b"a").SerializeToString() + UNKNOWN_FIELD,
        length_prefixed(2, b"\x0a\x01a" + UNKNOWN_FIELD),
        length_prefixed(1, b"\x0a\x01a" + UNKNOWN_FIELD),
        length_prefixed(4, length_prefixed(1, b"\x1a\x01a" + UNKNOWN_FIELD)),
        length_prefixed(4, length_prefixed(2, length_prefixed(2, b"\x0a\x01a" + UNKNOWN_FIELD))),
    ],
)
def test_unknown_fields_are_an_error_at_every_level(encoded: bytes) -> None:
    store = Store()
    result = kv_pb2.Result.FromString(store.execute_encoded(encoded))
    assert (result.error.code, result.error.message) == (
        3,
        "etcdserver: request has unknown fields",
    )
    assert store.state.items() == []


def test_what_is_no_request_is_malformed() -> None:
    result = kv_pb2.Result.FromString(Store().execute_encoded(b"\xff"))
    assert (result.error.code, result.error.message) == (3, "etcdserver: request is malformed")


def test_a_query_leaves_the_revision_out_unless_asked() -> None:
    store = Store()
    store.put(b"a", b"1")
    for operation in (get(b"a"), get(b"a", b"\0")):
        response = store.query(operation).response.response_range
        assert not response.HasField("header")
        assert response.kvs[0].value == b"1"
        store.put(b"other")
        assert store.query(get(b"a")) == store.query(get(b"a"))
    response = store.query(get(b"a", with_revision=True)).response.response_range
    assert response.header.revision == 4
    # An ordered read always tells it.
    assert store.get(b"a").header.revision == 4


@pytest.mark.parametrize("operation", [put(b"a"), delete(b"a"), txn([], [get(b"a")]), Op()])
def test_only_a_range_can_be_queried(operation: Op) -> None:
    error = Store().query(operation).error
    assert (error.code, error.message) == (3, "etcdserver: only a range can be queried")


def test_the_store_remembers_nothing_itself() -> None:
    """Its records may be replaced by a state transfer between any two calls."""
    store = Store()
    store.put(b"a", b"1")
    other = Store()
    for number in range(5):
        other.put(b"b", b"%d" % number)
    for domain, records in other.state.domains.items():
        store.state.domain(domain).__dict__.update(records.__dict__)
    assert store.get(b"a").count == 0
    response = store.put(b"b", b"5", prev_kv=True)
    assert (response.header.revision, response.prev_kv.value) == (7, b"4")


SMALL = ProtocolLimits(
    operation_bytes=1000,
    records_per_operation=10,
    record_bytes_per_operation=6000,
    result_bytes=3000,
)


def test_an_operation_beyond_the_size_limit() -> None:
    store = Store(SMALL)
    overhead = len(put(b"a", b"x" * 900).SerializeToString()) - 900
    assert store.put(b"a", b"x" * (1000 - overhead)).header.revision == 2
    assert store.fails(put(b"a", b"x" * (1001 - overhead))) == REQUEST_TOO_LARGE
    assert store.query(get(b"x" * 1000)).error.message == REQUEST_TOO_LARGE[1]


def test_records_per_operation() -> None:
    store = Store(SMALL)
    for number in range(10):
        store.put(b"%02d" % number)
    assert store.get(b"0", b"1").count == 10
    assert store.delete(b"0", b"05").deleted == 5
    for number in range(6):
        store.put(b"%02d" % number)
    # Ten records are read here, or six read and five of them deleted.
    store.put(b"10")
    assert store.fails(get(b"0", b"\0")) == TOO_MANY_RECORDS
    assert store.fails(get(b"0", b"\0", count_only=True, limit=1)) == TOO_MANY_RECORDS
    assert store.fails(delete(b"0", b"06")) == TOO_MANY_RECORDS
    # Reading what the transaction itself has written costs as much: two for the put, one
    # for a get and two for a range, which also meets the pair that is stored.
    reads = [get(b"00")] * 4 + [get(b"00", b"01")] * 2
    assert store.txn([], [put(b"00"), *reads]).succeeded
    for one_more in (get(b"00"), get(b"00", b"01"), get(b"05")):
        assert store.fails(txn([], [put(b"00"), *reads, one_more])) == TOO_MANY_RECORDS
    assert store.query(get(b"0", b"\0")).error.code == TOO_MANY_RECORDS[0]


def test_record_bytes_per_operation() -> None:
    store = Store(SMALL)
    for number in range(7):
        store.put(b"%d" % number, b"x" * 900)
    assert store.get(b"0", b"6", count_only=True).count == 6
    assert store.fails(get(b"0", b"7", count_only=True)) == TOO_MANY_RECORDS


def test_result_bytes() -> None:
    store = Store(SMALL)
    for number in range(4):
        store.put(b"%d" % number, b"x" * 900)
    assert len(store.get(b"0", b"3").kvs) == 3
    assert store.fails(get(b"0", b"4")) == RESULT_TOO_LARGE
    assert len(store.get(b"0", b"4", keys_only=True).kvs) == 4
    assert store.fails(delete(b"0", b"4", prev_kv=True)) == RESULT_TOO_LARGE
    # What was written before the result grew too large is not there either.
    assert store.fails(txn([], [delete(b"0", b"2", prev_kv=True), get(b"2"), get(b"3")])) == (
        RESULT_TOO_LARGE
    )
    assert store.get(b"0", b"3").count == 3


def test_what_can_be_put_can_be_read_and_replaced() -> None:
    for limits in (ProtocolLimits(), SMALL):
        store = Store(limits)
        value = b"x" * (limits.operation_bytes - 24)
        store.put(b"a", value)
        assert store.get(b"a").kvs[0].value == value
        assert store.query(get(b"a")).response.response_range.count == 1
        assert store.put(b"a", value, prev_kv=True).prev_kv.value == value


@pytest.mark.parametrize(
    "values",
    [
        {"result_bytes": 1 << 20},
        {"record_bytes_per_operation": 1 << 20},
        {"records_per_operation": 1},
    ],
)
def test_limits_that_contradict_each_other_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        KeyValueStore(DictState(), ProtocolLimits(**values))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(strategies.operations(), st.just(None)), min_size=1, max_size=15))
def test_it_is_the_same_on_the_layered_state(operations: list[Op | None]) -> None:
    """None seals a layer, as a checkpoint does."""
    state = LayeredState(MemoryBase(), 64, 0)
    one, other = Store(state=state), Store()
    for sequence, operation in enumerate(operations, 1):
        if operation is None:
            state.seal(sequence)
        else:
            assert one.execute(operation) == other.execute(operation)
            assert one.service.touched == other.service.touched
    for domain, records in other.state.domains.items():
        assert list(state.domain(domain).scan(b"", None)) == records.items()


DETERMINISM_SCRIPT = """
import sys
from tests.unit.service.test_store import digest_of_a_run
print(digest_of_a_run())
"""


def digest_of_a_run() -> str:
    """Results and records of a fixed list of operations, hashed."""
    store = Store()
    digest = hashlib.sha256()
    for number in range(300):
        key, other = b"%d" % (number * 7 % 23), b"%d" % (number * 5 % 23)
        for operation in (
            put(key, b"\xff\x00\xc3\xa4" * (number % 5), prev_kv=number % 3 == 0),
            get(b"1", b"3", sort_target=number % 5, sort_order=number % 3),
            txn([], [put(other + b"x"), delete(b"1", b"2"), get(b"\0", b"\0")]),
            put(b"", b"bad"),
            get(key, revision=number),
        ):
            encoded = operation.SerializeToString()
            digest.update(store.execute_encoded(encoded))
            digest.update(store.service.query(encoded, MOMENT_US))
    digest.update(repr(store.state.items()).encode())
    return digest.hexdigest()


def test_results_do_not_depend_on_the_process() -> None:
    digests = set()
    for hash_seed, locale, zone in (
        ("0", "C", "UTC"),
        ("1", "C.UTF-8", "Asia/Kathmandu"),
        ("4242", "tr_TR.UTF-8", "America/St_Johns"),
    ):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "LC_ALL": locale,
            "TZ": zone,
        }
        run = subprocess.run(
            [sys.executable, "-c", DETERMINISM_SCRIPT],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.strip())
    assert digests == {digest_of_a_run()}


def cost(store: Store, operation: Op) -> int:
    """By how much an operation moves the meter."""
    before = store.service.touched
    store.execute(operation)
    return store.service.touched - before


def test_the_meter_counts_operations_and_the_records_that_they_look_at() -> None:
    store = Store()
    for number in range(10):
        assert cost(store, put(b"%02d" % number, b"x" * 100)) == 1
    assert cost(store, get(b"03")) == 1
    assert cost(store, get(b"0", b"1", count_only=True)) == 2 + 10
    assert cost(store, get(b"0", b"1", limit=1)) == 2 + 10
    assert cost(store, get(b"9", b"99")) == 2
    assert cost(store, put(b"00", b"y", prev_kv=True)) == 2 + 2
    assert cost(store, txn([], [get(b"9"), get(b"99"), put(b"0a")])) == 2 + 3 + 1
    assert cost(store, delete(b"0", b"05")) == 2 + 2 * 5
    before = store.service.touched
    store.query(get(b"0", b"1", count_only=True))
    store.query(get(b"09"))
    assert store.service.touched == before + (2 + 6) + 1
    assert cost(store, kv_pb2.RequestOp()) == 2


def test_the_meter_counts_large_records_by_their_size() -> None:
    store = Store()
    for number in range(4):
        store.put(b"%d" % number, b"x" * 65_536)
    assert cost(store, get(b"0", b"9", count_only=True)) == 2 + 4 + 4 * 16


def test_the_meter_counts_what_fails() -> None:
    store = Store(SMALL)
    for number in range(12):
        store.put(b"%02d" % number)
    assert cost(store, get(b"0", b"\0", count_only=True)) == 2 + 11
    before = store.service.touched
    store.query(get(b"0", b"\0"))
    assert store.service.touched == before + 2 + 11


def test_a_refused_operation_says_so_in_few_bytes() -> None:
    exhausted = Store().service.exhausted()
    assert kv_pb2.Result.FromString(exhausted).error.code == TOO_MANY_RECORDS[0]
    assert len(exhausted) + 8 <= EXHAUSTED_BYTES_MAX
