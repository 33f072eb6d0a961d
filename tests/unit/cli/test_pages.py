"""`pbft kv range` beyond what one answer holds, or one operation may look at."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pbft.cli import pages
from pbft.cli.kv import _print_range
from pbft.cli.pages import Pages
from pbft_client import Client, RangeResult, ServiceError
from tests.unit.client.fake_cluster import FakeCluster, in_loop

LARGE = b"v" * 900_000


async def keys_of(client: Client, prefix: bytes) -> list[bytes]:
    found = Pages(client, "linearizable").of(prefix)
    return [pair.key async for items in found for pair in items]


async def fill_with_large_values(client: Client) -> None:
    for number in range(10):
        await client.put(b"large/%d" % number, LARGE)


@in_loop
async def test_more_than_one_answer_holds_is_read_in_pages(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await fill_with_large_values(client)
        await asyncio.gather(*(client.put(b"small/%03d" % number, b"v") for number in range(100)))
        with pytest.raises(ServiceError, match="result is too large"):
            await client.range(prefix=b"")
        assert await keys_of(client, b"large/") == [b"large/%d" % number for number in range(10)]
        everything = await keys_of(client, b"")
        assert everything[:10] == [b"large/%d" % number for number in range(10)]
        assert everything[10:] == [b"small/%03d" % number for number in range(100)]
        assert await keys_of(client, b"none") == []


@in_loop
async def test_a_page_becomes_larger_again_where_the_values_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAIRS_MAX", 16)
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await fill_with_large_values(client)
        await asyncio.gather(*(client.put(b"small/%03d" % number, b"v") for number in range(100)))
        sizes = [len(items) async for items in Pages(client, "ordered").of(b"")]
        assert sizes[0] == 4
        assert sizes[-2] == 16
        assert sum(sizes) == 110


@in_loop
async def test_more_keys_than_one_operation_may_look_at_are_asked_for_by_their_next_byte(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        keys = [b"b", b"ba", b"ba\xff", b"ba\xff\xff", b"\x00", b"\xff\xff"]
        keys += [b"ba%c" % byte for byte in range(0x40, 0x60)]
        keys += [b"b%c" % byte for byte in range(0x20)]
        keys.sort()
        await asyncio.gather(*(client.put(key, b"v") for key in keys))
        store = cluster.order.store
        store._limits = replace(store._limits, records_per_operation=20)
        with pytest.raises(ServiceError, match="too many records"):
            await client.range(prefix=b"b", limit=1)
        assert await keys_of(client, b"") == keys


@in_loop
async def test_what_is_printed_in_pages_is_what_is_printed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "PAIRS_MAX", 4)
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await asyncio.gather(*(client.put(b"k%d" % number, b"v\n") for number in range(9)))
        for prefix in (b"k", b"none"):
            for output in ("json", "table"):
                await _print_range(client, prefix, 0, "linearizable", output)
                in_pages = capsys.readouterr().out
                await _print_range(client, prefix, 10, "linearizable", output)
                assert capsys.readouterr().out == in_pages
                if output == "json":
                    assert in_pages == json.dumps(json.loads(in_pages), indent=2) + "\n"
                else:
                    assert in_pages.count("mod_revision") == 1


@in_loop
async def test_what_fails_after_a_page_is_no_json_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "PAIRS_MAX", 4)
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await asyncio.gather(*(client.put(b"k%d" % number, b"v") for number in range(9)))
        answer = client.range

        async def range_of(**options: Any) -> RangeResult:
            if options["start"]:
                raise ServiceError(8, "etcdserver: no")
            return await answer(**options)

        monkeypatch.setattr(client, "range", range_of)
        with pytest.raises(ServiceError):
            await _print_range(client, b"k", 0, "linearizable", "json")
    printed = capsys.readouterr().out
    assert printed.count('"key"') == 4
    with pytest.raises(json.JSONDecodeError):
        json.loads(printed)
