"""Txn: compares, the branch they choose, its operations (service.md section 3, rules 15 to 20).

All compares, those of nested transactions too, and all checks come before the first write.
"""

from dataclasses import dataclass
from typing import TypeVar

from pbft.service.kv.operations import (
    require_key,
    require_lease,
    require_revision,
    run_delete_range,
    run_put,
    run_range,
)
from pbft.service.kv.transaction import Pair, Transaction
from pbft.wire import kv_pb2

_MISSING = Pair(b"", 0, 0, 0, 0, b"")
"""What a missing key is compared as; its value compares with nothing (rule 16)."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """The branch that the compares chose. `nested` has the branches of the nested transactions
    among its operations, in their order."""

    succeeded: bool
    operations: tuple[kv_pb2.RequestOp, ...]
    nested: tuple["_Branch", ...]


def run_transaction(
    transaction: Transaction, request: kv_pb2.TxnRequest, response: kv_pb2.TxnResponse
) -> None:
    """Evaluates and executes a checked request. Raises OperationError before any write, except for
    the limits on records and result."""
    branch = _choose(transaction, request)
    _require_puts(transaction, branch)
    _require_ranges(transaction, branch)
    _run(transaction, branch, response)
    response.header.revision = transaction.current_revision


def _choose(transaction: Transaction, request: kv_pb2.TxnRequest) -> _Branch:
    """Rule 15: the compares of all levels see the state before the transaction."""
    succeeded = all(_holds(transaction, compare) for compare in request.compare)
    operations = tuple(request.success if succeeded else request.failure)
    nested = tuple(
        _choose(transaction, operation.request_txn)
        for operation in operations
        if operation.HasField("request_txn")
    )
    return _Branch(succeeded, operations, nested)


def _holds(transaction: Transaction, compare: kv_pb2.Compare) -> bool:
    """Rule 16: a range must satisfy it with every key, an empty one is like a missing key."""
    is_empty = True
    for pair in transaction.pairs(compare.key, compare.range_end):
        is_empty = False
        if not _matches(compare, pair):
            return False
    if not is_empty:
        return True
    return compare.target != kv_pb2.Compare.VALUE and _matches(compare, _MISSING)


def _matches(compare: kv_pb2.Compare, pair: Pair) -> bool:
    # A target that is not the one set in the union reads as 0 or empty, as in etcd.
    match compare.target:
        case kv_pb2.Compare.VERSION:
            order = _order(pair.version, compare.version)
        case kv_pb2.Compare.CREATE:
            order = _order(pair.create_revision, compare.create_revision)
        case kv_pb2.Compare.MOD:
            order = _order(pair.mod_revision, compare.mod_revision)
        case kv_pb2.Compare.LEASE:
            order = _order(pair.lease, compare.lease)
        case _:
            order = _order(pair.value, compare.value)
    match compare.result:
        case kv_pb2.Compare.EQUAL:
            return order == 0
        case kv_pb2.Compare.GREATER:
            return order > 0
        case kv_pb2.Compare.LESS:
            return order < 0
        case _:
            return order != 0


_Comparable = TypeVar("_Comparable", int, bytes)


def _order(actual: _Comparable, expected: _Comparable) -> int:
    """Below, at or above 0 as the actual is below, at or above the expected."""
    return (actual > expected) - (actual < expected)


def _require_puts(transaction: Transaction, branch: _Branch) -> None:
    """Rule 20, first part. Raises OperationError."""
    nested = iter(branch.nested)
    for operation in branch.operations:
        if operation.HasField("request_txn"):
            _require_puts(transaction, next(nested))
        elif operation.HasField("request_put"):
            require_key(transaction, operation.request_put)
            require_lease(operation.request_put)


def _require_ranges(transaction: Transaction, branch: _Branch) -> None:
    """Rule 20, second part: etcd checks all puts first, then all ranges. Raises OperationError."""
    nested = iter(branch.nested)
    for operation in branch.operations:
        if operation.HasField("request_txn"):
            _require_ranges(transaction, next(nested))
        elif operation.HasField("request_range"):
            require_revision(transaction, operation.request_range.revision)


def _run(transaction: Transaction, branch: _Branch, response: kv_pb2.TxnResponse) -> None:
    """Rule 17: in order, each seeing the writes before it."""
    response.succeeded = branch.succeeded
    nested = iter(branch.nested)
    for operation in branch.operations:
        item = response.responses.add()
        match operation.WhichOneof("request"):
            case "request_range":
                run_range(transaction, operation.request_range, item.response_range)
                item.response_range.header.revision = transaction.current_revision
            case "request_put":
                run_put(transaction, operation.request_put, item.response_put)
            case "request_delete_range":
                run_delete_range(
                    transaction, operation.request_delete_range, item.response_delete_range
                )
            case _:
                # A nested transaction has a header, and the header says nothing.
                item.response_txn.header.SetInParent()
                _run(transaction, next(nested), item.response_txn)
