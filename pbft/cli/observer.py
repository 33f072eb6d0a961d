"""Waits until replicas have reached something, as their admin listeners tell it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pbft.cli.admin import (
    ReplicaStatus,
    admin_addresses,
    fetch_statuses,
    read_samples,
    total,
)
from pbft.cli.failure import CommandFailed
from pbft.quorum import Thresholds
from pbft.types import ReplicaId, SequenceNumber, View

POLL_SECONDS = 0.05
WAIT_SECONDS = 30.0
NORMAL = "normal"
Reached = TypeVar("Reached")
COMMITS_SENT = {"direction": "out", "type": "commit"}


class Observer:
    """Looks at one cluster from the outside. Methods raise CommandFailed when the time is up."""

    def __init__(self, cluster_file: Path) -> None:
        """Raises CommandFailed if the cluster file names no admin addresses."""
        self._addresses = admin_addresses(cluster_file)
        self.thresholds = Thresholds.of(len(self._addresses))

    async def statuses(self) -> list[ReplicaStatus]:
        """What every replica says now."""
        return await asyncio.to_thread(fetch_statuses, self._addresses)

    async def wait_for_view(self, above: View = -1) -> View:
        """The view, above the given one, in which a quorum of replicas works normally."""

        def agreed(statuses: Sequence[ReplicaStatus]) -> View | None:
            votes = Counter(one.view for one in statuses if one.mode == NORMAL)
            view, count = votes.most_common(1)[0] if votes else (None, 0)
            if view is None or view <= above or count < self.thresholds.quorum:
                return None
            return view

        return await self._wait(agreed, f"no quorum works in a view above {above}")

    async def wait_until_reachable(self, replica: ReplicaId) -> None:
        """Until the replica's admin listener answers."""
        await self._wait(
            lambda statuses: statuses[replica].reachable or None, f"replica {replica} is silent"
        )

    async def wait_until_all_work(self) -> View:
        """The view in which every replica works normally."""

        def united(statuses: Sequence[ReplicaStatus]) -> View | None:
            views = {one.view if one.mode == NORMAL else None for one in statuses}
            return views.pop() if len(views) == 1 else None

        return await self._wait(united, "not all replicas work in one view")

    async def wait_until_voting(self, replica: ReplicaId) -> None:
        """Until a replica that was started again is as far as the others were when this was
        called, works in their view, and has sent commits since its start.

        Nobody commits in a cluster without requests: some must be going on.
        """
        view = await self.wait_for_view()
        reached = [one.executed for one in await self.statuses() if one.executed is not None]
        goal = sorted(reached)[-self.thresholds.weak]

        def caught_up(statuses: Sequence[ReplicaStatus]) -> bool | None:
            one = statuses[replica]
            if one.mode != NORMAL or one.view is None or one.executed is None:
                return None
            return (one.view >= view and one.executed >= goal) or None

        await self._wait(caught_up, f"replica {replica} does not catch up")
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        messages = "pbft_messages_total"
        while not await asyncio.to_thread(self._metric, replica, messages, COMMITS_SENT):
            if asyncio.get_running_loop().time() > deadline:
                raise CommandFailed(f"replica {replica} does not vote after {WAIT_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)

    async def wait_for_checkpoint(
        self, at_least: SequenceNumber, replicas: Sequence[ReplicaId]
    ) -> tuple[SequenceNumber, list[str]]:
        """A sequence number, not below `at_least`, for which all these replicas tell the digest of
        their state; and those digests. Whether they are equal is for the caller to say."""

        def common(
            statuses: Sequence[ReplicaStatus],
        ) -> tuple[SequenceNumber, list[str]] | None:
            sequences = {statuses[replica].state_digest_sequence for replica in replicas}
            digests = [statuses[replica].state_digest for replica in replicas]
            sequence = sequences.pop()
            if sequences or sequence is None or sequence < at_least:
                return None
            return sequence, [digest for digest in digests if digest is not None]

        return await self._wait(
            common, f"replicas {replicas} show no common checkpoint from {at_least} on"
        )

    async def _wait(
        self, condition: Callable[[Sequence[ReplicaStatus]], Reached | None], failure: str
    ) -> Reached:
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while True:
            statuses = await self.statuses()
            if (result := condition(statuses)) is not None:
                return result
            if asyncio.get_running_loop().time() > deadline:
                told = "; ".join(map(str, statuses))
                raise CommandFailed(f"{failure} after {WAIT_SECONDS:.0f} s: {told}")
            await asyncio.sleep(POLL_SECONDS)

    async def evidence_against(self, culprit: ReplicaId, witness: ReplicaId) -> int:
        """Proofs of misbehaviour of one replica that another one holds since its start."""
        return await asyncio.to_thread(
            self._metric, witness, "pbft_evidence_total", {"replica": str(culprit)}
        )

    def _metric(self, replica: ReplicaId, name: str, labels: Mapping[str, str]) -> int:
        """Sum of the samples of a metric that have these labels; 0 if the replica is silent."""
        try:
            samples = read_samples(self._addresses[replica])
        except OSError:
            return 0
        return int(total(samples, name, **labels))
