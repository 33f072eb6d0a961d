"""I4: whatever was committed is in every new-view that the signed view-changes allow.

Not only the new-view that was sent: every set of q view-changes that a primary could have chosen is
tried. The selection here is written independently of the core's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product

from pbft.codec import decode_message
from pbft.core.certificates import verify_view_change
from pbft.core.ports import CertificateVerifier
from pbft.errors import Rejected
from pbft.genesis import Genesis
from pbft.messages import Kind, Signed, ViewChange
from pbft.types import Digest, ReplicaId, SequenceNumber, View

VARIANTS_MAX = 2
"""Different view-changes of one Byzantine signer for one view that are tried."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one valid view-change says."""

    stable: SequenceNumber
    prepared: Mapping[SequenceNumber, tuple[View, Digest]]


class NewViewWatch:
    """Collects valid view-changes and tries their sets against what was decided."""

    def __init__(
        self,
        genesis: Genesis,
        verifier: CertificateVerifier,
        decided: Mapping[SequenceNumber, tuple[Digest, View]],
    ) -> None:
        self._genesis = genesis
        self._verifier = verifier
        self._decided = decided
        self._claims: dict[View, dict[ReplicaId, list[_Claim]]] = {}

    def on_view_change(self, signed: Signed) -> str | None:
        """A view-change was sent. Returns what it makes possible that must not be, if anything."""
        message = decode_message(Kind.VIEW_CHANGE, signed.payload)
        assert isinstance(message, ViewChange)
        if message.replica != signed.signer:
            # Nobody takes in what one says in another's name.
            return None
        try:
            valid = verify_view_change(message, signed, self._genesis, self._verifier)
        except Rejected:
            return None
        claim = _Claim(
            valid.stable.sequence,
            {item.sequence: (item.view, item.digest) for item in valid.prepared},
        )
        by_signer = self._claims.setdefault(valid.view, {})
        variants = by_signer.setdefault(valid.replica, [])
        if len(variants) >= VARIANTS_MAX:
            return None
        variants.append(claim)
        others = [signer for signer in by_signer if signer != valid.replica]
        committed = [sequence for sequence, (_, view) in self._decided.items() if view < valid.view]
        for chosen in combinations(others, self._genesis.thresholds.quorum - 1):
            for claims in product([claim], *(by_signer[signer] for signer in chosen)):
                problem = self._find_loss(valid.view, claims, committed)
                if problem is not None:
                    return problem
        return None

    def on_decided(self, sequence: SequenceNumber) -> str | None:
        """A sequence was decided (in a lower view than known): are earlier sets still right?"""
        _, decided_view = self._decided[sequence]
        for view, by_signer in self._claims.items():
            if view <= decided_view:
                continue
            for chosen in combinations(by_signer, self._genesis.thresholds.quorum):
                for claims in product(*(by_signer[signer] for signer in chosen)):
                    problem = self._find_loss(view, claims, [sequence])
                    if problem is not None:
                        return problem
        return None

    def _find_loss(
        self, view: View, claims: tuple[_Claim, ...], committed: list[SequenceNumber]
    ) -> str | None:
        low = max(claim.stable for claim in claims)
        for sequence in committed:
            if sequence <= low:
                continue
            digest, decided_view = self._decided[sequence]
            found = [claim.prepared[sequence] for claim in claims if sequence in claim.prepared]
            highest = max((certificate[0] for certificate in found), default=-1)
            chosen = {certificate[1] for certificate in found if certificate[0] == highest}
            if chosen != {digest}:
                return (
                    f"a new-view for {view} could leave out sequence {sequence}, "
                    f"committed in view {decided_view}"
                )
        return None
