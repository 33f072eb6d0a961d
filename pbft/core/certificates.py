"""Certificates: types that cannot exist invalid (OSDI'99 sections 4.2 to 4.4; protocol.md sections
2, 7).

Each is made either from votes that this replica counted, or from a claim by a peer through a
`verify_` function here that checks every clause. Votes count per distinct signer for one exact (v,
n, d).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pbft.core.ports import CertificateVerifier
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Commit,
    Kind,
    Prepare,
    PreparedProof,
    PrePrepare,
    Signed,
    SignedMessage,
    ViewChange,
)
from pbft.types import Digest, ReplicaId, SequenceNumber, View


@dataclass(frozen=True, slots=True)
class PreparedCertificate:
    """A pre-prepare of the primary of v and q - 1 prepares of distinct backups for one (v, n,
    d)."""

    view: View
    sequence: SequenceNumber
    digest: Digest
    proof: PreparedProof


@dataclass(frozen=True, slots=True)
class CommitCertificate:
    """q commits of distinct replicas for one (v, n, d): decides n for good, in every mode."""

    view: View
    sequence: SequenceNumber
    digest: Digest
    commits: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class CheckpointCertificate:
    """q checkpoints of distinct replicas for one (n, d); for n = 0 it is empty and needs no
    proof."""

    sequence: SequenceNumber
    digest: Digest
    checkpoints: tuple[Signed, ...]


GENESIS_CHECKPOINT = CheckpointCertificate(0, b"", ())


@dataclass(frozen=True, slots=True)
class ValidViewChange:
    """A view-change of which C and every certificate of P were verified."""

    view: View
    replica: ReplicaId
    stable: CheckpointCertificate
    prepared: tuple[PreparedCertificate, ...]
    signed: Signed


def _distinct_replicas(signed: Iterable[Signed]) -> set[ReplicaId]:
    return {item.signer for item in signed if isinstance(item.signer, int)}


def decode_authentic(
    signed: Signed, kind: Kind, reason: Reason, verifier: CertificateVerifier
) -> SignedMessage:
    """The message of an envelope of this kind. Raises Rejected(reason) if it is not authentic."""
    if signed.kind is not kind or not verifier.is_authentic(signed):
        raise Rejected(reason, f"an envelope that is no authentic {kind.name.lower()}")
    return verifier.decode(signed)


def verify_prepared(
    proof: PreparedProof, genesis: Genesis, verifier: CertificateVerifier
) -> PreparedCertificate:
    """Raises Rejected(BAD_CERTIFICATE) unless every clause of a prepared certificate holds."""
    thresholds = genesis.thresholds
    # Cheap clauses first: q - 1 prepares, of distinct signers, the primary not among them.
    signers = _distinct_replicas(proof.prepares)
    if len(proof.prepares) != thresholds.prepares or len(signers) != thresholds.prepares:
        raise Rejected(Reason.BAD_CERTIFICATE, "not q - 1 prepares of distinct replicas")
    vote = verifier.decode(proof.pre_prepare)
    if not isinstance(vote, PrePrepare):
        raise Rejected(Reason.BAD_CERTIFICATE, "no pre-prepare")
    primary = thresholds.primary_of(vote.view)
    if proof.pre_prepare.signer != primary or primary in signers:
        raise Rejected(
            Reason.BAD_CERTIFICATE, "pre-prepare not of the primary, or its prepare counted"
        )
    if not verifier.is_authentic(proof.pre_prepare):
        raise Rejected(Reason.BAD_CERTIFICATE, "pre-prepare not authentic")
    for signed in proof.prepares:
        prepare = decode_authentic(signed, Kind.PREPARE, Reason.BAD_CERTIFICATE, verifier)
        assert isinstance(prepare, Prepare)
        if (prepare.view, prepare.sequence, prepare.digest) != (
            vote.view,
            vote.sequence,
            vote.digest,
        ):
            raise Rejected(Reason.BAD_CERTIFICATE, "a prepare for another (v, n, d)")
    return PreparedCertificate(vote.view, vote.sequence, vote.digest, proof)


def commit_certificate(
    commits: Sequence[Authenticated[Commit]], genesis: Genesis
) -> CommitCertificate:
    """A commit certificate of authentic commits. Raises Rejected(BAD_CERTIFICATE)."""
    by_signer = {commit.signer: commit for commit in commits}
    votes = {(c.message.view, c.message.sequence, c.message.digest) for c in commits}
    if len(by_signer) < genesis.thresholds.quorum or len(votes) != 1:
        raise Rejected(
            Reason.BAD_CERTIFICATE, "not q commits of distinct replicas for one (v, n, d)"
        )
    view, sequence, digest = votes.pop()
    chosen = [by_signer[signer].signed for signer in sorted(by_signer)]
    return CommitCertificate(view, sequence, digest, tuple(chosen[: genesis.thresholds.quorum]))


def checkpoint_certificate(
    checkpoints: Sequence[Authenticated[Checkpoint]], genesis: Genesis
) -> CheckpointCertificate:
    """A stable checkpoint certificate of authentic checkpoints. Raises
    Rejected(BAD_CERTIFICATE)."""
    by_signer = {checkpoint.signer: checkpoint for checkpoint in checkpoints}
    states = {(c.message.sequence, c.message.digest) for c in checkpoints}
    if len(by_signer) < genesis.thresholds.quorum or len(states) != 1:
        raise Rejected(
            Reason.BAD_CERTIFICATE, "not q checkpoints of distinct replicas for one (n, d)"
        )
    sequence, digest = states.pop()
    if sequence % genesis.constants.checkpoint_interval:
        raise Rejected(Reason.BAD_CERTIFICATE, "not at a checkpoint interval")
    chosen = [by_signer[signer].signed for signer in sorted(by_signer)]
    return CheckpointCertificate(sequence, digest, tuple(chosen[: genesis.thresholds.quorum]))


def verify_checkpoints(
    sequence: SequenceNumber,
    checkpoints: Sequence[Signed],
    genesis: Genesis,
    verifier: CertificateVerifier,
) -> CheckpointCertificate:
    """The certificate C for h = `sequence`. Raises Rejected(BAD_CERTIFICATE)."""
    if sequence == 0:
        if checkpoints:
            raise Rejected(Reason.BAD_CERTIFICATE, "a certificate for the initial state")
        return GENESIS_CHECKPOINT
    if len(checkpoints) != genesis.thresholds.quorum:
        raise Rejected(Reason.BAD_CERTIFICATE, "not q checkpoints")
    authentic: list[Authenticated[Checkpoint]] = []
    for signed in checkpoints:
        message = decode_authentic(signed, Kind.CHECKPOINT, Reason.BAD_CERTIFICATE, verifier)
        assert isinstance(message, Checkpoint)
        if message.sequence != sequence:
            raise Rejected(Reason.BAD_CERTIFICATE, "a checkpoint of another sequence")
        authentic.append(Authenticated(message, signed))
    return checkpoint_certificate(authentic, genesis)


def verify_view_change(
    message: ViewChange, signed: Signed, genesis: Genesis, verifier: CertificateVerifier
) -> ValidViewChange:
    """Every clause of a view-change but its outer signature. Raises Rejected(BAD_VIEW_CHANGE).

    One bad certificate voids this message and only this one.
    """
    window = genesis.constants.window
    low = message.stable_sequence
    sequences = []
    try:
        if len(message.prepared) > window:
            raise Rejected(Reason.BAD_VIEW_CHANGE, "more certificates than the window has slots")
        stable = verify_checkpoints(low, message.checkpoints, genesis, verifier)
        prepared = []
        for proof in message.prepared:
            certificate = verify_prepared(proof, genesis, verifier)
            sequences.append(certificate.sequence)
            # Of an earlier view than the one moved to, and inside h < n <= h + L.
            if not certificate.view < message.view:
                raise Rejected(Reason.BAD_VIEW_CHANGE, "certificate of a view that is not earlier")
            if not low < certificate.sequence <= low + window:
                raise Rejected(Reason.BAD_VIEW_CHANGE, "certificate outside the window")
            prepared.append(certificate)
    except Rejected as error:
        raise Rejected(Reason.BAD_VIEW_CHANGE, str(error)) from error
    if any(a >= b for a, b in pairwise(sequences)):
        raise Rejected(Reason.BAD_VIEW_CHANGE, "certificates not by ascending sequence")
    return ValidViewChange(message.view, message.replica, stable, tuple(prepared), signed)
