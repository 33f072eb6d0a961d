"""Arguments that can be no operation: each is an InvalidCall, and nothing is sent."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pbft_client import kv
from pbft_client.client import Client
from pbft_client.errors import InvalidCall
from tests.unit.client.fake_cluster import FakeCluster, in_loop

LONG = b"v" * 100_000
FLAG = "must be True or False"
NUMBER = "must be a whole number from 0 to"
WRONG: list[tuple[Callable[[Any], Awaitable[object]], str]] = [
    (lambda client: client.put("k", b"v"), "key must be bytes, not str"),
    (lambda client: client.put(b"k", "v"), "value must be bytes, not str"),
    (lambda client: client.put(b"k", None), "value must be bytes, not NoneType"),
    (lambda client: client.put(b"k", 7), "value must be bytes, not int"),
    (lambda client: client.put("k", LONG), "key must be bytes, not str"),
    (lambda client: client.put(b"k", "v", return_previous=True), "value must be bytes, not str"),
    (lambda client: client.cas(b"k", expect=None, value="v"), "value must be bytes, not str"),
    (lambda client: client.cas(b"k", expect="e", value=b"v"), "expect must be bytes, not str"),
    (lambda client: client.get("k"), "key must be bytes, not str"),
    (lambda client: client.range(b"k", range_end="l"), "range_end must be bytes, not str"),
    (lambda client: client.range(prefix="k"), "prefix must be bytes, not str"),
    (lambda client: client.range(prefix=b"k", start="l"), "start must be bytes, not str"),
    (lambda client: client.range(prefix=b"k", limit=-1), f"limit {NUMBER}"),
    (lambda client: client.range(prefix=b"k", limit=2**70), f"limit {NUMBER}"),
    (lambda client: client.range(prefix=b"k", limit=10**5_000), f"limit {NUMBER}"),
    (lambda client: client.range(prefix=b"k", limit=1.5), f"limit {NUMBER}"),
    (lambda client: client.range(prefix=b"k", revision=2**63), f"revision {NUMBER}"),
    (lambda client: client.range(prefix=b"k", limit=True), f"limit {NUMBER}"),
    (lambda client: client.range(prefix=b"k", revision=False), f"revision {NUMBER}"),
    (lambda client: client.range(b"k", keys_only="yes"), f"keys_only {FLAG}, not str"),
    (lambda client: client.range(b"k", count_only=1), f"count_only {FLAG}, not int"),
    (lambda client: client.range(b"k", with_revision=[]), f"with_revision {FLAG}, not list"),
    (lambda client: client.put(b"k", b"v", return_previous="yes"), f"return_previous {FLAG}"),
    (lambda client: client.put(b"k", b"v", return_previous=None), f"return_previous {FLAG}"),
    (lambda client: client.delete(b"k", return_previous="yes"), f"return_previous {FLAG}"),
    (lambda client: client.get(b"k", consistency=[]), "consistency must be one of"),
    (lambda client: client.get(b"k", consistency="fast"), "consistency must be one of"),
    (lambda client: client.delete(prefix="k"), "prefix must be bytes, not str"),
    (lambda client: client.execute("operation"), "operation must be bytes, not str"),
    (lambda client: client.get(b"k", timeout=[]), "timeout must be a finite number"),
]


@in_loop
async def test_what_can_be_no_operation_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for call, words in WRONG:
            with pytest.raises(InvalidCall, match=words):
                await call(client)
        assert not any(replica.submits or replica.reads for replica in cluster.replicas)


@in_loop
async def test_whatever_holds_bytes_will_do(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await put_and_get(client, bytearray(b"k"), memoryview(b"value"))
        await put_and_get(client, memoryview(b"k"), bytearray(LONG))
        assert len(await client.range(prefix=b"", limit=2**63 - 1)) == 1


async def put_and_get(client: Client, key: Any, value: Any) -> None:
    await client.put(key, value)
    pair = await client.get(key)
    assert pair is not None
    assert (pair.key, pair.value) == (bytes(key), bytes(value))


def test_a_view_of_larger_items_is_spelled_by_its_bytes() -> None:
    words = memoryview(bytes(range(16))).cast("I")
    encoded = kv.encode_put(b"k", words, return_previous=False)  # type: ignore[arg-type]
    assert encoded == kv.encode_put(b"k", bytes(range(16)), return_previous=False)


@in_loop
async def test_two_ends_of_an_interval_are_special_as_in_etcd(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for end, keys in ((b"", [b"b"]), (b"\0", [b"b", b"c"]), (b"\0\0", []), (b"c", [b"b"])):
            for key in (b"a", b"b", b"c"):
                await client.put(key, b"v")
            found = await client.range(b"b", range_end=end)
            assert [pair.key for pair in found] == keys
            assert (await client.delete(b"b", range_end=end)).deleted == len(keys)
