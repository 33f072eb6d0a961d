"""Calls that wait to be sent, and when they go: the part that requests and reads have in common.

The first call goes at once. Calls made while something is under way gather, and go together when
enough of them wait, when the oldest has waited long enough, or when nothing is under way any more.
One signature, one frame and one round of replies then serve many calls, and a lone call waits for
nothing.

Calls that asked for more together than the replicas do at once are put back in halves, each to
travel by itself: n of them are alone after at most log2(n) rounds.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pbft.messages import Refusal
from pbft.types import Micros, ReplicaId
from pbft_client.errors import Answers

_REASON_CHARACTERS = 64
"""Of the reason that a replica gives, unsigned, for a refusal."""
_ANYBODY = 0
"""The party of a call that travels with whoever comes."""


@dataclass(frozen=True, slots=True)
class GatherSettings:
    """How calls gather; measured, not derived."""

    under_way: int = 4
    """Requests (or reads) under way at once; one more waits for one of them."""
    enough_calls: int = 128
    """With this many waiting, the next request goes although others are under way."""
    patience_us: Micros = 10_000
    """A call waits at most this long for others, as long as fewer than `under_way` are under
    way."""


@dataclass(frozen=True, slots=True)
class Transmission:
    """An encoded ClientItem that is to go to each of these replicas."""

    replicas: tuple[ReplicaId, ...]
    item: bytes


class Call:
    """One operation on its way. The owner may subclass it to remember whom to tell."""

    __slots__ = ("carrier", "index", "operation")

    def __init__(self, operation: bytes) -> None:
        self.operation = operation
        self.carrier: Carrier | None = None
        """What carries it; None while it waits."""
        self.index = 0
        """Its position there."""


class Carrier:
    """Calls that travel together. A call that nobody waits for any more leaves a hole."""

    __slots__ = ("calls", "live", "refusals")

    def __init__(self, calls: list[Call]) -> None:
        self.calls: list[Call | None] = list(calls)
        self.live = len(calls)
        """Calls that somebody still waits for."""
        self.refusals: dict[ReplicaId, str] = {}
        for index, call in enumerate(calls):
            call.carrier = self
            call.index = index

    def drop(self, call: Call) -> None:
        """Forgets a call that was given up."""
        self.calls[call.index] = None
        self.live -= 1

    def note_refusal(self, replica: ReplicaId, refusal: Refusal) -> None:
        """Remembers the advice of one replica, for the text of an error."""
        reason = refusal.reason[:_REASON_CHARACTERS]
        self.refusals[replica] = f"refused the request: {reason}"

    def answers(
        self, replicas: int, needed: int, answered: tuple[ReplicaId, ...], matching: int
    ) -> Answers:
        """Who answered, for the text of an error."""
        return Answers(replicas, needed, answered, matching, dict(self.refusals))


class WaitingCalls:
    """Calls in order of arrival; one that is given up leaves at once, so nothing piles up."""

    def __init__(self, settings: GatherSettings) -> None:
        self._settings = settings
        self._calls: OrderedDict[Call, int] = OrderedDict()
        """Each with its party: calls of any but _ANYBODY travel only with each other, and are
        ahead of the rest."""
        self._parties = 0
        self._since_us: Micros | None = None
        """When the oldest was first seen; None when none waits."""

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        """Appends a call."""
        self._calls[call] = _ANYBODY

    def put_back(self, calls: Sequence[Call]) -> None:
        """Has calls that were too much together go next, in halves that nobody joins: with others
        they might be too much again, and without end."""
        middle = (len(calls) + 1) // 2
        for half in (calls[middle:], calls[:middle]):
            self._parties += 1
            for call in reversed(half):
                call.carrier = None
                self._calls[call] = self._parties
                self._calls.move_to_end(call, last=False)

    def remove(self, call: Call) -> None:
        """Takes out a call that was given up; it must be waiting."""
        del self._calls[call]

    def may_go(self, under_way: int, now_us: Micros) -> bool:
        """Whether the waiting calls should go now. Looking starts the clock of new ones."""
        if not self._calls:
            self._since_us = None
            return False
        if under_way == 0:
            return True
        if self._since_us is None:
            self._since_us = now_us
        if under_way >= self._settings.under_way:
            return False
        if len(self._calls) >= self._settings.enough_calls or self._is_half_next:
            return True
        return now_us - self._since_us >= self._settings.patience_us

    def deadline_us(self, under_way: int) -> Micros | None:
        """When patience ends; None while that would change nothing."""
        if self._since_us is None or under_way >= self._settings.under_way or not self._calls:
            return None
        return self._since_us + self._settings.patience_us

    def take(self, calls_max: int, bytes_max: int, overhead_bytes: int) -> list[Call]:
        """The oldest calls that fit together, at least one; each costs its operation and the
        overhead. A half that was put back stays by itself."""
        taken: list[Call] = []
        party = _ANYBODY
        size_bytes = 0
        calls = self._calls
        while calls and len(taken) < calls_max:
            call, its_party = calls.popitem(last=False)
            size_bytes += len(call.operation) + overhead_bytes
            if taken and (size_bytes > bytes_max or its_party != party):
                calls[call] = its_party
                calls.move_to_end(call, last=False)
                break
            party = its_party
            taken.append(call)
        self._since_us = None
        return taken

    def take_halves(self) -> list[Call]:
        """Takes out all calls that were put back."""
        taken: list[Call] = []
        while self._is_half_next:
            taken.append(self._calls.popitem(last=False)[0])
        return taken

    def take_all(self) -> list[Call]:
        """Empties it."""
        taken = list(self._calls)
        self._calls.clear()
        return taken

    @property
    def _is_half_next(self) -> bool:
        return next(iter(self._calls.values()), _ANYBODY) != _ANYBODY
