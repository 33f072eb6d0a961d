"""Reads that take long: of one client, and of several."""

from pbft.node.read_rest import LONG_SECONDS, REST_FACTOR, ReadRest

ALICE, BOB, CAROL = bytes(32), b"b" * 32, b"c" * 32


def test_short_reads_are_free() -> None:
    rest = ReadRest()
    rest.note(ALICE, LONG_SECONDS, 100.0)
    assert not rest.is_due(ALICE, 100.0)


def test_after_a_long_read_its_client_rests_and_nobody_else() -> None:
    rest = ReadRest()
    rest.note(ALICE, 0.5, 100.0)
    end = 100.0 + REST_FACTOR * 0.5
    assert rest.is_due(ALICE, end - 0.01)
    assert not rest.is_due(ALICE, end)
    assert not rest.is_due(BOB, 100.0)


def test_clients_that_read_at_the_same_time_rest_longer_each() -> None:
    rest = ReadRest()
    rest.note(ALICE, 0.5, 100.0)
    rest.note(BOB, 0.5, 100.5)
    assert rest.is_due(BOB, 100.5 + 2 * REST_FACTOR * 0.5 - 0.01)
    assert not rest.is_due(BOB, 100.5 + 2 * REST_FACTOR * 0.5)
    rest.note(CAROL, 0.5, 200.0)
    assert not rest.is_due(CAROL, 200.0 + REST_FACTOR * 0.5), "the others are done resting"
