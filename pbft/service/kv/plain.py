"""The two commonest operations without the general machinery: a fraction of the time, the same
bytes.

A put without options and a read of one key make up nearly all of a store's load. They count nothing
against the limits of an operation, which always allow one pair (`require_sane_limits`). Tests hold
them to the results and the records of the general path.
"""

from collections.abc import Sequence
from functools import lru_cache

from pbft.codec.spelling import LONG_BYTES, SHORT_BYTES, spell_length, tag_of
from pbft.core.ports import Records, Room
from pbft.service.kv.transaction import PAIR_HEADER
from pbft.wire import kv_pb2

_PUT = tag_of(kv_pb2.RequestOp, "request_put")
_KEY = tag_of(kv_pb2.PutRequest, "key")
_VALUE = tag_of(kv_pb2.PutRequest, "value")
_SHAPES = 4_096
"""Spellings remembered; a client makes as many as it likes."""


@lru_cache(_SHAPES)
def _shape(size: int, key_bytes: int) -> tuple[int, bytes, int, bytes, int] | None:
    """How a plain put of this size with a key this long is spelled: where its key begins and what
    is before it, where the key ends and what is between it and the value, where the value begins.
    None if there is no such put."""
    if not 0 < key_bytes < SHORT_BYTES:
        return None
    inner = _length_of_rest(size - 1)
    head = b"%c%b%c%c" % (_PUT, inner, _KEY, key_bytes)
    end = len(head) + key_bytes
    length = _length_of_rest(size - end - 1)
    at = end + 1 + len(length)
    if not inner or not length or at >= size:
        return None
    return len(head), head, end, b"%c%b" % (_VALUE, length), at


def _length_of_rest(size: int) -> bytes:
    """With which length so many bytes begin, as protobuf spells it, if it is that of all the others
    of them; empty if there is none. (129 bytes: one byte is too short for it, two too long.)"""
    if 0 < size <= SHORT_BYTES:
        return spell_length(size - 1)
    return spell_length(size - 2) if size - 2 >= SHORT_BYTES else b""


def read_plain_put(operation: bytes) -> tuple[bytes, bytes] | None:
    """Key and value of an encoded RequestOp that is exactly a put of a short key and a value, each
    length spelled as protobuf spells it. None for anything else: that is for the general path, and
    so is whatever is wrong."""
    size = len(operation)
    if not 8 <= size < LONG_BYTES:
        return None
    shape = _shape(size, operation[3 if size < SHORT_BYTES + 2 else 4])
    if shape is None:
        return None
    begin, head, end, middle, at = shape
    if operation[:begin] != head or operation[end:at] != middle:
        return None
    return operation[begin:end], operation[at:]


class PlainPuts:
    """Executes plain puts, as many in a row as come."""

    def __init__(self, pairs: Records, operation_bytes_max: int) -> None:
        self._pairs = pairs
        self._operation_bytes_max = operation_bytes_max
        self._spelling = _ResultSpelling()

    def run(
        self,
        operations: Sequence[bytes],
        begin: int,
        revision: int,
        room: Room,
        results: list[bytes],
    ) -> int:
        """Executes the operations from `begin` on that are plain puts and have room, up to the
        first that is or has not; `revision` is the store's now. Appends their results, takes them
        off the room, and returns how many they were."""
        pairs, spell, left = self._pairs, self._spelling.spell, room.results_bytes
        get, supersede, pack, unpack = (
            pairs.get,
            pairs.supersede,
            PAIR_HEADER.pack,
            PAIR_HEADER.unpack_from,
        )
        first = revision
        end = min(len(operations), begin + max(0, room.records))
        for index in range(begin, end):
            operation = operations[index]
            put = read_plain_put(operation)
            if put is None or left <= 0 or len(operation) > self._operation_bytes_max:
                break
            key, value = put
            revision += 1
            current = get(key)
            if current is None:
                header = pack(revision, 1, 0)
            else:
                create_revision, version, _ = unpack(current[1])
                header = pack(create_revision, version + 1, 0)
            supersede(key, current, revision, header + value)
            result = spell(revision)
            left -= len(result)
            results.append(result)
        room.results_bytes = left
        room.records -= revision - first
        return revision - first


class _ResultSpelling:
    """The encoded result of a put: the same bytes for each, but for the revision at its end, whose
    lowest bits come first."""

    def __init__(self) -> None:
        self._high = -1
        """The revision that was spelled last, without its lowest seven bits."""
        self._heads: tuple[bytes, ...] = ()
        """For each of these bits, all up to the byte that has them."""
        self._tail = b""

    def spell(self, revision: int) -> bytes:
        """The result of a put that made this revision."""
        if revision >> 7 != self._high:
            self._learn(revision)
        return self._heads[revision & 0x7F] + self._tail

    def _learn(self, revision: int) -> None:
        self._high = revision >> 7
        tail_bytes = (self._high.bit_length() + 6) // 7
        result = kv_pb2.Result()
        result.response.response_put.header.revision = revision
        encoded = result.SerializeToString()
        split = len(encoded) - tail_bytes
        self._tail = encoded[split:]
        head, more = encoded[: split - 1], 0x80 if tail_bytes else 0
        if not self._heads or self._heads[0] != head + bytes((more,)):
            self._heads = tuple(head + bytes((low | more,)) for low in range(0x80))


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
