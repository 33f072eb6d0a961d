"""A key that the state cannot index is refused, the same everywhere, before anything is written."""

import pytest

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.storage.memory import MemoryBase
from pbft.storage.state import LayeredState
from pbft.wire import kv_pb2
from tests.unit.service.kv_harness import Store


def plain(key: bytes) -> kv_pb2.RequestOp:
    return kv_pb2.RequestOp(request_put=kv_pb2.PutRequest(key=key, value=b"v"))


def in_transaction(key: bytes) -> kv_pb2.RequestOp:
    return kv_pb2.RequestOp(request_txn=kv_pb2.TxnRequest(success=[plain(key)]))


@pytest.mark.parametrize("make", [plain, in_transaction])
def test_keys_within_and_beyond_the_bound(make: type) -> None:
    store = Store(state=LayeredState(MemoryBase(), 16, 0))
    for key in (b"k" * RECORD_KEY_BYTES_MAX, bytes(RECORD_KEY_BYTES_MAX // 2)):
        assert store.execute(make(key)).HasField("response")
        refused = store.execute(make(key + b"k"))
        assert refused.error.message == "etcdserver: key is too large"
        assert not store.execute(
            kv_pb2.RequestOp(request_range=kv_pb2.RangeRequest(key=key + b"k"))
        ).response.response_range.count
