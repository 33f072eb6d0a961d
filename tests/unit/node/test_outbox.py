"""Persist, then send: protocol.md section 10."""

import asyncio
import threading

import pytest

from pbft.core.effects import Refuse, Truncate
from pbft.node import outbox as outbox_module
from tests.unit.node.support import (
    ANSWER,
    CLIENT,
    INSTALL,
    MERGE,
    bench,
    breathe,
    broadcast,
    persist,
    send,
    until,
)


def test_nothing_leaves_before_its_persist_is_durable() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([persist(1), send("a"), broadcast("b"), ANSWER])
        it.outbox.turn([Refuse(CLIENT, 1, 1, "queue_full"), MERGE])
        await until(lambda: it.log.transactions == [[1]])
        await breathe()
        assert it.seen.left == []
        it.log.end_one()
        await until(lambda: len(it.seen.left) == 5)
        assert it.seen.left == ["a>1", "b>all", "signed", "refusal", "merge"]
        await it.worker.close()

    asyncio.run(scenario())


def test_what_comes_before_a_persist_does_not_wait_for_it() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([send("before"), persist(1), send("after"), persist(2), send("last")])
        assert it.seen.left == ["before>1"]
        it.log.end_one()
        await until(lambda: len(it.seen.left) == 3)
        assert it.seen.left == ["before>1", "after>1", "last>1"]
        await it.worker.close()

    asyncio.run(scenario())


def test_a_turn_without_records_leaves_at_once_only_if_nothing_is_under_way() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([send("free")])
        assert it.seen.left == ["free>1"]
        it.outbox.turn([persist(1), send("first")])
        it.outbox.turn([send("second"), ANSWER])
        await breathe()
        assert it.seen.left == ["free>1"]
        it.log.end_one()
        await until(lambda: len(it.seen.left) == 4)
        assert it.seen.left[1:] == ["first>1", "second>1", "signed"]
        it.outbox.turn([send("free again")])
        assert it.seen.left[-1] == "free again>1"
        await it.worker.close()

    asyncio.run(scenario())


def test_turns_that_wait_share_one_transaction_in_their_order() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([persist(1), send("1")])
        await until(lambda: it.log.transactions == [[1]])
        it.outbox.turn([persist(2), send("2")])
        it.outbox.turn([Truncate(1), persist(3), send("3")])
        it.log.end_one()
        await until(lambda: len(it.log.transactions) == 2)
        assert it.log.transactions[1] == [2, -1, 3]
        await breathe()
        assert it.seen.left == ["1>1"]
        it.log.end_one()
        await until(lambda: len(it.seen.left) == 3)
        assert it.seen.left == ["1>1", "2>1", "3>1"]
        assert it.syncs == [1, 3]
        assert it.log.threads.isdisjoint({threading.get_ident()}), "the loop must go on meanwhile"
        await it.worker.close()

    asyncio.run(scenario())


def test_records_that_gate_nothing_are_written_soon_and_in_order() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([persist(1, gates=False), send("free")])
        assert it.seen.left == ["free>1"]
        assert it.log.transactions == []
        await until(lambda: it.log.transactions == [[1]])
        it.log.end_one()
        await breathe()
        it.outbox.turn([persist(2, gates=False)])
        it.outbox.turn([persist(3), send("gated")])
        await until(lambda: len(it.log.transactions) == 2)
        assert it.log.transactions[1] == [2, 3]
        assert it.seen.left == ["free>1"]
        it.log.end_one()
        await until(lambda: it.seen.left == ["free>1", "gated>1"])
        await it.worker.close()

    asyncio.run(scenario())


def test_much_that_gates_nothing_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(outbox_module, "LAZY_FLUSH_SECONDS", 3600)
        it = bench()
        it.outbox.turn([persist(1, gates=False, body=outbox_module.LAZY_FLUSH_BYTES)])
        await until(lambda: it.log.transactions == [[1]])
        it.log.end_one()
        await it.worker.close()

    asyncio.run(scenario())


def test_a_failed_sync_stops_everything() -> None:
    async def scenario() -> None:
        it = bench()
        it.log.failure = OSError("no space")
        it.outbox.turn([persist(1), send("never")])
        it.outbox.turn([persist(2), send("never")])
        it.log.end_one(2)
        await until(lambda: bool(it.failures.texts))
        assert it.failures.texts == ["the vote log could not be written: no space"]
        it.outbox.turn([send("never")])
        it.outbox.turn([persist(3), send("never")])
        await breathe()
        assert it.seen.left == []
        assert it.log.transactions == [[1]]
        await it.outbox.close()
        await it.worker.close()

    asyncio.run(scenario())


def test_merges_wait_for_records_too() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([persist(1), MERGE, INSTALL])
        await breathe()
        assert it.seen.left == []
        it.log.end_one()
        await until(lambda: it.seen.left == ["merge", "install"])
        await it.worker.close()

    asyncio.run(scenario())


def test_broadcast_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = outbox_module.encode_peer_item
    monkeypatch.setattr(
        outbox_module, "encode_peer_item", lambda item: calls.append(item) or encode(item)
    )

    async def scenario() -> None:
        it = bench()
        it.outbox.turn([broadcast("x")])
        assert len(calls) == len(it.seen.encodings) == 1
        await it.worker.close()

    asyncio.run(scenario())


def test_turns_wait_for_a_slow_disk() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([persist(1, body=outbox_module.WAITING_BYTES)])
        assert it.outbox.waiting_bytes > outbox_module.WAITING_BYTES
        waiting = asyncio.create_task(it.outbox.wait_for_room())
        await breathe()
        assert not waiting.done()
        it.log.end_one()
        await asyncio.wait_for(waiting, 60)
        assert it.outbox.waiting_bytes == 0
        await it.worker.close()

    asyncio.run(scenario())


def test_a_stuck_disk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        it = bench()
        assert it.outbox.is_responsive()
        it.outbox.turn([persist(1)])
        assert it.outbox.is_responsive()
        monkeypatch.setattr(outbox_module, "STUCK_SECONDS", 0.0)
        assert not it.outbox.is_responsive()
        it.log.end_one()
        await until(it.outbox.is_responsive)
        await it.worker.close()

    asyncio.run(scenario())


def test_closing_writes_what_is_left() -> None:
    async def scenario() -> None:
        it = bench()
        it.outbox.turn([persist(1), send("a")])
        it.outbox.turn([persist(2, gates=False)])
        it.log.end_one(2)
        await it.outbox.close()
        assert it.log.transactions == [[1], [2]]
        assert it.seen.left == ["a>1"]
        await it.worker.close()

    asyncio.run(scenario())
