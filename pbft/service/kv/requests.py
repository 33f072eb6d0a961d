"""Checks of an operation that need no state (service.md section 3, rules 7, 11, 12, 18, 19)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.service.kv.errors import (
    duplicate_key,
    empty_key,
    invalid_argument,
    key_not_found,
    too_many_operations,
)
from pbft.wire import kv_pb2

TRANSACTION_OPERATIONS_MAX = 128
"""etcd's budget along a path of nested transactions (rule 19)."""
TRANSACTION_DEPTH_MAX = 32
"""Two messages per level: requests and results stay below protobuf's nesting limit of 100, so that
no version of a library decides what is valid. etcd has its library's limit only."""
TRANSACTION_TOTAL_MAX = 1024
"""Compares and operations of one transaction, nested ones included. The budget along a path does
not bound their number, which is exponential in the depth."""

TO_THE_END = b"\x00"
"""The range_end that means: every key at or above `key` (rule 6)."""


def check_range(request: kv_pb2.RangeRequest) -> None:
    """Raises OperationError for an empty key or an unknown sort option."""
    if not request.key:
        raise empty_key()
    if not 0 <= request.sort_order <= 2 or not 0 <= request.sort_target <= 4:
        raise invalid_argument("invalid sort option")


def is_storable_key(key: bytes) -> bool:
    """Whether a record can have this key: unlike etcd's, ours are bounded (zero bytes count
    twice)."""
    return len(key) + key.count(0) <= RECORD_KEY_BYTES_MAX


def check_put(request: kv_pb2.PutRequest) -> None:
    """Raises OperationError for an empty key, or a value or lease that is also to be ignored."""
    if not request.key:
        raise empty_key()
    if not is_storable_key(request.key):
        raise invalid_argument("key is too large")
    if request.ignore_value and request.value:
        raise invalid_argument("value is provided")
    if request.ignore_lease and request.lease:
        raise invalid_argument("lease is provided")


def check_delete_range(request: kv_pb2.DeleteRangeRequest) -> None:
    """Raises OperationError for an empty key."""
    if not request.key:
        raise empty_key()


def check_transaction(request: kv_pb2.TxnRequest) -> int:
    """How many compares and operations it has, all levels together. Raises OperationError for
    anything wrong in a transaction or one nested in it."""
    walk = _TransactionCheck()
    walk.check(request, TRANSACTION_OPERATIONS_MAX, TRANSACTION_DEPTH_MAX)
    _check_writes(request.success)
    _check_writes(request.failure)
    return walk.total


class _TransactionCheck:
    """Walks a transaction and those nested in it, counting."""

    def __init__(self) -> None:
        self.total = 0

    def check(self, request: kv_pb2.TxnRequest, budget: int, depth: int) -> None:
        sizes = (len(request.compare), len(request.success), len(request.failure))
        self.total += sum(sizes)
        budget -= max(sizes)
        if budget < 0 or depth == 0 or self.total > TRANSACTION_TOTAL_MAX:
            raise too_many_operations()
        for compare in request.compare:
            _check_compare(compare)
        for operation in (*request.success, *request.failure):
            match operation.WhichOneof("request"):
                case "request_range":
                    check_range(operation.request_range)
                case "request_put":
                    check_put(operation.request_put)
                case "request_delete_range":
                    check_delete_range(operation.request_delete_range)
                case "request_txn":
                    self.check(operation.request_txn, budget, depth - 1)
                case None:
                    raise key_not_found()


def _check_compare(compare: kv_pb2.Compare) -> None:
    if not compare.key:
        raise empty_key()
    # etcd takes an unknown comparison for a true one; a guard that guards nothing is an error here.
    if not 0 <= compare.result <= 3 or not 0 <= compare.target <= 4:
        raise invalid_argument("invalid compare option")


_End: TypeAlias = tuple[bool, bytes]
"""The end of a range, in an order in which the end of all keys is the last: whether it is that."""
_NO_END: _End = (False, b"")
"""Below every other."""


class _Writes(NamedTuple):
    """What an operation may put and delete, both branches of a nested transaction included."""

    puts: Iterable[bytes]
    deletes: Sequence[tuple[bytes, _End]]


def _check_writes(operations: Iterable[kv_pb2.RequestOp]) -> _Writes:
    """Rule 18: raises OperationError if a key is put twice, or put and deleted, by two operations
    of one branch. Of a nested transaction only one branch is executed, so that its two may
    conflict with each other."""
    putters: dict[bytes, int] = {}
    deletes: list[tuple[bytes, _End, int]] = []
    for position, operation in enumerate(operations):
        writes = _writes_of(operation)
        for key in writes.puts:
            if putters.setdefault(key, position) != position:
                raise duplicate_key()
        deletes += [(start, end, position) for start, end in writes.deletes]
    if deletes and putters:
        _check_puts_not_deleted(putters, deletes)
    return _Writes(putters, [(start, end) for start, end, _ in deletes])


def _writes_of(operation: kv_pb2.RequestOp) -> _Writes:
    match operation.WhichOneof("request"):
        case "request_put":
            return _Writes((operation.request_put.key,), ())
        case "request_delete_range":
            deletion = operation.request_delete_range
            return _Writes((), ((deletion.key, _end_of(deletion)),))
        case "request_txn":
            success = _check_writes(operation.request_txn.success)
            failure = _check_writes(operation.request_txn.failure)
            puts = (*success.puts, *failure.puts)
            return _Writes(puts, (*success.deletes, *failure.deletes))
        case _:
            return _Writes((), ())


def _end_of(deletion: kv_pb2.DeleteRangeRequest) -> _End:
    """Rule 6: the first key after the range."""
    if deletion.range_end == TO_THE_END:
        return True, b""
    return False, deletion.range_end or deletion.key + b"\0"


def _check_puts_not_deleted(
    putters: dict[bytes, int], deletes: list[tuple[bytes, _End, int]]
) -> None:
    """Raises OperationError if a key is put by one operation and deleted by another.

    One pass over both in the order of the keys. Of the ranges that began, only the one that reaches
    farthest matters, and, for what its own operation puts, the farthest one of any other.
    """
    deletes.sort()
    position = 0
    farthest, owner, farthest_other = _NO_END, -1, _NO_END
    for key, putter in sorted(putters.items()):
        while position < len(deletes) and deletes[position][0] <= key:
            _, end, deleter = deletes[position]
            position += 1
            if deleter == owner:
                farthest = max(farthest, end)
            elif end > farthest:
                farthest, owner, farthest_other = end, deleter, farthest
            else:
                farthest_other = max(farthest_other, end)
        if (farthest if putter != owner else farthest_other) > (False, key):
            raise duplicate_key()
