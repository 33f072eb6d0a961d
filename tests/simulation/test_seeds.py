"""Seeded runs: each behaviour in some of them, and what a summary of runs says."""

from dataclasses import replace

import pytest

from pbft.core.settings import MILLISECOND, Timers
from pbft.errors import ConfigurationError
from pbft.quorum import Thresholds
from pbft.sim.runner import REQUESTS_MIN, run_scenario, run_seed, run_seeds
from pbft.sim.scenario import FAULTS, Crime, Scenario, draw_scenario

SEEDS_PER_BEHAVIOUR = 8
TIMERS = Timers(request_timeout_us=300 * MILLISECOND, request_timeout_cap_us=4_000 * MILLISECOND)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_behaviour_is_tolerated(fault: str) -> None:
    """Runs seeds until the behaviour acted; nothing may be violated on the way there."""
    acted = 0
    for seed in range(SEEDS_PER_BEHAVIOUR):
        outcome = run_seed(seed, (4, 5), [fault])
        assert outcome.invariant is None, f"seed {seed}: {outcome.invariant} {outcome.detail}"
        assert outcome.requests >= REQUESTS_MIN
        acted += outcome.behaviours.get(fault, 0)
        if acted:
            break
    assert acted, f"{fault} never acted in {SEEDS_PER_BEHAVIOUR} seeds"


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_larger_clusters_hold_with_several_traitors(seed: int) -> None:
    outcome = run_seed(seed, (6, 7))
    assert outcome.invariant is None, f"{outcome.invariant} {outcome.detail}"


def test_no_disk_loses_votes_while_another_replica_rejoins() -> None:
    """Replica 3 first starts when the others have a history, so that it has to rejoin: with one
    more that lost its votes, more than f are faulty, and nothing can be asked of the rest."""
    outcome = run_seed(63, (4,))
    assert outcome.invariant is None, f"{outcome.invariant} {outcome.detail}"


def test_real_signatures_make_no_difference_to_what_is_checked() -> None:
    outcome = run_seed(3, (4,), ["equivocate"], real_signatures=True)
    assert outcome.invariant is None, f"{outcome.invariant} {outcome.detail}"
    assert outcome.requests >= REQUESTS_MIN


def test_a_summary_has_the_fixed_form() -> None:
    summary = run_seeds(range(2), (4,), ["silent"])
    summary.outcomes[0].counters.power_losses_of_all = 2
    document = summary.as_json()
    assert document["runs"] == 2 and document["requests"] >= 2 * REQUESTS_MIN
    assert document["events"] > 1_000 and document["seconds"] > 0
    assert document["violations"] == []
    assert document["counters"]["behaviours"] == {"silent": 2}
    assert {
        "new_views",
        "new_views_nonempty_o",
        "unequal_h",
        "null_slots",
        "state_transfers",
        "restarts",
    } <= document["counters"].keys()
    assert "trace_hash" not in document
    assert document["counters"]["power_loss_runs"] == sum(
        outcome.counters.power_losses_of_all > 0 for outcome in summary.outcomes
    )
    single = run_seeds(range(1, 2), (4,), ["silent"])
    assert single.as_json()["trace_hash"] == single.outcomes[0].trace_hash


def test_several_processes_find_the_same_as_one() -> None:
    alone = run_seeds(range(6), (4,), ["none"])
    told: list[int] = []
    together = run_seeds(range(6), (4,), ["none"], workers=2, progress=told.append)
    assert together.outcomes == alone.outcomes
    assert told[-1] == 6


def test_a_violation_comes_with_the_line_that_replays_it() -> None:
    scenario = Scenario(
        5, 3, timers=TIMERS, forced=Thresholds(3, 1, 2), crimes=(Crime(0, "equivocate"),)
    )
    lines: list[str] = []
    outcome = run_scenario(scenario, lines.append)
    assert outcome.invariant == "I1"
    assert any("VIOLATION I1" in line for line in lines)
    summary = run_seeds((), (4, 7), ["equivocate"])
    summary.outcomes.append(outcome)
    (violation,) = summary.as_json()["violations"]
    assert violation["seed"] == 5 and violation["invariant"] == "I1"
    assert violation["replay"] == "pbft sim --seed 5 --replicas 4,7 --faults equivocate --trace"


def test_a_cluster_that_cannot_progress_is_seen() -> None:
    """I13: two silent replicas of four are more than f."""
    scenario = draw_scenario(1, (4,), ["none"])
    crimes = (Crime(2, "silent"), Crime(3, "silent"))
    outcome = run_scenario(replace(scenario, crimes=crimes, outages=(), cuts=()))
    assert outcome.invariant == "I13"


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        run_seeds(range(1), (4,), ["nonsense"])
