"""The replicated key-value service: bytes in, bytes out (service.md sections 1 to 3)."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from pbft.limits import ProtocolLimits
from pbft.service.api import FIRST_SERVICE_DOMAIN, Room, State
from pbft.service.kv.branches import run_transaction
from pbft.service.kv.errors import OperationError, StatusCode, invalid_argument, key_not_found
from pbft.service.kv.operations import (
    require_key,
    require_lease,
    require_revision,
    run_delete_range,
    run_put,
    run_range,
)
from pbft.service.kv.plain import PlainPuts, is_plain_range, plain_range
from pbft.service.kv.requests import (
    check_delete_range,
    check_put,
    check_range,
    check_transaction,
)
from pbft.service.kv.transaction import Transaction, require_sane_limits
from pbft.types import ClientKey, Micros
from pbft.wire import kv_pb2

KEY_VALUE_DOMAIN = FIRST_SERVICE_DOMAIN
"""Records (key, mod_revision): the latest version of each key."""
STORE_DOMAIN = FIRST_SERVICE_DOMAIN + 1
"""What the store knows about itself: its revision."""
FIRST_REVISION = 1
"""Of the empty store (rule 1)."""

_REVISION_KEY = b"revision"
_REVISION_BYTES = 8


class KeyValueStore:
    """The service of one replica: an operation or query is an encoded RequestOp, the answer an
    encoded Result.

    Nothing is remembered besides the records, not even the revision: reading it costs little, and
    a state transfer may replace the records between any two calls. The constructor raises
    ConfigurationError for limits under which a pair could be put but not read.
    """

    def __init__(self, state: State, limits: ProtocolLimits) -> None:
        require_sane_limits(limits)
        self._pairs = state.domain(KEY_VALUE_DOMAIN)
        self._store = state.domain(STORE_DOMAIN)
        self._plain_puts = PlainPuts(self._pairs, limits.operation_bytes)
        self._limits = limits
        self.touched = 0
        """See Service.touched."""

    def execute_all(
        self, operations: Sequence[bytes], agreed_time_us: Micros, client: ClientKey, room: Room
    ) -> list[bytes]:
        """See Service.execute_all. What is wrong with an operation becomes an error result, and
        then nothing has changed."""
        results: list[bytes] = []
        while len(results) < len(operations):
            revision = self._revision()
            puts = self._plain_puts.run(operations, len(results), revision, room, results)
            if puts:
                self.touched += puts
                self._set_revision(revision + puts)
            elif room.is_left:
                results.append(self._execute_alone(operations[len(results)], room))
            else:
                results += [self.exhausted()] * (len(operations) - len(results))
        return results

    def _execute_alone(self, operation: bytes, room: Room) -> bytes:
        begin = self.touched
        result = self._execute_encoded(operation)
        room.records -= self.touched - begin
        room.results_bytes -= len(result)
        return result

    def _execute_encoded(self, operation: bytes) -> bytes:
        self.touched += 1
        try:
            request = self._decode(operation)
            if request.HasField("request_range") and is_plain_range(request.request_range):
                return plain_range(self._pairs, request.request_range, self._revision())
            return self._execute(request)
        except OperationError as error:
            return _encode_error(error)

    def exhausted(self) -> bytes:
        """See Service.exhausted."""
        error = OperationError(StatusCode.RESOURCE_EXHAUSTED, "request asks for too much")
        return _encode_error(error)

    def query(self, query: bytes, agreed_time_us: Micros) -> bytes:
        """Answers a range. The header is left out unless the query asks `with_revision`: answers
        of several replicas must match, and the revision moves with every write (protocol.md 11)."""
        self.touched += 1
        try:
            request = self._decode(query)
            if not request.HasField("request_range"):
                raise invalid_argument("only a range can be queried")
            if is_plain_range(request.request_range):
                return plain_range(self._pairs, request.request_range, 0)
            transaction = Transaction(self._pairs, self._revision(), self._limits)
            result = kv_pb2.Result()
            result.response.response_range.SetInParent()
            try:
                self._run_range(transaction, request.request_range, result.response.response_range)
            finally:
                self.touched += transaction.touched
            if request.request_range.with_revision:
                result.response.response_range.header.revision = transaction.revision
            return result.SerializeToString()
        except OperationError as error:
            return _encode_error(error)

    def _decode(self, data: bytes) -> kv_pb2.RequestOp:
        """Raises OperationError for bytes that are no request, or have more in them than we know:
        ignoring a field that a newer client relies on would change what it asked for."""
        if len(data) > self._limits.operation_bytes:
            raise invalid_argument("request is too large")
        try:
            request = kv_pb2.RequestOp.FromString(data)
        except DecodeError:
            raise invalid_argument("request is malformed") from None
        size_bytes = request.ByteSize()
        request.DiscardUnknownFields()
        if request.ByteSize() != size_bytes:
            raise invalid_argument("request has unknown fields")
        return request

    def _revision(self) -> int:
        record = self._store.get(_REVISION_KEY)
        return FIRST_REVISION if record is None else int.from_bytes(record[1], "big")

    def _set_revision(self, revision: int) -> None:
        self._store.put(_REVISION_KEY, 0, revision.to_bytes(_REVISION_BYTES, "big"))

    def _execute(self, request: kv_pb2.RequestOp) -> bytes:
        """The general path. Raises OperationError, and then nothing has changed."""
        transaction = Transaction(self._pairs, self._revision(), self._limits)
        result = kv_pb2.Result()
        try:
            self._run(transaction, request, result.response)
        finally:
            self.touched += transaction.touched
        encoded = result.SerializeToString()
        if transaction.commit():
            self._set_revision(transaction.next_revision)
        return encoded

    def _run(
        self, transaction: Transaction, request: kv_pb2.RequestOp, response: kv_pb2.ResponseOp
    ) -> None:
        match request.WhichOneof("request"):
            case "request_put":
                put = request.request_put
                check_put(put)
                require_lease(put)
                require_key(transaction, put)
                run_put(transaction, put, response.response_put)
            case "request_range":
                self._run_range(transaction, request.request_range, response.response_range)
                response.response_range.header.revision = transaction.revision
            case "request_txn":
                self.touched += check_transaction(request.request_txn)
                run_transaction(transaction, request.request_txn, response.response_txn)
            case "request_delete_range":
                check_delete_range(request.request_delete_range)
                run_delete_range(
                    transaction, request.request_delete_range, response.response_delete_range
                )
            case None:
                raise key_not_found()

    def _run_range(
        self,
        transaction: Transaction,
        request: kv_pb2.RangeRequest,
        response: kv_pb2.RangeResponse,
    ) -> None:
        check_range(request)
        require_revision(transaction, request.revision)
        run_range(transaction, request, response)


def _encode_error(error: OperationError) -> bytes:
    return kv_pb2.Result(
        error=kv_pb2.Error(code=error.code, message=error.text)
    ).SerializeToString()
