"""What tests of real processes share besides the fixtures."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pbft.cli.bench import connect_all
from pbft.cli.layout import MAIN_JOB_CLIENTS
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic
from pbft.sim.checkers import check_black_box, check_the_checkers, check_witness
from pbft_client import Client

COMMAND_SECONDS = 120


def pbft(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "pbft.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        **options,
    )


async def connect(stack: AsyncExitStack, cluster: LocalCluster, clients: int) -> list[Client]:
    """Clients with keys of their own."""
    layout = cluster.layout
    keys = [layout.client_key_file(number) for number in MAIN_JOB_CLIENTS[:clients]]
    return await connect_all(stack, layout.cluster_file, keys)


async def until_served(traffic: Traffic, operations: int) -> None:
    """Waits until the clients had so many answers, however slow the machine is."""
    async with asyncio.timeout(60):
        while traffic.acknowledged < operations:  # noqa: ASYNC110 (traffic tells nobody)
            await asyncio.sleep(0.05)


def assert_linearizable(traffic: Traffic, operations_min: int) -> None:
    """Both checkers accept the history, and it is long enough to mean something."""
    assert traffic.acknowledged >= operations_min, traffic.failures
    check_the_checkers()
    assert check_witness(traffic.history) is None
    assert check_black_box(traffic.history) is None
