"""The key-value operations as bytes, and their results as values (service.md sections 2 and 3)."""

from google.protobuf.message import DecodeError

from pbft.codec.spelling import LONG_BYTES, SHORT_BYTES, spell_length, tag_of
from pbft.wire import kv_pb2
from pbft_client.errors import InvalidCall, ServiceError, UnexpectedResult
from pbft_client.results import (
    CasResult,
    DeleteResult,
    Execution,
    KeyValue,
    PutResult,
    RangeResult,
)

_ALL_KEYS = b"\x00"
_RESOURCE_EXHAUSTED = 8
_NUMBER_MAX = 2**63 - 1

EXHAUSTED = kv_pb2.Result(
    error=kv_pb2.Error(code=_RESOURCE_EXHAUSTED, message="etcdserver: request asks for too much")
).SerializeToString()
"""The store's result of an operation that it never saw, because those before it in its request or
batch asked for as much as one may. Nothing else has this result."""


_PUT_TAG = bytes((tag_of(kv_pb2.RequestOp, "request_put"),))
_KEY_HEADS = [bytes((tag_of(kv_pb2.PutRequest, "key"), size)) for size in range(SHORT_BYTES)]
_VALUE_TAG = bytes((tag_of(kv_pb2.PutRequest, "value"),))


def encode_put(key: bytes, value: bytes, *, return_previous: bool) -> bytes:
    """Put without a lease."""
    if (
        key.__class__ is value.__class__ is bytes
        and 0 < len(key) < SHORT_BYTES
        and 0 < len(value) < LONG_BYTES
        and return_previous is False
    ):
        return _encode_plain_put(key, value)
    key, value = bytes_of("key", key), bytes_of("value", value)
    wants_previous = _flag_of("return_previous", return_previous)
    put = kv_pb2.PutRequest(key=key, value=value, prev_kv=wants_previous)
    return kv_pb2.RequestOp(request_put=put).SerializeToString()


def _encode_plain_put(key: bytes, value: bytes) -> bytes:
    """The same bytes as by protobuf messages, at half their cost."""
    length = spell_length(len(value))
    inner = spell_length(len(key) + len(value) + len(length) + 3)
    return b"".join((_PUT_TAG, inner, _KEY_HEADS[len(key)], key, _VALUE_TAG, length, value))


def bytes_of(name: str, value: object) -> bytes:
    """An argument as bytes. Raises InvalidCall if it is nothing of that kind."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise InvalidCall(f"{name} must be bytes, not {type(value).__name__}")


def _number_of(name: str, value: object) -> int:
    """An argument that is a limit or a revision. Raises InvalidCall if it can be none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _NUMBER_MAX:
        return value
    raise InvalidCall(f"{name} must be a whole number from 0 to {_NUMBER_MAX}")


def _flag_of(name: str, value: object) -> bool:
    """An argument that is true or false. Raises InvalidCall if it is neither."""
    if isinstance(value, bool):
        return value
    raise InvalidCall(f"{name} must be True or False, not {type(value).__name__}")


def encode_delete(key: bytes, range_end: bytes, *, return_previous: bool) -> bytes:
    """DeleteRange."""
    wants_previous = _flag_of("return_previous", return_previous)
    delete = kv_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=wants_previous)
    return kv_pb2.RequestOp(request_delete_range=delete).SerializeToString()


def encode_cas(key: bytes, expect: bytes | None, value: bytes) -> bytes:
    """A transaction with one compare: of the value, or (None) with a key that does not exist, whose
    version is 0 (rule 16)."""
    key, value = bytes_of("key", key), bytes_of("value", value)
    compare = kv_pb2.Compare(result=kv_pb2.Compare.EQUAL, key=key)
    if expect is None:
        compare.target = kv_pb2.Compare.VERSION
        compare.version = 0
    else:
        compare.target = kv_pb2.Compare.VALUE
        compare.value = bytes_of("expect", expect)
    put = kv_pb2.RequestOp(request_put=kv_pb2.PutRequest(key=key, value=value))
    transaction = kv_pb2.TxnRequest(compare=[compare], success=[put])
    return kv_pb2.RequestOp(request_txn=transaction).SerializeToString()


def encode_range(
    key: bytes,
    range_end: bytes,
    *,
    limit: int = 0,
    revision: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
    with_revision: bool = False,
) -> bytes:
    """Range in ascending order of keys."""
    request = kv_pb2.RangeRequest(
        key=key,
        range_end=range_end,
        limit=_number_of("limit", limit),
        revision=_number_of("revision", revision),
        keys_only=_flag_of("keys_only", keys_only),
        count_only=_flag_of("count_only", count_only),
        with_revision=_flag_of("with_revision", with_revision),
    )
    return kv_pb2.RequestOp(request_range=request).SerializeToString()


def interval_of(
    key: bytes | None,
    prefix: bytes | None,
    range_end: bytes | None,
    start: bytes | None = None,
) -> tuple[bytes, bytes]:
    """(key, range_end) on the wire of one key, of an interval, or of all keys with a prefix that
    are not below `start`.

    Raises InvalidCall unless exactly one of `key` and `prefix` is given, `range_end` only with
    `key`, and `start` only with `prefix`, and all of them are bytes.
    """
    if prefix is None and key is not None and start is None:
        end = b"" if range_end is None else range_end
        return bytes_of("key", key), bytes_of("range_end", end)
    if prefix is None or key is not None or range_end is not None:
        raise InvalidCall(
            "give either a key (and range_end, if wanted) or a prefix (and start, if wanted)"
        )
    prefix = bytes_of("prefix", prefix)
    start = b"" if start is None else bytes_of("start", start)
    return max(prefix or _ALL_KEYS, start), prefix_end(prefix)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix; "\\0", which means no end, if there is
    none."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return _ALL_KEYS
    return stem[:-1] + bytes((stem[-1] + 1,))


def decode_put(result: bytes, execution: Execution) -> PutResult:
    """Raises ServiceError if the store refused, UnexpectedResult if it is no store."""
    revision = _plain_revision(result)
    if revision is not None:
        return PutResult(revision, None, execution)
    put = _response(result, "response_put").response_put
    previous = _key_value(put.prev_kv) if put.HasField("prev_kv") else None
    return PutResult(put.header.revision, previous, execution)


def _plain_result_heads() -> dict[int, bytes]:
    """What the result of a put that tells nothing but its revision has before that, by size."""
    heads = {}
    for revision_bytes in range(1, 10):
        result = kv_pb2.Result()
        result.response.response_put.header.revision = 1 << 7 * (revision_bytes - 1)
        encoded = result.SerializeToString()
        heads[len(encoded)] = encoded[:-revision_bytes]
    return heads


_PLAIN_RESULT_HEADS = _plain_result_heads()


def _plain_revision(result: bytes) -> int | None:
    """The revision, if the result is that of a put and has nothing else in it. Nearly all are: the
    time of a protobuf message for each would be a tenth of what an operation costs a client."""
    head = _PLAIN_RESULT_HEADS.get(len(result))
    if head is None or not result.startswith(head):
        return None
    revision = shift = 0
    for byte in result[len(head) : -1]:
        if byte < 0x80:
            return None
        revision |= (byte & 0x7F) << shift
        shift += 7
    last = result[-1]
    return revision | last << shift if 0 < last < 0x80 else None


def decode_delete(result: bytes, execution: Execution) -> DeleteResult:
    """Raises ServiceError if the store refused, UnexpectedResult if it is no store."""
    delete = _response(result, "response_delete_range").response_delete_range
    previous = tuple([_key_value(pair) for pair in delete.prev_kvs])
    return DeleteResult(delete.header.revision, delete.deleted, previous, execution)


def decode_cas(result: bytes, execution: Execution) -> CasResult:
    """Raises ServiceError if the store refused, UnexpectedResult if it is no store."""
    transaction = _response(result, "response_txn").response_txn
    return CasResult(transaction.succeeded, transaction.header.revision, execution)


def decode_range(result: bytes, execution: Execution | None) -> RangeResult:
    """Raises ServiceError if the store refused, UnexpectedResult if it is no store."""
    response = _response(result, "response_range", changes=False).response_range
    items = tuple([_key_value(pair) for pair in response.kvs])
    # No store has revision 0: that is how a fast read leaves it out.
    return RangeResult(
        items, response.count, response.more, response.header.revision or None, execution
    )


def _response(result: bytes, kind: str, *, changes: bool = True) -> kv_pb2.ResponseOp:
    try:
        decoded = kv_pb2.Result.FromString(result)
    except DecodeError as error:
        text = "the cluster's service is not the key-value store"
        raise UnexpectedResult(text, changes=changes) from error
    response = decoded.response
    if response.WhichOneof("response") == kind:
        return response
    if decoded.HasField("error"):
        raise ServiceError(decoded.error.code, decoded.error.message)
    raise UnexpectedResult(f"the cluster's service did not answer with {kind}", changes=changes)


def _key_value(pair: kv_pb2.KeyValue) -> KeyValue:
    return KeyValue(
        pair.key, pair.value, pair.create_revision, pair.mod_revision, pair.version, pair.lease
    )
