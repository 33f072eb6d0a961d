"""The small pieces under the streams: queue, budget, switches of the environment."""

import asyncio
import os
import subprocess
import sys

import pytest

from pbft.grpc_environment import SWITCHES
from pbft.limits import FRAME_ITEMS_MAX
from pbft.transport import fault_budget
from pbft.transport.api import FRAME_BYTES
from pbft.transport.fault_budget import FaultBudget
from pbft.transport.send_queue import SendQueue


def test_queue_drops_the_oldest_and_counts_them() -> None:
    async def scenario() -> None:
        queue = SendQueue(limit_bytes=10)
        assert [queue.push(bytes(4)) for _ in range(2)] == [0, 0]
        assert queue.push(b"1234567") == 2
        assert queue.waiting_bytes == 7
        assert await queue.next_frame() == [b"1234567"]
        assert queue.waiting_bytes == 0

    asyncio.run(scenario())


def test_queue_drops_the_oldest_on_demand() -> None:
    queue = SendQueue(limit_bytes=10)
    for size in (1, 2, 3):
        queue.push(bytes(size))
    assert queue.drop_oldest(2) == 2
    assert (queue.count, queue.waiting_bytes) == (1, 3)
    assert queue.drop_oldest(2) == 1
    assert (queue.count, queue.waiting_bytes) == (0, 0)


def test_queue_takes_one_item_beyond_its_limit_only_when_empty() -> None:
    queue = SendQueue(limit_bytes=10)
    assert queue.offer(bytes(100))
    assert not queue.offer(b"x")
    assert queue.waiting_bytes == 100
    assert queue.push(b"x") == 1
    assert queue.waiting_bytes == 1


def test_frames_gather_up_to_their_size() -> None:
    async def scenario() -> None:
        queue = SendQueue(limit_bytes=100 * FRAME_BYTES)
        large = bytes(2 * FRAME_BYTES)
        half = bytes(FRAME_BYTES // 2)
        for item in (half, half, half, large, b"a"):
            queue.push(item)
        assert await queue.next_frame() == [half, half]
        assert await queue.next_frame() == [half]
        assert await queue.next_frame() == [large]
        assert await queue.next_frame() == [b"a"]

    asyncio.run(scenario())


def test_writer_waits_for_something_and_loses_nothing_when_cancelled() -> None:
    async def scenario() -> None:
        queue = SendQueue(limit_bytes=100)
        waiting = asyncio.create_task(queue.next_frame())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.push(b"x")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await queue.next_frame() == [b"x"]

    asyncio.run(scenario())


def test_budget_is_spent_and_refilled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(fault_budget.time, "monotonic", lambda: now[0])
    budget = FaultBudget(burst=3, per_second=2, throttle_seconds=7)
    assert [budget.spend() for _ in range(3)] == [True, True, True]
    assert not budget.is_refused
    assert [budget.spend() for _ in range(2)] == [False, False]
    now[0] += 0.5
    assert [budget.spend() for _ in range(2)] == [True, False]
    now[0] += 6.5
    assert budget.is_refused
    now[0] += 0.5
    assert not budget.is_refused
    now[0] += 1_000
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


def test_a_fault_that_took_long_counts_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_budget.time, "monotonic", lambda: 100.0)
    budget = FaultBudget(burst=10, per_second=2, throttle_seconds=7)
    assert budget.spend(fault_budget.FAULT_SECONDS / 2)
    assert budget.spend(8 * fault_budget.FAULT_SECONDS)
    assert budget.spend()
    assert not budget.spend()


def test_a_frame_gathers_so_many_items_and_no_more() -> None:
    async def scenario() -> None:
        queue = SendQueue(limit_bytes=FRAME_BYTES)
        for _ in range(FRAME_ITEMS_MAX + 1):
            queue.push(b"x")
        assert len(await queue.next_frame()) == FRAME_ITEMS_MAX
        assert len(await queue.next_frame()) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("module", ["pbft.transport.listener", "pbft_client.link"])
def test_the_switches_are_set_before_grpc_is_imported(module: str) -> None:
    program = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'grpc':\n"
        "            names = 'GRPC_EXPERIMENTS', 'GRPC_ENABLE_FORK_SUPPORT'\n"
        "            print(*(os.environ[name] for name in names))\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import {module}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == [SWITCHES["GRPC_EXPERIMENTS"], "0"]


def test_a_switch_that_the_user_set_stays() -> None:
    program = "import os, pbft.transport; print(os.environ['GRPC_EXPERIMENTS'])"
    environment = {**os.environ, "GRPC_EXPERIMENTS": "mine"}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "mine"
