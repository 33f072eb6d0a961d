"""Crimes with view-changes and new-views (adversary.md 2.5)."""

from collections.abc import Sequence
from dataclasses import replace

from pbft.codec import decode_message
from pbft.core.effects import Broadcast, Effect, Send
from pbft.crypto.digest import NULL_DIGEST
from pbft.faults.api import Rewriter, send_each
from pbft.faults.surgery import own_signed, random_digest, sign_vote, vote_of
from pbft.messages import Kind, NewView, PeerItem, PreparedProof, Signed, ViewChange
from pbft.types import Instant, ReplicaId


class OmitViewChange(Rewriter):
    """V3: its view-changes leave out prepared certificates that it holds, sometimes also h."""

    name = "omit-view-change"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """A well-formed view-change that says less than is true."""
        signed = own_signed(item, self.corruption.replica, Kind.VIEW_CHANGE)
        if signed is None or not self.takes_opportunity():
            return None
        told = decode_message(signed.kind, signed.payload)
        assert isinstance(told, ViewChange)
        if self.random.random() < 0.5:
            less = replace(told, prepared=())
        else:
            less = replace(told, prepared=told.prepared[: len(told.prepared) // 2])
        if self.random.random() < 0.3:
            less = replace(less, stable_sequence=0, checkpoints=())
        return send_each(self.corruption.signer.sign(less), recipients)


class ForgeViewChange(Rewriter):
    """V1, V4, V5, V13: forged certificates in its view-changes, and view-changes out of nothing."""

    name = "forge-view-change"
    VIEW_HUGE = 2**63 - 1

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """Now and then adds a view-change that nothing called for."""
        rewritten = super().rewrite(effects, now)
        leaving = [effect for effect in effects if isinstance(effect, Broadcast)]
        if leaving and self.random.random() < 0.05 and self.takes_opportunity():
            self.acted += 1
            view = self.random.choice((1, 2, self.random.randrange(1, 1000), self.VIEW_HUGE))
            storm = ViewChange(view, self.corruption.replica, 0, 0, (), ())
            rewritten.append(Broadcast(self.corruption.signer.sign(storm)))
        return rewritten

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Replaces its view-change by one that claims what is not so."""
        signed = own_signed(item, self.corruption.replica, Kind.VIEW_CHANGE)
        if signed is None or not self.takes_opportunity():
            return None
        told = decode_message(signed.kind, signed.payload)
        assert isinstance(told, ViewChange)
        forged = self._forge(told)
        return send_each(self.corruption.signer.sign(forged), recipients)

    def _forge(self, told: ViewChange) -> ViewChange:
        choice = self.random.randrange(6)
        if choice == 0:
            return replace(told, stable_sequence=told.stable_sequence + self._window)
        if choice == 1:
            return replace(told, view=self.VIEW_HUGE)
        if not told.prepared:
            return replace(told, prepared=(self._invented_proof(told),))
        position = self.random.randrange(len(told.prepared))
        proof = told.prepared[position]
        if choice == 2:
            forged = PreparedProof(proof.pre_prepare, proof.prepares[:-1])
        elif choice == 3:
            forged = PreparedProof(proof.pre_prepare, proof.prepares[:1] * len(proof.prepares))
        elif choice == 4:
            forged = PreparedProof(self._pre_prepare_like(proof.pre_prepare), proof.prepares)
        else:
            forged = self._invented_proof(told)
        prepared = (*told.prepared[:position], forged, *told.prepared[position + 1 :])
        return replace(told, prepared=prepared)

    @property
    def _window(self) -> int:
        return self.corruption.genesis.constants.window

    def _pre_prepare_like(self, pre_prepare: Signed) -> Signed:
        vote = vote_of(pre_prepare)
        digest = random_digest(self.random)
        return sign_vote(self.corruption.signer, Kind.PRE_PREPARE, vote.view, vote.sequence, digest)

    def _invented_proof(self, told: ViewChange) -> PreparedProof:
        """A certificate in which it alone says everything."""
        signer = self.corruption.signer
        view = max(0, told.view - 1)
        sequence = told.stable_sequence + 1 + self.random.randrange(self._window)
        digest = random_digest(self.random)
        prepare = sign_vote(signer, Kind.PREPARE, view, sequence, digest)
        return PreparedProof(
            sign_vote(signer, Kind.PRE_PREPARE, view, sequence, digest),
            (prepare,) * self.corruption.genesis.thresholds.prepares,
        )


class WrongNewView(Rewriter):
    """V7 to V9: new-views with a dropped, replaced or invented O, or a V that is none."""

    name = "wrong-new-view"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Different wrong new-views for different replicas, the right one for some."""
        signed = own_signed(item, self.corruption.replica, Kind.NEW_VIEW)
        if signed is None or not self.takes_opportunity():
            return None
        told = decode_message(signed.kind, signed.payload)
        assert isinstance(told, NewView)
        rewritten: list[Effect] = []
        for to in recipients:
            if self.random.random() < 0.2:
                rewritten.append(Send(to, signed))
            else:
                rewritten.append(Send(to, self.corruption.signer.sign(self._spoil(told))))
        return rewritten

    def _spoil(self, told: NewView) -> NewView:
        choice = self.random.randrange(8)
        if choice == 0:
            return replace(told, view_changes=told.view_changes[:-1])
        if choice == 1:
            shorter = told.view_changes[:-1]
            return replace(told, view_changes=(*shorter, shorter[0]))
        if choice == 2:
            return replace(told, view=told.view + 1000)
        if choice == 3 or not told.pre_prepares:
            return replace(told, pre_prepares=(*told.pre_prepares, self._one_more(told)))
        if choice == 4:
            return replace(told, pre_prepares=told.pre_prepares[:-1])
        position = self.random.randrange(len(told.pre_prepares))
        vote = vote_of(told.pre_prepares[position])
        wrong = random_digest(self.random)
        digest = wrong if choice == 5 or vote.digest == NULL_DIGEST else NULL_DIGEST
        view = max(0, told.view - 1) if choice == 6 else told.view
        other = sign_vote(self.corruption.signer, Kind.PRE_PREPARE, view, vote.sequence, digest)
        before, after = told.pre_prepares[:position], told.pre_prepares[position + 1 :]
        return replace(told, pre_prepares=(*before, other, *after))

    def _one_more(self, told: NewView) -> Signed:
        last = vote_of(told.pre_prepares[-1]).sequence if told.pre_prepares else 0
        return sign_vote(
            self.corruption.signer,
            Kind.PRE_PREPARE,
            told.view,
            last + 1 + self.random.randrange(3),
            random_digest(self.random),
        )
