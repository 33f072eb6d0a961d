"""Generals in the simulator: the commander is the primary, lieutenants are backups, the order is
attack or retreat. Everything else is the real core, codec and verifier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pbft.cli.demos.diagram import Diagram, Mark, Message, Phase
from pbft.codec import decode_batch, decode_message, decode_signed, encode_batch
from pbft.core.effects import Broadcast, DecidedRecord, Effect, Persist, Send
from pbft.core.settings import MILLISECOND
from pbft.crypto.digest import batch_digest
from pbft.faults.api import Behaviour, Corruption, Rewriter, send_each
from pbft.faults.surgery import (
    VOTES,
    own_proposal,
    own_signed,
    random_digest,
    sign_proposal,
    sign_vote,
    vote_of,
)
from pbft.messages import Batch, Inbound, Kind, NewView, PeerItem, Proposal, Request, Signed
from pbft.quorum import Thresholds
from pbft.sim.canaries import TIMERS
from pbft.sim.checkers.history import Put
from pbft.sim.disk import Leaving
from pbft.sim.invariants import Violation
from pbft.sim.node import Node
from pbft.sim.scenario import Crime, Scenario
from pbft.sim.trace import Trace
from pbft.sim.workload import Wish
from pbft.sim.world import World
from pbft.types import Digest, Instant, Micros, ReplicaId, View

ATTACK, RETREAT = "attack", "retreat"
COMMANDER: ReplicaId = 0
BEGIN_US = 100 * MILLISECOND
"""By then everybody is up and linked."""
SEED = 7
FIRST = 1
"""The slot that is told about: the first order that there is."""

_PHASES = {
    Kind.PRE_PREPARE: "pre-prepare",
    Kind.PREPARE: "prepare",
    Kind.COMMIT: "commit",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One message that left a general."""

    at_us: Micros
    view: View
    phase: str
    sender: ReplicaId
    receiver: ReplicaId
    order: str


class Waiting:
    """A behaviour that changes nothing until it is woken."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.name = behaviour.name
        self.is_awake = False

    @property
    def acted(self) -> int:
        """See Behaviour."""
        return self.behaviour.acted

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """See Behaviour."""
        return self.behaviour.rewrite(effects, now) if self.is_awake else effects

    def observe(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> None:
        """See Behaviour."""
        self.behaviour.observe(sender, inbound, now)

    def hears(self, sender: ReplicaId) -> bool:
        """See Behaviour."""
        return self.behaviour.hears(sender)

    def next_deadline_us(self) -> Micros | None:
        """See Behaviour."""
        return self.behaviour.next_deadline_us()


class Field(World):
    """A world that notes who told whom what about the first slot, and which order each general
    carried out there."""

    def __init__(self, generals: int, quorum: int | None = None) -> None:
        """`quorum`: another one than this many replicas have, with f forced to 1."""
        forced = None if quorum is None else Thresholds(generals, 1, quorum)
        scenario = Scenario(
            SEED, generals, timers=TIMERS, clients=1, requests_per_client=0, forced=forced
        )
        self.told: list[Told] = []
        self.carried_out: dict[ReplicaId, str] = {}
        self.orders: dict[Digest, str] = {}
        """What the digests stand for."""
        self.traitors: set[ReplicaId] = set()
        self._waiting: list[Waiting] = []
        super().__init__(scenario, Trace(generals))

    def crime_of(self, traitor: ReplicaId, name: str) -> Corruption:
        """What a traitor's behaviour is made with."""
        self.traitors.add(traitor)
        return self.corruption(Crime(traitor, name))

    def betray(self, traitor: ReplicaId, behaviour: Behaviour) -> None:
        """Makes a general a traitor once everybody is up: before that, a replica that has just
        started may not vote until a quorum has told it what it said before."""
        self._waiting.append(Waiting(behaviour))
        self.corrupt(traitor, self._waiting[-1])

    def stepped(self, node: Node, effects: list[Effect]) -> None:
        """See Watcher."""
        for effect in effects:
            if not isinstance(effect, Persist) or not isinstance(effect.record, DecidedRecord):
                continue
            if effect.record.sequence == FIRST:
                order = self.orders.get(effect.record.digest, "nothing")
                self.carried_out.setdefault(node.place, order)
        super().stepped(node, effects)

    def left(self, node: Node, effect: Leaving) -> None:
        """See Watcher."""
        if isinstance(effect, Send):
            self._note(node.place, (effect.to,), effect.item)
        elif isinstance(effect, Broadcast):
            others = [one.place for one in self.nodes if one is not node]
            self._note(node.place, others, effect.item)
        super().left(node, effect)

    def _note(self, sender: ReplicaId, receivers: Sequence[ReplicaId], item: PeerItem) -> None:
        if isinstance(item, Proposal):
            self.orders.setdefault(batch_digest(item.batch), order_of(item.batch))
            item = item.pre_prepare
        if not isinstance(item, Signed) or item.signer != sender:
            return
        if item.kind in _PHASES:
            vote = vote_of(item)
            if vote.sequence == FIRST:
                order = self.orders.get(vote.digest, "nothing")
                self._tell(vote.view, _PHASES[item.kind], sender, receivers, order)
        elif item.kind is Kind.NEW_VIEW:
            message = decode_message(item.kind, item.payload)
            assert isinstance(message, NewView)
            self._tell(message.view, "new-view", sender, receivers, "")

    def _tell(
        self,
        view: View,
        phase: str,
        sender: ReplicaId,
        receivers: Sequence[ReplicaId],
        order: str,
    ) -> None:
        now_us = self.scheduler.now_us
        known = {(one.view, one.phase, one.sender, one.receiver, one.order) for one in self.told}
        for to in receivers:
            # What is only repeated, because an answer is missing, tells nothing new.
            if (view, phase, sender, to, order) not in known:
                self.told.append(Told(now_us, view, phase, sender, to, order))

    def play(self, orders: Sequence[str], until_us: Micros) -> Violation | None:
        """The commander gets these orders to pass on; returns the first promise that broke."""
        try:
            self.start()
            self.scheduler.run_until(BEGIN_US)
            for behaviour in self._waiting:
                behaviour.is_awake = True
            for order in orders:
                self.clients[0].ask(Wish(Put(b"order", order.encode())))
            self.scheduler.run_until(until_us)
        except Violation as violation:
            return violation
        return None

    def loyal_orders(self) -> dict[ReplicaId, str]:
        """What each loyal general carried out; those that did nothing are missing."""
        loyal = {node.place for node in self.nodes} - self.traitors
        return {place: self.carried_out[place] for place in sorted(loyal & self.carried_out.keys())}

    def heard_by(self, general: ReplicaId) -> list[tuple[ReplicaId, str, str]]:
        """What a general was told in view 0: by whom, in which phase, which order."""
        mine = {
            (one.sender, one.phase, one.order)
            for one in self.told
            if one.receiver == general and one.view == 0
        }
        return sorted(mine)

    def diagram(self) -> Diagram:
        """Everything that was told about the first slot."""
        names = ["commander", *(f"lieutenant {i}" for i in range(1, len(self.nodes)))]
        diagram = Diagram(names, frozenset(self.traitors))
        phases = dict.fromkeys((one.view, one.phase) for one in sorted(self.told, key=_order))
        for view, phase in phases:
            diagram.rows.append(Phase(phase if view == 0 else f"{phase}  view {view}"))
            groups: dict[tuple[ReplicaId, str], list[ReplicaId]] = {}
            for one in self.told:
                if (one.view, one.phase) == (view, phase):
                    groups.setdefault((one.sender, one.order), []).append(one.receiver)
            for (sender, order), receivers in sorted(groups.items()):
                diagram.rows.append(Message(sender, tuple(sorted(receivers)), order))
        for order in (ATTACK, RETREAT):
            places = [place for place, mine in self.loyal_orders().items() if mine == order]
            if places:
                symbol = "A" if order == ATTACK else "R"
                diagram.rows.append(Mark(tuple(places), f"{symbol}: {order}", symbol))
        return diagram


def _order(one: Told) -> tuple[View, int]:
    phases = ("new-view", "pre-prepare", "prepare", "commit")
    return one.view, phases.index(one.phase)


def order_of(batch: bytes) -> str:
    """The first order in a batch."""
    for item in decode_batch(batch).items:
        signed = decode_signed(item)
        request = decode_message(signed.kind, signed.payload)
        if isinstance(request, Request):
            for order in (ATTACK, RETREAT):
                if any(order.encode() in operation for operation in request.operations):
                    return order
    return "nothing"


class TraitorousCommander(Rewriter):
    """Waits until it has both orders, tells each lieutenant the one of the plan, and is silent."""

    name = "traitorous-commander"

    def __init__(
        self, corruption: Corruption, plan: Mapping[ReplicaId, str], *, commits: bool
    ) -> None:
        """`commits`: also signs to each lieutenant that its order is agreed."""
        super().__init__(corruption)
        self.plan = plan
        self.proposals: dict[str, Proposal] = {}
        """What it made of each order, for an accomplice."""
        self._commits = commits
        self._batches: dict[str, bytes] = {}

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Nothing that it should say; once, what it should not."""
        proposal = own_proposal(item, self.corruption.replica)
        if proposal is None or self.proposals:
            return ()
        body = decode_batch(proposal.batch)
        for signed in body.items:
            batch = encode_batch(Batch(body.time_us, (signed,)))
            self._batches.setdefault(order_of(batch), batch)
        if self._batches.keys() != {ATTACK, RETREAT}:
            return ()
        signer = self.corruption.signer
        self.proposals = {
            order: sign_proposal(signer, 0, FIRST, batch) for order, batch in self._batches.items()
        }
        rewritten: list[Effect] = []
        for to, order in self.plan.items():
            told = self.proposals[order]
            rewritten.append(Send(to, told))
            if self._commits:
                digest = vote_of(told.pre_prepare).digest
                rewritten.append(Send(to, sign_vote(signer, Kind.COMMIT, 0, FIRST, digest)))
        return rewritten


class TraitorousLieutenant(Rewriter):
    """Claims that it was told to retreat."""

    name = "traitorous-lieutenant"

    def __init__(self, corruption: Corruption, orders: dict[Digest, str], *, commits: bool) -> None:
        """`orders`: what digests stand for; it adds the one of the order it invents. `commits`:
        also claims that its order is agreed, else it never commits."""
        super().__init__(corruption)
        self._commits = commits
        self._digest = random_digest(self.random)
        orders[self._digest] = RETREAT

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Its votes are for another order."""
        signed = own_signed(item, self.corruption.replica, *VOTES)
        if signed is None:
            return None
        if signed.kind is Kind.COMMIT and not self._commits:
            return ()
        vote = vote_of(signed)
        lie = sign_vote(self.corruption.signer, signed.kind, vote.view, vote.sequence, self._digest)
        return send_each(lie, recipients)


class Accomplice(Rewriter):
    """Confirms to each lieutenant the order that a traitorous commander told it."""

    name = "accomplice"

    def __init__(self, corruption: Corruption, commander: TraitorousCommander) -> None:
        super().__init__(corruption)
        self._commander = commander
        self._done = False

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """Its votes, side by side, as soon as the two stories are out."""
        rewritten = super().rewrite(effects, now)
        if self._done or not self._commander.proposals:
            return rewritten
        self._done = True
        for to, order in self._commander.plan.items():
            digest = vote_of(self._commander.proposals[order].pre_prepare).digest
            for kind in VOTES:
                vote = sign_vote(self.corruption.signer, kind, 0, FIRST, digest)
                rewritten.append(Send(to, vote))
        return rewritten

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Says nothing by itself."""
        return ()
