"""Fast reads and when they give way to ordered ones (protocol.md section 11)."""

from dataclasses import replace

import pytest

from pbft.messages import Consistency, ReadReply
from pbft_client.collector import Ignored
from pbft_client.gathering import Call, GatherSettings, Transmission
from pbft_client.reads import Reads, ReadSettings, ReadSettlement
from tests.unit.client.world import World, at, read_in, read_reply

FAST, STALE = Consistency.LINEARIZABLE, Consistency.STALE


class Driver:
    """Reads with everything they send decoded."""

    def __init__(
        self, up: range = range(4), random: float = 0.0, world: World | None = None
    ) -> None:
        self.world = world or World()
        settings = ReadSettings(GatherSettings(under_way=2, enough_calls=3, patience_us=5_000))
        self.reads = Reads(self.world.genesis, 2**64 - 1, lambda: random, settings)
        for replica in up:
            self.reads.link_up(replica)

    def calls(self, consistency: Consistency, *queries: bytes) -> list[Call]:
        calls = [Call(query) for query in queries]
        for call in calls:
            self.reads.enqueue(call, consistency)
        return calls

    def ask(self, seconds: float) -> list[Transmission]:
        return self.reads.poll(at(seconds))

    def receive(self, replica: int, reply: ReadReply, seconds: float = 0) -> list[ReadSettlement]:
        return self.reads.receive(self.world.reads(replica, [reply]), at(seconds))


def test_a_read_goes_to_all_and_one_sends_the_results() -> None:
    driver = Driver(random=0.5)
    (call,) = driver.calls(FAST, b"q")
    full, bare = driver.ask(0)
    assert full.replicas == (2,)
    assert bare.replicas == (0, 1, 3)
    read = read_in(full.item)
    assert (read.queries, read.consistency, read.full_results) == ((b"q",), FAST, True)
    assert not read_in(bare.item).full_results
    assert read_in(bare.item).nonce == read.nonce == 2, "nonces wrap at 64 bits"
    answer = read_reply(read.nonce, (b"q",), (b"r",))
    assert driver.receive(0, answer) == []
    assert driver.receive(1, answer) == []
    (settlement,) = driver.receive(3, answer)
    assert settlement.calls == [call]
    assert settlement.decision is not None
    assert settlement.decision.results == (b"r",)
    assert driver.reads.next_deadline_us() is None


def test_each_question_has_a_nonce_of_its_own_that_designates_who_sends_the_results() -> None:
    driver = Driver()
    nonces = set()
    for _ in range(9):
        driver.calls(FAST, b"q")
        full, _ = driver.ask(0)
        nonce = read_in(full.item).nonce
        nonces.add(nonce)
        assert full.replicas == (nonce % 4,)
        driver.reads.expire(at(1))
    assert len(nonces) == 9


def test_reads_gather_while_others_are_under_way() -> None:
    driver = Driver()
    driver.calls(FAST, b"1", b"2")
    assert read_in(driver.ask(0)[0].item).queries == (b"1", b"2")
    driver.calls(FAST, b"3")
    assert driver.ask(0) == []
    assert driver.reads.next_deadline_us() == 5_000
    assert read_in(driver.ask(0.005)[0].item).queries == (b"3",)


def test_a_linearizable_read_waits_for_no_stale_ones() -> None:
    """Those that fail are asked anew, at last after seconds; it would be ordered after 200 ms."""
    driver = Driver()
    changing = [b"changes all the time"] * 3
    for _ in range(2):
        driver.calls(STALE, *changing)
        assert driver.ask(0)
    driver.calls(STALE, *changing)
    assert driver.ask(0) == [], "as many as may be are under way"
    driver.calls(FAST, b"q")
    full, _ = driver.ask(0)
    assert read_in(full.item).consistency is FAST


def test_a_read_asks_no_more_at_once_than_the_genesis_allows() -> None:
    """The replicas would refuse it, and count it as a fault of the client."""
    world = World()
    limits = replace(world.genesis.limits, operations_per_request=2, request_bytes=1_000)
    world.genesis.__dict__["limits"] = limits
    driver = Driver(world=world)
    driver.calls(FAST, *[b"q"] * 5)
    assert len(read_in(driver.ask(0)[0].item).queries) == 2
    driver = Driver(world=world)
    driver.calls(FAST, b"x" * 600, b"y" * 600)
    assert read_in(driver.ask(0)[0].item).queries == (b"x" * 600,)


def test_a_read_alone_that_one_refused_is_handed_back_as_soon_as_it_is_hopeless() -> None:
    driver = Driver()
    (call,) = driver.calls(FAST, b"q")
    nonce = read_in(driver.ask(0)[0].item).nonce
    refusal = replace(read_reply(nonce, (b"q",), ()), results=None, refused=True)
    assert driver.receive(0, refusal) == []
    assert driver.receive(1, read_reply(nonce, (b"q",), (b"old",))) == []
    (settlement,) = driver.receive(2, read_reply(nonce, (b"q",), (b"new",)))
    assert (settlement.calls, settlement.decision) == ([call], None)


def test_a_read_whose_answers_do_not_match_is_handed_back() -> None:
    driver = Driver()
    calls = driver.calls(FAST, b"q")
    driver.ask(0)
    new, old = (read_reply(0, (b"q",), (value,)) for value in (b"new", b"old"))
    assert driver.receive(0, new) == []
    assert driver.receive(1, old) == []
    assert driver.receive(2, new) == []
    (settlement,) = driver.receive(3, old)
    assert settlement == ReadSettlement(list(calls), None)
    assert calls[0].carrier is None
    assert driver.reads.next_deadline_us() is None


def test_a_read_that_is_not_answered_in_time_is_handed_back() -> None:
    driver = Driver()
    driver.calls(FAST, b"q")
    driver.ask(0)
    driver.receive(0, read_reply(0, (b"q",), (b"r",)))
    assert driver.reads.next_deadline_us() == 200_000
    assert driver.reads.expire(at(0.199)) == []
    (settlement,) = driver.reads.expire(at(0.2))
    assert settlement.decision is None
    assert driver.receive(1, read_reply(0, (b"q",), (b"r",))) == []
    assert driver.reads.ignored[Ignored.UNKNOWN_REQUEST] == 1


def test_a_read_is_handed_back_when_too_few_streams_are_left() -> None:
    driver = Driver()
    driver.calls(FAST, b"q")
    driver.ask(0)
    assert driver.reads.link_down(3) == []
    (settlement,) = driver.reads.link_down(1)
    assert settlement.decision is None


def test_reads_wait_while_too_few_streams_are_up() -> None:
    driver = Driver(up=range(2))
    driver.calls(FAST, b"q")
    assert driver.ask(0) == []
    assert driver.reads.next_deadline_us() is None
    driver.reads.link_up(2)
    assert len(driver.ask(1)) == 2


def test_reads_are_handed_back_when_for_long_only_enough_streams_for_ordered_ones_are_up() -> None:
    driver = Driver(up=range(2))
    assert driver.reads.expire(at(1)) == []
    assert driver.reads.next_deadline_us() is None, "nobody waits"
    calls = driver.calls(FAST, b"1", b"2")
    assert driver.reads.next_deadline_us() == 1_200_000
    assert driver.reads.expire(at(1.199)) == []
    assert driver.reads.expire(at(1.2)) == [ReadSettlement(list(calls), None)]
    assert driver.reads.next_deadline_us() is None
    later = driver.calls(FAST, b"3")
    assert driver.reads.expire(at(1.3)) == [ReadSettlement(list(later), None)], "at once"
    assert driver.reads._wanted == {}
    # Another stream: reads are fast again, and when it is gone the next ones wait for it anew.
    driver.reads.link_up(2)
    driver.calls(FAST, b"4")
    assert driver.reads.expire(at(2)) == []
    assert len(driver.ask(2)) == 2
    assert len(driver.reads.link_down(2)) == 1
    driver.calls(FAST, b"5")
    assert driver.reads.expire(at(2.1)) == []
    assert driver.reads.next_deadline_us() == 2_300_000


def test_reads_wait_for_streams_while_ordered_ones_would_have_to_as_well() -> None:
    driver = Driver(up=range(1))
    driver.calls(FAST, b"q")
    assert driver.reads.expire(at(0)) == []
    assert driver.reads.expire(at(9)) == []
    driver.reads.link_up(1)
    assert driver.reads.expire(at(10)) == [], "the others may be about to come up, too"
    assert driver.reads.next_deadline_us() == 10_200_000


def test_stale_reads_are_asked_with_f_plus_1_streams_up() -> None:
    driver = Driver(up=range(2))
    driver.calls(STALE, b"q")
    assert driver.reads.expire(at(0)) == driver.reads.expire(at(1)) == []
    assert len(driver.ask(1)) == 2


def test_after_a_failure_another_replica_is_asked_for_the_results() -> None:
    driver = Driver()
    for expected in (0, 1, 2):
        driver.calls(FAST, b"q")
        assert driver.ask(0)[0].replicas == (expected,)
        assert len(driver.reads.expire(at(1))) == 1


@pytest.mark.parametrize("consistency", [FAST, STALE])
@pytest.mark.parametrize(("seconds", "next_asked"), [(0.029, 0), (0.031, 1)])
def test_who_sends_the_results_long_after_others_agreed_is_passed_over(
    consistency: Consistency, seconds: float, next_asked: int
) -> None:
    """Else a replica that takes its time, but not all of it, would slow down every fast read."""
    driver = Driver()
    driver.calls(consistency, b"q")
    nonce = read_in(driver.ask(0)[0].item).nonce
    answer = read_reply(nonce, (b"q",), (b"r",))
    for replica in (1, 2, 3):
        assert driver.receive(replica, replace(answer, results=None), 0.01) == []
    (settlement,) = driver.receive(0, answer, seconds)
    assert settlement.decision is not None
    driver.calls(consistency, b"q")
    assert driver.ask(1)[0].replicas == (next_asked,)


def test_who_is_not_waited_for_is_not_late() -> None:
    driver = Driver()
    driver.calls(FAST, b"q")
    nonce = read_in(driver.ask(0)[0].item).nonce
    answer = read_reply(nonce, (b"q",), (b"r",))
    driver.receive(1, replace(answer, results=None), 0)
    driver.receive(0, answer, 0.1)
    assert driver.receive(2, replace(answer, results=None), 0.15)
    driver.calls(FAST, b"q")
    assert driver.ask(1)[0].replicas == (0,)


def test_a_replica_that_is_not_connected_is_not_asked_for_the_results() -> None:
    driver = Driver()
    driver.reads.link_down(0)
    driver.calls(FAST, b"q")
    full, bare = driver.ask(0)
    assert (full.replicas, bare.replicas) == ((1,), (2, 3))


def test_a_stale_read_is_content_with_f_plus_1() -> None:
    driver = Driver()
    driver.calls(STALE, b"q")
    driver.ask(0)
    new, old = (read_reply(0, (b"q",), (value,)) for value in (b"new", b"old"))
    assert driver.receive(0, new) == []
    assert driver.receive(1, old) == []
    (settlement,) = driver.receive(2, old)
    assert settlement.decision is not None
    assert settlement.decision.results == (b"old",)


def test_a_stale_read_that_fails_is_asked_anew_but_not_in_a_tight_loop() -> None:
    driver = Driver()
    (call,) = driver.calls(STALE, b"q")
    driver.ask(0)
    for replica in range(4):
        answer = read_reply(0, (b"q",), (b"%d" % replica,))
        assert driver.receive(replica, answer) == []
    assert driver.ask(0.01) == []
    assert driver.reads.expire(at(0.05)) == []
    nonce = read_in(driver.ask(0.05)[0].item).nonce
    assert nonce != 0
    answer = read_reply(nonce, (b"q",), (b"r",))
    assert driver.receive(1, answer) == []
    (settlement,) = driver.receive(2, answer)
    assert settlement.calls == [call]


def test_a_stale_read_that_waits_to_be_asked_anew_may_be_given_up() -> None:
    driver = Driver()
    given_up, call = driver.calls(STALE, b"1", b"2")
    driver.ask(0)
    assert driver.reads.expire(at(0.05)) == []
    driver.reads.abandon(given_up)
    read = read_in(driver.ask(0.05)[0].item)
    assert read.queries == (b"2",)
    answer = read_reply(read.nonce, (b"2",), (b"r",))
    assert driver.receive(1, answer) == []
    (settlement,) = driver.receive(2, answer)
    assert settlement.calls == [call]


def test_a_stale_read_whose_answer_takes_long_is_given_more_time_each_time() -> None:
    """Or large answers would be asked for again and again, and never be in time."""
    driver = Driver()
    driver.calls(STALE, b"q")
    now = 0.0
    for wait in (0.05, 0.1, 0.2, 0.4):
        nonce = read_in(driver.ask(now)[0].item).nonce
        assert driver.reads.next_deadline_us() == at(now + wait).monotonic_us
        now += wait
        assert driver.reads.expire(at(now)) == []
    nonce = read_in(driver.ask(now)[0].item).nonce
    answer = read_reply(nonce, (b"q",), (b"r",))
    driver.receive(1, answer)
    assert driver.receive(2, answer)
    driver.calls(STALE, b"q")
    driver.ask(now)
    assert driver.reads.next_deadline_us() == at(now + 0.05).monotonic_us


def test_a_stale_read_is_asked_anew_however_many_failed_before() -> None:
    driver = Driver()
    driver.calls(STALE, b"q")
    now = 0.0
    for _ in range(40):
        driver.ask(now)
        now += 7
        assert driver.reads.expire(at(now)) == []
    assert driver.ask(now)


def test_a_read_that_waits_for_streams_wakes_nobody() -> None:
    driver = Driver()
    driver.calls(FAST, b"1")
    driver.ask(0)
    driver.calls(FAST, b"2")
    assert driver.ask(0.001) == []
    for replica in (1, 2, 3):
        driver.reads.link_down(replica)
    assert driver.reads.next_deadline_us() is None


def test_a_read_given_up_is_forgotten() -> None:
    driver = Driver()
    first, second = driver.calls(FAST, b"1", b"2")
    driver.ask(0)
    (waiting,) = driver.calls(FAST, b"3")
    assert driver.reads.answers(first).needed == 3
    assert driver.reads.answers(waiting).answered == ()
    driver.receive(2, read_reply(0, (b"1", b"2"), (b"", b"")))
    assert driver.reads.answers(first).answered == (2,)
    driver.reads.abandon(waiting)
    driver.reads.abandon(first)
    assert driver.reads.next_deadline_us() == 200_000
    driver.reads.abandon(second)
    assert driver.reads.next_deadline_us() is None
    assert driver.ask(1) == []


@pytest.mark.parametrize("consistency", [FAST, STALE])
def test_an_answer_to_an_old_nonce_is_ignored(consistency: Consistency) -> None:
    driver = Driver()
    driver.calls(consistency, b"q")
    driver.ask(0)
    for replica in range(4):
        assert driver.receive(replica, read_reply(77, (b"q",), (b"r",))) == []
    assert driver.reads.ignored[Ignored.UNKNOWN_REQUEST] == 4
