"""Crimes with prepares and commits (adversary.md 2.3)."""

from collections.abc import Sequence
from dataclasses import replace

from pbft.core.effects import Effect, Send
from pbft.faults.api import Corruption, Rewriter, send_each
from pbft.faults.primary import Equivocate
from pbft.faults.surgery import (
    VOTES,
    own_proposal,
    own_signed,
    random_digest,
    sign_vote,
    vote_of,
)
from pbft.messages import PeerItem
from pbft.types import Instant, ReplicaId, SequenceNumber, View


class ConflictingVotes(Rewriter):
    """Q1, Q8: prepares and commits one digest towards some replicas and another towards others."""

    name = "conflicting-votes"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Some recipients get the true vote, some a false one, some both."""
        signed = own_signed(item, self.corruption.replica, *VOTES)
        if signed is None or not self.takes_opportunity():
            return None
        vote = vote_of(signed)
        false_digest = random_digest(self.random)
        false_vote = sign_vote(
            self.corruption.signer, signed.kind, vote.view, vote.sequence, false_digest
        )
        rewritten: list[Effect] = []
        for to in recipients:
            choice = self.random.randrange(3)
            if choice != 0:
                rewritten.append(Send(to, false_vote))
            if choice != 1:
                rewritten.append(Send(to, signed))
        return rewritten


class WrongDigest(Rewriter):
    """P2: as primary announces a digest that is not the body's; as backup votes for a wrong one."""

    name = "wrong-digest"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Every vote of its own carries a digest of nothing."""
        replica = self.corruption.replica
        proposal = own_proposal(item, replica)
        signed = proposal.pre_prepare if proposal else own_signed(item, replica, *VOTES)
        if signed is None or not self.takes_opportunity():
            return None
        vote = vote_of(signed)
        wrong = sign_vote(
            self.corruption.signer,
            signed.kind,
            vote.view,
            vote.sequence,
            random_digest(self.random),
        )
        told: PeerItem = replace(proposal, pre_prepare=wrong) if proposal else wrong
        return send_each(told, recipients)


class StrayVotes(Rewriter):
    """Q4, Q11: beside each true vote, votes for slots and views that nobody proposed."""

    name = "stray-votes"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """The true vote, and a few for random slots near, past and beyond the window."""
        signed = own_signed(item, self.corruption.replica, *VOTES)
        if signed is None or not self.takes_opportunity():
            return None
        vote = vote_of(signed)
        window = self.corruption.genesis.constants.window
        rewritten = send_each(item, recipients)
        for _ in range(self.random.randrange(3) + 1):
            stray = sign_vote(
                self.corruption.signer,
                self.random.choice(VOTES),
                max(0, vote.view + self.random.randrange(-1, 3)),
                max(1, vote.sequence + self.random.randrange(-2, 3 * window)),
                random_digest(self.random),
            )
            rewritten += send_each(stray, recipients)
        return rewritten


class Collude(Rewriter):
    """Helps an equivocating primary: votes on each side for that side's batch.

    It and the primary are two faults; with n = 4 that is more than f. It proves that the simulator
    sees broken agreement. The two talk behind everybody's back: it reads the primary's memory.
    """

    name = "collude"

    def __init__(self, corruption: Corruption, accomplice: Equivocate) -> None:
        super().__init__(corruption)
        self.accomplice = accomplice
        self._done: set[tuple[View, SequenceNumber]] = set()

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """Own votes are left out; each new pair of stories is voted for, side by side."""
        rewritten = super().rewrite(effects, now)
        for slot, stories in self.accomplice.stories.items():
            if stories is None or slot in self._done:
                continue
            self._done.add(slot)
            self.acted += 1
            for to in self.corruption.others:
                vote = vote_of(stories.told_to(to).pre_prepare)
                for kind in VOTES:
                    signed = sign_vote(
                        self.corruption.signer, kind, vote.view, vote.sequence, vote.digest
                    )
                    rewritten.append(Send(to, signed))
        return rewritten

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Its own opinion is not sent: it would spoil one side."""
        signed = own_signed(item, self.corruption.replica, *VOTES)
        return None if signed is None else ()
