"""Checks of an operation that need no state (service.md section 3, rules 7, 11, 12, 18, 19)."""

from collections.abc import Iterable

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.service.kv.errors import (
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


def check_transaction(request: kv_pb2.TxnRequest) -> None:
    """Raises OperationError for anything wrong in a transaction or one nested in it."""
    _TransactionCheck().check(request, TRANSACTION_OPERATIONS_MAX, TRANSACTION_DEPTH_MAX)
    _Writes.of_branch(request.success)
    _Writes.of_branch(request.failure)


class _TransactionCheck:
    """Walks a transaction and those nested in it, counting."""

    def __init__(self) -> None:
        self._total = 0

    def check(self, request: kv_pb2.TxnRequest, budget: int, depth: int) -> None:
        sizes = (len(request.compare), len(request.success), len(request.failure))
        self._total += sum(sizes)
        budget -= max(sizes)
        if budget < 0 or depth == 0 or self._total > TRANSACTION_TOTAL_MAX:
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


class _Writes:
    """What one branch may put and delete, nested branches included (rule 18)."""

    def __init__(self) -> None:
        self._puts: set[bytes] = set()
        self._deletes: list[tuple[bytes, bytes]] = []

    @classmethod
    def of_branch(cls, operations: Iterable[kv_pb2.RequestOp]) -> "_Writes":
        """Raises OperationError if a key is put twice, or put and deleted, in one branch."""
        writes = cls()
        for operation in operations:
            match operation.WhichOneof("request"):
                case "request_put":
                    writes._add(cls._of_put(operation.request_put.key))
                case "request_delete_range":
                    deletion = operation.request_delete_range
                    writes._deletes_with(deletion.key, deletion.range_end)
                case "request_txn":
                    nested = operation.request_txn
                    writes._add(cls.of_branch(nested.success), cls.of_branch(nested.failure))
        return writes

    @classmethod
    def _of_put(cls, key: bytes) -> "_Writes":
        writes = cls()
        writes._puts.add(key)
        return writes

    def _deletes_with(self, key: bytes, range_end: bytes) -> None:
        writes = _Writes()
        writes._deletes.append((key, range_end))
        self._add(writes)

    def _add(self, *alternatives: "_Writes") -> None:
        """Adds the writes of one operation: of its alternatives only one is executed, so that they
        may conflict with each other, but not with what is here already."""
        for writes in alternatives:
            if self._conflicts_with(writes):
                raise invalid_argument("duplicate key given in txn request")
        for writes in alternatives:
            self._puts |= writes._puts
            self._deletes += writes._deletes

    def _conflicts_with(self, other: "_Writes") -> bool:
        return (
            not self._puts.isdisjoint(other._puts)
            or any(is_within(key, *deleted) for key in other._puts for deleted in self._deletes)
            or any(is_within(key, *deleted) for key in self._puts for deleted in other._deletes)
        )


def is_within(key: bytes, start: bytes, range_end: bytes) -> bool:
    """Whether `key` is in the range that a request's (key, range_end) means (rule 6)."""
    if not range_end:
        return key == start
    return start <= key and (range_end == TO_THE_END or key < range_end)
