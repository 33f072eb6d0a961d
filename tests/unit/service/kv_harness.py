"""Short ways to say operations, and a store that takes and gives messages."""

from pbft.limits import ProtocolLimits
from pbft.service.api import Room, State
from pbft.service.kv.store import KeyValueStore
from pbft.wire import kv_pb2
from tests.harness.records import DictState

CLIENT = b"c" * 32
MOMENT_US = 1_700_000_000_000_000

Op = kv_pb2.RequestOp
RANGE = kv_pb2.RangeRequest
COMPARE = kv_pb2.Compare


def get(key: bytes, range_end: bytes = b"", **options: object) -> Op:
    return Op(request_range=kv_pb2.RangeRequest(key=key, range_end=range_end, **options))


def put(key: bytes, value: bytes = b"", **options: object) -> Op:
    return Op(request_put=kv_pb2.PutRequest(key=key, value=value, **options))


def delete(key: bytes, range_end: bytes = b"", **options: object) -> Op:
    deletion = kv_pb2.DeleteRangeRequest(key=key, range_end=range_end, **options)
    return Op(request_delete_range=deletion)


def txn(
    compare: list[kv_pb2.Compare] | None = None,
    success: list[Op] | None = None,
    failure: list[Op] | None = None,
) -> Op:
    return Op(request_txn=kv_pb2.TxnRequest(compare=compare, success=success, failure=failure))


def compare(key: bytes, target: int, result: int, **options: object) -> kv_pb2.Compare:
    return kv_pb2.Compare(key=key, target=target, result=result, **options)


def plenty() -> Room:
    """More room than anything asks for."""
    return Room(1 << 40, 1 << 40)


class Store:
    """A KeyValueStore on dictionaries, or on the state it is given."""

    def __init__(self, limits: ProtocolLimits | None = None, state: State | None = None) -> None:
        self.state = DictState()
        self.service = KeyValueStore(state or self.state, limits or ProtocolLimits())

    def execute(self, operation: Op) -> kv_pb2.Result:
        return kv_pb2.Result.FromString(self.execute_encoded(operation.SerializeToString()))

    def execute_encoded(self, operation: bytes) -> bytes:
        (result,) = self.service.execute_all((operation,), MOMENT_US, CLIENT, plenty())
        return result

    def query(self, operation: Op) -> kv_pb2.Result:
        before = self.state.items()
        encoded = self.service.query(operation.SerializeToString(), MOMENT_US)
        assert self.state.items() == before, "a query changes nothing"
        return kv_pb2.Result.FromString(encoded)

    def get(self, *arguments: object, **options: object) -> kv_pb2.RangeResponse:
        return self._answer(get(*arguments, **options)).response_range

    def put(self, *arguments: object, **options: object) -> kv_pb2.PutResponse:
        return self._answer(put(*arguments, **options)).response_put

    def delete(self, *arguments: object, **options: object) -> kv_pb2.DeleteRangeResponse:
        return self._answer(delete(*arguments, **options)).response_delete_range

    def txn(self, *arguments: object) -> kv_pb2.TxnResponse:
        return self._answer(txn(*arguments)).response_txn

    def fails(self, operation: Op) -> tuple[int, str]:
        """Code and text of the error; an operation with an error has changed nothing."""
        before = self.state.items()
        result = self.execute(operation)
        assert result.HasField("error"), result
        assert self.state.items() == before
        return result.error.code, result.error.message

    def _answer(self, operation: Op) -> kv_pb2.ResponseOp:
        result = self.execute(operation)
        assert result.HasField("response"), result
        return result.response


def keys(response: kv_pb2.RangeResponse) -> list[bytes]:
    return [pair.key for pair in response.kvs]


EMPTY_KEY = (3, "etcdserver: key is not provided")
KEY_NOT_FOUND = (3, "etcdserver: key not found")
INVALID_SORT = (3, "etcdserver: invalid sort option")
VALUE_PROVIDED = (3, "etcdserver: value is provided")
LEASE_PROVIDED = (3, "etcdserver: lease is provided")
DUPLICATE_KEY = (3, "etcdserver: duplicate key given in txn request")
TOO_MANY_OPERATIONS = (3, "etcdserver: too many operations in txn request")
REQUEST_TOO_LARGE = (3, "etcdserver: request is too large")
LEASE_NOT_FOUND = (5, "etcdserver: requested lease not found")
COMPACTED = (11, "etcdserver: mvcc: required revision has been compacted")
FUTURE = (11, "etcdserver: mvcc: required revision is a future revision")
TOO_MANY_RECORDS = (8, "etcdserver: operation touches too many records")
RESULT_TOO_LARGE = (8, "etcdserver: result is too large")
