"""Containers killed, frozen, cut off, corrupted, restarted and made anew while requests go on."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from pbft.cli import main_job
from pbft.cli.admin import admin_addresses, get
from pbft.cli.bench import connect_all
from pbft.cli.observer import Observer
from pbft.cli.traffic import Traffic, TrafficPlan
from pbft.sim.checkers import check_black_box, check_the_checkers, check_witness
from pbft_client import Client
from tests.compose.stack import HEALTHY_SECONDS, REPLICAS, ROOT, Stack, docker, execute

pytestmark = pytest.mark.timeout(1_500)

REQUESTS = 1_000
CLIENTS = range(1, 6)
HOST_CLIENT, CONTAINER_CLIENT = 200, 201
WHILE_HURT_SECONDS = 4.0
MEMORY_MEBIBYTES_MAX = 256
LOG_BYTES_MAX = 2_000_000
MEBIBYTES = {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}


@dataclass(frozen=True)
class Scene:
    """What the acts share."""

    stack: Stack
    observer: Observer
    traffic: Traffic
    measuring: Client

    async def compose(self, *arguments: str) -> None:
        """Runs docker-compose while the traffic goes on."""
        await asyncio.to_thread(self.stack.compose, *arguments)

    async def answered(self, seconds: float = WHILE_HURT_SECONDS) -> int:
        """How many requests are answered in the next seconds; more than none."""
        before = self.traffic.acknowledged
        await asyncio.sleep(seconds)
        self.traffic.check_running()
        count = self.traffic.acknowledged - before
        assert count > 0
        return count

    async def backup(self) -> int:
        """A replica that is not the primary of the current view."""
        view = await self.observer.wait_for_view()
        return self.observer.thresholds.primary_of(view + 1)

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Waits for something that a container or its admin listener tells."""
        for _ in range(HEALTHY_SECONDS * 5):
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"not within {HEALTHY_SECONDS} s: {what}")


def test_requests_go_on_whatever_happens_to_one_replica(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-build")
    print(f"healthy after {stack.wait_until_healthy():.0f} s")
    fetch_client_files(stack)
    write_and_read_from_both_sides(stack)
    asyncio.run(story(stack))
    stop_cleanly(stack)


def fetch_client_files(stack: Stack) -> None:
    """As the walk-through does."""
    lines = (ROOT / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if "| tar -x" in line]
    stack.script(f"mkdir -p .pbft-compose\n{line}")


def write_and_read_from_both_sides(stack: Stack) -> None:
    """A thousand keys each, through the published ports and through the client network."""
    program = ROOT / "tests" / "compose" / "write_and_read.py"
    environment = {**stack.environment, "PBFT_CLUSTER": str(stack.cluster_file)}
    arguments = [str(HOST_CLIENT), str(REQUESTS)]
    outside = execute([sys.executable, str(program), *arguments], env=environment)
    assert f"{REQUESTS} written and read" in outside.stdout
    command = f"docker-compose run --rm -T client python3 - {CONTAINER_CLIENT} {REQUESTS}"
    inside = stack.script(command, input=program.read_text())
    assert f"{REQUESTS} written and read" in inside.stdout


async def story(stack: Stack) -> None:
    """All acts under one load, one history."""
    directory = stack.cluster_file.parent
    keys = [directory / "clients" / f"{number}.key" for number in CLIENTS]
    # Long enough to sit out `down` and `up`.
    plan = TrafficPlan(pause_seconds=0.02, operation_seconds=3.0 * HEALTHY_SECONDS)
    async with AsyncExitStack() as resources:
        measuring, *clients = await connect_all(resources, stack.cluster_file, keys)
        traffic = await resources.enter_async_context(Traffic(clients, plan))
        scene = Scene(stack, Observer(stack.cluster_file), traffic, measuring)
        for act in (
            kill_the_primary,
            freeze,
            cut_off,
            corrupt,
            look_at_memory_and_logs,
            restart_all,
            down_and_up,
        ):
            await act(scene)
            print(f"{act.__name__}: {traffic.acknowledged} requests answered by now")
        await traffic.stop()
        await traffic.read_all()
        await compare_states(scene)
    assert traffic.failed == 0, traffic.failures
    assert traffic.acknowledged > REQUESTS
    check_the_checkers()
    assert check_witness(traffic.history) is None
    assert check_black_box(traffic.history) is None


async def kill_the_primary(scene: Scene) -> None:
    view = await scene.observer.wait_for_view()
    primary = scene.observer.thresholds.primary_of(view)
    await scene.compose("kill", f"replica{primary}")
    await scene.observer.wait_for_view(above=view)
    await scene.answered()
    assert not scene.stack.is_running(primary), "what was killed stays down"
    await scene.compose("start", f"replica{primary}")
    await scene.observer.wait_until_voting(primary)


async def freeze(scene: Scene) -> None:
    frozen = await scene.backup()
    await scene.compose("pause", f"replica{frozen}")
    await scene.answered()
    statuses = await scene.observer.statuses()
    assert [one.replica for one in statuses if not one.reachable] == [frozen]
    await scene.compose("unpause", f"replica{frozen}")
    await scene.observer.wait_until_voting(frozen)


async def cut_off(scene: Scene) -> None:
    """One replica loses the peer network; its clients still reach it."""
    lonely = await scene.backup()
    network, container = f"{scene.stack.project}_peer", scene.stack.container(lonely)
    address = admin_addresses(scene.stack.cluster_file)[lonely]

    def peers() -> list[int]:
        found = json.loads(get(address, "/status")[1])["peers_connected"]
        assert isinstance(found, list)
        return found

    assert len(peers()) == len(REPLICAS) - 1
    docker("network", "disconnect", network, container)
    await scene.until("the replica notices", lambda: peers() == [])
    await scene.answered()
    docker("network", "connect", "--alias", f"peer{lonely}", network, container)
    await scene.until("the peers are back", lambda: len(peers()) == len(REPLICAS) - 1)
    await scene.observer.wait_until_voting(lonely)


SHOWN_SECONDS = 30.0


async def corrupt(scene: Scene) -> None:
    """One replica answers clients with forged results; then it is honest again."""
    liar = await scene.backup()
    fault = scene.stack.pbft
    await asyncio.to_thread(fault, "fault", "set", str(liar), "wrong-reply")
    await shows(scene, liar, ["wrong-reply"])
    await scene.answered()
    await asyncio.to_thread(fault, "fault", "clear", str(liar))
    await shows(scene, liar, [])


async def shows(scene: Scene, replica: int, faults: list[str]) -> None:
    """Returns when the status tells these faults: it is published now and then."""
    deadline = time.monotonic() + SHOWN_SECONDS
    while (told := (await scene.observer.statuses())[replica].faults) != faults:
        assert time.monotonic() < deadline, f"{told} instead of {faults}"
        await asyncio.sleep(0.1)


async def look_at_memory_and_logs(scene: Scene) -> None:
    """After all that, a replica is still small, and its log is short and readable by programs."""
    for replica in REPLICAS:
        await asyncio.to_thread(look_at, scene.stack, replica)


def look_at(stack: Stack, replica: int) -> None:
    """Memory and log of one container since `up`."""
    container = stack.container(replica)
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
    number, unit = re.findall(r"^([\d.]+)(\w+)", used)[0]
    log = execute(["docker", "logs", container])
    print(f"replica {replica}: {used}, {len(log.stderr)} bytes of log")
    assert float(number) * MEBIBYTES[unit] < MEMORY_MEBIBYTES_MAX
    assert log.stdout == ""
    assert 0 < len(log.stderr) < LOG_BYTES_MAX
    events = [json.loads(line) for line in log.stderr.splitlines()]
    assert events[0]["event"] == "started"
    assert {event["replica"] for event in events} == {replica}


async def restart_all(scene: Scene) -> None:
    await scene.compose("restart", *(f"replica{replica}" for replica in REPLICAS))
    await asyncio.to_thread(scene.stack.wait_until_healthy)
    await scene.answered()


async def down_and_up(scene: Scene) -> None:
    """The containers and networks go, the volumes stay."""
    before = {replica: scene.stack.container(replica) for replica in REPLICAS}
    await scene.compose("down")
    assert all(scene.stack.container(replica) == "" for replica in REPLICAS)
    await scene.compose("up", "--detach", "--no-build")
    await asyncio.to_thread(scene.stack.wait_until_healthy)
    assert all(scene.stack.container(replica) != before[replica] for replica in REPLICAS)
    await scene.answered()


async def compare_states(scene: Scene) -> None:
    """All replicas must hold the same state."""
    sequence, digests = await main_job.compare_states(scene.observer, scene.measuring, REPLICAS)
    assert len(digests) == len(REPLICAS) and len(set(digests)) == 1, (sequence, digests)


def stop_cleanly(stack: Stack) -> None:
    """SIGTERM ends a replica well within the grace period, with a last word."""
    stack.compose("stop")
    for replica in REPLICAS:
        assert stack.inspect(replica)["State"]["ExitCode"] == 0
        log = execute(["docker", "logs", "--tail", "1", stack.container(replica)])
        assert json.loads(log.stderr)["event"] == "stopped"
