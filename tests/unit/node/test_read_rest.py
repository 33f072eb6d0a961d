"""Reads that take long: of one client, and of several."""

from dataclasses import replace

import pytest

from pbft.messages import Consistency, ReadRequest
from pbft.node import read_rest
from pbft.node.inbox import ClientOrigin
from pbft.node.read_rest import HELD_READS, LONG_SECONDS, QUERY_BYTES, REST_FACTOR, ReadRest

ALICE, BOB, CAROL = bytes(32), b"b" * 32, b"c" * 32


def read(nonce: int) -> ReadRequest:
    return ReadRequest(nonce, (b"q",), Consistency.LINEARIZABLE, True)


def held(rest: ReadRest, now: float) -> int | None:
    taken = rest.take(now)
    return None if taken is None else taken[1].nonce


def test_short_reads_are_free() -> None:
    rest = ReadRest()
    rest.note(ALICE, LONG_SECONDS, 100.0)
    assert not rest.must_wait(ALICE, 100.0)


def test_after_a_long_read_its_client_rests_and_nobody_else() -> None:
    rest = ReadRest()
    rest.note(ALICE, 0.5, 100.0)
    end = 100.0 + REST_FACTOR * 0.5
    assert rest.must_wait(ALICE, end - 0.01)
    assert not rest.must_wait(ALICE, end)
    assert not rest.must_wait(BOB, 100.0)


def test_clients_that_read_at_the_same_time_rest_longer_each() -> None:
    rest = ReadRest()
    rest.note(ALICE, 0.5, 100.0)
    rest.note(BOB, 0.5, 100.5)
    assert rest.must_wait(BOB, 100.5 + 2 * REST_FACTOR * 0.5 - 0.01)
    assert not rest.must_wait(BOB, 100.5 + 2 * REST_FACTOR * 0.5)
    rest.note(CAROL, 0.5, 200.0)
    assert not rest.must_wait(CAROL, 200.0 + REST_FACTOR * 0.5), "the others are done resting"


def test_reads_that_wait_are_answered_in_their_order_after_the_rest() -> None:
    rest = ReadRest()
    origin = ClientOrigin(1, ALICE)
    assert rest.next_due() is None
    rest.note(ALICE, 0.5, 100.0)
    assert rest.hold(origin, read(1)) and rest.hold(origin, read(2))
    end = rest.next_due()
    assert end == 100.0 + REST_FACTOR * 0.5
    assert held(rest, end - 0.01) is None
    assert held(rest, end) == 1
    assert rest.must_wait(ALICE, end), "behind the one that waits"
    rest.note(ALICE, 0.5, end)
    assert held(rest, end) is None
    assert held(rest, end + REST_FACTOR * 0.5) == 2
    assert rest.next_due() is None
    assert not rest.must_wait(ALICE, end + REST_FACTOR * 0.5)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = ReadRest()
    for client in (ALICE, BOB):
        rest.note(client, 0.5, 100.0)
    for nonce in range(HELD_READS):
        assert rest.hold(ClientOrigin(1, ALICE), read(nonce))
    assert not rest.hold(ClientOrigin(1, ALICE), read(HELD_READS))
    monkeypatch.setattr(read_rest, "HELD_BYTES_TOTAL", HELD_READS * (QUERY_BYTES + 1))
    assert not rest.hold(ClientOrigin(2, BOB), read(1))
    assert held(rest, 1_000.0) == 0
    assert rest.hold(ClientOrigin(2, BOB), read(1))


def test_of_stale_reads_only_the_last_one_waits() -> None:
    rest, origin = ReadRest(), ClientOrigin(1, ALICE)
    rest.note(ALICE, 0.5, 100.0)
    assert rest.hold(origin, read(1))
    for nonce in (2, 3):
        assert rest.hold(origin, replace(read(nonce), consistency=Consistency.STALE))
    assert [held(rest, 1_000.0) for _ in range(3)] == [1, 3, None]
