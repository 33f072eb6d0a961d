"""Behaviours that change nothing in a message, only whether, when and how often it leaves."""

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from pbft.core.effects import Answer, Broadcast, Effect, Refuse, Send
from pbft.core.settings import MILLISECOND
from pbft.faults.api import Corruption, Rewriter
from pbft.faults.surgery import own_proposal
from pbft.messages import (
    Authenticated,
    Inbound,
    PeerItem,
    Signed,
    VerifiedCommitted,
    VerifiedProposal,
    VerifiedStable,
)
from pbft.types import Instant, Micros, ReplicaId

LEAVING = (Send, Broadcast, Answer, Refuse)


class Silent(Rewriter):
    """Says nothing to anybody."""

    name = "silent"

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """Keeps only what stays within the replica."""
        kept: list[Effect] = [effect for effect in effects if not isinstance(effect, LEAVING)]
        self.acted += len(kept) != len(effects)
        return kept


class Drop(Rewriter):
    """Loses a share of what it should send; the rest arrives as it should."""

    name = "drop"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Drops for some recipients only, so that they hear different things."""
        lost = [to for to in recipients if self.takes_opportunity()]
        if not lost:
            return None
        return [Send(to, item) for to in recipients if to not in lost]

    def on_answer(self, answer: Answer, now: Instant) -> Sequence[Effect] | None:
        """Drops the whole answer."""
        return () if self.takes_opportunity() else None


class Partition(Rewriter):
    """Neither speaks to some peers nor hears them; their links seem to be up."""

    name = "partition"

    def __init__(self, corruption: Corruption, peers: frozenset[ReplicaId]) -> None:
        super().__init__(corruption)
        self.peers = peers

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Only to those on this side."""
        if self.peers.isdisjoint(recipients):
            return None
        return [Send(to, item) for to in recipients if to not in self.peers]

    def hears(self, sender: ReplicaId) -> bool:
        """Only those on this side."""
        return sender not in self.peers


class Delay(Rewriter):
    """Holds what leaves for a while, and lets the pieces overtake each other."""

    name = "delay"

    def __init__(self, corruption: Corruption, delay_us: Micros = 50 * MILLISECOND) -> None:
        super().__init__(corruption)
        self.delay_us = delay_us
        self._held: list[tuple[Micros, int, Effect]] = []
        self._count = 0

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """What is due, then what is not held."""
        released: list[Effect] = []
        while self._held and self._held[0][0] <= now.monotonic_us:
            released.append(heappop(self._held)[2])
        for effect in effects:
            if self.holds(effect) and self.takes_opportunity():
                self.acted += 1
                self._count += 1
                due_us = now.monotonic_us + self.random.randrange(self.delay_us) + 1
                heappush(self._held, (due_us, self._count, effect))
            else:
                released.append(effect)
        return released

    def holds(self, effect: Effect) -> bool:
        """Which effects are held back."""
        return isinstance(effect, LEAVING)

    def next_deadline_us(self) -> Micros | None:
        """When the first held effect is due."""
        return self._held[0][0] if self._held else None


class SlowPrimary(Delay):
    """As primary holds every proposal of its own, by up to the given time."""

    name = "slow-primary"

    def holds(self, effect: Effect) -> bool:
        """Only own proposals."""
        if not isinstance(effect, Send | Broadcast):
            return False
        return own_proposal(effect.item, self.corruption.replica) is not None


class Replay(Rewriter):
    """Sends again what was said long ago, by itself or by others, to anybody."""

    name = "replay"
    MEMORY = 256
    AT_ONCE = 3

    def __init__(self, corruption: Corruption) -> None:
        super().__init__(corruption)
        self._heard: deque[PeerItem] = deque(maxlen=self.MEMORY)

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """The effects, and sometimes a few old words after them."""
        leaving = [effect.item for effect in effects if isinstance(effect, Send | Broadcast)]
        if not leaving:
            return effects
        rewritten = list(effects)
        if self._heard and self.takes_opportunity():
            self.acted += 1
            for _ in range(self.random.randrange(self.AT_ONCE) + 1):
                old = self._heard[self.random.randrange(len(self._heard))]
                rewritten.append(Send(self.random.choice(self.corruption.others), old))
        self._heard.extend(leaving)
        return rewritten

    def observe(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> None:
        """Remembers the signed words of others: relaying them needs no key."""
        self._heard.extend(_envelopes(inbound)[:1])


def _envelopes(inbound: Inbound) -> list[Signed]:
    """The envelopes that an inbound message came in."""
    match inbound:
        case Authenticated():
            return [inbound.signed]
        case VerifiedProposal():
            return [inbound.pre_prepare.signed]
        case VerifiedCommitted():
            return [commit.signed for commit in inbound.commits]
        case VerifiedStable():
            return [checkpoint.signed for checkpoint in inbound.checkpoints]
        case _:
            return []
