"""The deterministic errors of operations: gRPC status code and etcd's text (rule 31)."""

from enum import IntEnum


class StatusCode(IntEnum):
    """The gRPC status codes that an operation can end with."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11


class OperationError(Exception):
    """Ends an operation without any change; the store turns it into an error result."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = f"etcdserver: {text}"


def invalid_argument(text: str) -> OperationError:
    """An operation that is wrong whatever the state."""
    return OperationError(StatusCode.INVALID_ARGUMENT, text)


def empty_key() -> OperationError:
    """Rule 7."""
    return invalid_argument("key is not provided")


def key_not_found() -> OperationError:
    """Rules 12 and 20; also etcd's answer to an operation without any request in it."""
    return invalid_argument("key not found")


def duplicate_key() -> OperationError:
    """Rule 18."""
    return invalid_argument("duplicate key given in txn request")


def too_many_operations() -> OperationError:
    """Rule 19."""
    return invalid_argument("too many operations in txn request")


def lease_not_found() -> OperationError:
    """Rule 12."""
    return OperationError(StatusCode.NOT_FOUND, "requested lease not found")


def compacted() -> OperationError:
    """Rule 8: the revision asked for is no longer kept."""
    return OperationError(StatusCode.OUT_OF_RANGE, "mvcc: required revision has been compacted")


def future_revision() -> OperationError:
    """Rule 8: the revision asked for does not exist yet."""
    return OperationError(StatusCode.OUT_OF_RANGE, "mvcc: required revision is a future revision")


def too_many_records() -> OperationError:
    """The operation would touch more records than the genesis allows."""
    return OperationError(StatusCode.RESOURCE_EXHAUSTED, "operation touches too many records")


def result_too_large() -> OperationError:
    """The result would be larger than the genesis allows."""
    return OperationError(StatusCode.RESOURCE_EXHAUSTED, "result is too large")
