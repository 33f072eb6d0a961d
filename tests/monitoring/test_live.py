"""A real Prometheus scrapes a live cluster that is hurt in one way after the other: every alert is
silent until the situation it is for and fires then, and every panel of the dashboard has data.
"""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pbft.cli.admin import admin_addresses
from pbft.cli.fault import send_command
from pbft.cli.local import wait_until_serving
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.cli.traffic import Traffic, TrafficPlan
from tests.monitoring.prometheus import DASHBOARD, RATE_INTERVAL, Prometheus, free_port, scraping
from tests.process.helpers import connect

VICTIM = 3
"""Hurt in every way; a backup as long as the view is not 3 modulo 4."""
QUIET_SECONDS = 40.0
FIRE_SECONDS = 40.0
ATTEMPT_SECONDS = 15.0
ATTEMPTS = 3
"""Primaries that are corrupted until one of them has been noticed, and how long each has."""
POLL_SECONDS = 0.25
CLIENTS = 3
KILLS_MAX = 8
"""Primaries killed until that is a storm."""
ALLOW = "--allow-fault-injection"
SLUGGISH = (sys.executable, str(Path(__file__).with_name("sluggish.py")), "start")


@dataclass
class Ward:
    """The cluster, what watches it, and what has been seen so far."""

    cluster: LocalCluster
    observer: Observer
    prometheus: Prometheus
    fired: set[str] = field(default_factory=set)
    blind: dict[str, str] = field(default_factory=dict)
    """Queries of panels that had no data yet, by query: the panel's title."""

    async def expect(self, *alerts: str, **labels: str) -> None:
        """Waits until these alerts fire, with these labels if they have them."""
        missing = await self.wait_for(alerts, labels, FIRE_SECONDS)
        assert not missing, f"not fired: {missing}; {self.prometheus.firing()}"

    async def wait_for(
        self, alerts: Sequence[str], labels: dict[str, str], seconds: float
    ) -> set[str]:
        """Waits until these alerts fire, or so long; returns those that did not."""
        deadline = time.monotonic() + seconds
        missing = set(alerts)
        while missing and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            firing = await asyncio.to_thread(self.prometheus.firing)
            for alert in list(missing):
                for found in firing.get(alert, []):
                    if all(found.get(name, value) == value for name, value in labels.items()):
                        missing.discard(alert)
            await asyncio.to_thread(self.look_at_panels)
        self.fired |= set(alerts) - missing
        return missing

    async def expect_silence(self, *alerts: str) -> None:
        """These alerts are silent, or fall silent, before what they are for comes."""
        deadline = time.monotonic() + QUIET_SECONDS
        while firing := await asyncio.to_thread(self.prometheus.firing):
            if not set(alerts) & firing.keys():
                break
            assert time.monotonic() < deadline, firing
            await asyncio.sleep(POLL_SECONDS)

    def look_at_panels(self) -> None:
        """Notes which panels have data."""
        for query in list(self.blind):
            if self.prometheus.query(query):
                del self.blind[query]

    async def command(
        self, replica: int, action: str, behaviour: str | None, **options: str
    ) -> None:
        """`pbft fault set` or `clear`."""
        command: dict[str, object] = {"action": action, "behaviour": behaviour}
        if action == "set":
            command["options"] = options
        file = self.cluster.layout.cluster_file
        await asyncio.to_thread(send_command, file, replica, command)

    async def restart(self, replica: int, command: tuple[str, ...] | None = None) -> None:
        """Stops a replica and starts it, with another command if one is given."""
        await asyncio.to_thread(self.cluster.kill, replica)
        cluster = self.cluster
        if command is not None:
            cluster = LocalCluster(self.cluster.layout.directory, command)
        await asyncio.to_thread(cluster.start, replica, (ALLOW,))

    async def primary(self) -> int:
        """Who leads now."""
        view = await self.observer.wait_for_view()
        return self.observer.thresholds.primary_of(view)

    async def corrupt_primary(
        self, behaviour: str, alert: str, label: str | None = None, **options: str
    ) -> None:
        """Makes whoever leads misbehave until the alert fires, with the primary as that label. The
        lead may pass on before anything was done, and nothing is seen of a primary's misbehaviour
        at a backup: then it is the next one's turn.
        """
        for _ in range(ATTEMPTS):
            primary = await self.primary()
            labels = {} if label is None else {label: str(primary)}
            await self.command(primary, "set", behaviour, **options)
            missing = await self.wait_for([alert], labels, ATTEMPT_SECONDS)
            await self.command(primary, "clear", None)
            if not missing:
                return
        raise AssertionError(f"{behaviour}: not fired: {alert}; {self.prometheus.firing()}")


def panel_queries() -> dict[str, str]:
    """Every query of the dashboard, as Grafana would send it, and the title of its panel."""
    document = json.loads(DASHBOARD.read_text())
    return {
        target["expr"].replace("$__rate_interval", RATE_INTERVAL): panel["title"]
        for panel in document["panels"]
        for target in panel.get("targets", [])
    }


async def be_quiet(ward: Ward) -> None:
    """A healthy cluster under load: no alert fires (on a busy machine: after a while)."""
    deadline = time.monotonic() + QUIET_SECONDS
    while await asyncio.to_thread(ward.prometheus.firing):
        assert time.monotonic() < deadline, ward.prometheus.firing()
        await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(3.0)
    rules = await asyncio.to_thread(ward.prometheus.rules)
    assert {rule["health"] for rule in rules} == {"ok"}, rules


async def be_slow(ward: Ward) -> None:
    """The primary holds its proposals back, not long enough to be replaced."""
    await ward.expect_silence("PbftRequestsSlow")
    await ward.corrupt_primary("slow-primary", "PbftRequestsSlow", ms="1700")


async def lie(ward: Ward) -> None:
    """A backup vouches for states that nobody has."""
    await ward.expect_silence("PbftDigestDisagreement", "PbftFaultInjected")
    await ward.command(VICTIM, "set", "lying-checkpoint")
    await ward.expect("PbftFaultInjected", node=str(VICTIM))
    await ward.expect("PbftDigestDisagreement", peer=str(VICTIM))
    await ward.command(VICTIM, "clear", None)


async def cheat(ward: Ward) -> None:
    """The primary slips requests that nobody signed into its batches."""
    await ward.expect_silence("PbftHostileMessages")
    await ward.corrupt_primary("bad-signature", "PbftHostileMessages", "peer")


async def rot(ward: Ward) -> None:
    """A replica's state is flipped behind its back; it finds out and repairs itself."""
    await ward.expect_silence("PbftStateDiverged")
    await ward.command(VICTIM, "set", "corrupt-state")
    await ward.expect("PbftStateDiverged", node=str(VICTIM))
    await ward.command(VICTIM, "clear", None)
    await ward.observer.wait_until_voting(VICTIM)


async def equivocate(ward: Ward) -> None:
    """The primary proposes two things as one."""
    await ward.expect_silence("PbftEvidence")
    await ward.corrupt_primary("equivocate", "PbftEvidence", "replica")


async def lose_primaries(ward: Ward) -> None:
    """Primaries are killed, one after the other."""
    await ward.expect_silence("PbftReplicaDown", "PbftViewChangeStorm")
    for kill in range(KILLS_MAX):
        view = await ward.observer.wait_for_view()
        primary = ward.observer.thresholds.primary_of(view)
        await asyncio.to_thread(ward.cluster.kill, primary)
        await ward.observer.wait_for_view(above=view)
        if kill == 0:
            await ward.expect("PbftReplicaDown", node=str(primary))
            await ward.expect("PbftViewChanged")
        await asyncio.to_thread(ward.cluster.start, primary, (ALLOW,))
        await ward.observer.wait_until_voting(primary)
        if "PbftViewChangeStorm" in await asyncio.to_thread(ward.prometheus.firing):
            break
    await ward.expect("PbftViewChangeStorm")


async def be_sluggish(ward: Ward) -> None:
    """A replica on a machine that is too slow."""
    await ward.expect_silence("PbftDiskSlow", "PbftEventLoopBlocked")
    await ward.restart(VICTIM, SLUGGISH)
    await ward.expect("PbftDiskSlow", "PbftEventLoopBlocked", node=str(VICTIM))
    await ward.restart(VICTIM)
    await ward.observer.wait_until_voting(VICTIM)


async def be_cut_off(ward: Ward) -> None:
    """A replica runs where its peers do not look for it, and looks for them where they are not."""
    await ward.expect_silence("PbftPeerLinkDown", "PbftReplicaBehind")
    file = ward.cluster.layout.configuration_file(VICTIM)
    text = file.read_text()
    head, peers = text.split("[peers]")
    peers, timers = peers.split("[timers]")
    head = re.sub(r'(peer_address = "127.0.0.1):\d+', rf"\1:{free_port()}", head)
    peers = re.sub(r"127.0.0.1:\d+", f"127.0.0.1:{free_port()}", peers)
    file.write_text(f"{head}[peers]{peers}[timers]{timers}")
    await ward.restart(VICTIM)
    await ward.expect("PbftPeerLinkDown", "PbftReplicaBehind", node=str(VICTIM))
    file.write_text(text)
    await ward.restart(VICTIM)
    await ward.observer.wait_until_voting(VICTIM)


async def lose_the_quorum(ward: Ward) -> None:
    """Two of four are gone, the primary among them, while requests wait; then all but one."""
    await ward.expect_silence("PbftQuorumLost", "PbftStalled", "PbftViewChangeStuck")
    await ward.expect_silence("PbftReplicaRecovering")
    primary = await ward.primary()
    others = [replica for replica in ward.cluster.replicas if replica != primary]
    for replica in (primary, others[0]):
        await asyncio.to_thread(ward.cluster.kill, replica)
    await ward.expect("PbftQuorumLost", "PbftStalled", "PbftViewChangeStuck")
    for replica in others[1:]:
        await asyncio.to_thread(ward.cluster.kill, replica)
    await asyncio.to_thread(ward.cluster.start, others[0], (ALLOW,))
    await ward.expect("PbftReplicaRecovering", node=str(others[0]), mode="recalling")


@pytest.mark.timeout(300)
def test_every_alert_fires_in_its_situation_and_every_panel_has_data(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async def story(ward: Ward) -> None:
        async with AsyncExitStack() as stack:
            clients = await connect(stack, cluster, CLIENTS)
            # A state that is flipped where everything is overwritten is right again by the next
            # checkpoint: this record stays, and it is the first.
            await clients[0].put(b"\x00untouched", b"value")
            plan = TrafficPlan(workers_per_client=3, operation_seconds=2.0)
            async with Traffic(clients, plan) as traffic:
                for situation in (
                    be_quiet,
                    be_slow,
                    # Before the liar: what it said and what it says afterwards is evidence, too.
                    equivocate,
                    lie,
                    rot,
                    cheat,
                    be_sluggish,
                    be_cut_off,
                    lose_primaries,
                ):
                    began = time.monotonic()
                    await situation(ward)
                    print(f"{situation.__name__}: {time.monotonic() - began:.1f} s")
                await asyncio.to_thread(ward.look_at_panels)
                assert ward.blind == {}
                await lose_the_quorum(ward)
                assert traffic.acknowledged > 0
                for replica in cluster.replicas:
                    await asyncio.to_thread(cluster.signal, replica, signal.SIGCONT)
                    await asyncio.to_thread(cluster.start, replica, (ALLOW,))
                await asyncio.to_thread(wait_until_serving, cluster)
        assert {rule["name"] for rule in ward.prometheus.rules()} == ward.fired

    addresses = admin_addresses(cluster.layout.cluster_file)
    with scraping(tmp_path / "prometheus", addresses) as prometheus:
        ward = Ward(cluster, Observer(cluster.layout.cluster_file), prometheus)
        ward.blind = panel_queries()
        asyncio.run(story(ward))
