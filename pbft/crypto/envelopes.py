"""Whether the named signer signed an envelope, in this cluster and as this kind."""

import hashlib

from pbft.crypto.remembered import Remembered
from pbft.crypto.signing import SignatureScheme, sign_bytes
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.limits import VERIFIED_ENVELOPES
from pbft.messages import Signed

_FINGERPRINT_BYTES = 32


class Envelopes:
    """Checks signatures. Good ones of replicas are remembered; bad ones never are."""

    def __init__(self, genesis: Genesis, scheme: SignatureScheme) -> None:
        self._replicas = genesis.replicas
        self._cluster_id = genesis.cluster_id
        self._scheme = scheme
        self._good: Remembered[bool] = Remembered(
            VERIFIED_ENVELOPES, VERIFIED_ENVELOPES * _FINGERPRINT_BYTES
        )

    def public_key(self, signed: Signed) -> bytes:
        """The key that must have signed. Raises Rejected(UNKNOWN_SENDER) for a replica that the
        genesis lacks; that a client is admitted is not checked here."""
        signer = signed.signer
        if isinstance(signer, bytes):
            return signer
        if not 0 <= signer < len(self._replicas):
            raise Rejected(Reason.UNKNOWN_SENDER, f"replica {signer}")
        return self._replicas[signer]

    def require_authentic(self, signed: Signed) -> None:
        """Raises Rejected(UNKNOWN_SENDER | BAD_SIGNATURE) unless the signature is right. A right
        one for another kind or cluster is a bad one here."""
        self._require(self.public_key(signed), self._sign_bytes(signed), signed.signature)

    def require_authentic_once(self, signed: Signed) -> None:
        """The same for replicas' statements, which come again and again in certificates."""
        public, data = self.public_key(signed), self._sign_bytes(signed)
        # Key and signature have fixed lengths, so no two envelopes share a fingerprint.
        fingerprint = hashlib.sha256(public + signed.signature + data).digest()
        if self._good.get(fingerprint) is None:
            self._require(public, data, signed.signature)
            self._good.put(fingerprint, True, _FINGERPRINT_BYTES)

    def _require(self, public: bytes, data: bytes, signature: bytes) -> None:
        if not self._scheme.verify(public, data, signature):
            raise Rejected(Reason.BAD_SIGNATURE)

    def _sign_bytes(self, signed: Signed) -> bytes:
        return sign_bytes(signed.kind, self._cluster_id, signed.payload)
