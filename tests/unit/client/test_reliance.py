"""A replica that sends no results holds up one request, not every n-th one."""

import pytest

from pbft_client.gathering import GatherSettings
from pbft_client.reliance import PASSED_OVER_CAP_US, PASSED_OVER_FIRST_US, Reliance
from tests.unit.client.test_session import Driver
from tests.unit.client.world import request_in

WAIT = 0.05
BAD = 1


def driver(bad: int = BAD) -> Driver:
    """A session that knows the primary, 0, and waited once for results of `bad`, number 1's."""
    driver = Driver(gather=GatherSettings(under_way=8, enough_calls=1))
    while driver.session._last_number % 4 != bad - 1:
        ask(driver, 0)
        driver.settle(driver.session._last_number)
    number = ask(driver, 0)
    for replica in {0, 2, 3} - {bad}:
        driver.answer(number, replica, full=False)
    (sent,) = driver.poll(WAIT)
    assert sent.replicas == (0, 1, 2, 3)
    driver.answer(number, 2)
    driver.answer(number, 3)
    assert driver.session.hints.primary == 0
    return driver


def ask(driver: Driver, seconds: float) -> int:
    """Sends one call; its number."""
    driver.calls(b"x")
    assert driver.poll(seconds)
    return driver.session._last_number


def ask_until_designated(driver: Driver, seconds: float, bad: int) -> tuple[tuple[int, ...], bool]:
    """Whom the next request that `bad` is designated for is sent to, and whether in full."""
    while True:
        driver.calls(b"x")
        (sent,) = driver.poll(seconds)
        if driver.session._last_number % 4 == bad:
            return sent.replicas, request_in(sent.item)[1].full_results
        assert not request_in(sent.item)[1].full_results
        driver.settle(driver.session._last_number)


def test_the_primary_is_asked_instead_of_one_that_was_late() -> None:
    asked = driver()
    assert ask_until_designated(asked, 0.1, BAD) == ((0,), True)
    number = asked.session._last_number
    asked.answer(number, 2, full=False)
    asked.answer(number, 3, full=False)
    assert asked.session.next_deadline_us() == WAIT * 1_000_000, "the primary has as long"
    (settled,) = asked.answer(number, 0)
    assert settled.decision.results == (b"result",)


def test_all_are_asked_if_the_primary_itself_sends_no_results() -> None:
    asked = driver(bad=4)
    assert ask_until_designated(asked, 0.1, 0) == ((0, 1, 2, 3), True)


def test_it_is_tried_again_after_a_while_and_passed_over_for_longer() -> None:
    asked = driver()
    after = WAIT + PASSED_OVER_FIRST_US / 1e6
    assert ask_until_designated(asked, after - 0.01, BAD) == ((0,), True)
    asked.settle(asked.session._last_number)
    assert ask_until_designated(asked, after, BAD) == ((0,), False)


@pytest.mark.parametrize(("delivers", "span"), [(True, 1), (False, 2)])
def test_only_who_delivered_is_passed_over_no_longer_than_at_first(
    delivers: bool, span: int
) -> None:
    asked = driver()
    at_seconds = WAIT + PASSED_OVER_FIRST_US / 1e6
    assert ask_until_designated(asked, at_seconds, BAD) == ((0,), False)
    number = asked.session._last_number
    asked.answer(number, BAD if delivers else 3, at_seconds)
    assert asked.answer(number, 2, at_seconds)
    assert ask_until_designated(asked, at_seconds, BAD) == ((0,), False)
    number = asked.session._last_number
    for replica in (2, 3):
        asked.answer(number, replica, at_seconds, full=False)
    at_seconds += WAIT
    asked.poll(at_seconds)
    assert asked.answer(number, 2, at_seconds)
    at_seconds += span * PASSED_OVER_FIRST_US / 1e6
    assert ask_until_designated(asked, at_seconds - 0.01, BAD) == ((0,), True)
    asked.settle(asked.session._last_number)
    assert ask_until_designated(asked, at_seconds, BAD) == ((0,), False)


def test_junk_in_time_is_no_delivery() -> None:
    """Or a liar would be waited for again and again, a second after each time."""
    asked = driver()
    at_seconds = WAIT + PASSED_OVER_FIRST_US / 1e6
    for span in (2, 4):
        assert ask_until_designated(asked, at_seconds, BAD) == ((0,), False)
        number = asked.session._last_number
        asked.answer(number, BAD, at_seconds, results=(b"junk",))
        asked.answer(number, 2, at_seconds, full=False)
        asked.answer(number, 3, at_seconds, full=False)
        (sent,) = asked.poll(at_seconds)
        assert sent.replicas == (0, 1, 2, 3)
        assert asked.answer(number, 2, at_seconds)
        still = at_seconds + span - 0.5
        assert ask_until_designated(asked, still, BAD) == ((0,), True)
        asked.answer(asked.session._last_number, 0, still)
        asked.answer(asked.session._last_number, 2, still)
        at_seconds += span


@pytest.mark.parametrize(
    ("agreed", "came", "is_late"),
    [
        (0.001, 0.0119, False),
        (0.001, 0.0121, True),
        (0.001, 0.049, True),
        (0.02, 0.0499, False),
        (0.02, 0.0501, True),
    ],
)
def test_results_just_in_time_hold_up_one_request_only(
    agreed: float, came: float, is_late: bool
) -> None:
    """Not to be asked about is enough for a liar to delay every n-th request, were that all. A slow
    network makes nobody late: the others' digests took as long."""
    asked = Driver(gather=GatherSettings(under_way=8, enough_calls=1))
    ask(asked, 0)
    asked.settle(1)
    while ask(asked, 0) % 4 != BAD:
        asked.settle(asked.session._last_number)
    number = asked.session._last_number
    for replica in (2, 3):
        assert asked.answer(number, replica, agreed, full=False) == []
    assert asked.poll(came) == []
    assert asked.answer(number, BAD, came)
    assert ask_until_designated(asked, came, BAD) == ((0,), is_late)


def test_the_time_doubles_up_to_a_bound_and_begins_anew_when_it_delivers() -> None:
    reliance = Reliance()
    now_us = 0
    spans = []
    for _ in range(9):
        reliance.failed(BAD, now_us)
        reliance.failed(BAD, now_us)
        begin_us = now_us
        while not reliance.may_rely_on(BAD, now_us):
            now_us += PASSED_OVER_FIRST_US
        spans.append((now_us - begin_us) // PASSED_OVER_FIRST_US)
    assert spans == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert reliance.may_rely_on(2, 0)
    reliance.delivered(BAD)
    reliance.failed(BAD, now_us)
    assert not reliance.may_rely_on(BAD, now_us + PASSED_OVER_FIRST_US - 1)
    assert reliance.may_rely_on(BAD, now_us + PASSED_OVER_FIRST_US)
    assert spans[-1] * PASSED_OVER_FIRST_US == PASSED_OVER_CAP_US
