"""Fast reads that are too much together are asked again in halves (protocol.md section 11)."""

from collections.abc import Sequence

import pytest

from pbft.messages import Consistency, ReadReply, ReadRequest
from pbft_client.gathering import Call, GatherSettings
from pbft_client.reads import Reads, ReadSettings, ReadSettlement
from tests.unit.client.world import World, at, read_in, read_reply, refused_read

FAST = Consistency.LINEARIZABLE
ROOM = 2
"""Queries that these replicas answer together."""


class Driver:
    """Reads, and replicas that answer no more than a few queries at once."""

    def __init__(self, up: Sequence[int] = range(4), under_way: int = 4) -> None:
        self.world = World()
        gather = GatherSettings(under_way=under_way, enough_calls=1_000, patience_us=5_000)
        self.reads = Reads(self.world.genesis, 0, lambda: 0.0, ReadSettings(gather))
        self.up = up
        for replica in up:
            self.reads.link_up(replica)

    def calls(self, count: int, consistency: Consistency = FAST) -> list[Call]:
        calls = [Call(b"%d" % index) for index in range(count)]
        for call in calls:
            self.reads.enqueue(call, consistency)
        return calls

    def ask(self, seconds: float = 0) -> list[ReadRequest]:
        """The reads sent now, each once, however many replicas it goes to."""
        sent = [read_in(transmission.item) for transmission in self.reads.poll(at(seconds))]
        return [read for read in sent if read.full_results]

    def refuse(self, read: ReadRequest, *replicas: int) -> list[ReadSettlement]:
        return self._receive(refused_read(read.nonce, read.queries), replicas)

    def answer(self, read: ReadRequest, *replicas: int) -> list[ReadSettlement]:
        return self._receive(read_reply(read.nonce, read.queries, read.queries), replicas)

    def serve(self, read: ReadRequest) -> list[ReadSettlement]:
        """All that are up answer as they do."""
        is_too_much = len(read.queries) > ROOM
        return self.refuse(read, *self.up) if is_too_much else self.answer(read, *self.up)

    def _receive(self, reply: ReadReply, replicas: Sequence[int]) -> list[ReadSettlement]:
        settlements = []
        for replica in replicas:
            settlements += self.reads.receive(self.world.reads(replica, [reply]), at(0))
        return settlements


@pytest.mark.parametrize("count", [3, 4, 7, 64, 256])
@pytest.mark.parametrize("up", [(0, 1, 2, 3), (0, 1, 3)])
def test_every_read_is_answered_fast_after_at_most_log2_rounds(
    count: int, up: tuple[int, ...]
) -> None:
    """Also while a replica is down: then the first refusal already spoils a read."""
    driver = Driver(up)
    calls = driver.calls(count)
    rounds: dict[bytes, int] = {}
    answered: set[Call | None] = set()
    while reads := driver.ask():
        assert len(reads) <= 4
        for read in reads:
            for query in read.queries:
                rounds[query] = rounds.get(query, 0) + 1
            for settlement in driver.serve(read):
                assert settlement.decision is not None, "nothing has to be ordered"
                assert settlement.decision.results == read.queries
                answered.update(settlement.calls)
    assert answered == set(calls)
    assert max(rounds.values()) <= 1 + (count - 1).bit_length()
    assert driver.reads.next_deadline_us() is None


def test_halves_go_at_once_ahead_of_others_and_nobody_joins_them() -> None:
    driver = Driver()
    driver.calls(5)
    (read,) = driver.ask()
    driver.reads.enqueue(Call(b"new"), FAST)
    assert driver.refuse(read, 0, 1) == []
    assert [half.queries for half in driver.ask()] == [(b"0", b"1", b"2"), (b"3", b"4")]
    assert [other.queries for other in driver.ask(0.005)] == [(b"new",)]


def test_no_more_halves_are_under_way_than_other_reads() -> None:
    driver = Driver(under_way=1)
    driver.calls(4)
    (read,) = driver.ask()
    driver.refuse(read, 0, 1)
    (half,) = driver.ask()
    driver.answer(half, 0, 1, 2)
    (other,) = driver.ask()
    assert (half.queries, other.queries) == ((b"0", b"1"), (b"2", b"3"))


def test_f_liars_cannot_have_a_read_halved() -> None:
    driver = Driver()
    calls = driver.calls(2)
    (read,) = driver.ask()
    assert driver.refuse(read, 3) == []
    assert driver.answer(read, 0) == []
    stale = read_reply(read.nonce, read.queries, (b"old", b"old"))
    assert driver.reads.receive(driver.world.reads(1, [stale]), at(0)) == [], (
        "the last may refuse, too"
    )
    assert driver.answer(read, 2) == [ReadSettlement([*calls], None)]
    assert driver.ask(1) == []


def test_a_refused_read_waits_no_longer_than_others_for_the_rest() -> None:
    driver = Driver((0, 1, 2))
    calls = driver.calls(2)
    (read,) = driver.ask()
    assert driver.refuse(read, 0) == []
    assert driver.reads.expire(at(0.199)) == []
    assert driver.reads.expire(at(0.2)) == [ReadSettlement([*calls], None)]


def test_replicas_that_refuse_a_single_query_are_not_asked_for_halves_any_more() -> None:
    """They have no room for reads, which is no reason to send them more."""
    driver = Driver(under_way=1)
    calls = driver.calls(256)
    settlements: list[ReadSettlement] = []
    rounds = 0
    while reads := driver.ask():
        rounds += 1
        settlements += driver.refuse(reads[0], 0, 1)
    assert rounds == 1 + 8
    assert all(settlement.decision is None for settlement in settlements)
    assert [call for settlement in settlements for call in settlement.calls] == calls
    assert all(call.carrier is None for call in calls)


def test_halves_are_handed_back_when_the_replicas_fall_silent() -> None:
    driver = Driver(under_way=1)
    calls = driver.calls(4)
    driver.refuse(driver.ask()[0], 0, 1)
    assert len(driver.ask(0.1)) == 1
    settlements = driver.reads.expire(at(0.3))
    assert settlements == [ReadSettlement([*calls[:2]], None), ReadSettlement([*calls[2:]], None)]


def test_halves_are_handed_back_when_too_few_streams_are_left() -> None:
    driver = Driver()
    calls = driver.calls(4)
    driver.refuse(driver.ask()[0], 0, 1)
    assert driver.reads.link_down(3) == []
    assert driver.reads.link_down(2) == [ReadSettlement([*calls], None)]


def test_nothing_is_halved_while_too_few_streams_are_left() -> None:
    driver = Driver((0, 1, 2))
    calls = driver.calls(4)
    (read,) = driver.ask()
    assert driver.refuse(read, 0) == []
    assert driver.reads.link_down(0) == []
    assert driver.refuse(read, 1) == [ReadSettlement([*calls], None)]


def test_a_call_given_up_is_missing_in_its_half() -> None:
    driver = Driver()
    calls = driver.calls(4)
    (read,) = driver.ask()
    driver.reads.abandon(calls[3])
    driver.refuse(read, 0, 1)
    driver.reads.abandon(calls[0])
    assert driver.reads.answers(calls[1]).answered == ()
    halves = driver.ask()
    assert [half.queries for half in halves] == [(b"1",), (b"2",)]
    (settlement,) = driver.answer(halves[1], 0, 1, 2)
    assert settlement.calls == [calls[2]]
    driver.reads.abandon(calls[1])
    assert driver.reads.next_deadline_us() is None


def test_a_stale_read_that_is_refused_is_asked_anew_as_it_was() -> None:
    driver = Driver()
    driver.calls(4, Consistency.STALE)
    (read,) = driver.ask()
    assert driver.refuse(read, 0, 1, 2, 3) == []
    assert driver.reads.expire(at(0.05)) == []
    (again,) = driver.ask(0.05)
    assert again.queries == read.queries
