"""A session that ended although its client goes on is followed by another one."""

import pytest

from pbft.messages import Outcome
from pbft_client.gathering import GatherSettings
from pbft_client.session import OPENING_SPREAD, REOPENING_SPREAD, first_session
from tests.unit.client.test_session import SESSION, Driver
from tests.unit.client.world import at, reply


@pytest.mark.parametrize(
    ("highest", "expected"), [(SESSION, 2_000), (5_000, 5_001), (1_500, 2_000)]
)
def test_an_expired_session_is_reopened_above_the_highest(highest: int, expected: int) -> None:
    driver = Driver(gather=GatherSettings(enough_calls=1))
    driver.calls(b"a")
    driver.calls(b"b")
    driver.poll(0)
    settlement = driver.settle(
        1, results=(), outcome=Outcome.SESSION_EXPIRED, highest_session=highest
    )
    assert settlement.decision.outcome is Outcome.SESSION_EXPIRED
    driver.calls(b"c")
    (request,) = driver.requests(1)
    assert (request.session, request.number, request.acknowledged) == (expected, 1, 0)
    driver.settle(1, session=expected)
    assert driver.session.session == expected


@pytest.mark.parametrize(("first", "last"), [(1, 2), (2, 1)])
def test_requests_of_an_expired_session_still_get_their_fate(first: int, last: int) -> None:
    """Which settles no number of the new one: acknowledged too soon, it is never executed."""
    driver = Driver(gather=GatherSettings(enough_calls=1))
    for operation in (b"a", b"b"):
        driver.calls(operation)
        driver.poll(0)
    driver.settle(first, results=(), outcome=Outcome.SESSION_EXPIRED, highest_session=1)
    driver.calls(b"c")
    driver.poll(0)
    settlement = driver.settle(last, results=(), outcome=Outcome.SESSION_EXPIRED, highest_session=1)
    assert (settlement.session, settlement.number) == (SESSION, last)
    assert driver.session.session == 2_000, "the session it was reopened as stays"
    assert driver.session.acknowledged == 0


@pytest.mark.parametrize("outcome", [Outcome.CONFLICT, Outcome.SESSION_CLOSED])
def test_a_session_that_another_process_used_or_closed_is_reopened(outcome: Outcome) -> None:
    driver = Driver()
    driver.calls(b"a")
    driver.poll(0)
    settlement = driver.settle(1, results=(), outcome=outcome)
    assert settlement.decision.outcome is outcome
    assert driver.session.session == 2_000


def test_a_reopened_session_is_another_one_whatever_the_clock_says() -> None:
    """Else its numbers would be those of requests with a fate already."""
    driver = Driver()
    driver.calls(b"a")
    driver.poll(0)
    conflict = reply(driver.digests[(SESSION, 1)], (), session=SESSION, outcome=Outcome.CONFLICT)
    for replica in (1, 2):
        envelope = driver.world.replies(replica, [conflict])
        settlements = driver.session.receive(envelope, at(0, wall_us=1))
    assert len(settlements) == 1
    assert driver.session.session == SESSION + 1


def test_two_processes_told_the_same_highest_session_reopen_as_two() -> None:
    """Else one acknowledges the numbers of the other, which are then never executed."""
    chosen = set()
    for random in (0.0, 0.5, 1 - 2**-53):
        driver = Driver()
        driver.random = random
        driver.calls(b"a")
        driver.poll(0)
        driver.settle(1, results=(), outcome=Outcome.SESSION_EXPIRED, highest_session=5_000)
        chosen.add(driver.session.session)
    assert chosen == {5_001, 5_001 + REOPENING_SPREAD // 2, 5_000 + REOPENING_SPREAD}


def test_two_processes_that_start_at_the_same_moment_have_two_sessions() -> None:
    draws = iter([0.25, 0.75])
    first, second = (first_session(SESSION, draws.__next__) for _ in range(2))
    assert SESSION <= first < second < SESSION + OPENING_SPREAD


def test_f_replicas_cannot_expire_a_session() -> None:
    driver = Driver()
    driver.calls(b"a")
    driver.poll(0)
    assert (
        driver.answer(1, 3, results=(), outcome=Outcome.SESSION_EXPIRED, highest_session=9_999)
        == []
    )
    assert driver.session.session == SESSION
    driver.settle(1)
    assert driver.session.session == SESSION
