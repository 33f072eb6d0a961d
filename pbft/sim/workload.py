"""What honest clients ask for: small operations on few keys, so that they meet."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from pbft.types import Micros
from pbft.wire import kv_pb2

BURST_MAX = 4


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a key."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """Reads a key; `ordered`: through a batch, else by the fast path."""

    key: bytes
    ordered: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes a key."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CompareAndSwap:
    """Sets a key if it has the expected value (None: if it does not exist)."""

    key: bytes
    expected: bytes | None
    value: bytes


Operation: TypeAlias = Put | Get | Delete | CompareAndSwap


def encode_operation(operation: Operation) -> bytes:
    """The bytes that the service executes or queries."""
    request = kv_pb2.RequestOp()
    match operation:
        case Put(key, value):
            request.request_put.key = key
            request.request_put.value = value
        case Get(key):
            request.request_range.key = key
        case Delete(key):
            request.request_delete_range.key = key
        case CompareAndSwap(key, expected, value):
            compare = request.request_txn.compare.add()
            compare.key = key
            compare.result = kv_pb2.Compare.EQUAL
            if expected is None:
                compare.target = kv_pb2.Compare.VERSION
                compare.version = 0
            else:
                compare.target = kv_pb2.Compare.VALUE
                compare.value = expected
            put = request.request_txn.success.add().request_put
            put.key = key
            put.value = value
    return request.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class Visit:
    """Operations that a client asks for at one moment."""

    at_us: Micros
    operations: tuple[Operation, ...]


def draw_visits(
    random: Random, name: str, count: int, keys: int, until_us: Micros
) -> Iterator[Visit]:
    """`count` operations in bursts, spread over the time until `until_us`, ascending in time."""
    bursts: list[int] = []
    while sum(bursts) < count:
        bursts.append(min(random.randrange(1, BURST_MAX + 1), count - sum(bursts)))
    times = sorted(random.randrange(until_us) for _ in bursts)
    written = 0
    for at_us, burst in zip(times, bursts, strict=True):
        operations: list[Operation] = []
        for _ in range(burst):
            written += 1
            operations.append(_draw_operation(random, f"{name}.{written}".encode(), keys))
        yield Visit(at_us, tuple(operations))


def _draw_operation(random: Random, value: bytes, keys: int) -> Operation:
    """Every written value is written once, so that a history can be told from its values."""
    key = b"key%d" % random.randrange(keys)
    choice = random.random()
    if choice < 0.5:
        return Put(key, value)
    if choice < 0.65:
        return Get(key, ordered=True)
    if choice < 0.8:
        return Get(key, ordered=False)
    if choice < 0.87:
        return Delete(key)
    return CompareAndSwap(key, None, value)
