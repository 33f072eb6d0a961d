"""The simulation job of .ci/run complains about runs that saw too little."""

import importlib.util
import os
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
