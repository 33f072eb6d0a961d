"""From seeds to scenarios."""

from collections import Counter
from itertools import pairwise

import pytest

from pbft.errors import ConfigurationError
from pbft.faults.registry import BEHAVIOURS
from pbft.quorum import Thresholds
from pbft.sim.scenario import CLIENT_CRIMES, DRAWN_APART, draw_scenario
from pbft.sim.twins import Twin

SEEDS = range(400)


def test_a_seed_gives_one_scenario() -> None:
    assert draw_scenario(5, (4, 7)) == draw_scenario(5, (4, 7))
    assert draw_scenario(5, (4, 7)) != draw_scenario(6, (4, 7))


def test_never_more_than_f_replicas_are_corrupt() -> None:
    for seed in SEEDS:
        scenario = draw_scenario(seed, (4, 5, 6, 7))
        corrupt = {crime.replica for crime in scenario.crimes}
        assert len(corrupt) <= Thresholds.of(scenario.replicas).faulty
        assert all(replica < scenario.replicas for replica in corrupt)


def test_together_the_seeds_draw_everything() -> None:
    drawn: Counter[str] = Counter()
    for seed in SEEDS:
        scenario = draw_scenario(seed, (4, 5, 6, 7))
        drawn.update(crime.behaviour for crime in scenario.crimes)
        drawn.update(scenario.client_crimes)
        drawn.update(f"n={scenario.replicas} K={scenario.constants.checkpoint_interval}".split())
        drawn[f"P={scenario.pipeline_depth}"] += 1
        drawn["cut"] += bool(scenario.cuts)
        drawn["hidden"] += any(not cut.noticed for cut in scenario.cuts)
        drawn["crash"] += any(not outage.frozen for outage in scenario.outages)
        drawn["freeze"] += any(outage.frozen for outage in scenario.outages)
        drawn["power"] += len({outage.replica for outage in scenario.outages}) == scenario.replicas
        drawn["loss"] += scenario.conditions.lost > 0
        drawn["quiet"] += scenario.quiet_timeouts >= 100
    wanted = {*BEHAVIOURS, *DRAWN_APART, *CLIENT_CRIMES, "n=4", "n=5", "n=6", "n=7"}
    wanted |= {"K=4", "K=64", "P=1", "P=8"}
    wanted |= {"cut", "hidden", "crash", "freeze", "power", "loss", "quiet"}
    rare = {name for name in wanted if drawn[name] < 4}
    assert not rare


def test_every_fault_is_over_when_the_world_is_healed() -> None:
    for seed in SEEDS:
        scenario = draw_scenario(seed, (4,))
        assert all(cut.end_us <= scenario.faults_end_us for cut in scenario.cuts)
        assert all(outage.end_us <= scenario.faults_end_us for outage in scenario.outages)
        assert scenario.requests >= 100


def test_faults_that_are_named_are_the_only_ones() -> None:
    for seed in range(50):
        scenario = draw_scenario(seed, (4,), ["silent", "equivocating-client"])
        assert {crime.behaviour for crime in scenario.crimes} == {"silent"}
        assert set(scenario.client_crimes) <= {"equivocating-client"}
        assert draw_scenario(seed, (4,), ["none"]).crimes == ()


def test_a_twin_takes_the_place_of_one_that_is_corrupt() -> None:
    """It is drawn apart from all others, so that seeds stand for what they drew before."""
    twins = 0
    for seed in SEEDS:
        crimes = draw_scenario(seed, (4, 7)).crimes
        doubled = {crime.replica for crime in crimes if crime.behaviour == Twin.name}
        twins += len(doubled)
        assert len(doubled) <= 1
        assert not any(c.replica in doubled for c in crimes if c.behaviour != Twin.name)
    assert twins >= 10
    named = draw_scenario(1, (7,), [Twin.name]).crimes
    assert len({crime.replica for crime in named}) == 2


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        draw_scenario(1, (4,), ["nonsense"])
    with pytest.raises(ConfigurationError, match="4 to 31"):
        draw_scenario(1, (3,))
    with pytest.raises(ConfigurationError, match="at least one"):
        draw_scenario(1, ())


def test_some_replicas_have_two_disk_faults_one_after_the_other() -> None:
    pairs = []
    for seed in range(300):
        faults = draw_scenario(seed, (4, 7)).disk_faults
        for first, second in pairwise(faults):
            if first.replica == second.replica:
                assert first.end_us <= second.start_us
                pairs.append((first, second))
    assert len(pairs) >= 30
    assert any(second.copy_us < first.start_us for first, second in pairs), "set back to before"
