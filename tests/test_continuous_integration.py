"""The simulation job of .ci/run complains about runs that saw too little."""

import importlib.util
import os
import shutil
import subprocess
import time
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pbft.sim.scenario import CLIENT_CRIMES, FAULTS

DIRECTORY = Path(__file__).resolve().parent.parent / ".ci"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "simulation", DIRECTORY / "simulation.py"
    )
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


GOOD: dict[str, Any] = {
    "runs": 2000,
    "requests": 200_000,
    "violations": [],
    "counters": {
        "behaviours": {name: 20 for name in FAULTS},
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
    },
}


def test_enough_is_enough(job: ModuleType) -> None:
    assert job.complaints(GOOD, 2000) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["runs"], 1999),
        (["requests"], 199_999),
        (["violations"], [{"seed": 1}]),
        (["counters", "new_views_nonempty_o"], 199),
        (["counters", "unequal_h"], 49),
        (["counters", "null_slots"], 49),
        (["counters", "state_transfers"], 49),
        (["counters", "read_backs"], 59),
        (["counters", "restarts"], 199),
        (["counters", "power_loss_runs"], 199),
        (["counters", "disk_faults"], 599),
        (["counters", "corrupt_disks"], 99),
        (["counters", "amnesias"], 99),
        (["counters", "rejoins"], 59),
        (["counters", "evidence"], 2_999),
        (["counters", "suspicions"], 5_999),
        (["counters", "delivered_again"], 59_999),
        (["counters", "fast_reads"], 5_999),
        (["counters", "undecided_histories"], 21),
        (["counters", "behaviours", "equivocate"], 19),
        (["counters", "behaviours", "silent"], None),
        *((["counters", "behaviours", crime], None) for crime in CLIENT_CRIMES),
    ],
)
def test_too_little_of_anything_fails(job: ModuleType, path: list[str], value: object) -> None:
    document = deepcopy(GOOD)
    place = document
    for name in path[:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    assert len(job.complaints(document, 2000)) == 1


def test_the_script_can_be_run() -> None:
    assert os.access(DIRECTORY / "run", os.X_OK)


# The script around it.


def make_project(project: Path, **targets: str) -> None:
    """A project with .ci/run in which every step succeeds at once, but for these make targets."""
    (project / ".ci").mkdir()
    shutil.copy2(DIRECTORY / "run", project / ".ci" / "run")
    names = ("install", "lint", "types", "test", "mutants", "run")
    rules = (f"{name}:\n\t@{targets.get(name, 'true')}\n" for name in names)
    (project / "Makefile").write_text("".join(rules))
    for name in ("python", "coverage", "promtool", "docker"):
        script(project / ".venv" / "bin" / name, "exit 0")


def script(path: Path, *lines: str) -> None:
    """Something that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/bash", *lines, "")))
    path.chmod(0o755)


def run_steps(project: Path, *, killed: bool = False) -> tuple[int, str]:
    """Exit code and output of .ci/run there; `killed`: with a signal during the first step."""
    binaries = project / ".venv" / "bin"
    ci = subprocess.Popen(
        ["bash", ".ci/run"],
        cwd=project,
        env=os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ci.stdout is not None
    begun = ci.stdout.readline()
    if killed:
        ci.terminate()
    output, _ = ci.communicate(timeout=60)
    return ci.returncode, begun + output


def test_all_steps_pass(tmp_path: Path) -> None:
    make_project(tmp_path)
    code, output = run_steps(tmp_path)
    assert code == 0, output
    assert "FAILED" not in output
    assert output.splitlines()[-1].startswith("=== all passed in")


@pytest.mark.parametrize("target", ["install", "lint", "types", "test", "mutants", "run"])
def test_a_step_that_fails_fails_the_script(tmp_path: Path, target: str) -> None:
    make_project(tmp_path, **{target: "false"})
    code, output = run_steps(tmp_path)
    assert code == 1
    assert " FAILED" in output
    assert "all passed" not in output


def test_a_simulation_that_fails_fails_the_script(tmp_path: Path) -> None:
    """It runs beside the other steps, which pass."""
    make_project(tmp_path)
    script(
        tmp_path / ".venv" / "bin" / "python",
        'if [[ $1 == .ci/simulation.py ]]; then echo "FAILED: violation"; exit 1; fi',
    )
    code, output = run_steps(tmp_path)
    assert code == 1
    assert "FAILED: violation\n=== simulation, 2,000 seeds FAILED (exit code 1)" in output
    assert "all passed" not in output


def test_a_step_that_fails_ends_the_simulation(tmp_path: Path) -> None:
    make_project(tmp_path, test=f"while ! test -e {tmp_path}/pid; do sleep 0.05; done; false")
    script(
        tmp_path / ".venv" / "bin" / "python",
        f"sleep 300 & echo $! >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait",
    )
    code, output = run_steps(tmp_path)
    assert code == 1
    assert "tests, branches counted FAILED" in output
    worker = Path("/proc") / (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 10
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists(), "the simulation goes on"


def test_a_script_that_is_ended_has_not_passed(tmp_path: Path) -> None:
    """The signal comes while a step is under way that succeeds."""
    make_project(tmp_path, install="sleep 2")
    code, output = run_steps(tmp_path, killed=True)
    assert code != 0
    assert "passed" not in output
