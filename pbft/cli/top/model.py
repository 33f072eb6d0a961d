"""What `pbft top` knows of a cluster: fed with readings, asked by the painter. No terminal here.

What concerns the cluster as a whole (its view, its throughput, the state that counts as right) is
what f + 1 replicas say alike, so that one that lies spoils its own card only.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pbft.cli.process_table import ProcessState
from pbft.cli.top.journal import Journal, Tone
from pbft.cli.top.lanes import Lanes
from pbft.cli.top.reading import Reading, Status
from pbft.node.event_stream import Entry
from pbft.quorum import Thresholds

SECOND_US = 1_000_000
RATE_US = 2 * SECOND_US
"""Over how long throughput is measured."""
LATENCY_US = 5 * SECOND_US
"""Over how long latency is measured."""
HISTORY_POINTS = 120
"""One per second."""
CHECKPOINTS_KEPT = 4
VIEWS_KEPT = 8
VIEWS_AHEAD = 64
"""A view further above that of f + 1 replicas is a lie."""
DIGEST_CHARACTERS = 12
"""How much of a digest the event streams tell, in hexadecimal."""
HOSTILE = frozenset(
    {
        "bad_body",
        "bad_certificate",
        "bad_new_view",
        "bad_signature",
        "bad_view_change",
        "client_unauthorized",
        "malformed",
        "oversize",
        "sender_mismatch",
        "unknown_sender",
        "wrong_domain",
    }
)
"""Reasons of rejections that no honest sender causes (pbft.node.network.FAULTY, which takes long to
import)."""

_WORDS = {
    "state_diverged": (Tone.BAD, "has a state of its own"),
    "state_transfer_started": (Tone.NOTABLE, "fetches state"),
    "state_transfer_finished": (Tone.GOOD, "has state again"),
    "amnesia": (Tone.NOTABLE, "lost its memory"),
    "rejoined": (Tone.GOOD, "has rejoined"),
}
_PROCESS_WORDS = {
    ProcessState.DOWN: (Tone.BAD, "is down"),
    ProcessState.FROZEN: (Tone.NOTABLE, "is frozen"),
    ProcessState.RUNNING: (Tone.GOOD, "runs"),
}


@dataclass(slots=True)
class ReplicaView:
    """One replica's card."""

    replica: int
    process: ProcessState | None = None
    status: Status | None = None
    """The last one told; None before the first."""
    is_silent: bool = True
    run: str = ""
    accusers: set[int] = field(default_factory=set)
    """Who holds proofs of misbehaviour against it."""
    claims: dict[int, dict[int, str]] = field(default_factory=dict)
    """By checkpoint and teller (itself among them): begin of the state digest it signed."""
    operations: deque[tuple[int, int]] = field(default_factory=deque)
    """(when, how many it had executed), of the last RATE_US."""

    @property
    def hostile(self) -> int:
        """Rejections here that no honest sender causes."""
        rejections = self.status.rejections if self.status else {}
        return sum(count for reason, count in rejections.items() if reason in HOSTILE)

    @property
    def rejected(self) -> int:
        """All rejections here."""
        return sum(self.status.rejections.values()) if self.status else 0

    @property
    def operations_per_second(self) -> float:
        """How fast it executes."""
        if len(self.operations) < 2:
            return 0.0
        (begin_us, first), (end_us, last) = self.operations[0], self.operations[-1]
        return (last - first) * SECOND_US / (end_us - begin_us) if end_us > begin_us else 0.0


@dataclass(slots=True)
class ViewChange:
    """A change to one view."""

    view: int
    began_us: int
    signed: set[int] = field(default_factory=set)
    """Whose view-change was seen."""
    entered: dict[int, int] = field(default_factory=dict)
    """When each replica entered the view, microseconds."""

    def took_us(self, quorum: int) -> int | None:
        """Until a quorum had entered; None while it has not."""
        if len(self.entered) < quorum:
            return None
        return max(0, sorted(self.entered.values())[quorum - 1] - self.began_us)


class ClusterModel:
    """Everything shown. `take` readings in any order; the rest only reads."""

    def __init__(self, replicas: int) -> None:
        self.thresholds = Thresholds.of(replicas)
        self.replicas = [ReplicaView(index) for index in range(replicas)]
        self.lanes = Lanes(self.thresholds)
        self.journal = Journal()
        self.throughput: deque[float] = deque(maxlen=HISTORY_POINTS)
        """Operations per second, one point per second."""
        self.latencies_ms: deque[float] = deque(maxlen=HISTORY_POINTS)
        """Median time to order, one point per second; 0 if nothing was ordered."""
        self.now_us = 0
        """When the last reading was taken."""
        self._view_changes: dict[int, ViewChange] = {}
        self._point_us = 0
        self._stable = 0
        """The highest stable checkpoint that was told."""

    @property
    def view(self) -> int:
        """The highest view that f + 1 replicas have reached."""
        return int(self._believed(one.status.view for one in self._answering() if one.status))

    @property
    def is_changing_view(self) -> bool:
        """Whether f + 1 replicas have left their view and not entered another."""
        modes = [one.status.mode for one in self._answering() if one.status]
        return modes.count("view_changing") >= self.thresholds.weak

    @property
    def view_change(self) -> ViewChange | None:
        """The last one that f + 1 replicas signed a view-change for."""
        weak = self.thresholds.weak
        known = [one.view for one in self._view_changes.values() if len(one.signed) >= weak]
        return self._view_changes[max(known)] if known else None

    @property
    def operations_per_second(self) -> float:
        """What f + 1 replicas executed, over the last RATE_US."""
        return self._believed(one.operations_per_second for one in self._answering())

    def latency_ms(self, share: float) -> float | None:
        """The share-quantile (0..1) of how long ordering took lately, from the pre-prepare until
        f + 1 replicas had executed; None if nothing was ordered."""
        found = self.lanes.latencies_us(self.now_us - LATENCY_US)
        return found[min(len(found) - 1, int(share * len(found)))] / 1_000 if found else None

    def entered(self, change: ViewChange) -> set[int]:
        """Replicas that have entered that view or a later one: who began to look late has not seen
        them do it."""
        return set(change.entered) | {
            one.replica
            for one in self._answering()
            if one.status and one.status.view >= change.view and one.status.mode != "view_changing"
        }

    def agrees(self, one: ReplicaView) -> bool | None:
        """Whether the replica's last checkpoints are those of f + 1 replicas: by its own word, and
        by what f + 1 others saw it sign. None: there is nothing to compare."""
        verdict: bool | None = None
        for sequence, told in one.claims.items():
            right = self._settled_digest(sequence)
            if right is None:
                continue
            others = [digest for teller, digest in told.items() if teller != one.replica]
            liar = sum(digest != right for digest in others) >= self.thresholds.weak
            if liar or told.get(one.replica, right) != right:
                return False
            verdict = True
        return verdict

    def take(self, reading: Reading) -> None:
        """One look at one replica."""
        one = self.replicas[reading.replica]
        self.now_us = max(self.now_us, reading.at_us)
        self._take_process(one, reading)
        if reading.status is not None:
            if reading.run != one.run:
                # Started again: it counts from 0, and its memory of others' crimes is gone.
                one.operations.clear()
                for other in self.replicas:
                    other.accusers.discard(one.replica)
            one.run = reading.run
            self._take_status(one, reading.status)
            self.lanes.advance(it.status.executed for it in self._answering() if it.status)
            for entry in reading.entries:
                self._take_entry(one, entry)
        if self.now_us - self._point_us >= SECOND_US:
            self._point_us = self.now_us
            self.throughput.append(self.operations_per_second)
            self.latencies_ms.append(self.latency_ms(0.5) or 0.0)

    def _answering(self) -> list[ReplicaView]:
        return [one for one in self.replicas if not one.is_silent]

    def _believed(self, values: Iterable[float]) -> float:
        """The highest value that f + 1 replicas reach; 0 if fewer answer."""
        ordered = sorted(values, reverse=True)
        weak = self.thresholds.weak
        return ordered[weak - 1] if len(ordered) >= weak else 0

    def _settled_digest(self, sequence: int) -> str | None:
        """What f + 1 replicas tell of their own state at a checkpoint."""
        told = Counter(
            one.claims[sequence][one.replica]
            for one in self.replicas
            if one.replica in one.claims.get(sequence, {})
        )
        digest, count = told.most_common(1)[0] if told else ("", 0)
        return digest if count >= self.thresholds.weak else None

    def _take_process(self, one: ReplicaView, reading: Reading) -> None:
        tell, at_us = self.journal.tell, reading.at_us
        silent = reading.status is None
        is_first = one.status is None and one.process is None
        if reading.process is not one.process and reading.process is not None and not is_first:
            tone, words = _PROCESS_WORDS[reading.process]
            tell(
                ("process", one.replica, at_us),
                at_us,
                one.replica,
                tone,
                f"replica {one.replica} {words}",
            )
        elif reading.process is None and silent != one.is_silent and not is_first:
            tone, words = (Tone.BAD, "is silent") if silent else (Tone.GOOD, "answers")
            tell(
                ("silent", one.replica, at_us),
                at_us,
                one.replica,
                tone,
                f"replica {one.replica} {words}",
            )
        one.process = reading.process
        one.is_silent = silent

    def _take_status(self, one: ReplicaView, status: Status) -> None:
        before = one.status.faults if one.status else ()
        if status.faults != before:
            words = ", ".join(status.faults) if status.faults else "is honest again"
            tone = Tone.BAD if status.faults else Tone.GOOD
            key = ("faults", one.replica, self.now_us)
            self.journal.tell(key, self.now_us, one.replica, tone, f"replica {one.replica} {words}")
        one.status = status
        if status.state_digest:
            shown = status.state_digest[:DIGEST_CHARACTERS]
            self._claim(one, one.replica, status.state_digest_sequence, shown)
        points = one.operations
        if points and status.operations < points[-1][1]:
            points.clear()
        points.append((self.now_us, status.operations))
        while points[0][0] < self.now_us - RATE_US:
            points.popleft()

    def _claim(self, signer: ReplicaView, teller: int, sequence: int, digest: str) -> None:
        signer.claims.setdefault(sequence, {})[teller] = digest
        while len(signer.claims) > CHECKPOINTS_KEPT:
            del signer.claims[min(signer.claims)]

    def _take_entry(self, one: ReplicaView, entry: Entry) -> None:
        known = len(self.replicas)
        match entry.event:
            case "checkpoint_vote":
                if entry.value < known and self.lanes.is_plausible(entry.sequence):
                    signer = self.replicas[entry.value]
                    self._claim(signer, one.replica, entry.sequence, entry.detail)
            case "checkpoint_stable":
                self._tell_stable(one, entry)
            case "suspected" | "view_change_started" | "view_change_vote" | "view_entered":
                self._take_view_change(one, entry)
            case "evidence":
                if entry.value < known:
                    self.replicas[entry.value].accusers.add(one.replica)
                    words = f"proof against {entry.value}: {entry.detail.replace('_', '-')}"
                    key = ("evidence", entry.value, entry.detail)
                    self.journal.tell(key, entry.at_us, one.replica, Tone.BAD, words)
            case event if event in _WORDS:
                tone, words = _WORDS[event]
                self.journal.tell(
                    (event, one.run, entry.number),
                    entry.at_us,
                    one.replica,
                    tone,
                    f"replica {one.replica} {words}",
                )
            case _:
                self.lanes.take(one.replica, entry)

    def _tell_stable(self, one: ReplicaView, entry: Entry) -> None:
        """Only the last checkpoint is news."""
        if entry.sequence < self._stable or not self.lanes.is_plausible(entry.sequence):
            return
        if entry.sequence > self._stable:
            self._stable = entry.sequence
            self.journal.forget(("stable",))
        words = f"checkpoint {entry.sequence:,} is stable"
        self.journal.tell(("stable",), entry.at_us, one.replica, Tone.QUIET, words)

    def _take_view_change(self, one: ReplicaView, entry: Entry) -> None:
        tell = self.journal.tell
        if entry.view > self.view + VIEWS_AHEAD:
            return
        if entry.event == "suspected":
            primary = self.thresholds.primary_of(entry.view)
            why = "unreachable" if entry.detail == "unreachable" else "overdue"
            words = f"primary {primary} is {why}"
            tell(("suspected", entry.view), entry.at_us, one.replica, Tone.NOTABLE, words)
            return
        change = self._view_changes.get(entry.view)
        if change is None:
            change = self._view_changes[entry.view] = ViewChange(entry.view, entry.at_us)
            if len(self._view_changes) > VIEWS_KEPT:
                del self._view_changes[min(self._view_changes)]
        change.began_us = min(change.began_us, entry.at_us)
        if entry.event == "view_entered":
            change.entered.setdefault(one.replica, entry.at_us)
            primary = self.thresholds.primary_of(entry.view)
            words = f"entered view {entry.view}, primary {primary}"
            tell(("entered", entry.view), entry.at_us, one.replica, Tone.GOOD, words)
        elif entry.event == "view_change_vote":
            if entry.value < len(self.replicas):
                change.signed.add(entry.value)
        else:
            change.signed.add(one.replica)
            words = f"sent view-change to {entry.view}"
            tell(("left", entry.view), entry.at_us, one.replica, Tone.NOTABLE, words)
