"""What a behaviour is, and the base that most of them share.

A corrupt replica runs the honest core; a behaviour sits between the core and the outbox and changes
what leaves. It holds the replica's own key, so what it alters is signed again and stays valid on
the outside. It never signs as another replica, though it may relay what others signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from pbft.core.effects import Answer, Broadcast, Effect, Send
from pbft.core.ports import Signer
from pbft.genesis import Genesis
from pbft.messages import Inbound, PeerItem
from pbft.types import Instant, Micros, ReplicaId


@dataclass(frozen=True, slots=True)
class Corruption:
    """What a behaviour is given: whose key it holds, and its one source of chance."""

    replica: ReplicaId
    genesis: Genesis
    signer: Signer
    random: Random
    """Seeded: the same seed and the same steps give the same crimes."""
    share_percent: int = 100
    """How many of its opportunities the behaviour takes."""

    @property
    def others(self) -> tuple[ReplicaId, ...]:
        """Every replica but this one."""
        return tuple(i for i in range(len(self.genesis.replicas)) if i != self.replica)


class Behaviour(Protocol):
    """A rewriter of effects. One object belongs to one replica and may keep state."""

    name: str
    """Its name in the registry."""

    @property
    def acted(self) -> int:
        """How many times it changed something that left."""
        ...

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """The effects to perform instead of these. Called after every step, and with an empty list
        at its own deadline."""
        ...

    def observe(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> None:
        """Sees what a peer sent before the core does. Optional for the caller."""
        ...

    def hears(self, sender: ReplicaId) -> bool:
        """Whether what this peer sends reaches the replica at all."""
        ...

    def next_deadline_us(self) -> Micros | None:
        """When it wants `rewrite([], now)`: monotonic microseconds, None for never. A caller that
        ignores it only makes what is held back leave with the next step."""
        ...


class Rewriter:
    """Base of the behaviours: walks over the effects and offers each that leaves.

    A subclass overrides `on_item` or `on_answer`; None means that the effect stays as it is.
    """

    name = ""

    def __init__(self, corruption: Corruption) -> None:
        self.corruption = corruption
        self.random = corruption.random
        self.acted = 0

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """See Behaviour."""
        rewritten: list[Effect] = []
        for effect in effects:
            changed: Sequence[Effect] | None = None
            if isinstance(effect, Broadcast):
                changed = self.on_item(effect.item, self.corruption.others, now)
            elif isinstance(effect, Send):
                changed = self.on_item(effect.item, (effect.to,), now)
            elif isinstance(effect, Answer):
                changed = self.on_answer(effect, now)
            if changed is None:
                rewritten.append(effect)
            else:
                self.acted += 1
                rewritten.extend(changed)
        return rewritten

    def observe(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> None:
        """See Behaviour. Most behaviours look at nothing."""

    def hears(self, sender: ReplicaId) -> bool:
        """See Behaviour. Most behaviours are not deaf."""
        return True

    def next_deadline_us(self) -> Micros | None:
        """See Behaviour. Most behaviours hold nothing back."""
        return None

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """What to do instead of sending `item` to these replicas."""
        return None

    def on_answer(self, answer: Answer, now: Instant) -> Sequence[Effect] | None:
        """What to do instead of answering a client."""
        return None

    def takes_opportunity(self) -> bool:
        """Whether to act this time."""
        share = self.corruption.share_percent
        return share >= 100 or self.random.randrange(100) < share

    def is_own(self, signer: object) -> bool:
        """Whether this replica is the signer: only its own words can be changed."""
        return signer == self.corruption.replica


def send_each(item: PeerItem, recipients: Sequence[ReplicaId]) -> list[Effect]:
    """The same item to several replicas, one by one."""
    return [Send(to, item) for to in recipients]
