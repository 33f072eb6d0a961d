"""Signatures over the travelled bytes, with the domain in front (protocol.md section 3).

There are two schemes: Ed25519, and a fake one of keyed hashes for the simulator, where real
signatures would be nearly all of the time. Everything else is the same for both.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from nacl import bindings
from nacl.exceptions import BadSignatureError

from pbft.codec import encode_message, kind_of
from pbft.crypto.keys import KeyPair, key_pair_from_seed
from pbft.messages import Hello, Kind, Request, Signed, SignedMessage
from pbft.types import KEY_BYTES, SIGNATURE_BYTES, Digest, ReplicaId

_PREFIX = b"pbft/1"
_PREFIXES = {kind: _PREFIX + kind.to_bytes(2, "big") for kind in Kind}


def sign_bytes(kind: Kind, cluster_id: Digest, payload: bytes) -> bytes:
    """The bytes a signature is over: "pbft/1" || kind (2 bytes, big endian) || cluster id ||
    payload.

    Everything before the payload has a fixed length, so no two statements share these bytes.
    """
    return _PREFIXES[kind] + cluster_id + payload


class SignatureScheme(Protocol):
    """How key pairs are derived, signatures made and checked. All three are deterministic."""

    def key_pair(self, seed: bytes) -> KeyPair:
        """The key pair of a 32-byte seed."""
        ...

    def sign(self, key_pair: KeyPair, data: bytes) -> bytes:
        """A 64-byte signature."""
        ...

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        """Whether `signature` (any bytes) is one over `data` by the owner of `public` (any
        bytes)."""
        ...


class Ed25519Scheme:
    """Ed25519 by libsodium, one signature at a time: verifiers differ on malleable and small-order
    cases, so no other one, and no batch verification, may ever decide beside it."""

    def key_pair(self, seed: bytes) -> KeyPair:
        """The Ed25519 key pair of a 32-byte seed."""
        return key_pair_from_seed(seed)

    def sign(self, key_pair: KeyPair, data: bytes) -> bytes:
        """A 64-byte Ed25519 signature; the same data gives the same signature."""
        signed: bytes = bindings.crypto_sign(data, key_pair.seed + key_pair.public)
        return signed[:SIGNATURE_BYTES]

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        """Libsodium's verdict; False for a key or a signature of the wrong length."""
        if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            return False
        try:
            bindings.crypto_sign_open(signature + data, public)
        except BadSignatureError:
            return False
        return True


class FakeScheme:
    """For the simulator only: BLAKE2b keyed with the public key. Anybody could forge it; a
    simulated adversary is trusted not to."""

    def key_pair(self, seed: bytes) -> KeyPair:
        """A key pair whose public key is a hash of the seed."""
        return KeyPair(seed, hashlib.blake2b(seed, digest_size=KEY_BYTES).digest())

    def sign(self, key_pair: KeyPair, data: bytes) -> bytes:
        """A 64-byte keyed hash."""
        return self._signature(key_pair.public, data)

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        """Whether it is the keyed hash of the data; False for a key of the wrong length."""
        return len(public) == KEY_BYTES and self._signature(public, data) == signature

    @staticmethod
    def _signature(public: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=public, digest_size=SIGNATURE_BYTES).digest()


ED25519: SignatureScheme = Ed25519Scheme()
FAKE: SignatureScheme = FakeScheme()


@dataclass(frozen=True, slots=True)
class ReplicaSigner:
    """Signs as replica i (the Signer port of the core)."""

    replica: ReplicaId
    key_pair: KeyPair
    cluster_id: Digest
    scheme: SignatureScheme = ED25519

    def sign(self, message: SignedMessage) -> Signed:
        """Encodes and signs; deterministic (the same message gives the same bytes)."""
        if isinstance(message, Request):
            # Only to rejoin: a request is signed by a key, here the replica's own.
            return _sign(self, message, self.key_pair.public)
        return _sign(self, message, self.replica)


@dataclass(frozen=True, slots=True)
class ClientSigner:
    """Signs as a client, which is its public key."""

    key_pair: KeyPair
    cluster_id: Digest
    scheme: SignatureScheme = ED25519

    @property
    def client(self) -> bytes:
        """The 32-byte public key."""
        return self.key_pair.public

    def sign(self, message: Request | Hello) -> Signed:
        """Encodes and signs; deterministic (the same message gives the same bytes)."""
        return _sign(self, message, self.key_pair.public)


def _sign(
    owner: ReplicaSigner | ClientSigner, message: SignedMessage, signer: ReplicaId | bytes
) -> Signed:
    kind, payload = kind_of(message), encode_message(message)
    data = sign_bytes(kind, owner.cluster_id, payload)
    return Signed(kind, signer, payload, owner.scheme.sign(owner.key_pair, data))
