"""`pbft top` looks at a live cluster and hurts it with its keys."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.top.app import TopApp
from pbft.cli.top.source import LiveSource
from pbft.cli.traffic import Traffic
from tests.process.helpers import connect

SEEN_SECONDS = 30.0


@pytest.mark.timeout(180)
def test_what_the_keys_do_is_seen(cluster: LocalCluster) -> None:
    async def until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SEEN_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "not seen in time"
            await asyncio.sleep(0.05)

    async def story(app: TopApp) -> None:
        model = app.model
        async with AsyncExitStack() as stack:
            clients = await connect(stack, cluster, 2)
            pilot = await stack.enter_async_context(app.run_test(size=(120, 40)))
            async with Traffic(clients):
                await until(lambda: model.operations_per_second > 0)
                await until(lambda: any(len(it.executed) == 4 for it in model.lanes.newest(20)))
                assert all(one.status and one.status.view == 0 for one in model.replicas)
                lane = next(it for it in model.lanes.newest(20) if len(it.executed) == 4)
                assert lane.accepted == {0, 1, 2, 3}
                assert len(lane.prepares) >= 2 and len(lane.commits) >= 3
                assert not lane.conflicting(lane.commits)

                await pilot.press("0", "k")
                await until(lambda: model.view == 1 and not model.is_changing_view)
                change = model.view_change
                assert change is not None and change.view == 1
                assert change.signed == {1, 2, 3}
                assert model.replicas[0].process is ProcessState.DOWN
                assert cluster.state(0) is ProcessState.DOWN

                await pilot.press("s")
                await until(lambda: not model.replicas[0].is_silent)
                await pilot.press("2", "f")
                await until(lambda: model.replicas[2].process is ProcessState.FROZEN)
                await pilot.press("r")
                await until(lambda: not model.replicas[2].is_silent)

                # The first of the list: silent.
                await pilot.press("3", "c")
                await pilot.pause()
                await pilot.press("enter")
                corrupt = model.replicas[3]
                await until(lambda: corrupt.status and corrupt.status.faults == ("silent",))
                await pilot.press("h")
                await until(lambda: corrupt.status and corrupt.status.faults == ())

    asyncio.run(story(TopApp(LiveSource(cluster.layout.cluster_file))))
