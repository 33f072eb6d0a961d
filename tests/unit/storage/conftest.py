"""Every storage test that asks for a disk runs on LMDB and on the twin in memory."""

from pathlib import Path

import pytest

from tests.unit.storage.builders import Disk


@pytest.fixture(params=["lmdb", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """An empty disk of each kind."""
    return Disk.make(tmp_path if request.param == "lmdb" else None)
