"""Which replica pushes which decided batches to a peer that executes what came after a transfer
(protocol.md sections 8 and 9).

All that have them would push the same, and the peer would spend its time on copies: so each pushes
its stripes of the sequence. Where one does not, the others push its stripes, too.
"""

from dataclasses import dataclass, field

from pbft.limits import MIB
from pbft.types import Micros, ReplicaId, SequenceNumber

STRIPE = 4
"""Sequences in a row that are pushed by the same replica."""
STUCK_US: Micros = 500_000
"""A peer that executes nothing for so long lacks what the owner of its next batch should have
pushed, and what was pushed before that is taken for lost. One that goes forward is only slow:
pushing the same again would keep it busy with copies."""
STANDING_IN_US: Micros = 10_000_000
"""So long its stripes are pushed by all."""
UNDER_WAY_BYTES = 8 * MIB
"""Pushed and not executed, at most, but for one batch."""


@dataclass(slots=True)
class Share:
    """What this replica pushes to one peer. Advice only."""

    others: int
    """n - 1: all but the peer."""
    mine: int
    """My place among them."""
    executed: SequenceNumber = 0
    """What the peer said last."""
    since_us: Micros = 0
    """When it said so first, or when that was held against somebody."""
    standing_in: dict[int, Micros] = field(default_factory=dict)
    """Places of those who do not push, and until when all others push their stripes."""
    pushed: dict[SequenceNumber, tuple[Micros, int]] = field(default_factory=dict)
    """Of what the peer has not executed: when it was pushed, and its bytes."""

    def note(self, executed: SequenceNumber, now_us: Micros) -> None:
        """The peer says how far it is."""
        if executed != self.executed:
            # Only a liar goes back, or one that replaces a wrong state: what it was pushed is moot.
            went_on = executed > self.executed
            self.executed, self.since_us = executed, now_us
            self.pushed = {n: it for n, it in self.pushed.items() if went_on and n > executed}
        elif now_us >= self.since_us + STUCK_US:
            lost_us, self.since_us = now_us - STUCK_US, now_us
            self.pushed = {n: known for n, known in self.pushed.items() if known[0] > lost_us}
            self.standing_in[self._owner(executed + 1)] = now_us + STANDING_IN_US

    def note_pushed(self, sequence: SequenceNumber, size: int, now_us: Micros) -> None:
        """A batch with so many bytes is on its way to the peer."""
        self.pushed[sequence] = (now_us, size)

    def is_due(self, sequence: SequenceNumber, now_us: Micros) -> bool:
        """Whether this replica is to push it, and it is not on its way."""
        owner = self._owner(sequence)
        if owner != self.mine and now_us >= self.standing_in.get(owner, 0):
            return False
        return sequence not in self.pushed

    def room(self) -> int:
        """How many bytes more may be under way; not positive if none."""
        return UNDER_WAY_BYTES - sum(size for _, size in self.pushed.values())

    def _owner(self, sequence: SequenceNumber) -> int:
        return sequence // STRIPE % self.others


def share_of(me: ReplicaId, peer: ReplicaId, replicas: int) -> Share:
    """That of replica `me` in what is pushed to `peer`."""
    return Share(replicas - 1, (me - peer - 1) % replicas)
