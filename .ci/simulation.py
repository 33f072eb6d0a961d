"""Runs many seeds in several processes, and demands that they met enough of what can go wrong."""

import argparse
import json
import subprocess
import sys
from typing import Any

from pbft.sim.scenario import FAULTS

REPLICAS = "4,5,6,7"
BEHAVIOUR_RUNS_MIN = 20
REQUESTS_PER_RUN_MIN = 100
COUNTERS_MIN_PER_2000 = {
    "new_views_nonempty_o": 200,
    "unequal_h": 50,
    "null_slots": 50,
    "state_transfers": 50,
    "read_backs": 60,
    "restarts": 200,
    "power_loss_runs": 200,
    "disk_faults": 600,
    "corrupt_disks": 100,
    "amnesias": 100,
    "rejoins": 60,
    "evidence": 3_000,
    "suspicions": 6_000,
    "delivered_again": 60_000,
    "fast_reads": 6_000,
}
"""What all runs together must have seen: otherwise they prove little."""


UNDECIDED_ONE_IN = 100
"""At most one history in so many may be left to the witness checker alone."""


def run(seeds: int, workers: int) -> dict[str, Any]:
    """Runs `pbft sim` and returns its JSON document."""
    command = [sys.executable, "-m", "pbft.cli.main", "sim", "--seeds", f"0..{seeds}"]
    command += ["--replicas", REPLICAS, "--workers", str(workers), "-w", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        raise SystemExit(f"pbft sim ended with code {done.returncode} and no output")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


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
    undecided = document["counters"].get("undecided_histories", 0)
    if undecided * UNDECIDED_ONE_IN > seeds:
        found.append(f"{undecided} histories that the black-box checker could not judge")
    behaviours = document["counters"]["behaviours"]
    if missing := sorted(set(FAULTS) - behaviours.keys()):
        found.append(f"behaviours that never acted: {missing}")
    for name, runs in behaviours.items():
        if runs < BEHAVIOUR_RUNS_MIN * seeds / 2000:
            found.append(f"behaviour {name} acted in {runs} runs, {BEHAVIOUR_RUNS_MIN} needed")
    return found


def main() -> int:
    """Prints the sums and what they lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    document = run(arguments.seeds, arguments.workers)
    print(json.dumps(document, indent=2))
    found = complaints(document, arguments.seeds)
    for text in found:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
