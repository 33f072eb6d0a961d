"""Tests with a real Docker engine. They take minutes, so they run where PBFT_TEST_COMPOSE=1 asks
for them, and fail there if there is no engine: nothing is skipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import Stack, built_image, copy_checkout

collect_ignore_glob = [] if os.environ.get("PBFT_TEST_COMPOSE") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the checkout."""
    directory = tmp_path_factory.mktemp("checkout")
    copy_checkout(directory)
    return directory


@pytest.fixture(scope="session")
def image(checkout: Path) -> Iterator[str]:
    """The image that all stacks of the session share."""
    with built_image(checkout) as name:
        yield name


@pytest.fixture
def stack(checkout: Path, image: str, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack that is not up yet. What its containers wrote is shown if the test failed."""
    made = Stack(checkout, image)
    failed_before = request.session.testsfailed
    try:
        yield made
    finally:
        if request.session.testsfailed > failed_before:
            print(made.compose("ps", "--all"), made.compose("logs", "--no-color", "--tail", "60"))
        made.remove()
