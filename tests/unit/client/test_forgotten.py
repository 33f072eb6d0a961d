"""Results of which the replicas keep only the digest: the one that was to send them may yet."""

from pbft.messages import Outcome
from pbft_client.gathering import GatherSettings
from tests.unit.client.test_session import Driver

WAIT = 0.05
SOURCE = 1
"""Designated for request number 1."""
OTHERS = (0, 2, 3)


def late() -> tuple[Driver, int]:
    """Three replicas sent the digest, were asked in full, and say that they have forgotten."""
    driver = Driver(gather=GatherSettings(under_way=8, enough_calls=1))
    while driver.session._last_number % 4 != SOURCE - 1:
        driver.calls(b"x")
        driver.poll(0)
        driver.settle(driver.session._last_number)
    driver.calls(b"x")
    driver.poll(0)
    number = driver.session._last_number
    for replica in OTHERS:
        driver.answer(number, replica, full=False)
    (asked,) = driver.poll(WAIT)
    assert asked.replicas == (0, 1, 2, 3)
    for replica in OTHERS:
        assert driver.answer(number, replica, WAIT, lost=True) == []
    return driver, number


def test_results_that_come_late_are_still_taken() -> None:
    driver, number = late()
    (settled,) = driver.answer(number, SOURCE)
    assert settled.decision.outcome is Outcome.EXECUTED
    assert settled.decision.results == (b"result",)


def test_they_are_waited_for_so_long_and_no_longer() -> None:
    driver, number = late()
    assert driver.answer(number, 0, WAIT + 1.99, lost=True) == []
    (settled,) = driver.answer(number, 2, WAIT + 2.01, lost=True)
    assert settled.decision.outcome is Outcome.RESULT_FORGOTTEN


def test_whoever_cannot_wait_so_long_can_be_told_that_it_was_executed() -> None:
    driver, number = late()
    (call,) = driver.session._under_way[(driver.session.session, number)].calls
    assert call is not None
    assert driver.session.is_forgotten(call)
    (other,) = driver.calls(b"y")
    assert not driver.session.is_forgotten(other)
    driver.poll(WAIT)
    assert not driver.session.is_forgotten(other)


def test_nobody_waits_for_a_replica_that_has_forgotten_them_too() -> None:
    driver, number = late()
    (settled,) = driver.answer(number, SOURCE, WAIT, lost=True)
    assert settled.decision.outcome is Outcome.RESULT_FORGOTTEN


def test_nobody_waits_for_a_replica_that_is_gone() -> None:
    driver, number = late()
    driver.session.link_down(SOURCE)
    (settled,) = driver.answer(number, 0, WAIT, lost=True)
    assert settled.decision.outcome is Outcome.RESULT_FORGOTTEN
