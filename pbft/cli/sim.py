"""`pbft sim`: the whole cluster in one process, in virtual time, under faults drawn from a seed."""

import os
import re
from collections.abc import Callable

import click

from pbft.cli import exit_codes
from pbft.cli.failure import CommandFailed
from pbft.cli.options import format_option
from pbft.cli.output import print_json, print_table, say
from pbft.quorum import MAX_REPLICAS, MIN_REPLICAS

PROGRESS_EVERY = 100


class SeedRange(click.ParamType[range]):
    """A..B: from A to below B."""

    name = "A..B"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        """See click."""
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", str(value))
        if found is None or int(found[1]) >= int(found[2]):
            self.fail(f"{value!r} is not A..B with A below B, and both below 10^18", param, ctx)
        return range(int(found[1]), int(found[2]))


class NumberList(click.ParamType[tuple[int, ...]]):
    """N[,N...]: sizes of clusters."""

    name = "N[,N...]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """See click."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
            self.fail(f"{value!r} is not a list of numbers", param, ctx)
        numbers = tuple(map(int, parts))
        if min(numbers) < MIN_REPLICAS or max(numbers) > MAX_REPLICAS:
            self.fail(f"a cluster has {MIN_REPLICAS} to {MAX_REPLICAS} replicas", param, ctx)
        return numbers


@click.command()
@click.option("--seeds", type=SeedRange(), help="From A to below B.  [default: 0..100]")
@click.option("--seed", type=click.IntRange(min=0), help="One seed: A means A..A+1.")
@click.option(
    "--replicas", type=NumberList(), default="4", show_default=True, help="Sizes to draw from."
)
@click.option("--faults", metavar="NAME[,NAME...]", help="Only these.  [default: all]")
@click.option("--real-signatures", is_flag=True, help="Ed25519 in place of the fast stand-in.")
@click.option("--trace", is_flag=True, help="Tell every event of one seed, on stderr.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes that share the seeds.  [default: one per processor]",
)
@format_option
def sim(
    seeds: range | None,
    seed: int | None,
    replicas: tuple[int, ...],
    faults: str | None,
    real_signatures: bool,
    trace: bool,
    workers: int | None,
    output: str,
) -> int:
    """Run the cluster under simulated faults and check its invariants after every event.

    The same seed gives the same run, event by event. Exit code 4 if an invariant was violated.
    """
    if seeds is not None and seed is not None:
        raise click.UsageError("--seed and --seeds exclude each other")
    chosen = range(seed, seed + 1) if seed is not None else seeds or range(100)
    names = None if faults is None else tuple(faults.split(","))
    if not __debug__:
        raise CommandFailed("assertions are the safety net: run without python -O")

    from pbft.garbage import collect_rarely
    from pbft.sim.runner import Summary, run_seed, run_seeds

    collect_rarely()
    if trace:
        if len(chosen) != 1:
            raise click.UsageError("--trace tells one run: name it with --seed")
        outcome = run_seed(
            chosen[0], replicas, names, real_signatures=real_signatures, write_line=say
        )
        summary = Summary(replicas, names, real_signatures, [outcome])
    else:
        summary = run_seeds(
            chosen,
            replicas,
            names,
            real_signatures=real_signatures,
            workers=workers or os.cpu_count() or 1,
            progress=_tell_progress(len(chosen)),
        )
    document = summary.as_json()
    if output == "json":
        print_json(document)
    else:
        _print(document)
    for violation in document["violations"]:
        say(f"seed {violation['seed']} violates {violation['invariant']}; {violation['replay']}")
    return exit_codes.VERIFICATION_FAILED if document["violations"] else exit_codes.OK


def _tell_progress(total: int) -> Callable[[int], None]:
    """Says how many runs are done, now and then."""
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done - told >= PROGRESS_EVERY:
            told = done
            say(f"{done} of {total} runs")

    return tell


def _print(document: dict[str, object]) -> None:
    rows: list[list[object]] = []
    for name, value in document.items():
        if isinstance(value, dict):
            for inner, count in value.items():
                if isinstance(count, dict):
                    rows += [[f"runs in which {one} acted", runs] for one, runs in count.items()]
                else:
                    rows.append([inner, count])
        elif isinstance(value, list):
            rows.append([name, len(value)])
        else:
            rows.append([name, value])
    print_table(["counted", "value"], rows)
