"""Range, put and delete within one operation's transaction (service.md section 3, rules 1 to 14).

Requests were checked by `requests` before; each function fills the response it is given.
"""

from collections.abc import Callable
from typing import Any

from pbft.service.kv.errors import (
    compacted,
    future_revision,
    key_not_found,
    lease_not_found,
)
from pbft.service.kv.transaction import Pair, Transaction
from pbft.wire import kv_pb2

_SORT_KEYS: dict[int, Callable[[Pair], Any]] = {
    kv_pb2.RangeRequest.KEY: lambda pair: pair.key,
    kv_pb2.RangeRequest.VERSION: lambda pair: pair.version,
    kv_pb2.RangeRequest.CREATE: lambda pair: pair.create_revision,
    kv_pb2.RangeRequest.MOD: lambda pair: pair.mod_revision,
    kv_pb2.RangeRequest.VALUE: lambda pair: pair.value,
}


def require_revision(transaction: Transaction, revision: int) -> None:
    """Rule 8 for a store that keeps the latest revision only. Raises OperationError."""
    if revision > transaction.revision:
        raise future_revision()
    if 0 < revision < transaction.revision:
        raise compacted()


def run_range(
    transaction: Transaction, request: kv_pb2.RangeRequest, response: kv_pb2.RangeResponse
) -> None:
    """Rules 5, 6, 9, 10 and 11; the header is left to the caller."""
    # At a revision that is given, a transaction's own writes are not there yet.
    pairs = transaction.pairs(request.key, request.range_end, before=request.revision > 0)
    is_sorted = bool(request.sort_order or request.sort_target)
    limit = request.limit if request.limit > 0 else None
    count_only = request.count_only
    is_kept = _filter(request)
    chosen: list[Pair] = []
    count = 0
    for pair in pairs:
        count += 1
        if count_only or (is_kept is not None and not is_kept(pair)):
            continue
        if limit is not None and len(chosen) == limit and not is_sorted:
            response.more = True
        else:
            chosen.append(pair)
    if is_sorted:
        # Both directions keep ties ascending by key: sorting is stable, reversed too.
        descending = request.sort_order == kv_pb2.RangeRequest.DESCEND
        chosen.sort(key=_SORT_KEYS[request.sort_target], reverse=descending)
        if limit is not None and len(chosen) > limit:
            del chosen[limit:]
            response.more = True
    response.count = count
    keys_only = request.keys_only
    for pair in chosen:
        response.kvs.append(transaction.add_to_result(pair, keys_only))


def _filter(request: kv_pb2.RangeRequest) -> Callable[[Pair], bool] | None:
    """The bounds on revisions, of which 0 means none; None if there is no bound at all."""
    min_mod, max_mod = request.min_mod_revision, request.max_mod_revision
    min_create, max_create = request.min_create_revision, request.max_create_revision
    if not (min_mod or max_mod or min_create or max_create):
        return None
    return lambda pair: (
        (not min_mod or pair.mod_revision >= min_mod)
        and (not max_mod or pair.mod_revision <= max_mod)
        and (not min_create or pair.create_revision >= min_create)
        and (not max_create or pair.create_revision <= max_create)
    )


def require_lease(request: kv_pb2.PutRequest) -> None:
    """Rule 12. No lease has been granted: every one is unknown. Raises OperationError."""
    if request.lease:
        raise lease_not_found()


def require_key(transaction: Transaction, request: kv_pb2.PutRequest) -> None:
    """Rule 12: what is to be kept must exist. Raises OperationError."""
    if (request.ignore_value or request.ignore_lease) and transaction.get(request.key) is None:
        raise key_not_found()


def run_put(
    transaction: Transaction, request: kv_pb2.PutRequest, response: kv_pb2.PutResponse
) -> None:
    """Rules 3, 4, 5, 12 and 13."""
    previous = transaction.get(request.key)
    value, lease = request.value, request.lease
    if previous is not None:
        if request.ignore_value:
            value = previous.value
        if request.ignore_lease:
            lease = previous.lease
        if request.prev_kv:
            response.prev_kv.CopyFrom(transaction.add_to_result(previous))
    transaction.put(request.key, value, lease, previous)
    response.header.revision = transaction.next_revision


def run_delete_range(
    transaction: Transaction,
    request: kv_pb2.DeleteRangeRequest,
    response: kv_pb2.DeleteRangeResponse,
) -> None:
    """Rules 2, 4, 5 and 14."""
    pairs = list(transaction.pairs(request.key, request.range_end))
    for pair in pairs:
        transaction.delete(pair)
        if request.prev_kv:
            response.prev_kvs.append(transaction.add_to_result(pair))
    response.deleted = len(pairs)
    response.header.revision = transaction.current_revision
