"""Callers who give up before anything is sent again: one silent replica must not fail all they ask
for (protocol.md sections 4 and 11)."""

from dataclasses import replace

import pytest

from pbft.messages import Consistency
from pbft_client.gathering import GatherSettings
from tests.unit.client.test_reads import FAST, STALE
from tests.unit.client.test_reads import Driver as ReadsDriver
from tests.unit.client.test_session import Driver
from tests.unit.client.world import read_in, read_reply

ALL = (0, 1, 2, 3)


def driver_with_primary() -> Driver:
    """A session that sends what is new to the primary, 0, alone."""
    driver = Driver(gather=GatherSettings(under_way=8, enough_calls=1))
    driver.calls(b"x")
    driver.poll(0)
    driver.settle(1)
    return driver


def targets(driver: Driver) -> tuple[int, ...]:
    """Whom one more request is sent to."""
    driver.calls(b"x")
    (sent,) = driver.poll(0)
    return sent.replicas


def give_up(driver: Driver) -> None:
    """Nobody waits any longer for what is under way."""
    for submission in list(driver.session._under_way.values()):
        for call in submission.calls:
            assert call is not None
            assert driver.session.abandon(call)


def test_after_a_request_given_up_unanswered_the_next_ones_go_to_all() -> None:
    """The primary alone was sent it. Were it sent the next ones alone as well, no backup would ever
    suspect it."""
    driver = driver_with_primary()
    assert targets(driver) == (0,)
    give_up(driver)
    for _ in range(3):
        assert targets(driver) == ALL
        give_up(driver)
    assert targets(driver) == ALL
    driver.settle(driver.session._last_number)
    assert targets(driver) == (0,), "something was decided"


@pytest.mark.parametrize(("answers", "goes_to"), [((3,), ALL), ((1, 3), (0,))])
def test_f_answers_do_not_show_that_a_request_was_heard_of(
    answers: tuple[int, ...], goes_to: tuple[int, ...]
) -> None:
    """They may be a lying primary's own, or its accomplice's; one of f + 1 executed it."""
    driver = driver_with_primary()
    assert targets(driver) == (0,)
    for replica in answers:
        assert driver.answer(2, replica, results=(b"%d" % replica,)) == []
    give_up(driver)
    assert targets(driver) == goes_to


def test_a_call_given_up_while_others_of_its_request_wait_tells_nothing() -> None:
    driver = driver_with_primary()
    first, _ = driver.calls(b"1", b"2")
    driver.poll(0)
    driver.session.abandon(first)
    assert targets(driver) == (0,)


@pytest.mark.parametrize("consistency", [FAST, STALE])
@pytest.mark.parametrize("is_silent", [True, False])
def test_after_a_read_given_up_another_replica_is_asked_for_the_results(
    consistency: Consistency, is_silent: bool
) -> None:
    """The others agree meanwhile, but on a digest only: whoever was asked for the results keeps
    them back, and whether it says anything else makes no difference."""
    driver = ReadsDriver()
    for expected in (0, 1, 2, 3, 0):
        (call,) = driver.calls(consistency, b"q")
        full, _ = driver.ask(0)
        assert full.replicas == (expected,)
        answer = read_reply(read_in(full.item).nonce, (b"q",), (b"r",))
        for replica in {1, 2, 3} if is_silent else {0, 1, 2}:
            driver.receive(replica, replace(answer, results=None))
        driver.reads.abandon(call)


def test_a_read_of_which_a_call_is_left_is_not_given_up() -> None:
    driver = ReadsDriver()
    first, _ = driver.calls(FAST, b"1", b"2")
    driver.ask(0)
    driver.reads.abandon(first)
    driver.calls(FAST, b"3", b"4", b"5")
    assert driver.ask(0)[0].replicas == (0,)


def test_reads_given_up_together_pass_over_one_replica() -> None:
    driver = ReadsDriver()
    calls = driver.calls(FAST, b"1")
    driver.ask(0)
    calls += driver.calls(FAST, b"2", b"3", b"4")
    driver.ask(0)
    for call in calls:
        driver.reads.abandon(call)
    driver.calls(FAST, b"5")
    assert driver.ask(0)[0].replicas == (1,)
