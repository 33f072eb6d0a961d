"""The two commonest operations without the general machinery: a fraction of the time, the same
bytes.

A put without options and a read of one key make up nearly all of a store's load. They count nothing
against the limits of an operation, which always allow one pair (`require_sane_limits`). Tests hold
them to the results and the records of the general path.
"""

from pbft.core.ports import Records
from pbft.service.kv.transaction import PAIR_HEADER
from pbft.wire import kv_pb2

_PUT = kv_pb2.RequestOp.DESCRIPTOR.fields_by_name["request_put"].number << 3 | 2
_KEY = kv_pb2.PutRequest.DESCRIPTOR.fields_by_name["key"].number << 3 | 2
_VALUE = kv_pb2.PutRequest.DESCRIPTOR.fields_by_name["value"].number << 3 | 2
"""The tags of length-delimited fields."""


def read_plain_put(operation: bytes) -> tuple[bytes, bytes] | None:
    """Key and value of an encoded RequestOp that is exactly a put of a short key and a value, each
    length spelled as protobuf spells it. None for anything else: that is for the general path, and
    so is whatever is wrong."""
    size = len(operation)
    if size < 8 or operation[0] != _PUT:
        return None
    inner, at = _length(operation, 1)
    if inner != size - at or operation[at] != _KEY:
        return None
    begin = at + 2
    end = begin + operation[at + 1]
    if end == begin or end - begin > 0x7F or end + 1 >= size or operation[end] != _VALUE:
        return None
    length, at = _length(operation, end + 1)
    if not length or length != size - at:
        return None
    return operation[begin:end], operation[at:]


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of one or two bytes at a place that exists, and the place after it; -1 for a longer
    or a padded one."""
    length = data[at]
    if length < 0x80:
        return length, at + 1
    high = data[at + 1] if at + 1 < len(data) else 0
    if not 0 < high < 0x80:
        return -1, at
    return length & 0x7F | high << 7, at + 2


class PlainPuts:
    """Executes plain puts. The result is a message that is used again and again."""

    def __init__(self, pairs: Records) -> None:
        self._pairs = pairs
        self._result = kv_pb2.Result()
        self._header = self._result.response.response_put.header

    def execute(self, key: bytes, value: bytes, revision: int) -> bytes:
        """Writes the pair with `revision`, the store's next; returns the encoded result."""
        pairs = self._pairs
        current = pairs.get(key)
        if current is None:
            header = PAIR_HEADER.pack(revision, 1, 0)
        else:
            create_revision, version, _ = PAIR_HEADER.unpack_from(current[1])
            header = PAIR_HEADER.pack(create_revision, version + 1, 0)
        pairs.supersede(key, current, revision, header + value)
        self._header.revision = revision
        return self._result.SerializeToString()


def is_plain_range(request: kv_pb2.RangeRequest) -> bool:
    """Whether it has a key and nothing else."""
    return bool(request.key) and len(request.ListFields()) == 1


def plain_range(pairs: Records, request: kv_pb2.RangeRequest, revision: int) -> bytes:
    """The encoded result with `revision` in its header (0: no header)."""
    result = kv_pb2.Result()
    response = result.response.response_range
    # An answer about nothing must still say that it is the answer to a range.
    response.SetInParent()
    if revision:
        response.header.revision = revision
    record = pairs.get(request.key)
    if record is not None:
        mod_revision, value = record
        create_revision, version, lease = PAIR_HEADER.unpack_from(value)
        response.kvs.add(
            key=request.key,
            create_revision=create_revision,
            mod_revision=mod_revision,
            version=version,
            value=value[PAIR_HEADER.size :],
            lease=lease,
        )
        response.count = 1
    return result.SerializeToString()
