"""Crimes of a primary against the batches it orders (adversary.md 2.2)."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pbft.codec import decode_batch, decode_signed, encode_batch
from pbft.core.effects import Effect, Send
from pbft.faults.api import Corruption, Rewriter, send_each
from pbft.faults.surgery import (
    another_batch,
    own_proposal,
    random_digest,
    sign_proposal,
    sign_vote,
    vote_of,
    with_forged_request,
)
from pbft.messages import Batch, BatchBytes, CommittedBatch, Kind, PeerItem, Proposal
from pbft.types import ClientKey, Instant, ReplicaId, SequenceNumber, View

PROPOSALS_REMEMBERED = 256


class Split(Enum):
    """How an equivocating primary divides the other replicas: who gets the second story."""

    HALF = "half"
    """Every other one."""
    WEAK = "weak"
    """All but f + 1."""
    ONE = "one"
    """A single one."""


def second_side(split: Split, others: Sequence[ReplicaId], weak: int) -> frozenset[ReplicaId]:
    """The replicas that are told the second story; `weak` is f + 1."""
    match split:
        case Split.HALF:
            return frozenset(others[1::2])
        case Split.WEAK:
            return frozenset(others[weak:])
        case Split.ONE:
            return frozenset(others[-1:])


@dataclass(frozen=True, slots=True)
class Stories:
    """The two stories about one slot, and who is told the second."""

    first: Proposal
    second: Proposal
    listeners: frozenset[ReplicaId]

    def told_to(self, replica: ReplicaId) -> Proposal:
        """The story of this replica's side."""
        return self.second if replica in self.listeners else self.first


class Equivocate(Rewriter):
    """P1: as primary proposes different batches for one slot, and commits to each side's own."""

    name = "equivocate"

    def __init__(self, corruption: Corruption, split: Split | None = None) -> None:
        super().__init__(corruption)
        self.split = split
        self.stories: OrderedDict[tuple[View, SequenceNumber], Stories | None] = OrderedDict()
        """What it made of each slot, for an accomplice; None: it let the slot pass."""

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Tells each recipient the story of its side."""
        proposal = own_proposal(item, self.corruption.replica)
        if proposal is None:
            return None
        stories = self._stories_of(proposal)
        if stories is None:
            return None
        rewritten: list[Effect] = []
        for to in recipients:
            told = stories.told_to(to)
            vote = vote_of(told.pre_prepare)
            commit = sign_vote(
                self.corruption.signer, Kind.COMMIT, vote.view, vote.sequence, vote.digest
            )
            rewritten += [Send(to, told), Send(to, commit)]
        return rewritten

    def _stories_of(self, proposal: Proposal) -> Stories | None:
        vote = vote_of(proposal.pre_prepare)
        slot = (vote.view, vote.sequence)
        if slot not in self.stories:
            self.stories[slot] = self._invent(proposal) if self.takes_opportunity() else None
            if len(self.stories) > PROPOSALS_REMEMBERED:
                self.stories.popitem(last=False)
        return self.stories[slot]

    def _invent(self, proposal: Proposal) -> Stories:
        corruption = self.corruption
        vote = vote_of(proposal.pre_prepare)
        split = self.split or self.random.choice(tuple(Split))
        others = list(corruption.others)
        self.random.shuffle(others)
        batch = another_batch(proposal.batch, self.random)
        second = sign_proposal(corruption.signer, vote.view, vote.sequence, batch)
        listeners = second_side(split, others, corruption.genesis.thresholds.weak)
        return Stories(proposal, second, listeners)


class WithholdBody(Rewriter):
    """P9: tells the digest to all, the body to some or to none, garbage to one; never helps."""

    name = "withhold-body"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Strips bodies; answers no question for one."""
        if isinstance(item, BatchBytes | CommittedBatch):
            return () if self.takes_opportunity() else None
        proposal = own_proposal(item, self.corruption.replica)
        if proposal is None or not self.takes_opportunity():
            return None
        favoured = self.random.randrange(len(recipients))
        shuffled = list(recipients)
        self.random.shuffle(shuffled)
        rewritten: list[Effect] = [*send_each(item, shuffled[:favoured])]
        for to in shuffled[favoured:]:
            rewritten.append(Send(to, proposal.pre_prepare))
        garbage = BatchBytes(another_batch(proposal.batch, self.random))
        rewritten.append(Send(shuffled[-1], garbage))
        return rewritten


class BadSignature(Rewriter):
    """P3: as primary slips a request with a broken client signature into a good batch."""

    name = "bad-signature"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """One bad request condemns the whole batch; the digest is that of the bad body."""
        proposal = own_proposal(item, self.corruption.replica)
        if proposal is None or not self.takes_opportunity():
            return None
        forged = with_forged_request(proposal.batch, self.random)
        if forged is None:
            return None
        vote = vote_of(proposal.pre_prepare)
        signer = self.corruption.signer
        return send_each(sign_proposal(signer, vote.view, vote.sequence, forged), recipients)


class Censor(Rewriter):
    """P11: as primary leaves out every request of one client; forwards none of it either."""

    name = "censor"

    def __init__(self, corruption: Corruption, client: ClientKey | None = None) -> None:
        super().__init__(corruption)
        self.client = client
        """None: the first client whose request it sees."""
        self._stories: OrderedDict[tuple[View, SequenceNumber], Proposal] = OrderedDict()

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """The proposal without the victim's requests."""
        proposal = own_proposal(item, self.corruption.replica)
        if proposal is None:
            return None
        vote = vote_of(proposal.pre_prepare)
        slot = (vote.view, vote.sequence)
        told = self._stories.get(slot)
        if told is None:
            told = self._without_victim(proposal, vote.view, vote.sequence)
            self._stories[slot] = told
            if len(self._stories) > PROPOSALS_REMEMBERED:
                self._stories.popitem(last=False)
        return None if told is proposal else send_each(told, recipients)

    def _without_victim(self, proposal: Proposal, view: View, sequence: SequenceNumber) -> Proposal:
        body = decode_batch(proposal.batch)
        signers = [decode_signed(item).signer for item in body.items]
        if self.client is None and signers and isinstance(signers[0], bytes):
            self.client = signers[0]
        kept = tuple(
            item for item, signer in zip(body.items, signers, strict=True) if signer != self.client
        )
        if len(kept) == len(body.items):
            return proposal
        batch = encode_batch(Batch(body.time_us, kept))
        return sign_proposal(self.corruption.signer, view, sequence, batch)


class SkewedProposal(Rewriter):
    """P4 to P7: one replica, or all, get the proposal for a wrong sequence or a wrong view."""

    name = "skewed-proposal"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """The same body one slot or one window away, in a view gone by or never to come."""
        proposal = own_proposal(item, self.corruption.replica)
        if proposal is None or not self.takes_opportunity():
            return None
        vote = vote_of(proposal.pre_prepare)
        window = self.corruption.genesis.constants.window
        view, sequence = self.random.choice(
            (
                (vote.view, vote.sequence + 1),
                (vote.view, max(1, vote.sequence - 1)),
                (vote.view, vote.sequence + window),
                (vote.view, 2**63),
                (vote.view + 1, vote.sequence),
                (vote.view + len(self.corruption.genesis.replicas), vote.sequence),
                (max(0, vote.view - 1), vote.sequence),
                (2**63 - 1, vote.sequence),
            )
        )
        digest = random_digest(self.random) if self.random.random() < 0.2 else vote.digest
        pre_prepare = sign_vote(self.corruption.signer, Kind.PRE_PREPARE, view, sequence, digest)
        skewed = Proposal(pre_prepare, proposal.batch)
        victims = recipients if self.random.random() < 0.5 else recipients[:1]
        honest = [to for to in recipients if to not in victims]
        return [*send_each(item, honest), *send_each(skewed, victims)]
