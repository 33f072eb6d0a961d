"""Messages in which one small thing is other than it should be (ByzzFuzz, doi 10.1145/3586053;
adversary.md section 4): neighbours of the truth get further into a replica than nonsense does."""

from collections import deque
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

from pbft.codec import decode_message, decode_peer_item, encode_peer_item
from pbft.core.effects import Answer, Effect, Send
from pbft.errors import Rejected
from pbft.faults.api import Corruption, Rewriter
from pbft.messages import Inbound, Kind, PeerItem, Proposal, Signed
from pbft.types import DIGEST_BYTES, Instant, ReplicaId

REMEMBERED = 64
"""Things of each sort that it saw, to be told again in another place."""
DEPTH_MAX = 4
TRUTH_ONLY = 0.5
"""Share of what it says that stays as it is."""
OWN_AGAIN = 0.7
"""Share of its own statements within others that are opened and signed again."""


class SmallScope(Rewriter):
    """Tells some the truth, some a neighbour of it, and some both."""

    name = "small-scope"

    def __init__(self, corruption: Corruption) -> None:
        super().__init__(corruption)
        self._digests: deque[bytes] = deque([bytes(DIGEST_BYTES)], REMEMBERED)
        self._statements: dict[Kind, deque[Signed]] = {}
        self._lists: dict[tuple[type, str], deque[tuple[Any, ...]]] = {}

    def observe(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> None:
        """Remembers what others say."""
        self._remember(getattr(inbound, "signed", inbound))

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Each recipient gets the truth, a neighbour, or both."""
        self._remember(item)
        if not self.takes_opportunity() or self.random.random() < TRUTH_ONLY:
            return None
        told: list[Effect] = []
        for to in recipients:
            choice = self.random.randrange(4)
            if choice != 0:
                told.append(Send(to, item))
            if choice <= 1:
                told.append(Send(to, self._neighbour(item)))
        return told

    def on_answer(self, answer: Answer, now: Instant) -> Sequence[Effect] | None:
        """A neighbour of the answer."""
        if not self.takes_opportunity() or self.random.random() < TRUTH_ONLY:
            return None
        changed = self._changed(answer.replies)
        return (replace(answer, replies=changed),) if _is_well_formed(changed) else None

    def _neighbour(self, item: PeerItem) -> PeerItem:
        """What no decoder refuses: the rest is for tests of the codec."""
        for _ in range(self.random.choice((1, 1, 2))):
            changed = self._changed(item)
            if _is_well_formed(changed):
                item = changed
        return item

    def _changed(self, value: Any, place: tuple[type, str] | None = None) -> Any:
        """The value with one thing in it changed; `place` is the field that it stands in."""
        if isinstance(value, Enum):
            return self.random.choice(list(type(value)))
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return self._number(value)
        if isinstance(value, bytes):
            return self._bytes(value)
        if isinstance(value, tuple):
            return self._list(value, place)
        if isinstance(value, Signed):
            return self._statement(value)
        if is_dataclass(value) and not isinstance(value, type):
            name = self.random.choice(fields(value)).name
            return replace(
                value, **{name: self._changed(getattr(value, name), (type(value), name))}
            )
        return value

    def _number(self, value: int) -> int:
        interval = self.corruption.genesis.constants.checkpoint_interval
        flipped = value ^ (1 << self.random.randrange(6))
        near = (value + 1, value - 1, value + interval, value - interval, flipped, 0)
        return max(0, self.random.choice(near))

    def _bytes(self, value: bytes) -> bytes:
        if len(value) == DIGEST_BYTES:
            return self.random.choice(self._digests)
        if not value or self.random.random() < 0.5:
            return value[:-1]
        at = self.random.randrange(len(value))
        flipped = value[at] ^ (1 << self.random.randrange(8))
        return value[:at] + bytes((flipped,)) + value[at + 1 :]

    def _list(self, value: tuple[Any, ...], place: tuple[type, str] | None) -> tuple[Any, ...]:
        choice = self.random.randrange(6)
        if choice == 0 and place in self._lists:
            return self.random.choice(self._lists[place])
        if not value:
            return value
        at = self.random.randrange(len(value))
        if choice == 1:
            return value[:at] + value[at + 1 :]
        if choice == 2:
            return value[:at] + value[at : at + 1] + value[at:]
        if choice == 3:
            return value[::-1]
        return (*value[:at], self._changed(value[at]), *value[at + 1 :])

    def _statement(self, signed: Signed) -> Signed:
        """Its own with another content, or one of the same kind that somebody made."""
        if self.is_own(signed.signer) and self.random.random() < OWN_AGAIN:
            message = decode_message(signed.kind, signed.payload)
            return self.corruption.signer.sign(self._changed(message))
        return self.random.choice(self._statements.get(signed.kind) or (signed,))

    def _remember(self, value: Any, depth: int = 0) -> None:
        if depth > DEPTH_MAX:
            return
        if isinstance(value, Signed):
            self._statements.setdefault(value.kind, deque(maxlen=REMEMBERED)).append(value)
            if isinstance(value.signer, int):
                self._remember(decode_message(value.kind, value.payload), depth + 1)
        elif isinstance(value, bytes):
            if len(value) == DIGEST_BYTES:
                self._digests.append(value)
        elif isinstance(value, tuple):
            for element in value[:8]:
                self._remember(element, depth + 1)
        elif is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                held = getattr(value, field.name)
                if isinstance(held, tuple):
                    place = (type(value), field.name)
                    self._lists.setdefault(place, deque(maxlen=REMEMBERED)).append(held)
                self._remember(held, depth + 1)


def _is_well_formed(item: PeerItem) -> bool:
    try:
        again = decode_peer_item(encode_peer_item(item))
        statement = again.pre_prepare if isinstance(again, Proposal) else again
        if isinstance(statement, Signed):
            decode_message(statement.kind, statement.payload)
    except (Rejected, ValueError, TypeError, OverflowError):
        return False
    return True
