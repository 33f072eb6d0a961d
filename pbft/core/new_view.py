"""What a new view must contain, as one pure function of V (OSDI'99 section 4.4; protocol.md
section 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pbft.core.certificates import (
    CheckpointCertificate,
    PreparedCertificate,
    ValidViewChange,
    verify_view_change,
)
from pbft.core.ports import CertificateVerifier
from pbft.crypto.digest import NULL_DIGEST
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.messages import Kind, NewView, PrePrepare, ViewChange
from pbft.types import Digest, ReplicaId, SequenceNumber


@dataclass(frozen=True, slots=True)
class NewViewPlan:
    """min-s with its certificate, max-s, and the digest for each sequence between them."""

    stable: CheckpointCertificate
    """The highest stable checkpoint in V; its sequence is min-s."""
    max_sequence: SequenceNumber
    """max-s: the highest sequence in any P above min-s, else min-s."""
    digests: tuple[Digest, ...]
    """For min-s + 1 .. max-s: the digest of the certificate of the highest view, else
    NULL_DIGEST."""

    @property
    def min_sequence(self) -> SequenceNumber:
        """min-s"""
        return self.stable.sequence


def compute_new_view(view_changes: Sequence[ValidViewChange]) -> NewViewPlan:
    """The O that V demands. The same for every order of V.

    Why it keeps what committed: if n committed with d in view v, q - f honest replicas were
    prepared for it; V has q members and so shares one with them, whose P holds a certificate for
    (n, d) of a view >= v, and no certificate for another digest of a view >= v can exist.
    """
    stable = max((change.stable for change in view_changes), key=lambda item: item.sequence)
    best: dict[SequenceNumber, PreparedCertificate] = {}
    for change in view_changes:
        for certificate in change.prepared:
            if certificate.sequence <= stable.sequence:
                continue
            known = best.get(certificate.sequence)
            if known is None or certificate.view > known.view:
                best[certificate.sequence] = certificate
    highest = max(best, default=stable.sequence)
    digests = tuple(
        best[sequence].digest if sequence in best else NULL_DIGEST
        for sequence in range(stable.sequence + 1, highest + 1)
    )
    return NewViewPlan(stable, highest, digests)


def verify_new_view(
    message: NewView,
    genesis: Genesis,
    verifier: CertificateVerifier,
    incarnations: Mapping[ReplicaId, int],
) -> NewViewPlan:
    """Every clause of a new-view but its outer signature. Raises Rejected(BAD_NEW_VIEW).

    View-changes of an older incarnation than `incarnations` tells are void (protocol.md section
    10).
    """
    thresholds = genesis.thresholds
    primary = thresholds.primary_of(message.view)
    signers = {signed.signer for signed in message.view_changes}
    if len(message.view_changes) != thresholds.quorum or len(signers) != thresholds.quorum:
        raise Rejected(Reason.BAD_NEW_VIEW, "not q view-changes of distinct replicas")
    changes: list[ValidViewChange] = []
    try:
        for signed in message.view_changes:
            if signed.kind is not Kind.VIEW_CHANGE or not verifier.is_authentic(signed):
                raise Rejected(Reason.BAD_NEW_VIEW, "an envelope that is no authentic view-change")
            change = verifier.decode(signed)
            assert isinstance(change, ViewChange)
            if change.view != message.view or change.replica != signed.signer:
                raise Rejected(Reason.BAD_NEW_VIEW, "a view-change for another view or replica")
            if change.incarnation < incarnations.get(change.replica, 0):
                raise Rejected(Reason.BAD_NEW_VIEW, "a view-change of an older incarnation")
            changes.append(verify_view_change(change, signed, genesis, verifier))
        plan = compute_new_view(changes)
        if len(message.pre_prepares) != len(plan.digests):
            raise Rejected(Reason.BAD_NEW_VIEW, "O has the wrong length")
        for offset, digest in enumerate(plan.digests):
            signed = message.pre_prepares[offset]
            expected = PrePrepare(message.view, plan.min_sequence + 1 + offset, digest)
            if signed.kind is not Kind.PRE_PREPARE or signed.signer != primary:
                raise Rejected(Reason.BAD_NEW_VIEW, "O holds something not of the primary")
            if verifier.decode(signed) != expected or not verifier.is_authentic(signed):
                raise Rejected(Reason.BAD_NEW_VIEW, "O differs from what V demands")
    except Rejected as error:
        raise Rejected(Reason.BAD_NEW_VIEW, str(error)) from error
    return plan
