"""What the core calls synchronously: pure and deterministic helpers that other floors implement.

The state is a port and not an effect because executing needs its answers at once; its disk work
is an
effect (Merge, Install).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pbft.messages import Leaf, Signed, SignedMessage, StateChunk, StateRecord, VerifiedBatch
from pbft.types import ClientKey, Digest, Micros, SequenceNumber


class Signer(Protocol):
    """Signs as this replica."""

    def sign(self, message: SignedMessage) -> Signed:
        """Encodes and signs; deterministic (the same message gives the same bytes)."""
        ...


class CertificateVerifier(Protocol):
    """Checks envelopes nested in certificates, lazily and at most once each (they are
    remembered)."""

    def is_authentic(self, signed: Signed) -> bool:
        """Whether `signed.signer` is a replica of this cluster and its signature is right."""
        ...

    def decode(self, signed: Signed) -> SignedMessage:
        """The message in the payload. Raises Rejected(MALFORMED)."""
        ...

    def verified_batch(self, encoded: bytes) -> VerifiedBatch:
        """The body with every request in it verified. Raises Rejected(BAD_BODY | OVERSIZE)."""
        ...

    def restored_batch(self, encoded: bytes) -> VerifiedBatch:
        """A body from the own vote log, verified before it was written: decoded, not verified
        again."""
        ...


class Records(Protocol):
    """What a service sees of the replicated state: records (key, version) -> value within one
    domain."""

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        """The highest version of `key` with its value, None if there is none."""
        ...

    def put(self, key: bytes, version: int, value: bytes) -> None:
        """Adds or replaces the record (key, version). Other versions of the key stay.

        The caller keeps keys within RECORD_KEY_BYTES_MAX (pbft.limits), zero bytes counted twice.
        """
        ...

    def supersede(
        self, key: bytes, current: tuple[int, bytes] | None, version: int, value: bytes
    ) -> None:
        """Puts (key, version) in the place of the record that `get` just answered (None: there was
        none): `delete` and `put` in one. The version is not below the current one.

        The caller keeps keys within RECORD_KEY_BYTES_MAX, as for `put`.
        """
        ...

    def delete(self, key: bytes, version: int) -> None:
        """Removes the record (key, version); it must exist."""
        ...

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
        """(key, highest version, value) for start <= key < end (None: to the end), ascending by
        key."""
        ...


class State(Protocol):
    """The replicated state: all records of all domains, with digests at checkpoints (protocol.md
    6, 10)."""

    def domain(self, domain: int) -> Records:
        """The records of one domain (0..255)."""
        ...

    @property
    def durable_sequence(self) -> SequenceNumber:
        """The checkpoint that is on disk: where a restart begins."""
        ...

    @property
    def durable_digest(self) -> Digest:
        """The digest of the durable checkpoint; empty for sequence 0."""
        ...

    def seal(self, sequence: SequenceNumber) -> None:
        """Closes the layer of changes up to `sequence`. The digest of the state there is computed
        by whoever runs the core, as time allows, and told by `Replica.sealed`."""
        ...

    # Source of a transfer: a snapshot is the durable checkpoint, pinned.

    def pin(self) -> "Snapshot":
        """The state at the durable checkpoint, readable until released whatever happens
        meanwhile."""
        ...

    # Target of a transfer.

    def recount(self) -> bool:
        """Works for a few milliseconds on the leaves of the own durable state, counting them anew
        from the records; whether that is done: from then on `stage` compares with these, until the
        durable state is another. For a state that proved wrong: a record may not be the one that
        the stored leaf says."""
        ...

    def stage(self, leaves: Sequence[Leaf], digest: Digest) -> bytes | None:
        """Begins a transfer to the state with this digest: None if the leaves do not hash to it,
        else a
        bitmap of the buckets (bit k of byte k // 8) that differ from the own durable state."""
        ...

    def stage_records(self, records: Sequence[StateRecord], buckets: bytes) -> bool:
        """Adds records of the given buckets to the stage; False (and nothing added) if one is of
        another
        bucket, a duplicate, or more than its leaf allows."""
        ...

    def staged(self, buckets: bytes) -> bytes:
        """Verifies the given buckets against their leaves; returns the bitmap of those that are
        wrong
        (their staged records are dropped)."""
        ...


class Snapshot(Protocol):
    """A pinned durable checkpoint that a transfer reads."""

    sequence: SequenceNumber
    certificate: tuple[Signed, ...]

    def leaves(self) -> tuple[Leaf, ...]:
        """All leaves, one per bucket."""
        ...

    def chunk(self, buckets: bytes, cursor: bytes) -> StateChunk:
        """Records of these buckets after the cursor, up to TRANSFER_CHUNK_BYTES."""
        ...

    def release(self) -> None:
        """Unpins it."""
        ...


@dataclass(slots=True)
class Room:
    """How much the operations of a request may still ask for. What they do is taken off, and once
    either is used up, no further operation is executed."""

    results_bytes: int
    records: int
    """See Service.touched."""

    @property
    def is_left(self) -> bool:
        """Whether the next operation is executed."""
        return self.results_bytes > 0 and self.records > 0


class Service(Protocol):
    """The replicated service. Total and deterministic; no clock, no randomness, no IO."""

    @property
    def touched(self) -> int:
        """How many records all calls so far have looked at: a meter that only ever grows.

        By how much a call moves it depends on the call and the replicated state alone, because
        what is executed depends on it (records_per_request, _per_batch): at least 1, and in
        proportion to the time that the call takes.
        """
        ...

    def execute_all(
        self, operations: Sequence[bytes], agreed_time_us: Micros, client: ClientKey, room: Room
    ) -> list[bytes]:
        """Applies the operations of a request in order and returns their results; those that `room`
        has no place for are `exhausted`. Never raises for any bytes."""
        ...

    def exhausted(self) -> bytes:
        """The result of an operation that is not executed, because those before it in its request
        answered, or looked at, as much as one may (results_bytes_per_request,
        records_per_request). At most EXHAUSTED_BYTES_MAX with its framing."""
        ...

    def query(self, query: bytes, agreed_time_us: Micros) -> bytes:
        """Answers a read without changing anything. Never raises for any bytes."""
        ...
