"""The only way into the core: what `Authenticated` and `Verified...` say is checked here.

Checks go from cheap to dear (protocol.md section 3, adversary.md section 2): sizes and shapes, who
may say this, whether the core wants it at all, digests, and signatures last. The first failure ends
the work on the message that carries it, with a named reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

from pbft.codec import (
    STATE_CHUNK_TAG,
    STATE_LEAVES_TAG,
    decode_batch,
    decode_message,
    decode_peer_item,
    decode_signed,
)
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.crypto.envelopes import Envelopes
from pbft.crypto.remembered import Remembered
from pbft.crypto.requests import RequestVerifier
from pbft.crypto.signing import ED25519, SignatureScheme
from pbft.crypto.sizes import payload_bytes_max
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.limits import VERIFIED_BATCH_BYTES, VERIFIED_BATCHES
from pbft.messages import (
    Authenticated,
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    Hello,
    Inbound,
    Kind,
    PeerItem,
    PrePrepare,
    Proposal,
    ReadReplies,
    Recall,
    Replies,
    Request,
    Role,
    Signed,
    SignedMessage,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRequest,
    VerifiedBatch,
    VerifiedCommitted,
    VerifiedLeaves,
    VerifiedProposal,
    VerifiedStable,
    ViewChange,
)
from pbft.types import ReplicaId

Unverified: TypeAlias = (
    SignedMessage
    | Proposal
    | BatchBytes
    | CommittedBatch
    | StableCertificate
    | StateRequest
    | StateLeaves
    | StateChunk
)
Relevance: TypeAlias = Callable[[ReplicaId, Unverified], Reason | None]
"""(sender, message) -> why the core does not want it now, or None. For a replica's own statement
`sender` is its claimed signer, whoever relayed it; for everything else the peer that sent it.
Nothing is verified yet: the callable must not change anything, nor charge the sender."""

_VOUCHED = frozenset(
    {
        Kind.PRE_PREPARE,
        Kind.PREPARE,
        Kind.COMMIT,
        Kind.CHECKPOINT,
        Kind.VIEW_CHANGE,
        Kind.NEW_VIEW,
        Kind.STATUS,
        Kind.RECALL,
        Kind.RECALLED,
    }
)
"""What replicas sign for replicas."""

_DIRECT = frozenset({Kind.STATUS, Kind.RECALL, Kind.RECALLED})
"""What counts only from the signer itself."""

S = TypeVar("S", Commit, Checkpoint)


_OF_A_TRANSFER: Sequence[tuple[bytes, StateLeaves | StateChunk]] = (
    (STATE_LEAVES_TAG, StateLeaves(StableCertificate(()), ())),
    (STATE_CHUNK_TAG, StateChunk(0, (), b"", 0)),
)
"""How what a transfer brings begins, and one that stands for all of its kind."""


@dataclass(frozen=True, slots=True)
class Decoders:
    """How bytes of peers become messages: pure functions, so many verifiers may share results."""

    peer_item: Callable[[bytes], PeerItem] = decode_peer_item
    message: Callable[[Kind, bytes], SignedMessage] = decode_message


def everything_is_relevant(sender: ReplicaId, message: Unverified) -> None:
    """The Relevance of a verifier that stands alone."""


class Verifier:
    """Decodes and verifies what peers and clients send, remembering what was good."""

    def __init__(
        self,
        genesis: Genesis,
        scheme: SignatureScheme = ED25519,
        relevance: Relevance = everything_is_relevant,
        decoders: Decoders = Decoders(),
    ) -> None:
        """`relevance` may be set later, once the core that provides it exists."""
        self.relevance = relevance
        self._genesis = genesis
        self._decoders = decoders
        self._payload_bytes_max = payload_bytes_max(genesis)
        self._envelopes = Envelopes(genesis, scheme)
        self._requests = RequestVerifier(genesis, self._envelopes)
        self._batches: Remembered[VerifiedBatch] = Remembered(
            VERIFIED_BATCHES, VERIFIED_BATCH_BYTES
        )

    def admit_peer(self, sender: ReplicaId, item: bytes) -> Inbound:
        """One item of the stream of peer `sender` (whose Hello was admitted).

        Raises Rejected; nothing else comes out whatever the bytes are.
        """
        for tag, stand_in in _OF_A_TRANSFER:
            if item.startswith(tag):
                # Nothing takes longer to build, and whether it is wanted depends on its sender.
                self._require_relevant(sender, stand_in)
        decoded = self._decoders.peer_item(item)
        match decoded:
            case Signed():
                return self._admit_statement(sender, decoded)
            case Proposal():
                return self._admit_proposal(sender, decoded)
            case BatchBytes():
                self._require_relevant(sender, decoded)
                return self.verified_batch(decoded.batch)
            case CommittedBatch():
                return self._admit_committed(sender, decoded)
            case StableCertificate():
                return self._admit_stable(sender, decoded)
            case StateRequest():
                self._require_bitmap(decoded.buckets)
                self._require_relevant(sender, decoded)
                return decoded
            case StateLeaves():
                return self._admit_leaves(sender, decoded)
            case StateChunk():
                self._require_relevant(sender, decoded)
                return decoded

    def admit_request(self, signed: Signed) -> Authenticated[Request]:
        """A client's request, however it came.

        Raises Rejected(WRONG_DOMAIN | OVERSIZE | MALFORMED | SENDER_MISMATCH | CLIENT_UNAUTHORIZED
        | BAD_SIGNATURE): a pure function of the bytes and the genesis, the same on all replicas.
        """
        return self._requests.admit(signed)

    def admit_hello(self, signed: Signed, nonce: bytes, role: Role) -> bytes:
        """The public key of who opened a stream, proven for this stream's `nonce`.

        Raises Rejected: WRONG_DOMAIN for another kind, nonce or role; SENDER_MISMATCH if the key is
        not the signer's; CLIENT_UNAUTHORIZED, UNKNOWN_SENDER, MALFORMED, BAD_SIGNATURE.
        """
        if signed.kind is not Kind.HELLO:
            raise Rejected(Reason.WRONG_DOMAIN, f"{signed.kind.name} instead of a hello")
        hello = cast(Hello, decode_message(signed.kind, signed.payload))
        by_client = isinstance(signed.signer, bytes)
        if hello.role is not role or by_client is not (role is Role.CLIENT):
            raise Rejected(Reason.WRONG_DOMAIN, "a hello of the other role")
        if hello.nonce != nonce:
            raise Rejected(Reason.WRONG_DOMAIN, "a hello for another stream")
        if hello.key != self._envelopes.public_key(signed):
            raise Rejected(Reason.SENDER_MISMATCH)
        if by_client and not self._genesis.admits(hello.key):
            raise Rejected(Reason.CLIENT_UNAUTHORIZED)
        self._envelopes.require_authentic(signed)
        return hello.key

    # The shape of pbft.core.ports.CertificateVerifier: for envelopes nested in certificates.

    def is_authentic(self, signed: Signed) -> bool:
        """Whether `signed.signer` is a replica of this cluster and its signature is right."""
        if isinstance(signed.signer, bytes):
            return False
        try:
            self._envelopes.require_authentic_once(signed)
        except Rejected:
            return False
        return True

    def decode(self, signed: Signed) -> SignedMessage:
        """The message in the payload.

        Raises Rejected(MALFORMED | OVERSIZE), and SENDER_MISMATCH for a view-change that names
        another replica than its signer.
        """
        size, size_max = len(signed.payload), self._payload_bytes_max.get(signed.kind)
        if size_max is not None and size > size_max:
            raise Rejected(Reason.OVERSIZE, f"a {signed.kind.name} of {size} bytes")
        message = self._decoders.message(signed.kind, signed.payload)
        named = isinstance(message, ViewChange | Recall)
        if named and message.replica != signed.signer:  # type: ignore[union-attr]
            raise Rejected(Reason.SENDER_MISMATCH)
        return message

    def verified_batch(self, encoded: bytes) -> VerifiedBatch:
        """The body of a batch with every request in it verified.

        Raises Rejected(OVERSIZE) beyond the batch limits, else Rejected(BAD_BODY): one bad request
        condemns the batch. Duplicates are fine: they are decided at execution.
        """
        self._require_batch_size(encoded)
        return self._verified_batch(encoded, batch_digest(encoded))

    def restored_batch(self, encoded: bytes) -> VerifiedBatch:
        """A body from the own vote log: verified before it was written, so only decoded here.

        Raises Rejected(MALFORMED | OVERSIZE) if the bytes are not what was written.
        """
        batch = decode_batch(encoded)
        requests = tuple(self._requests.restored(decode_signed(item)) for item in batch.items)
        return VerifiedBatch(batch_digest(encoded), encoded, batch.time_us, requests)

    def _admit_statement(self, sender: ReplicaId, signed: Signed) -> Inbound:
        if signed.kind is Kind.REQUEST:
            return self._requests.admit(signed, lambda it: self._require_relevant(sender, it))
        if signed.kind not in _VOUCHED:
            raise Rejected(Reason.WRONG_DOMAIN, f"{signed.kind.name} between replicas")
        self._envelopes.public_key(signed)
        assert isinstance(signed.signer, int)
        if signed.kind in _DIRECT and signed.signer != sender:
            raise Rejected(Reason.SENDER_MISMATCH, f"a {signed.kind.name} is never relayed")
        message = self.decode(signed)
        self._require_relevant(signed.signer, message)
        self._envelopes.require_authentic_once(signed)
        return cast(Inbound, Authenticated(message, signed))

    def _admit_proposal(self, sender: ReplicaId, proposal: Proposal) -> VerifiedProposal:
        signed = proposal.pre_prepare
        self._envelopes.public_key(signed)
        pre_prepare = cast(PrePrepare, self.decode(signed))
        self._require_relevant(sender, proposal)
        self._require_batch_size(proposal.batch)
        if batch_digest(proposal.batch) != pre_prepare.digest:
            raise Rejected(Reason.BAD_BODY, "it does not hash to the digest")
        self._envelopes.require_authentic_once(signed)
        return VerifiedProposal(
            Authenticated(pre_prepare, signed),
            self._verified_batch(proposal.batch, pre_prepare.digest),
        )

    def _admit_committed(self, sender: ReplicaId, item: CommittedBatch) -> VerifiedCommitted:
        commits = self._certificate_shape(item.commits, Commit)
        digest = commits[0].message.digest
        self._require_relevant(sender, item)
        if digest == NULL_DIGEST:
            if item.batch:
                raise Rejected(Reason.BAD_CERTIFICATE, "a null batch with a body")
            self._require_certificate_signatures(item.commits)
            return VerifiedCommitted(commits, None)
        self._require_batch_size(item.batch)
        if batch_digest(item.batch) != digest:
            raise Rejected(Reason.BAD_CERTIFICATE, "the body does not hash to the digest")
        self._require_certificate_signatures(item.commits)
        return VerifiedCommitted(commits, self._verified_batch(item.batch, digest))

    def _admit_stable(self, sender: ReplicaId, item: StableCertificate) -> VerifiedStable:
        checkpoints = self._certificate_shape(item.checkpoints, Checkpoint)
        self._require_relevant(sender, item)
        self._require_certificate_signatures(item.checkpoints)
        return VerifiedStable(checkpoints)

    def _admit_leaves(self, sender: ReplicaId, item: StateLeaves) -> VerifiedLeaves:
        if len(item.leaves) != self._genesis.constants.buckets:
            raise Rejected(Reason.BAD_SNAPSHOT, f"{len(item.leaves)} leaves")
        checkpoints = self._certificate_shape(item.certificate.checkpoints, Checkpoint)
        self._require_relevant(sender, item)
        self._require_certificate_signatures(item.certificate.checkpoints)
        return VerifiedLeaves(checkpoints, item.leaves)

    def _certificate_shape(
        self, certificate: Sequence[Signed], kind: type[S]
    ) -> tuple[Authenticated[S], ...]:
        """Statements of distinct replicas that all say the same; their signatures come after."""
        signers = {signed.signer for signed in certificate}
        if not certificate or len(signers) != len(certificate):
            raise Rejected(Reason.BAD_CERTIFICATE, "no signers, or one twice")
        if not signers <= set(range(len(self._genesis.replicas))):
            raise Rejected(Reason.BAD_CERTIFICATE, "a signer that the genesis lacks")
        messages: list[S] = []
        for signed in certificate:
            message = self.decode(signed)
            if not isinstance(message, kind) or (messages and message != messages[0]):
                raise Rejected(Reason.BAD_CERTIFICATE, "not all of it says the same")
            messages.append(message)
        return tuple(map(Authenticated, messages, certificate))

    def _require_certificate_signatures(self, certificate: Sequence[Signed]) -> None:
        for signed in certificate:
            try:
                self._envelopes.require_authentic_once(signed)
            except Rejected as error:
                raise Rejected(Reason.BAD_CERTIFICATE, error.reason.value) from error

    def _verified_batch(self, encoded: bytes, digest: bytes) -> VerifiedBatch:
        remembered = self._batches.get(digest)
        if remembered is not None:
            return remembered
        # No bytes stand for the null batch wherever a body may be absent, so no body has none.
        if not encoded:
            raise Rejected(Reason.BAD_BODY, "no bytes")
        try:
            batch = decode_batch(encoded)
        except Rejected as error:
            raise Rejected(Reason.BAD_BODY, str(error)) from error
        if len(batch.items) > self._genesis.limits.batch_requests:
            raise Rejected(Reason.OVERSIZE, f"a batch of {len(batch.items)} requests")
        requests = []
        for item in batch.items:
            try:
                requests.append(self._requests.admit(decode_signed(item)))
            except Rejected as error:
                raise Rejected(Reason.BAD_BODY, str(error)) from error
        verified = VerifiedBatch(digest, encoded, batch.time_us, tuple(requests))
        self._batches.put(digest, verified, len(encoded))
        return verified

    def _require_relevant(self, sender: ReplicaId, message: Unverified) -> None:
        reason = self.relevance(sender, message)
        if reason is not None:
            raise Rejected(reason)

    def _require_batch_size(self, encoded: bytes) -> None:
        if len(encoded) > self._genesis.limits.batch_bytes:
            raise Rejected(Reason.OVERSIZE, f"a batch of {len(encoded)} bytes")

    def _require_bitmap(self, buckets: bytes) -> None:
        if len(buckets) > (self._genesis.constants.buckets + 7) // 8:
            raise Rejected(Reason.OVERSIZE, f"a bitmap of {len(buckets)} bytes")


class ReplicaVerifier:
    """What a client needs: are these answers a replica's own?"""

    def __init__(self, genesis: Genesis, scheme: SignatureScheme = ED25519) -> None:
        self._envelopes = Envelopes(genesis, scheme)

    def verify(self, signed: Signed) -> Replies | ReadReplies:
        """The answers in an envelope that its replica signed.

        Raises Rejected(WRONG_DOMAIN | MALFORMED | OVERSIZE | UNKNOWN_SENDER | BAD_SIGNATURE). Which
        client, requests and results they are for is the caller's to check.
        """
        if signed.kind not in (Kind.REPLIES, Kind.READ_REPLIES):
            raise Rejected(Reason.WRONG_DOMAIN, f"{signed.kind.name} to a client")
        replies = decode_message(signed.kind, signed.payload)
        assert isinstance(replies, Replies | ReadReplies)
        self._envelopes.require_authentic(signed)
        return replies

    def is_authentic(self, signed: Signed) -> bool:
        """Whether the replica signed it: for a caller that decoded it before and found it worth
        the price."""
        if isinstance(signed.signer, bytes):
            return False
        try:
            self._envelopes.require_authentic(signed)
        except Rejected:
            return False
        return True
