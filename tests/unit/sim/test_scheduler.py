"""Virtual time."""

from pbft.sim.scheduler import Scheduler


def test_events_happen_in_order_of_time_and_then_of_scheduling() -> None:
    scheduler = Scheduler()
    seen: list[str] = []
    scheduler.at(20, seen.append, "late")
    scheduler.at(10, seen.append, "first")
    scheduler.at(10, seen.append, "second")
    scheduler.run_until(30)
    assert seen == ["first", "second", "late"]
    assert (scheduler.now_us, scheduler.events) == (30, 3)


def test_an_event_may_schedule_more_and_nothing_happens_in_the_past() -> None:
    scheduler = Scheduler()
    seen: list[int] = []

    def again() -> None:
        seen.append(scheduler.now_us)
        if len(seen) < 3:
            scheduler.at(0, again)

    scheduler.at(5, again)
    scheduler.run_until(6)
    assert seen == [5, 5, 5]


def test_it_stops_early_once_it_is_done() -> None:
    scheduler = Scheduler()
    seen: list[int] = []
    for at_us in range(100):
        scheduler.at(at_us, seen.append, at_us)
    assert scheduler.run_until(1_000, lambda: len(seen) >= 10, checked_every=1)
    assert len(seen) == 10
    assert scheduler.now_us == 9


def test_it_tells_when_it_was_not_done_in_time() -> None:
    scheduler = Scheduler()
    assert not scheduler.run_until(50, lambda: False)
    assert scheduler.now_us == 50
