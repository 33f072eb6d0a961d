"""What happened, as a hash to compare runs with and as lines to read."""

import hashlib
from collections.abc import Callable

from pbft.codec import decode_message, decode_peer_item
from pbft.core.effects import Event
from pbft.errors import Rejected
from pbft.messages import (
    BatchBytes,
    Checkpoint,
    CommittedBatch,
    NewView,
    PeerItem,
    Proposal,
    Signed,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRequest,
    Status,
    ViewChange,
    Vote,
)
from pbft.types import Digest, Micros

Line = Callable[[str], None]


class Trace:
    """Hashes every event of a run in order; prints them too if somebody reads."""

    def __init__(self, replicas: int, write_line: Line | None = None) -> None:
        """`replicas`: how many places are replicas; those above are clients."""
        self._replicas = replicas
        self._hash = hashlib.blake2b(digest_size=16)
        self.write_line = write_line

    @property
    def digest(self) -> str:
        """The hash of everything so far: equal for equal runs, in any process."""
        return self._hash.hexdigest()

    def bytes_arrived(self, now_us: Micros, origin: int, to: int, data: bytes) -> None:
        """A message reached a place."""
        self._hash.update(b"%d %d %d " % (now_us, origin, to))
        self._hash.update(data)
        if self.write_line is not None:
            self.write_line(describe_arrival(now_us, origin, to, data, self._replicas))

    def event(self, now_us: Micros, replica: int, event: Event) -> None:
        """The core of a replica reported something."""
        self._hash.update(
            b"%d %d %s %d %d"
            % (now_us, replica, event.name.value.encode(), event.view, event.sequence)
        )
        if self.write_line is not None:
            detail = f" {event.detail}" if event.detail else ""
            self.write_line(
                f"{_time(now_us)} r{replica}    {event.name.value} v={event.view} "
                f"n={event.sequence} {event.value}{detail}"
            )

    def note(self, now_us: Micros, text: str) -> None:
        """Something happened to the world."""
        self._hash.update(b"%d %s" % (now_us, text.encode()))
        if self.write_line is not None:
            self.write_line(f"{_time(now_us)} -- {text}")


def _time(now_us: Micros) -> str:
    return f"{now_us / 1000:10.3f}"


def describe_arrival(now_us: Micros, origin: int, to: int, data: bytes, replicas: int) -> str:
    """One line for a message that arrived."""
    sender = f"r{origin}" if origin < replicas else f"c{origin}"
    receiver = f"r{to}" if to < replicas else f"c{to}"
    if origin >= replicas or to >= replicas:
        what = f"{len(data)} bytes"
    else:
        try:
            what = describe_item(decode_peer_item(data))
        except Rejected as error:
            what = f"garbage ({error.reason.value})"
    return f"{_time(now_us)} {receiver} <- {sender} {what}"


def describe_item(item: PeerItem) -> str:
    """A peer item in the paper's words."""
    match item:
        case Signed():
            return _describe_signed(item)
        case Proposal():
            return f"Proposal {_describe_signed(item.pre_prepare)} {len(item.batch)} bytes"
        case BatchBytes():
            return f"Batch {len(item.batch)} bytes"
        case CommittedBatch():
            return f"Committed {_describe_signed(item.commits[0])} x{len(item.commits)}"
        case StableCertificate():
            return f"Stable {_describe_signed(item.checkpoints[0])} x{len(item.checkpoints)}"
        case StateRequest():
            return f"StateRequest at_least={item.at_least} n={item.sequence}"
        case StateLeaves():
            return f"StateLeaves {len(item.leaves)}"
        case StateChunk():
            return f"StateChunk n={item.sequence} {len(item.records)} records"


def _describe_signed(signed: Signed) -> str:
    try:
        message = decode_message(signed.kind, signed.payload)
    except Rejected:
        return f"{signed.kind.name} malformed"
    name = type(message).__name__
    match message:
        case Vote():
            return f"{name} v={message.view} n={message.sequence} d={_short(message.digest)}"
        case Checkpoint():
            return f"{name} n={message.sequence} d={_short(message.digest)}"
        case ViewChange():
            return f"{name} v={message.view} h={message.stable_sequence} P={len(message.prepared)}"
        case NewView():
            return f"{name} v={message.view} O={len(message.pre_prepares)}"
        case Status():
            return (
                f"{name} v={message.view} normal={message.normal} h={message.stable_sequence} "
                f"executed={message.executed} suspects={message.suspects} "
                f"unreachable={message.primary_unreachable}"
            )
        case _:
            return name


def _short(digest: Digest) -> str:
    return digest.hex()[:8]
