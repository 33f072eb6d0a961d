"""`pbft fault set` on one replica of a loaded cluster: the clients notice nothing but delay, and
something tells on the replica.

One cluster serves all tests, one fault after the other: never more than f replicas are faulty.
"""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pbft.cli.admin import admin_addresses, fetch_statuses, get
from pbft.cli.demos.watching import Watch, WatchedClient
from pbft.cli.fault import BEHAVIOURS
from pbft.cli.layout import MAIN_JOB_CLIENTS
from pbft.cli.local import wait_until_serving
from pbft.cli.main_job import compare_states
from pbft.cli.observer import Observer
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.testnet import create_testnet
from pbft.cli.traffic import Traffic, TrafficPlan
from pbft.genesis import ProtocolConstants
from pbft.types import ReplicaId
from tests.process.helpers import assert_linearizable, connect, pbft

LOAD_SECONDS = 1.5
CHECKPOINT_SECONDS = 60.0
"""At the latest then the next checkpoint is reached, on a busy machine."""
KEPT = {b"kept/%d" % number: b"value %d" % number for number in range(20)}
"""Acknowledged before every fault, and to be there after it."""
CHECKPOINT_INTERVAL = ProtocolConstants().checkpoint_interval
SLOW = TrafficPlan(pause_seconds=0.1)

Samples = Counter[tuple[ReplicaId, str]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    directory = tmp_path_factory.mktemp("faults") / "cluster"
    create_testnet(directory, 4, 32, initialise_storage=True)
    cluster = LocalCluster(directory)
    try:
        for replica in cluster.replicas:
            cluster.start(replica)
        wait_until_serving(cluster)
        yield cluster
    finally:
        for replica in cluster.replicas:
            cluster.kill(replica)
            print(f"--- replica {replica}:\n{cluster.log_tail(replica)}")


@dataclass(slots=True)
class Load:
    """A loaded cluster with one faulty replica."""

    cluster: LocalCluster
    observer: Observer
    traffic: Traffic
    replica: ReplicaId
    """The faulty one."""
    before: Samples
    watch: Watch
    acted: int = 0

    def rise(self, name: str, **labels: str) -> int:
        """By how much the samples of a metric with these labels rose at the honest replicas."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            count - self.before[replica, sample]
            for (replica, sample), count in read_metrics(self.cluster).items()
            if replica != self.replica
            and sample.startswith(name + "{")
            and all(pair in sample for pair in wanted)
        )

    def rejected(self, *reasons: str) -> int:
        """How often honest replicas rejected something of the faulty one for these reasons."""
        culprit = str(self.replica)
        return sum(
            self.rise("pbft_rejected_total", peer=culprit, reason=reason) for reason in reasons
        )

    def report(self) -> dict[str, Any]:
        """What the faulty replica says of its faults."""
        _, body = get(self.watch.addresses[self.replica], "/faults")
        report: dict[str, Any] = json.loads(body)
        return report


def place(cluster: LocalCluster) -> list[str]:
    return ["--cluster", str(cluster.layout.cluster_file)]


def read_metrics(cluster: LocalCluster) -> Samples:
    """Every integer sample of every replica."""
    samples: Samples = Counter()
    for replica, address in enumerate(admin_addresses(cluster.layout.cluster_file)):
        try:
            _, body = get(address, "/metrics")
        except OSError:
            continue
        for line in body.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if not line.startswith("#") and value.endswith(".0"):
                samples[replica, name] = int(float(value))
    return samples


@asynccontextmanager
async def under_load(
    cluster: LocalCluster, *, primary: bool, plan: TrafficPlan | None = None
) -> AsyncIterator[Load]:
    """Clients at work; at the end the history is judged and what was kept is read."""
    observer = Observer(cluster.layout.cluster_file)
    view = await observer.wait_until_all_work()
    replica = observer.thresholds.primary_of(view if primary else view + 2)
    async with AsyncExitStack() as stack:
        measuring, *clients = await connect(stack, cluster, 5)
        for key, value in KEPT.items():
            await measuring.put(key, value)
        watch = Watch(cluster.layout.cluster_file)
        await asyncio.to_thread(watch.read)
        before = await asyncio.to_thread(read_metrics, cluster)
        async with Traffic(clients, plan or TrafficPlan()) as traffic:
            try:
                yield Load(cluster, observer, traffic, replica, before, watch)
            except BaseException:
                # The tests after this one are about other faults of the same cluster.
                await asyncio.to_thread(pbft, "fault", "clear", str(replica), *place(cluster))
                raise
        await traffic.read_all()
        for key, value in KEPT.items():
            found = await measuring.get(key, timeout=60.0)
            assert found is not None and found.value == value
        assert_linearizable(traffic, operations_min=5)
        assert traffic.failed == 0, traffic.failures


async def set_fault(load: Load, behaviour: str, *options: str) -> None:
    where = place(load.cluster)
    told = await asyncio.to_thread(
        pbft, "fault", "set", str(load.replica), behaviour, *options, *where
    )
    assert told.returncode == 0, told.stderr


async def clear_faults(load: Load) -> None:
    told = await asyncio.to_thread(pbft, "fault", "clear", str(load.replica), *place(load.cluster))
    assert told.returncode == 0, told.stderr


async def until(condition: Callable[[], bool], seconds: float = CHECKPOINT_SECONDS) -> bool:
    """Whether it came true in time."""

    def wait() -> bool:
        deadline = time.monotonic() + seconds
        while not (reached := condition()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return reached

    return await asyncio.to_thread(wait)


@dataclass(frozen=True, slots=True)
class Case:
    """A behaviour, where it acts, and what tells on it."""

    behaviour: str
    exposed: Callable[[Load], bool]
    primary: bool = False
    options: tuple[str, ...] = field(default=())


def changed_view(load: Load) -> bool:
    return load.rise("pbft_view_changes_total") > 0


def faults_shown(load: Load) -> list[str]:
    """What `pbft cluster status` shows of the faulty replica."""
    return fetch_statuses(load.watch.addresses)[load.replica].faults or []


def acts(load: Load) -> bool:
    """Nobody can tell it from a bad network: only the replica itself says what it does."""
    return bool(load.report()["faults"][0]["acted"])


def lags(load: Load) -> bool:
    executed = [
        json.loads(get(address, "/status")[1])["executed"] for address in load.watch.addresses
    ]
    return bool(executed[load.replica] + 20 < max(executed))


def voted_alone(load: Load) -> bool:
    """Its prepares are for digests that nobody else prepares."""
    told: dict[tuple[int, int], dict[ReplicaId, str]] = {}
    for one in load.watch.read():
        if one.event == "prepare_vote" and one.replica != load.replica:
            told.setdefault((one.view, one.sequence), {})[one.value] = one.detail
    return any(
        load.replica in votes and list(votes.values()).count(votes[load.replica]) == 1 < len(votes)
        for votes in told.values()
    )


def disagrees(load: Load) -> bool:
    """Its checkpoints are refused, or compared and found different."""
    culprit = f'peer="{load.replica}"'
    different = any(
        sample.startswith("pbft_checkpoint_agreement{") and culprit in sample and value == 0
        for (_, sample), value in read_metrics(load.cluster).items()
    )
    return different or load.rejected("bad_checkpoint", "sequence_high", "digest_conflict") > 0


CASES = (
    Case("silent", changed_view, primary=True),
    Case("delay", acts, options=("ms=30",)),
    Case("drop", acts, options=("share=40",)),
    Case("partition", lags),
    Case("equivocate", lambda load: load.rise("pbft_evidence_total") > 0, primary=True),
    Case("wrong-digest", voted_alone),
    Case("bad-signature", lambda load: load.rejected("bad_body") > 0, primary=True),
    Case("replay", lambda load: load.rejected("duplicate", "sequence_low") > 20),
    Case("slow-primary", acts, primary=True, options=("ms=400",)),
    Case("censor", changed_view, primary=True),
    Case(
        "forge-view-change",
        lambda load: load.rise("pbft_evidence_total") + load.rejected("view_stale") > 0,
    ),
    Case("withhold-body", acts, primary=True),
    Case("lying-checkpoint", disagrees),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.behaviour)
def test_a_misbehaviour_deceives_nobody(shared: LocalCluster, case: Case) -> None:
    async def story() -> None:
        async with under_load(shared, primary=case.primary) as load:
            begin, served = time.monotonic(), load.traffic.acknowledged
            await set_fault(load, case.behaviour, *case.options)
            assert await until(lambda: faults_shown(load) == [case.behaviour])
            await asyncio.sleep(LOAD_SECONDS)
            assert await until(lambda: case.exposed(load)), "nothing tells on it"
            rate = (load.traffic.acknowledged - served) / (time.monotonic() - begin)
            print(f"{case.behaviour}: {rate:.0f} operations per second meanwhile")
            await clear_faults(load)

    asyncio.run(story())


async def outvoted(client: WatchedClient) -> set[ReplicaId]:
    """Who answered a put otherwise than f + 1 did.

    It is put again until somebody did: the liar may not yet have a stream, or be slower.
    """
    deadline = time.monotonic() + 60
    while True:
        result = await client.put(b"truth", b"told")
        await asyncio.sleep(0.5)
        log = client.log.of(result.execution.number)
        liars = {claim.replica for claim in log.replies} - set(log.supporters())
        if liars or time.monotonic() > deadline:
            return liars


def test_wrong_replies_are_outvoted(shared: LocalCluster) -> None:
    async def story() -> None:
        async with under_load(shared, primary=False) as load:
            await set_fault(load, "wrong-reply")
            layout = shared.layout
            key = layout.client_key_file(MAIN_JOB_CLIENTS[-1])
            async with await WatchedClient.of(layout.cluster_file, key) as client:
                assert await outvoted(client) == {load.replica}
                found = await client.get(b"truth")
                assert found is not None and found.value == b"told"
            await clear_faults(load)

    asyncio.run(story())


def test_a_corrupt_state_is_noticed_and_repaired(shared: LocalCluster) -> None:
    async def story() -> None:
        async with under_load(shared, primary=False) as load:
            mismatch = "pbft_state_digest_mismatch_total"
            await set_fault(load, "corrupt-state")

            def noticed() -> bool:
                found = read_metrics(shared)[load.replica, mismatch]
                return found > load.before[load.replica, mismatch]

            assert await until(noticed)
            assert await until(lambda: load.report()["faults"] == [])
            await load.observer.wait_until_all_work()

    asyncio.run(story())


async def kill_between_checkpoints(load: Load) -> None:
    """Kills the replica while votes of its are above the last checkpoint: if that is forgotten, it
    matters."""
    while True:
        status = (await load.observer.statuses())[load.replica]
        assert status.executed is not None and status.low_water_mark is not None
        if 5 <= status.executed % CHECKPOINT_INTERVAL <= CHECKPOINT_INTERVAL // 3:
            break
        await asyncio.sleep(0.02)
    await asyncio.to_thread(load.cluster.kill, load.replica)


def told_by(load: Load, event: str) -> Callable[[], bool]:
    """Whether the replica's event stream has told this since it started."""
    return lambda: any(
        one.event == event and one.replica == load.replica
        for one in Watch(load.cluster.layout.cluster_file).read()
    )


def test_a_forgotten_vote_log_is_noticed(shared: LocalCluster) -> None:
    async def story() -> None:
        async with under_load(shared, primary=False, plan=SLOW) as load:
            await set_fault(load, "amnesia")
            assert load.report()["faults"][0]["when"] == "next start"
            await kill_between_checkpoints(load)
            await asyncio.to_thread(load.cluster.start, load.replica)
            assert await until(told_by(load, "amnesia"))
            assert await until(told_by(load, "rejoined"), 120.0)
            assert load.report()["faults"] == []
            await load.observer.wait_until_voting(load.replica)

    asyncio.run(story())


def test_a_rotten_disk_is_noticed(shared: LocalCluster) -> None:
    async def story() -> None:
        async with under_load(shared, primary=False) as load:
            await set_fault(load, "corrupt-disk", "part=state")
            cluster, replica = load.cluster, load.replica
            await asyncio.to_thread(cluster.kill, replica)
            await asyncio.to_thread(cluster.start, replica)
            assert await until(lambda: cluster.state(replica) is ProcessState.DOWN)
            assert "fails its checksum" in cluster.log_tail(replica)
            # The operator's way back: an empty disk, and the peers' memory.
            shutil.rmtree(cluster.layout.data_directory(replica))
            configuration = cluster.layout.configuration_file(replica)
            made = await asyncio.to_thread(pbft, "storage", "init", "--config", configuration)
            assert made.returncode == 0, made.stderr
            await asyncio.to_thread(cluster.start, replica)
            assert await until(told_by(load, "state_transfer_finished"))

    asyncio.run(story())


def test_all_states_are_equal_in_the_end(shared: LocalCluster) -> None:
    async def story() -> None:
        observer = Observer(shared.layout.cluster_file)
        async with AsyncExitStack() as stack:
            measuring, client = await connect(stack, shared, 2)
            async with Traffic([client]):
                await asyncio.sleep(0.5)
            _, digests = await compare_states(observer, measuring, shared.replicas)
            assert len(digests) == 4 and len(set(digests)) == 1

    asyncio.run(story())


def test_every_behaviour_is_tested() -> None:
    apart = {"wrong-reply", "corrupt-state", "amnesia", "corrupt-disk"}
    assert {case.behaviour for case in CASES} | apart == set(BEHAVIOURS)


def test_a_replica_that_does_not_allow_it_refuses(shared: LocalCluster) -> None:
    shared.stop([3])
    shared.start(3, [])
    wait: Awaitable[None] = Observer(shared.layout.cluster_file).wait_until_reachable(3)
    asyncio.run(_finish(wait))
    refused = pbft("fault", "set", "3", "silent", *place(shared))
    assert refused.returncode == 1
    assert "--allow-fault-injection" in refused.stderr


async def _finish(wait: Awaitable[None]) -> None:
    await wait


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("silent", "x=1"), "takes none"),
        (("delay", "ms=0"), "above 0"),
        (("drop", "share=101"), "1 to 100"),
        (("partition", "peers=0"), "peers are some of"),
        (("equivocate", "split=most"), "half"),
        (("censor", "zz"), "hexadecimal"),
        (("amnesia", "part=all"), "log, state"),
        (("corrupt-state", "x=1"), "takes no options"),
    ],
)
def test_wrong_parameters_are_refused(
    shared: LocalCluster, arguments: tuple[str, ...], says: str
) -> None:
    refused = pbft("fault", "set", "0", *arguments, *place(shared))
    assert refused.returncode == 1
    assert says in refused.stderr
    report = json.loads(pbft("fault", "list", *place(shared), "-w", "json").stdout)
    assert report["replicas"][0]["faults"] == []
