"""I18: one seed, one trace, in any process and whatever the order of hashes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (1, 7, 11)
PROGRAM = f"""
from pbft.sim.runner import run_seed
for seed in {SEEDS}:
    print(run_seed(seed, (4, 5, 7)).trace_hash)
"""


def start(hash_seed: str) -> subprocess.Popen[str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "client")))
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_with_two_hash_seeds_trace_alike() -> None:
    processes = [start(hash_seed) for hash_seed in ("1", "2")]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len(set(outputs[0])) == len(SEEDS)
    assert outputs[0] == outputs[1]
