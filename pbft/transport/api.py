"""What the transport asks of the node above it, and the bounds it keeps (protocol.md sections 12
and 14)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pbft.errors import PbftError, Reason
from pbft.limits import MIB
from pbft.messages import Role, Signed
from pbft.types import ClientKey, ReplicaId


class ListenerEnded(PbftError):
    """A listener is gone that nobody stopped."""


class Direction(Enum):
    """Of a stream between this replica and a peer."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class RejectionSink(Protocol):
    """Counts what was not accepted."""

    def on_rejection(self, message: str, reason: Reason, peer: ReplicaId | None) -> None:
        """`message` is from a fixed set; `peer` is None for a client or an unknown sender."""
        ...


class PeerSink(RejectionSink, Protocol):
    """Takes what arrives from peers, and news of the streams."""

    def on_link(self, peer: ReplicaId, direction: Direction, up: bool) -> None:
        """A stream to (OUTBOUND) or from (INBOUND) this peer came up or went down."""
        ...

    async def on_peer_items(self, peer: ReplicaId, items: Sequence[bytes]) -> None:
        """Encoded PeerItems in the order sent. Returns once the next frame may be read: a peer
        that sends faster than it is served is slowed down by flow control."""
        ...


class ClientSink(RejectionSink, Protocol):
    """Takes what arrives from clients."""

    async def on_client_items(self, stream: int, client: ClientKey, items: Sequence[bytes]) -> None:
        """Encoded ClientItems in the order sent. Returns once the next frame of this stream may be
        read."""
        ...

    def on_client_gone(self, stream: int) -> None:
        """The stream ended; nothing more comes of it."""
        ...


class HelloVerifier(Protocol):
    """Checks a Hello (the Verifier does)."""

    def admit_hello(self, signed: Signed, nonce: bytes, role: Role) -> bytes:
        """The 32-byte key of whoever signed this Hello. Raises Rejected."""
        ...


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Bounds on what one peer can make this replica hold or do."""

    queue_bytes: int = 32 * MIB
    """Waiting to leave for one peer; beyond, the oldest is dropped (QUEUE_FULL)."""
    unreachable_seconds: float = 1.0
    """What waits for a peer to which there is no stream is dropped when it is older than this, at
    twice this at the latest. Whoever comes back is healed by what it lacks then; a backlog of old
    votes, each to be verified, would only keep it from that."""
    connections: int = 256
    """Whoever opens them: further ones are closed at once. Those without a stream give way before
    (`crowd`) ..."""
    idle_connections_per_peer: int = 4
    """... and those of one certificate without a stream, beyond so many."""
    handshake_seconds: float = 5.0
    handshakes: int = 64
    """Streams whose Hello has not come yet ..."""
    handshakes_per_peer: int = 4
    """... and those on the certificate of one peer."""
    faults_burst: int = 500
    """Malformed or wrongly signed items of one peer taken at once ..."""
    faults_per_second: float = 100.0
    """... and in the long run, before its stream is closed."""
    throttle_seconds: float = 2.0
    """How long a peer whose stream was closed for its faults has to wait."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds on what one client, and all of them together, can make this replica hold or do."""

    connections: int = 4_608
    """Whoever opens them: further ones are closed at once. Those without a stream give way before
    (`crowd`); most have one."""
    idle_connections_per_client: int = 8
    """Those of one certificate without a stream; the oldest beyond give way."""
    streams: int = 4_096
    streams_per_client: int = 8
    """Past their handshake; as many more may be in it."""
    handshakes: int = 256
    """Streams whose Hello has not come yet."""
    handshake_seconds: float = 5.0
    queue_bytes: int = 8 * MIB
    """Answers waiting for one stream; a client that reads more slowly is dropped."""
    total_queue_bytes: int = 128 * MIB
    """Answers that wait or leave, of all streams; beyond, the stream that holds most is dropped."""
    faults_burst: int = 32
    """Malformed or wrongly signed items of one client taken at once, whatever its streams ..."""
    faults_per_second: float = 4.0
    """... and in the long run, before they are closed."""
    throttle_seconds: float = 2.0
    """How long a client whose streams were closed for its faults has to wait."""


HELLO_FRAME_BYTES_MAX = 4_096
"""The first frame of a stream, whoever sends it, holds one Hello: a fraction of this."""
FRAME_BYTES = 1 * MIB
"""A frame gathers what waits up to this size; one larger item travels alone."""
RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0)
"""Waits between attempts to reach a peer; the last one repeats. Jittered by a quarter."""
