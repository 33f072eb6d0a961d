"""The vocabulary: names for the integers and byte strings that the protocol speaks of.

Aliases rather than NewTypes: the values cross the wire and the disk constantly, and a wrapper
call per
field would be noise. The words are the paper's; see pbft/README.md for the glossary.
"""

from dataclasses import dataclass
from typing import TypeAlias

ReplicaId: TypeAlias = int
"""Index i of a replica, 0 <= i < n."""
View: TypeAlias = int
"""View number v >= 0; the primary of v is replica v mod n."""
SequenceNumber: TypeAlias = int
"""Sequence number n >= 1 of a batch; 0 is the state before any batch."""
Digest: TypeAlias = bytes
"""SHA-256, 32 bytes."""
ClientKey: TypeAlias = bytes
"""A client *is* its 32-byte Ed25519 public key."""
Micros: TypeAlias = int
"""Microseconds: of a monotonic clock, of the wall clock, or a duration; the name says which."""

DIGEST_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64

UINT64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Instant:
    """What time it is, handed to the core with every step: the core reads no clock.

    monotonic_us drives every timer. wall_us is only ever proposed or compared as agreed time.
    """

    monotonic_us: Micros
    wall_us: Micros
