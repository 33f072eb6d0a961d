"""The two commonest operations without the general machinery: half the time, the same bytes.

A put without options and a read of one key make up nearly all of a store's load. They count nothing
against the limits of an operation, which always allow one pair (`require_sane_limits`). Tests hold
them to the results and the records of the general path.
"""

from pbft.core.ports import Records
from pbft.service.kv.requests import is_storable_key
from pbft.service.kv.transaction import PAIR_HEADER
from pbft.wire import kv_pb2


def is_plain_put(request: kv_pb2.PutRequest) -> bool:
    """Whether it can neither fail nor show the pair before."""
    return (
        is_storable_key(request.key)
        and bool(request.key)
        and not (request.lease or request.prev_kv or request.ignore_value or request.ignore_lease)
    )


def plain_put(pairs: Records, request: kv_pb2.PutRequest, revision: int) -> bytes:
    """Writes the pair with `revision`, the store's next; returns the encoded result."""
    key = request.key
    record = pairs.get(key)
    if record is None:
        pairs.put(key, revision, PAIR_HEADER.pack(revision, 1, 0) + request.value)
    else:
        create_revision, version, _ = PAIR_HEADER.unpack_from(record[1])
        header = PAIR_HEADER.pack(create_revision, version + 1, 0)
        pairs.supersede(key, record, revision, header + request.value)
    result = kv_pb2.Result()
    result.response.response_put.header.revision = revision
    return result.SerializeToString()


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
