"""The message log: one slot per sequence number around the watermarks (OSDI'99 section 4.2)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pbft.core.certificates import CommitCertificate, PreparedCertificate
from pbft.messages import Authenticated, Commit, Prepare, PrePrepare, VerifiedBatch, Vote
from pbft.types import Digest, Micros, ReplicaId, SequenceNumber, View

V = TypeVar("V", bound=Vote)


@dataclass(slots=True)
class VoteSet(Generic[V]):
    """Votes of one kind for one slot: per signer that of my view and that of the highest later
    view."""

    current: dict[ReplicaId, Authenticated[V]] = field(default_factory=dict)
    """Votes of the view I am in or move to, one per signer: the first that came."""
    later: dict[ReplicaId, Authenticated[V]] = field(default_factory=dict)
    """Votes of higher views, one per signer: that of the highest view."""

    def find(self, view: View, my_view: View, signer: ReplicaId) -> Authenticated[V] | None:
        """The vote of this signer that stands in the place where one of `view` would go."""
        return (self.current if view == my_view else self.later).get(signer)

    def add(self, vote: Authenticated[V], my_view: View) -> bool:
        """Takes a vote of my view or a later one; False if the place is taken by a better one."""
        if vote.message.view == my_view:
            return self.current.setdefault(vote.signer, vote) is vote
        known = self.later.get(vote.signer)
        if known is not None and known.message.view >= vote.message.view:
            return False
        self.later[vote.signer] = vote
        return True

    def enter_view(self, view: View) -> None:
        """Drops what lower views left and promotes the votes of `view`."""
        later = self.later
        votes = {s: v for s, v in self.current.items() if v.message.view == view}
        self.current = votes | {s: v for s, v in later.items() if v.message.view == view}
        self.later = {s: v for s, v in later.items() if v.message.view > view}

    def matching(self, view: View, digest: Digest) -> list[Authenticated[V]]:
        """Votes for exactly this view and digest, by ascending signer (distinct by
        construction)."""
        return [
            self.current[signer]
            for signer in sorted(self.current)
            if self.current[signer].message.digest == digest
            and self.current[signer].message.view == view
        ]


@dataclass(slots=True)
class Slot:
    """Everything known about one sequence number n."""

    sequence: SequenceNumber
    pre_prepare: Authenticated[PrePrepare] | None = None
    """Accepted in my view: persisted, and voted for if I am a backup."""
    waiting: Authenticated[PrePrepare] | None = None
    """Authentic and of my view, but its body is missing, its time is ahead of my clock, or my vote
    is spared."""
    waiting_since_us: Micros = 0
    prepares: VoteSet[Prepare] = field(default_factory=VoteSet[Prepare])
    commits: VoteSet[Commit] = field(default_factory=VoteSet[Commit])
    prepared: PreparedCertificate | None = None
    """The certificate of the highest view in which n was prepared here; survives view changes."""
    decision: CommitCertificate | None = None
    """Set once, never changed: n is decided."""
    bodies: dict[Digest, VerifiedBatch] = field(default_factory=dict)
    """Bodies pre-prepared, prepared or decided here, in whatever view; kept until h passes n."""
    accepted: set[Digest] = field(default_factory=set)
    """Digests of the bodies pre-prepared here, in whatever view; it is never iterated over."""
    touched_us: Micros = 0
    """When this replica last did something about n: healing leaves fresh slots alone."""

    def is_prepared(self, view: View, sequence: SequenceNumber, digest: Digest) -> bool:
        """prepared(m, v, n, i) of the paper."""
        certificate = self.prepared
        return certificate is not None and (view, sequence, digest) == (
            certificate.view,
            certificate.sequence,
            certificate.digest,
        )

    def enter_view(self, view: View) -> None:
        """Forgets what was accepted in earlier views; certificates, decision and bodies stay."""
        self.pre_prepare = None
        self.waiting = None
        self.prepares.enter_view(view)
        self.commits.enter_view(view)

    def add_body(self, batch: VerifiedBatch, limit: int) -> None:
        """Keeps a body, and at most `limit` of them: those in use, then the newest.

        While n is undecided, every body accepted here is in use, whatever views came between: its
        digest may be prepared somewhere, a later new-view may propose it again, and no other
        honest replica need have the body any more. One is added per view at most, and only in
        views that this replica entered. Once n is decided no other digest can be proposed for it.
        """
        self.bodies[batch.digest] = batch
        if len(self.bodies) <= limit:
            return
        votes = (self._vote(self.pre_prepare), self._vote(self.waiting))
        needed = {
            holder.digest for holder in (self.prepared, self.decision, *votes) if holder is not None
        }
        if self.decision is None:
            needed |= self.accepted
        for digest in list(self.bodies):
            if len(self.bodies) > limit and digest not in needed:
                del self.bodies[digest]

    @staticmethod
    def _vote(pre_prepare: Authenticated[PrePrepare] | None) -> PrePrepare | None:
        return None if pre_prepare is None else pre_prepare.message


class MessageLog:
    """Slots by sequence number. The core keeps them within h - K < n <= H + L, and those that are
    still to be executed (see `checkpoint.discard`)."""

    def __init__(self) -> None:
        self._slots: dict[SequenceNumber, Slot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        """Slots by ascending sequence."""
        return iter([self._slots[sequence] for sequence in sorted(self._slots)])

    def get(self, sequence: SequenceNumber) -> Slot | None:
        """The slot of n if something is known about it."""
        return self._slots.get(sequence)

    def slot(self, sequence: SequenceNumber) -> Slot:
        """The slot of n, made if need be. The caller checked the window."""
        slot = self._slots.get(sequence)
        if slot is None:
            slot = self._slots[sequence] = Slot(sequence)
        return slot

    def discard(self, sequence: SequenceNumber, kept: range) -> list[Slot]:
        """Drops every slot at or below n but those in `kept` (OSDI'99 section 4.3); returns them,
        ascending."""
        gone = [known for known in sorted(self._slots) if known <= sequence and known not in kept]
        return [self._slots.pop(known) for known in gone]
