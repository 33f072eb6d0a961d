"""What a pool may hold follows what it drains (pbft.core.drain)."""

from pbft.core.drain import WINDOWS_WAITING, WORK_AT_FIRST, WORK_MIN, DrainBound, work_of
from pbft.limits import LocalLimits
from pbft.messages import Request
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import forge
from tests.harness.core_solo import Solo

T_US = 4_000
WINDOW_US = 1_000


def drained(bound: DrainBound, work: int, begin_us: int, step_us: int = 100) -> int:
    """Executes so many in each window after the other, evenly; returns when."""
    for at_us in range(begin_us, begin_us + WINDOW_US, step_us):
        bound.note_executed(work * step_us // WINDOW_US, at_us, T_US)
    return begin_us + WINDOW_US


def test_what_waits_is_what_is_drained_in_half_a_timeout() -> None:
    bound = DrainBound()
    now_us = drained(bound, 3_000, 0)
    assert bound.work == WORK_AT_FIRST
    now_us = drained(bound, 5_000, now_us)
    assert bound.work == WINDOWS_WAITING * 3_000
    now_us = drained(bound, 20_000, now_us)
    assert bound.work == WINDOWS_WAITING * 5_000
    drained(bound, 1, now_us)
    assert bound.work == WINDOWS_WAITING * 20_000


def test_it_never_falls_so_far_that_nothing_could_be_measured() -> None:
    bound = DrainBound()
    now_us = 0
    for _ in range(3):
        now_us = drained(bound, 10, now_us)
    assert bound.work == WORK_MIN


def test_a_pool_that_runs_empty_says_nothing_about_what_it_could_drain() -> None:
    bound = DrainBound()
    now_us = 0
    for _ in range(3):
        now_us = drained(bound, 2_000, now_us)
    assert bound.work == WINDOWS_WAITING * 2_000
    bound.note_empty()
    now_us = drained(bound, 2_000, now_us)
    assert bound.work == WORK_AT_FIRST


def test_a_view_change_says_nothing_either() -> None:
    """Nothing is executed meanwhile."""
    bound = DrainBound()
    now_us = 0
    for _ in range(3):
        now_us = drained(bound, 2_000, now_us)
    drained(bound, 2_000, now_us + 5 * WINDOW_US)
    assert bound.work == WINDOWS_WAITING * 2_000


def test_what_was_late_in_its_window_is_reckoned_for_the_whole_of_it() -> None:
    bound = DrainBound()
    bound.note_executed(1, 0, T_US)
    for at_us in (1_000, 1_200, 2_500):
        bound.note_executed(6_000, at_us, T_US)
    assert bound.work == WINDOWS_WAITING * 12_000 * WINDOW_US // 1_500


def test_a_thousand_operations_are_the_work_of_some_dozens_of_requests() -> None:
    maker = forge(4).clients[0]
    assert work_of(Request(maker.client, 1, 1, 0, 0, (b"x",))) == 1
    assert work_of(Request(maker.client, 1, 1, 0, 0, (b"x",) * 1024)) == 65


def test_a_replica_measures_what_it_executes_while_something_waits() -> None:
    """A backup that holds a request which is not ordered, and one that holds nothing."""
    waiting, idle = Solo(), Solo()
    waiting.node.submit(waiting.forge.request(1, client=1))
    for solo in (waiting, idle):
        for number in range(1, 9):
            solo.decide(number)
            solo.cluster.advance(SECOND // 4)
    assert waiting.node.core.pool._drain.work == WORK_MIN
    assert idle.node.core.pool._drain.work == WORK_AT_FIRST


def test_heavy_requests_that_rest_do_not_count() -> None:
    """They wait for seconds, however fast all else is drained."""
    solo = Solo(limits=LocalLimits(heavy_request_records=1, record_us=1_000_000))
    for number in (1, 2):
        solo.node.submit(solo.forge.request(number, client=1, acknowledged=0))
    solo.decide(1, solo.forge.batch(solo.forge.request(1, client=1, acknowledged=0)))
    for number in range(2, 9):
        solo.decide(number)
        solo.cluster.advance(SECOND // 4)
    assert solo.node.core.pool.count == 1
    assert solo.node.core.pool._drain.work == WORK_AT_FIRST


def test_a_primary_that_has_proposed_all_is_not_at_its_limit() -> None:
    """Over long links something is always under way."""
    solo = Solo(me=0)
    pool = solo.node.core.pool
    pool._drain.work = WORK_MIN
    pool._drain._was_empty = False
    solo.node.submit(solo.forge.request(1))
    assert pool.count == 1 and pool._drain._was_empty
