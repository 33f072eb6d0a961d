"""What honest clients ask for: small operations on few keys, so that they meet."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from pbft.sim.checkers.history import Cas, Delete, Get, KeyAction, Put, Result
from pbft.types import Micros
from pbft.wire import kv_pb2

BURST_MAX = 4
FAST_READS = 0.5
"""Share of the bursts that end with a fast read."""


def encode_action(action: KeyAction) -> bytes:
    """The bytes that the service executes or queries."""
    request = kv_pb2.RequestOp()
    match action:
        case Put(key, value):
            request.request_put.key = key
            request.request_put.value = value
        case Get(key):
            request.request_range.key = key
        case Delete(key):
            request.request_delete_range.key = key
        case Cas(key, expect, value):
            compare = request.request_txn.compare.add()
            compare.key = key
            compare.result = kv_pb2.Compare.EQUAL
            if expect is None:
                compare.target = kv_pb2.Compare.VERSION
                compare.version = 0
            else:
                compare.target = kv_pb2.Compare.VALUE
                compare.value = expect
            put = request.request_txn.success.add().request_put
            put.key = key
            put.value = value
    return request.SerializeToString(deterministic=True)


def decode_result(action: KeyAction, encoded: bytes) -> tuple[Result, int | None]:
    """What the model calls the result, and the store's revision after the operation (None if the
    answer leaves it out). Raises ValueError for an error result: the workload makes none."""
    result = kv_pb2.Result.FromString(encoded)
    if result.HasField("error"):
        raise ValueError(f"{action} ended with {result}")
    response = result.response
    match action:
        case Put():
            return None, response.response_put.header.revision
        case Get():
            found = response.response_range
            value = found.kvs[0].value if found.kvs else None
            return value, found.header.revision or None
        case Delete():
            deleted = response.response_delete_range
            return deleted.deleted > 0, deleted.header.revision
        case Cas():
            return response.response_txn.succeeded, response.response_txn.header.revision


def has_changed(action: KeyAction, result: Result) -> bool:
    """Whether an operation with this result changed the store."""
    return isinstance(action, Put) or (isinstance(action, Delete | Cas) and result is True)


@dataclass(frozen=True, slots=True)
class Wish:
    """One operation that a client will ask for; `fast`: a read that is not ordered."""

    action: KeyAction
    fast: bool = False


@dataclass(frozen=True, slots=True)
class Visit:
    """What a client asks for at one moment."""

    at_us: Micros
    wishes: tuple[Wish, ...]


def draw_visits(
    random: Random, name: str, count: int, keys: int, until_us: Micros
) -> Iterator[Visit]:
    """`count` operations to be ordered (and fast reads between them), in bursts spread over the
    time until `until_us`."""
    bursts: list[int] = []
    while sum(bursts) < count:
        bursts.append(min(random.randrange(1, BURST_MAX + 1), count - sum(bursts)))
    times = sorted(random.randrange(until_us) for _ in bursts)
    written = 0
    for at_us, burst in zip(times, bursts, strict=True):
        wishes: list[Wish] = []
        for _ in range(burst):
            written += 1
            wishes.append(Wish(_draw_action(random, f"{name}.{written}".encode(), keys)))
        if random.random() < FAST_READS:
            wishes.append(Wish(Get(_draw_key(random, keys)), fast=True))
        yield Visit(at_us, tuple(wishes))


def _draw_key(random: Random, keys: int) -> bytes:
    return b"key%d" % random.randrange(keys)


def _draw_action(random: Random, value: bytes, keys: int) -> KeyAction:
    """Every written value is written once, so that a history can be told from its values."""
    key = _draw_key(random, keys)
    choice = random.random()
    if choice < 0.55:
        return Put(key, value)
    if choice < 0.7:
        return Get(key)
    if choice < 0.8:
        return Delete(key)
    return Cas(key, None, value)
