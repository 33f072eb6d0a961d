"""What passed in a local cluster of processes: told by the replicas' event streams, and by a client
that notes what it sends and gets.

A replica tells the votes that it received and from whom: that is who sent what to whom, as seen at
the receiving end.
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from pbft.cli.admin import admin_addresses, get
from pbft.cli.demos.diagram import Diagram, Mark, Message, Phase
from pbft.messages import Replies
from pbft.quorum import Thresholds
from pbft.types import Micros, ReplicaId, SequenceNumber, View
from pbft_client import Client
from pbft_client.engine import Engine
from pbft_client.session import Session

CLIENT = 0
"""Its lane; replica i has lane i + 1."""
ANSWERS_WAIT_SECONDS = 0.4
"""After the client has its f + 1: so long the other replicas have to answer, too."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry of a replica's event stream."""

    replica: ReplicaId
    at_us: int
    event: str
    view: View
    sequence: SequenceNumber
    value: int
    detail: str


class Watch:
    """Follows the event streams of all replicas of one cluster."""

    def __init__(self, cluster_file: Path) -> None:
        self.addresses = admin_addresses(cluster_file)
        self._next = dict.fromkeys(range(len(self.addresses)), 0)
        self._run: dict[ReplicaId, str] = {}

    def read(self) -> list[Seen]:
        """What was told since the last call, in the order of the clock. Blocks; a replica that is
        down tells nothing."""
        seen: list[Seen] = []
        for replica, address in enumerate(self.addresses):
            try:
                seen += self._read_one(replica, address)
            except OSError:
                continue
        return sorted(seen, key=lambda entry: entry.at_us)

    def _read_one(self, replica: ReplicaId, address: str) -> list[Seen]:
        seen: list[Seen] = []
        while True:
            code, body = get(address, f"/events?since={self._next[replica]}")
            if code != 200:
                return seen
            head, *entries = [json.loads(line) for line in body.decode().splitlines()]
            if self._run.setdefault(replica, head["run"]) != head["run"]:
                # It was started again: its numbers begin anew.
                self._run[replica], self._next[replica] = head["run"], 0
                continue
            self._next[replica] = head["next"]
            if not entries:
                return seen
            seen += [_seen(replica, entry) for entry in entries]


def _seen(replica: ReplicaId, entry: dict[str, Any]) -> Seen:
    return Seen(
        replica,
        entry["at_us"],
        entry["event"],
        entry["view"],
        entry["sequence"],
        entry["value"],
        entry["detail"],
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """One reply to one request."""

    replica: ReplicaId
    number: int
    """Of the request."""
    sequence: SequenceNumber
    agreed_time_us: Micros
    results_digest: str

    @property
    def content(self) -> tuple[int, int, str]:
        """What replies must match in."""
        return self.sequence, self.agreed_time_us, self.results_digest


@dataclass(slots=True)
class ClientLog:
    """What one client sent and got since it was last cleared."""

    requests: list[ReplicaId] = field(default_factory=list)
    """To whom, in order; repetitions included."""
    replies: list["Claim"] = field(default_factory=list)

    def clear(self) -> None:
        """Forgets everything."""
        self.requests.clear()
        self.replies.clear()

    def of(self, number: int) -> "ClientLog":
        """A copy with the replies to this request only, each once."""
        mine = dict.fromkeys(claim for claim in self.replies if claim.number == number)
        return ClientLog(list(self.requests), list(mine))

    def claims(self) -> list[tuple[tuple[int, int, str], list[ReplicaId]]]:
        """What was claimed and by whom, the most supported first."""
        claims: dict[tuple[int, int, str], list[ReplicaId]] = {}
        for claim in self.replies:
            voters = claims.setdefault(claim.content, [])
            if claim.replica not in voters:
                voters.append(claim.replica)
        ranked = [(content, sorted(voters)) for content, voters in claims.items()]
        return sorted(ranked, key=lambda item: -len(item[1]))

    def supporters(self) -> list[ReplicaId]:
        """The replicas behind the claim that most of them make."""
        return next((voters for _, voters in self.claims()), [])


class _Tap:
    """Stands before a client's session and notes what passes."""

    def __init__(self, session: Session, log: ClientLog) -> None:
        self._session = session
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def poll(self, now: Any) -> Any:
        """See Session."""
        transmissions = list(self._session.poll(now))
        for transmission in transmissions:
            self._log.requests += transmission.replicas
        return transmissions

    def receive(self, envelope: Any, now: Any) -> Any:
        """See Session."""
        if isinstance(envelope.message, Replies):
            for reply in envelope.message.replies:
                self._log.replies.append(
                    Claim(
                        envelope.replica,
                        reply.number,
                        reply.sequence,
                        reply.agreed_time_us,
                        reply.results_digest.hex(),
                    )
                )
        return self._session.receive(envelope, now)


class WatchedClient(Client):
    """A client of the library that notes what it sends and gets."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.log = ClientLog()
        engine.session = cast(Session, _Tap(engine.session, self.log))

    @classmethod
    async def of(cls, cluster_file: Path, key: Path) -> Self:
        """Connected; its `log` is empty."""
        client = await cls.connect(cluster_file, key)
        client.log.clear()
        return client


@dataclass(frozen=True, slots=True)
class Slot:
    """What one request led to, by slot of the common order."""

    view: View
    sequence: SequenceNumber
    seen: tuple[Seen, ...]

    def replicas(self, event: str) -> list[ReplicaId]:
        """Where this happened."""
        return sorted({one.replica for one in self.seen if one.event == event})

    def votes(self, event: str, receiver: ReplicaId) -> list[ReplicaId]:
        """Whose votes of this kind a replica had, its own included."""
        mine = [one for one in self.seen if one.event == event and one.replica == receiver]
        return sorted({one.value for one in mine})

    def own_digest(self, replica: ReplicaId) -> str:
        """What a replica itself prepared; empty if it did not."""
        mine = (
            one.detail
            for one in self.seen
            if one.event == "prepare_vote" and one.replica == one.value == replica
        )
        return next(mine, "")

    def digests(self, event: str, sender: ReplicaId) -> dict[str, list[ReplicaId]]:
        """The receivers of one replica's votes, by the digest they were for."""
        told: dict[str, list[ReplicaId]] = {}
        for one in self.seen:
            if one.event == event and one.value == sender != one.replica:
                receivers = told.setdefault(one.detail, [])
                if one.replica not in receivers:
                    receivers.append(one.replica)
        return told


def slot_of(seen: list[Seen], sequence: SequenceNumber) -> Slot:
    """The slot with this sequence, in the highest view in which it was pre-prepared."""
    views = [one.view for one in seen if one.sequence == sequence and one.event == "pre_prepared"]
    view = max(views, default=0)
    mine = [
        one
        for one in seen
        if one.sequence == sequence
        and one.event != "checkpoint_vote"
        and (one.view == view or one.event == "executed")
    ]
    return Slot(view, sequence, tuple(mine))


def names(replicas: int) -> list[str]:
    """Of the lanes."""
    return ["client", *(f"replica {replica}" for replica in range(replicas))]


def lanes(replicas: list[ReplicaId]) -> tuple[int, ...]:
    """Of these replicas."""
    return tuple(replica + 1 for replica in sorted(replicas))


def draw_request(diagram: Diagram, log: ClientLog) -> None:
    """The client's request, and its repetition to all if it came to that."""
    diagram.rows.append(Phase("request"))
    first, rest = log.requests[:1], sorted(set(log.requests[1:]))
    diagram.rows.append(Message(CLIENT, lanes(first), "request"))
    if rest:
        diagram.rows.append(Message(CLIENT, lanes(rest), "again"))


def draw_slot(diagram: Diagram, slot: Slot, thresholds: Thresholds) -> None:
    """Pre-prepare, prepare, commit and execution of one slot."""
    primary = thresholds.primary_of(slot.view)
    receivers = [one for one in slot.replicas("pre_prepared") if one != primary]
    rows = diagram.rows
    rows.append(Phase(f"pre-prepare  view {slot.view}, sequence {slot.sequence}"))
    stories: dict[str, list[ReplicaId]] = {}
    for receiver in receivers:
        # What it was told is what it then prepares.
        stories.setdefault(slot.own_digest(receiver), []).append(receiver)
    for digest, told in sorted(stories.items()):
        rows.append(Message(primary + 1, lanes(told), digest[:4]))
    for event, title, mark in (
        ("prepare_vote", "prepare", "prepared"),
        ("commit_vote", "commit", "committed"),
    ):
        rows.append(Phase(title))
        for sender in range(thresholds.replicas):
            for digest, told in slot.digests(event, sender).items():
                rows.append(Message(sender + 1, lanes(told), digest[:4]))
        if done := slot.replicas(mark):
            rows.append(Mark(lanes(done), mark))
    if done := slot.replicas("executed"):
        rows.append(Mark(lanes(done), "executed", "▣"))


def draw_replies(diagram: Diagram, log: ClientLog, weak: int) -> None:
    """The replies in the order in which they came; the client goes on at f + 1 that match."""
    diagram.rows.append(Phase("reply"))
    believed = next((content for content, _ in log.claims()), None)
    matching = 0
    for claim in log.replies:
        good = claim.content == believed
        diagram.rows.append(Message(claim.replica + 1, (CLIENT,), "result" if good else "a lie"))
        matching += good
        if good and matching == weak:
            diagram.rows.append(Mark((CLIENT,), "accepts", "✓"))


async def read_after_replies(watch: Watch) -> list[Seen]:
    """What was told, once the slower replicas have answered as well."""
    await asyncio.sleep(ANSWERS_WAIT_SECONDS)
    return await asyncio.to_thread(watch.read)


def saw_rows(slot: Slot, replicas: int) -> list[list[object]]:
    """What each replica saw of a slot."""
    rows: list[list[object]] = []
    for replica in range(replicas):
        mine = [one for one in slot.seen if one.replica == replica]
        rows.append(
            [
                replica,
                "yes" if any(one.event == "pre_prepared" for one in mine) else "-",
                " ".join(map(str, slot.votes("prepare_vote", replica))) or "-",
                " ".join(map(str, slot.votes("commit_vote", replica))) or "-",
                "yes" if any(one.event == "executed" for one in mine) else "-",
            ]
        )
    return rows


SAW = ("replica", "pre-prepare", "prepares of", "commits of", "executed")
