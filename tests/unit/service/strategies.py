"""Hypothesis strategies for operations: few keys and values, so that they meet each other."""

from hypothesis import strategies as st

from pbft.wire import kv_pb2

KEYS = st.sampled_from([b"", b"a", b"a\x00", b"aa", b"b", b"b\xff", b"c", b"\x00", b"\xff"])
PLAIN_KEYS = st.sampled_from([b"a", b"a\x00", b"aa", b"b", b"c"])
RANGE_ENDS = st.one_of(st.just(b""), st.just(b"\x00"), KEYS)
VALUES = st.sampled_from([b"", b"x", b"y", b"x" * 200])
REVISIONS = st.one_of(st.just(0), st.integers(-2, 12))
SWITCH = st.sampled_from([False, False, False, True])
MOSTLY_ZERO = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(-1, 9))


def ranges() -> st.SearchStrategy[kv_pb2.RequestOp]:
    return st.builds(
        lambda **fields: kv_pb2.RequestOp(request_range=kv_pb2.RangeRequest(**fields)),
        key=KEYS,
        range_end=RANGE_ENDS,
        limit=st.sampled_from([0, 0, 1, 2, -1]),
        revision=st.one_of(st.just(0), st.just(0), REVISIONS),
        sort_order=st.sampled_from([0, 0, 1, 2, 2, 3]),
        sort_target=st.sampled_from([0, 1, 2, 3, 4, 4, 5]),
        keys_only=SWITCH,
        count_only=SWITCH,
        min_mod_revision=MOSTLY_ZERO,
        max_mod_revision=MOSTLY_ZERO,
        min_create_revision=MOSTLY_ZERO,
        max_create_revision=MOSTLY_ZERO,
        with_revision=SWITCH,
    )


def plain_ranges() -> st.SearchStrategy[kv_pb2.RequestOp]:
    return st.builds(
        lambda **fields: kv_pb2.RequestOp(request_range=kv_pb2.RangeRequest(**fields)),
        key=KEYS,
    )


def puts() -> st.SearchStrategy[kv_pb2.RequestOp]:
    return st.builds(
        lambda **fields: kv_pb2.RequestOp(request_put=kv_pb2.PutRequest(**fields)),
        key=KEYS,
        value=VALUES,
        lease=st.sampled_from([0, 0, 0, 0, 0, 0, 7]),
        prev_kv=SWITCH,
        ignore_value=SWITCH,
        ignore_lease=SWITCH,
    )


def plain_puts() -> st.SearchStrategy[kv_pb2.RequestOp]:
    return st.builds(
        lambda **fields: kv_pb2.RequestOp(request_put=kv_pb2.PutRequest(**fields)),
        key=PLAIN_KEYS,
        value=VALUES,
    )


def deletes() -> st.SearchStrategy[kv_pb2.RequestOp]:
    return st.builds(
        lambda **fields: kv_pb2.RequestOp(request_delete_range=kv_pb2.DeleteRangeRequest(**fields)),
        key=KEYS,
        range_end=st.one_of(st.just(b""), RANGE_ENDS),
        prev_kv=SWITCH,
    )


@st.composite
def compares(draw: st.DrawFn) -> kv_pb2.Compare:
    compare = kv_pb2.Compare(
        result=draw(st.integers(0, 3)),
        target=draw(st.integers(0, 4)),
        key=draw(st.one_of(PLAIN_KEYS, PLAIN_KEYS, KEYS)),
        range_end=draw(st.one_of(st.just(b""), st.just(b""), RANGE_ENDS)),
    )
    field = draw(
        st.sampled_from(["version", "create_revision", "mod_revision", "value", "lease", None])
    )
    if field == "value":
        compare.value = draw(VALUES)
    elif field is not None:
        setattr(compare, field, draw(st.integers(-1, 5)))
    return compare


def transactions(inner: st.SearchStrategy[kv_pb2.RequestOp]) -> st.SearchStrategy[kv_pb2.RequestOp]:
    return st.builds(
        lambda compare, success, failure: kv_pb2.RequestOp(
            request_txn=kv_pb2.TxnRequest(compare=compare, success=success, failure=failure)
        ),
        st.lists(compares(), max_size=2),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3),
    )


def operations() -> st.SearchStrategy[kv_pb2.RequestOp]:
    """Everything that the store executes, right and wrong."""
    single = st.one_of(plain_puts(), plain_ranges(), puts(), ranges(), deletes())
    empty = st.just(kv_pb2.RequestOp())
    inner = st.one_of(plain_puts(), puts(), ranges(), deletes(), single, single, single, empty)
    nested = st.recursive(inner, transactions, max_leaves=6)
    return st.one_of(single, single, transactions(nested))
