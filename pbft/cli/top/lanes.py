"""Sequence numbers on their way through the phases, put together from what the replicas tell."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pbft.node.event_stream import Entry
from pbft.quorum import Thresholds

LANES_KEPT = 600
LANES_AHEAD = 512
"""How far above what f + 1 replicas executed a sequence may be and still get a lane: one liar must
not fill the screen with sequences that do not exist."""


@dataclass(slots=True)
class Lane:
    """One sequence number n in its last view v."""

    sequence: int
    view: int
    requests: int = 0
    accepted: set[int] = field(default_factory=set)
    """Replicas that accepted the pre-prepare of the primary (or are the primary)."""
    prepares: dict[int, str] = field(default_factory=dict)
    """Digest in the prepare of each signer."""
    commits: dict[int, str] = field(default_factory=dict)
    prepared: set[int] = field(default_factory=set)
    """Replicas that hold a prepared certificate."""
    committed: set[int] = field(default_factory=set)
    executed: dict[int, int] = field(default_factory=dict)
    """When each replica executed it, microseconds; in whatever view."""
    began_us: int | None = None

    @property
    def digest(self) -> str:
        """What most votes are for; empty without votes."""
        votes = Counter([*self.prepares.values(), *self.commits.values()])
        return min(votes, key=lambda digest: (-votes[digest], digest), default="")

    def conflicting(self, votes: dict[int, str]) -> set[int]:
        """Signers that voted for something else than most."""
        digest = self.digest
        return {signer for signer, told in votes.items() if told != digest}

    def enter_view(self, view: int) -> None:
        """The sequence is ordered again in a later view: votes of the earlier one are void."""
        self.view = view
        for votes in (self.accepted, self.prepares, self.commits, self.prepared, self.committed):
            votes.clear()

    def ordered_us(self, weak: int) -> int | None:
        """From the pre-prepare until f + 1 replicas had executed it; None if that is not known."""
        if self.began_us is None or len(self.executed) < weak:
            return None
        return max(0, sorted(self.executed.values())[weak - 1] - self.began_us)


class Lanes:
    """The lanes of a cluster, the highest sequences first."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._lanes: dict[int, Lane] = {}
        self._reached = 0

    def advance(self, executed: Iterable[int]) -> None:
        """What each reachable replica says it executed: the (f + 1)-th highest is believed."""
        ordered = sorted(executed, reverse=True)
        if len(ordered) >= self._thresholds.weak:
            self._reached = ordered[self._thresholds.weak - 1]

    def is_plausible(self, sequence: int) -> bool:
        """Whether the cluster can be at this sequence."""
        return 0 < sequence <= self._reached + LANES_AHEAD

    def take(self, replica: int, entry: Entry) -> None:
        """One entry of a replica's stream."""
        if not self.is_plausible(entry.sequence):
            return
        match entry.event:
            case "pre_prepared":
                lane = self._lane(entry)
                if lane is not None:
                    lane.accepted.add(replica)
                    lane.requests = max(lane.requests, entry.value)
                    lane.began_us = min(lane.began_us or entry.at_us, entry.at_us)
            case "prepare_vote" | "commit_vote":
                lane = self._lane(entry)
                if lane is not None and entry.value < self._thresholds.replicas:
                    votes = lane.prepares if entry.event == "prepare_vote" else lane.commits
                    votes[entry.value] = entry.detail
            case "prepared" | "committed":
                lane = self._lane(entry)
                if lane is not None:
                    reached = lane.prepared if entry.event == "prepared" else lane.committed
                    reached.add(replica)
            case "executed":
                # The view in which a replica executes may be later than that of the votes.
                lane = self._lanes.get(entry.sequence) or self._lane(entry)
                if lane is not None:
                    lane.executed.setdefault(replica, entry.at_us)
                    lane.requests = max(lane.requests, entry.value)

    def newest(self, count: int) -> list[Lane]:
        """The lanes of the highest sequences, descending."""
        return [self._lanes[one] for one in sorted(self._lanes, reverse=True)[:count]]

    def latencies_us(self, since_us: int) -> list[int]:
        """How long ordering took for the sequences that began since then, ascending."""
        found = (
            lane.ordered_us(self._thresholds.weak)
            for lane in self._lanes.values()
            if (lane.began_us or 0) >= since_us
        )
        return sorted(one for one in found if one is not None)

    def _lane(self, entry: Entry) -> Lane | None:
        """The lane of the entry's sequence, moved to its view; None if the entry is of an earlier
        view than the lane, or the lane is gone."""
        lane = self._lanes.get(entry.sequence)
        if lane is None:
            if len(self._lanes) >= LANES_KEPT:
                lowest = min(self._lanes)
                if entry.sequence < lowest:
                    return None
                del self._lanes[lowest]
            lane = self._lanes[entry.sequence] = Lane(entry.sequence, entry.view)
        elif entry.view > lane.view:
            lane.enter_view(entry.view)
        return lane if entry.view == lane.view else None
