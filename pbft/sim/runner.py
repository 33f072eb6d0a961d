"""Runs seeds and sums up what they saw: the engine of `pbft sim`."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

from pbft.garbage import collect_rarely
from pbft.sim.checkers import CheckUndecided
from pbft.sim.history import check_history
from pbft.sim.invariants import Counters, Violation
from pbft.sim.scenario import Scenario, draw_scenario
from pbft.sim.settle import settle
from pbft.sim.trace import Line, Trace
from pbft.sim.world import World

REQUESTS_MIN = 100
"""A run that executed fewer saw too little to count."""
SEEDS_PER_JOB = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to."""

    seed: int
    replicas: int
    events: int
    requests: int
    """Requests of honest clients that were executed."""
    behaviours: dict[str, int]
    """How often each behaviour acted."""
    counters: Counters
    trace_hash: str
    invariant: str | None = None
    """The one that was violated."""
    detail: str = ""


@dataclass(slots=True)
class Summary:
    """What many runs came to. `as_json` has the fixed form of `pbft sim -w json`."""

    replicas: tuple[int, ...]
    faults: tuple[str, ...] | None
    real_signatures: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def violations(self) -> list[Outcome]:
        """The runs that broke an invariant."""
        return [outcome for outcome in self.outcomes if outcome.invariant is not None]

    def as_json(self) -> dict[str, Any]:
        """runs, events, requests, counters, violations, seconds; trace_hash for a single seed."""
        totals: Counter[str] = Counter()
        acted: Counter[str] = Counter()
        for outcome in self.outcomes:
            totals.update(asdict(outcome.counters))
            acted.update(name for name, count in outcome.behaviours.items() if count)
            totals["power_loss_runs"] += outcome.counters.power_losses_of_all > 0
        document: dict[str, Any] = {
            "runs": len(self.outcomes),
            "events": sum(outcome.events for outcome in self.outcomes),
            "requests": sum(outcome.requests for outcome in self.outcomes),
            "counters": {"behaviours": dict(sorted(acted.items())), **totals},
            "violations": [
                {
                    "seed": outcome.seed,
                    "invariant": outcome.invariant,
                    "detail": outcome.detail,
                    "replay": self.replay_command(outcome.seed),
                }
                for outcome in self.violations
            ],
            "seconds": round(self.seconds, 3),
            "seeds_per_minute": round(60 * len(self.outcomes) / max(self.seconds, 1e-9), 1),
        }
        if len(self.outcomes) == 1:
            document["trace_hash"] = self.outcomes[0].trace_hash
        return document

    def replay_command(self, seed: int) -> str:
        """The one line that shows a run again, event by event."""
        words = ["pbft sim --seed", str(seed), "--replicas", ",".join(map(str, self.replicas))]
        if self.faults is not None:
            words += ["--faults", ",".join(self.faults)]
        if self.real_signatures:
            words.append("--real-signatures")
        return " ".join([*words, "--trace"])


def run_scenario(
    scenario: Scenario, write_line: Line | None = None, *, real_signatures: bool = False
) -> Outcome:
    """One run of a scenario, both phases and the final checks. Never raises Violation: the outcome
    names the invariant."""
    trace = Trace(scenario.replicas, write_line)
    invariant, detail = None, ""
    world = World(scenario, trace, real_signatures=real_signatures)
    try:
        world.start()
        world.scheduler.run_until(scenario.faults_end_us)
        settle(world)
        try:
            check_history(world)
        except CheckUndecided:
            world.counters.undecided_histories += 1
        if world.requests_settled < min(REQUESTS_MIN, scenario.requests):
            raise Violation("I13", f"only {world.requests_settled} requests were executed")
    except Violation as violation:
        invariant, detail = violation.invariant, violation.detail
        trace.note(world.scheduler.now_us, f"VIOLATION {violation}")
    return Outcome(
        scenario.seed,
        scenario.replicas,
        world.scheduler.events,
        world.requests_settled,
        dict(world.behaviours()),
        world.counters,
        trace.digest,
        invariant,
        detail,
    )


def run_seed(
    seed: int,
    replicas: Sequence[int] = (4,),
    faults: Sequence[str] | None = None,
    *,
    real_signatures: bool = False,
    write_line: Line | None = None,
) -> Outcome:
    """Draws the scenario of a seed and runs it.

    `replicas`: sizes to choose from. `faults`: names of pbft.sim.scenario.FAULTS to choose from,
    None for all. `write_line` is given the trace line by line. Raises ConfigurationError for a size
    or name that does not exist.
    """
    scenario = draw_scenario(seed, replicas, faults)
    return run_scenario(scenario, write_line, real_signatures=real_signatures)


def run_seeds(
    seeds: Sequence[int],
    replicas: Sequence[int] = (4,),
    faults: Sequence[str] | None = None,
    *,
    real_signatures: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Runs every seed, in `workers` processes; the summary lists outcomes by seed order.

    `progress` is told how many runs are done. Raises ConfigurationError as `run_seed` does.
    """
    summary = Summary(tuple(replicas), None if faults is None else tuple(faults), real_signatures)
    began = time.perf_counter()
    jobs = [
        (tuple(seeds[at : at + SEEDS_PER_JOB]), summary.replicas, summary.faults, real_signatures)
        for at in range(0, len(seeds), SEEDS_PER_JOB)
    ]
    if workers <= 1 or len(jobs) <= 1:
        results = map(_run_job, jobs)
        _collect(summary, results, progress)
    else:
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=collect_rarely
        ) as pool:
            _collect(summary, pool.map(_run_job, jobs), progress)
    summary.seconds = time.perf_counter() - began
    return summary


Job = tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...] | None, bool]


def _run_job(job: Job) -> list[Outcome]:
    seeds, replicas, faults, real_signatures = job
    return [run_seed(seed, replicas, faults, real_signatures=real_signatures) for seed in seeds]


def _collect(
    summary: Summary,
    results: Iterable[list[Outcome]],
    progress: Callable[[int], None] | None,
) -> None:
    for outcomes in results:
        summary.outcomes += outcomes
        if progress is not None:
            progress(len(summary.outcomes))
