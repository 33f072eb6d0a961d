"""The simulation job of .ci/run complains about runs that saw too little."""

import importlib.util
import os
import shutil
import subprocess
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
        "restarts": 200,
        "power_loss_runs": 200,
        "disk_faults": 600,
        "amnesias": 100,
        "rejoins": 60,
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
        (["counters", "restarts"], 199),
        (["counters", "power_loss_runs"], 199),
        (["counters", "disk_faults"], 599),
        (["counters", "amnesias"], 99),
        (["counters", "rejoins"], 59),
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


def run_steps(project: Path, install: str, *, killed: bool = False) -> tuple[int, str]:
    """Exit code and output of .ci/run in a project whose first step is this command."""
    (project / ".ci").mkdir()
    shutil.copy2(DIRECTORY / "run", project / ".ci" / "run")
    (project / "Makefile").write_text(f"install:\n\t{install}\n")
    script = subprocess.Popen(
        ["bash", ".ci/run"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert script.stdout is not None
    begun = script.stdout.readline()
    if killed:
        script.terminate()
    output, _ = script.communicate(timeout=60)
    return script.returncode, begun + output


def test_a_step_that_fails_fails_the_script(tmp_path: Path) -> None:
    code, output = run_steps(tmp_path, "false")
    assert code == 1
    assert "install FAILED" in output
    assert "passed" not in output


def test_a_script_that_is_ended_has_not_passed(tmp_path: Path) -> None:
    """The signal comes while a step is under way that succeeds."""
    code, output = run_steps(tmp_path, "sleep 2", killed=True)
    assert code != 0
    assert "passed" not in output
