"""Runs many seeds in several processes, and demands that they met enough of what can go wrong."""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

REPLICAS = "4,5,6,7"
BEHAVIOUR_RUNS_MIN = 20
REQUESTS_PER_RUN_MIN = 100
SHARD_SECONDS_MAX = 1100
COUNTERS_MIN_PER_2000 = {
    "new_views_nonempty_o": 200,
    "unequal_h": 50,
    "null_slots": 50,
    "state_transfers": 50,
    "restarts": 200,
}
"""What all runs together must have seen: otherwise they prove little."""


def run_shards(seeds: int, processes: int) -> list[dict[str, Any]]:
    """Splits the seeds over processes; returns their summaries. Raises if one fails to run."""
    bounds = [seeds * index // processes for index in range(processes + 1)]
    shards = []
    for first, last in zip(bounds, bounds[1:], strict=False):
        command = [sys.executable, "-m", "pbft.cli.main", "sim", "--seeds", f"{first}..{last}"]
        command += ["--replicas", REPLICAS, "-w", "json"]
        shards.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    summaries = []
    try:
        for shard in shards:
            output, _ = shard.communicate(timeout=SHARD_SECONDS_MAX)
            if not output.strip():
                raise SystemExit(f"pbft sim ended with code {shard.returncode} and no output")
            summaries.append(json.loads(output))
    finally:
        for shard in shards:
            if shard.poll() is None:
                shard.kill()
                shard.wait()
    return summaries


def total(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The summaries added up."""
    counters: Counter[str] = Counter()
    behaviours: Counter[str] = Counter()
    for summary in summaries:
        for name, value in summary["counters"].items():
            (behaviours if isinstance(value, dict) else counters).update(
                value if isinstance(value, dict) else {name: value}
            )
    return {
        "runs": sum(summary["runs"] for summary in summaries),
        "events": sum(summary["events"] for summary in summaries),
        "requests": sum(summary["requests"] for summary in summaries),
        "counters": dict(counters),
        "behaviours": dict(behaviours),
        "violations": [one for summary in summaries for one in summary["violations"]],
    }


def complaints(document: dict[str, Any], seeds: int) -> list[str]:
    """What the runs lack; empty if they are worth their time."""
    found = [f"violation: {one}" for one in document["violations"]]
    if document["runs"] != seeds:
        found.append(f"{document['runs']} runs of {seeds}")
    if document["requests"] < seeds * REQUESTS_PER_RUN_MIN:
        found.append(f"{document['requests']} requests, {seeds * REQUESTS_PER_RUN_MIN} needed")
    for name, minimum in COUNTERS_MIN_PER_2000.items():
        if document["counters"].get(name, 0) < minimum * seeds / 2000:
            found.append(f"{name}: {document['counters'].get(name, 0)}, {minimum} needed")
    if not document["behaviours"]:
        found.append("no behaviour acted")
    for name, runs in document["behaviours"].items():
        if runs < BEHAVIOUR_RUNS_MIN * seeds / 2000:
            found.append(f"behaviour {name} acted in {runs} runs, {BEHAVIOUR_RUNS_MIN} needed")
    return found


def main() -> int:
    """Prints the sums and what they lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    begin = time.monotonic()
    document = total(run_shards(arguments.seeds, arguments.processes))
    seconds = time.monotonic() - begin
    print(json.dumps(document, indent=2))
    print(f"{document['runs'] * 60 / seconds:.0f} seeds per minute")
    found = complaints(document, arguments.seeds)
    for text in found:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
