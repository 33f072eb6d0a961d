"""What a pool may hold follows what it drains (pbft.core.drain)."""

from pbft.core.drain import OPERATIONS_AT_FIRST, OPERATIONS_MIN, WINDOWS_WAITING, DrainBound
from tests.harness.core_cluster import SECOND
from tests.harness.core_solo import Solo

T_US = 4_000
WINDOW_US = 1_000


def drained(bound: DrainBound, operations: int, begin_us: int, step_us: int = 100) -> int:
    """Executes so many in each window after the other, evenly; returns when."""
    for at_us in range(begin_us, begin_us + WINDOW_US, step_us):
        bound.note_executed(operations * step_us // WINDOW_US, at_us, T_US)
    return begin_us + WINDOW_US


def test_what_waits_is_what_is_drained_in_half_a_timeout() -> None:
    bound = DrainBound()
    now_us = drained(bound, 3_000, 0)
    assert bound.operations == OPERATIONS_AT_FIRST
    now_us = drained(bound, 5_000, now_us)
    assert bound.operations == WINDOWS_WAITING * 3_000
    now_us = drained(bound, 20_000, now_us)
    assert bound.operations == WINDOWS_WAITING * 5_000
    drained(bound, 1, now_us)
    assert bound.operations == WINDOWS_WAITING * 20_000


def test_it_never_falls_so_far_that_nothing_could_be_measured() -> None:
    bound = DrainBound()
    now_us = 0
    for _ in range(3):
        now_us = drained(bound, 10, now_us)
    assert bound.operations == OPERATIONS_MIN


def test_a_pool_that_runs_empty_says_nothing_about_what_it_could_drain() -> None:
    bound = DrainBound()
    now_us = 0
    for _ in range(3):
        now_us = drained(bound, 2_000, now_us)
    assert bound.operations == WINDOWS_WAITING * 2_000
    bound.note_empty()
    now_us = drained(bound, 2_000, now_us)
    assert bound.operations == OPERATIONS_AT_FIRST


def test_a_view_change_says_nothing_either() -> None:
    """Nothing is executed meanwhile."""
    bound = DrainBound()
    now_us = 0
    for _ in range(3):
        now_us = drained(bound, 2_000, now_us)
    drained(bound, 2_000, now_us + 5 * WINDOW_US)
    assert bound.operations == WINDOWS_WAITING * 2_000


def test_what_was_late_in_its_window_is_reckoned_for_the_whole_of_it() -> None:
    bound = DrainBound()
    bound.note_executed(1, 0, T_US)
    for at_us in (1_000, 1_200, 2_500):
        bound.note_executed(6_000, at_us, T_US)
    assert bound.operations == WINDOWS_WAITING * 12_000 * WINDOW_US // 1_500


def test_a_replica_measures_what_it_executes_while_something_waits() -> None:
    """A backup that holds a request which is not ordered, and one that holds nothing."""
    waiting, idle = Solo(), Solo()
    waiting.node.submit(waiting.forge.request(1, client=1))
    for solo in (waiting, idle):
        for number in range(1, 9):
            solo.decide(number)
            solo.cluster.advance(SECOND // 4)
    assert waiting.node.core.pool._drain.operations == OPERATIONS_MIN
    assert idle.node.core.pool._drain.operations == OPERATIONS_AT_FIRST
