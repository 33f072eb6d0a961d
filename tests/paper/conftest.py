"""Every sentence holds for any n >= 4, not only for n = 3f + 1."""

import pytest


@pytest.fixture(params=[4, 5, 6, 7], ids=lambda count: f"n{count}")
def n(request: pytest.FixtureRequest) -> int:
    """How many replicas the cluster has."""
    count: int = request.param
    return count
