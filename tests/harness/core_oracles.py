"""What must never happen, looked at after every step of every replica that a test runs.

Only what real replicas emit is looked at: what a test forges in their name is the adversary's.
"""

from pbft.codec import decode_message
from pbft.core.effects import (
    AcceptedRecord,
    Broadcast,
    DecidedRecord,
    Effect,
    Event,
    EventName,
    NewViewRecord,
    Persist,
    PreparedRecord,
    Send,
    ViewChangeRecord,
)
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    PeerItem,
    Prepare,
    PrePrepare,
    Proposal,
    Signed,
    ViewChange,
)
from pbft.types import Digest, ReplicaId, SequenceNumber


class Oracles:
    """Write-ahead (I9), a single vote across restarts (I6), agreement (I1) and no honest blame
    (I16)."""

    def __init__(self) -> None:
        self.honest: set[ReplicaId] = set()
        """Replicas that a test runs."""
        self.forged: set[ReplicaId] = set()
        """Replicas in whose name a test signed something."""
        self.votes: dict[tuple[object, ...], bytes] = {}
        self.decided: dict[SequenceNumber, Digest] = {}
        self._gated: dict[ReplicaId, set[tuple[object, ...]]] = {}
        """What is on disk before anything later leaves."""

    def watch(self, replica: ReplicaId, effect: Effect) -> None:
        """Called for each effect that is performed, in order. Raises AssertionError naming what
        was broken."""
        gated = self._gated.setdefault(replica, set())
        match effect:
            case Persist(record=DecidedRecord(sequence=sequence, digest=digest)):
                known = self.decided.setdefault(sequence, digest)
                assert known == digest, f"two batches decided at {sequence}"
                if effect.gates:
                    gated.add(("decided", sequence))
            case Persist(gates=True):
                gated.add(_key(effect))
            case Send(item=item) | Broadcast(item=item):
                for signed in _own_statements(item, replica):
                    self._watch_statement(replica, signed, gated)
            case Event(name=EventName.EVIDENCE, value=accused):
                honest = accused in self.honest and accused not in self.forged
                assert not honest, f"replica {accused} is honest and was accused"
            case _:
                pass

    def _watch_statement(
        self, replica: ReplicaId, signed: Signed, gated: set[tuple[object, ...]]
    ) -> None:
        message = decode_message(signed.kind, signed.payload)
        match message:
            case PrePrepare() | Prepare():
                needed: tuple[object, ...] = (
                    "accepted", message.view, message.sequence, message.digest,
                )  # fmt: skip
                vote: tuple[object, ...] = (signed.kind, message.view, message.sequence)
            case Commit():
                needed = ("prepared", message.view, message.sequence, message.digest)
                vote = (signed.kind, message.view, message.sequence)
            case Checkpoint():
                needed = ("decided", message.sequence)
                vote = (signed.kind, message.sequence)
            case ViewChange():
                needed = ("view_change", message.view)
                vote = (signed.kind, message.view)
            case NewView():
                needed = ("new_view", message.view)
                vote = (signed.kind, message.view)
            case _:
                return
        assert needed in gated, f"replica {replica} sent {message} before it was on disk"
        known = self.votes.setdefault((replica, *vote), signed.payload)
        assert known == signed.payload, f"replica {replica} signed two different {vote}"


def _key(effect: Persist) -> tuple[object, ...]:
    record = effect.record
    match record:
        case AcceptedRecord():
            return "accepted", record.view, record.sequence, record.digest
        case PreparedRecord():
            return "prepared", record.view, record.sequence, record.digest
        case ViewChangeRecord():
            return "view_change", record.view
        case NewViewRecord():
            return "new_view", record.view
        case _:
            return ("another record",)


def _own_statements(item: PeerItem, replica: ReplicaId) -> list[Signed]:
    if isinstance(item, Proposal):
        return [item.pre_prepare] if item.pre_prepare.signer == replica else []
    return [item] if isinstance(item, Signed) and item.signer == replica else []
