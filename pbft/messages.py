"""The messages as frozen dataclasses, one per message of the paper (design: protocol.md sections
3 to 9).

Generated protobuf classes never leave the codec; these are what the rest of the program sees. A
message
here has the right lengths and types, but nothing about it is verified until the verifier says so.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeAlias, TypeVar

from pbft.types import ClientKey, Digest, Micros, ReplicaId, SequenceNumber, View


class Kind(IntEnum):
    """What was signed; part of the signed bytes. Values as in message.proto."""

    REQUEST = 1
    HELLO = 2
    PRE_PREPARE = 16
    PREPARE = 17
    COMMIT = 18
    CHECKPOINT = 19
    VIEW_CHANGE = 20
    NEW_VIEW = 21
    STATUS = 22
    REPLIES = 23
    READ_REPLIES = 24
    RECALL = 25
    RECALLED = 26


class Role(IntEnum):
    """Who opens a stream."""

    CLIENT = 1
    REPLICA = 2


class Outcome(IntEnum):
    """How a request was decided at execution (protocol.md section 4)."""

    EXECUTED = 1
    SESSION_EXPIRED = 2
    CONFLICT = 3
    EXPIRED = 4
    CLIENT_REFUSED = 5
    RESULT_FORGOTTEN = 6
    SESSION_CLOSED = 7


class Consistency(IntEnum):
    """What a read promises (protocol.md section 11)."""

    LINEARIZABLE = 1
    STALE = 2


@dataclass(frozen=True, slots=True)
class Signed:
    """An envelope as it travelled. `signer` is a replica's index or a client's 32-byte key."""

    kind: Kind
    signer: ReplicaId | ClientKey
    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """First message on a stream, bound to the server's nonce."""

    role: Role
    key: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """<REQUEST, o, t, c>: t is (session, number), o is `operations`."""

    client: ClientKey
    session: int
    number: int
    acknowledged: int
    expires_at_us: Micros
    operations: tuple[bytes, ...]
    close_session: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """The body m of a batch: the proposed time and encoded Signed requests."""

    time_us: Micros
    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """(v, n, d): what a pre-prepare, a prepare and a commit say; the Signed's kind tells which it
    is."""

    view: View
    sequence: SequenceNumber
    digest: Digest


class PrePrepare(Vote):
    """<PRE-PREPARE, v, n, d>"""

    __slots__ = ()


class Prepare(Vote):
    """<PREPARE, v, n, d, i>"""

    __slots__ = ()


class Commit(Vote):
    """<COMMIT, v, n, D(m), i>"""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """<CHECKPOINT, n, d, i>"""

    sequence: SequenceNumber
    digest: Digest


@dataclass(frozen=True, slots=True)
class PreparedProof:
    """A claim to a prepared certificate, not yet verified: a signed pre-prepare and q - 1 signed
    prepares."""

    pre_prepare: Signed
    prepares: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class ViewChange:
    """<VIEW-CHANGE, v, n, C, P, i>"""

    view: View
    replica: ReplicaId
    incarnation: int
    stable_sequence: SequenceNumber
    """h"""
    checkpoints: tuple[Signed, ...]
    """C"""
    prepared: tuple[PreparedProof, ...]
    """P"""


@dataclass(frozen=True, slots=True)
class NewView:
    """<NEW-VIEW, v, V, O>"""

    view: View
    view_changes: tuple[Signed, ...]
    """V"""
    pre_prepares: tuple[Signed, ...]
    """O"""


@dataclass(frozen=True, slots=True)
class Status:
    """What a replica has and lacks (protocol.md section 8). Bit k of a bitmap speaks of sequence
    h + 1 + k."""

    view: View
    normal: bool
    stable_sequence: SequenceNumber
    executed: SequenceNumber
    clock_us: Micros
    suspects: bool
    primary_unreachable: bool
    prepared: int
    committed: int
    accepted: int
    view_changes: int
    """Bit i: the view-change of replica i for `view` is held."""
    missing: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """<REPLY, v, t, c, i, r> without the client and the view, which stand once in Replies."""

    session: int
    number: int
    request_digest: Digest
    sequence: SequenceNumber
    agreed_time_us: Micros
    outcome: Outcome
    results_digest: Digest
    results: tuple[bytes, ...] | None
    """None: only the digest is told."""
    highest_session: int = 0


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies due to one client at one moment."""

    client: ClientKey
    view: View
    replies: tuple[Reply, ...]


@dataclass(frozen=True, slots=True)
class ReadReply:
    """The answer to one ReadRequest. `results` is None when only the digest is told."""

    nonce: int
    query_digest: Digest
    results_digest: Digest
    results: tuple[bytes, ...] | None
    sequence: SequenceNumber
    refused: bool = False


@dataclass(frozen=True, slots=True)
class ReadReplies:
    """Read answers due to one client at one moment."""

    client: ClientKey
    view: View
    replies: tuple[ReadReply, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """After a start: what did I tell you before? The nonce is fresh."""

    replica: ReplicaId
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Recalled:
    """The answer to one Recall: the asker's own signed words that the peer holds above its h."""

    replica: ReplicaId
    """Who asked."""
    nonce: bytes
    view: View
    stable_sequence: SequenceNumber
    """The peer's h."""
    checkpoints: tuple[Signed, ...]
    """The certificate of h; empty for h = 0."""
    view_change: Signed | None
    votes: tuple[Signed, ...]


REJOIN_OPERATION = b"rejoin"
"""The one operation that a replica's own key may request: see pbft.core.amnesia."""

# Items of a peer stream besides Signed.


@dataclass(frozen=True, slots=True)
class Proposal:
    """A pre-prepare with the bytes of its body."""

    pre_prepare: Signed
    batch: bytes


@dataclass(frozen=True, slots=True)
class BatchBytes:
    """A body that somebody said is missing."""

    batch: bytes


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """q commits and the body that they decided; `batch` is empty for the null batch."""

    commits: tuple[Signed, ...]
    batch: bytes


@dataclass(frozen=True, slots=True)
class StableCertificate:
    """q checkpoints for one (n, d)."""

    checkpoints: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class StateRequest:
    """Asks for leaves (`sequence` 0) or for the records of `buckets` (a bitmap) after `cursor`: by
    a number that the answer repeats."""

    at_least: SequenceNumber
    sequence: SequenceNumber
    buckets: bytes = b""
    cursor: bytes = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Leaf:
    """One bucket's part of the state digest: number of records, their size in bytes (keys and
    values), homomorphic sum."""

    count: int
    size: int
    sum: bytes


@dataclass(frozen=True, slots=True)
class StateLeaves:
    """The stable certificate and all leaves of the state it certifies."""

    certificate: StableCertificate
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True, order=True)
class StateRecord:
    """The unit of replicated state; (domain, key, version) is unique."""

    domain: int
    key: bytes
    version: int
    value: bytes


@dataclass(frozen=True, slots=True)
class StateChunk:
    """Records of the buckets asked for by that number; an empty cursor says that was all."""

    sequence: SequenceNumber
    records: tuple[StateRecord, ...]
    cursor: bytes
    number: int = 0


PeerItem: TypeAlias = (
    Signed
    | Proposal
    | BatchBytes
    | CommittedBatch
    | StableCertificate
    | StateRequest
    | StateLeaves
    | StateChunk
)

# Items of a client stream.


@dataclass(frozen=True, slots=True)
class Submit:
    """A client's request as it sends it; the flag is unsigned and may vary between
    retransmissions."""

    request: Signed
    full_results: bool


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Queries that ask for one consistent answer; the nonce is fresh."""

    nonce: int
    queries: tuple[bytes, ...]
    consistency: Consistency
    full_results: bool


@dataclass(frozen=True, slots=True)
class GatewayChallenge:
    """The replica's first word on a client stream."""

    nonce: bytes
    cluster_id: Digest


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request was not taken; advice of one replica, unsigned."""

    session: int
    number: int
    reason: str


ClientItem: TypeAlias = Signed | Submit | ReadRequest
GatewayItem: TypeAlias = GatewayChallenge | Signed | Refusal

SignedMessage: TypeAlias = (
    Request
    | Hello
    | PrePrepare
    | Prepare
    | Commit
    | Checkpoint
    | ViewChange
    | NewView
    | Status
    | Replies
    | ReadReplies
    | Recall
    | Recalled
)

M_co = TypeVar("M_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Authenticated(Generic[M_co]):
    """A message whose envelope the verifier checked: made by pbft.crypto.verifier and nowhere
    else."""

    message: M_co
    signed: Signed
    digest: Digest = field(default=b"")
    """For a Request: the digest of its payload; else empty."""

    @property
    def signer(self) -> ReplicaId:
        """Index of the replica that signed. Only for kinds that replicas sign."""
        assert isinstance(self.signed.signer, int)
        return self.signed.signer


@dataclass(frozen=True, slots=True)
class VerifiedBatch:
    """A body that hashes to `digest`, every request in it well-formed, signed, admitted, within
    limits."""

    digest: Digest
    encoded: bytes
    time_us: Micros
    requests: tuple[Authenticated[Request], ...]


# What the verifier hands to the core: every signature checked, no quorum counted yet.


@dataclass(frozen=True, slots=True)
class VerifiedProposal:
    """An authentic pre-prepare whose body hashes to its digest and is valid."""

    pre_prepare: Authenticated[PrePrepare]
    batch: VerifiedBatch


@dataclass(frozen=True, slots=True)
class VerifiedCommitted:
    """Authentic commits, all for one (v, n, d), with the valid body of d (None: d is the null
    digest)."""

    commits: tuple[Authenticated[Commit], ...]
    batch: VerifiedBatch | None


@dataclass(frozen=True, slots=True)
class VerifiedStable:
    """Authentic checkpoints, all for one (n, d)."""

    checkpoints: tuple[Authenticated[Checkpoint], ...]


@dataclass(frozen=True, slots=True)
class VerifiedLeaves:
    """Leaves with the authentic checkpoints they are claimed to belong to; not yet hashed."""

    checkpoints: tuple[Authenticated[Checkpoint], ...]
    leaves: tuple[Leaf, ...]


Inbound: TypeAlias = (
    Authenticated[Request]
    | Authenticated[Prepare]
    | Authenticated[Commit]
    | Authenticated[PrePrepare]
    | Authenticated[Checkpoint]
    | Authenticated[ViewChange]
    | Authenticated[NewView]
    | Authenticated[Status]
    | Authenticated[Recall]
    | Authenticated[Recalled]
    | VerifiedProposal
    | VerifiedBatch
    | VerifiedCommitted
    | VerifiedStable
    | StateRequest
    | VerifiedLeaves
    | StateChunk
)
