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


def targets(driver: Driver, seconds: float = 0) -> tuple[int, ...]:
    """Whom one more request is sent to then."""
    driver.calls(b"x")
    (sent,) = driver.poll(seconds)
    return sent.replicas


def give_up(driver: Driver, seconds: float = 0) -> None:
    """Nobody waits any longer then for what is under way."""
    for submission in list(driver.session._under_way.values()):
        for call in submission.calls:
            assert call is not None
            assert driver.session.abandon(call)
    assert driver.poll(seconds) == []


def test_after_a_request_given_up_unanswered_the_next_ones_go_to_all() -> None:
    """The primary alone was sent it. Were it sent the next ones alone as well, no backup would ever
    suspect it."""
    driver = driver_with_primary()
    assert targets(driver) == (0,)
    give_up(driver)
    for _ in range(3):
        assert targets(driver) == ALL
        give_up(driver)
    assert targets(driver, 0.999) == ALL
    assert targets(driver, 1) == (0,)


def test_a_primary_that_orders_only_what_backups_pass_on_fails_ever_fewer_callers() -> None:
    """It is never suspected, as every request that a backup knows of is decided."""
    driver = driver_with_primary()
    failed_at = []
    for tenth in range(10 * 130):
        if targets(driver, tenth / 10) == (0,):
            give_up(driver, tenth / 10)
            failed_at.append(tenth / 10)
        else:
            driver.settle(driver.session._last_number)
    assert failed_at == [0, 1, 3, 7, 15, 31, 63, 123]


def test_a_primary_that_decides_alone_what_it_is_sent_is_believed_again() -> None:
    driver = driver_with_primary()
    for seconds in (0, 1, 3):
        assert targets(driver, seconds) == (0,)
        give_up(driver, seconds)
    assert targets(driver, 7) == (0,)
    driver.settle(driver.session._last_number)
    assert targets(driver, 7) == (0,)
    give_up(driver, 7)
    assert targets(driver, 7.999) == ALL
    assert targets(driver, 8) == (0,)


def test_what_was_decided_only_because_all_were_sent_it_again_does_not_speak_for_the_primary() -> (
    None
):
    driver = driver_with_primary()
    for seconds in (0, 1):
        assert targets(driver, seconds) == (0,)
        give_up(driver, seconds)
    driver.calls(b"x")
    (sent,) = driver.poll(3)
    assert sent.replicas == (0,)
    (sent,) = driver.poll(4)
    assert sent.replicas == ALL
    driver.settle(driver.session._last_number)
    assert targets(driver, 4) == (0,)
    give_up(driver, 4)
    assert targets(driver, 7.999) == ALL


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
