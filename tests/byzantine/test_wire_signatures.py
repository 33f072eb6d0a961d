"""Odd Ed25519 signatures, in the style of ed25519-speccheck (Chalkias et al., "Taming the many
EdDSAs"): implementations differ on these, so ours must give one verdict, and none of them may give
a request a second identity (adversary.md C7)."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pbft.codec import encode_message
from pbft.crypto.digest import request_digest
from pbft.crypto.signing import ED25519, sign_bytes
from pbft.crypto.verifier import Verifier
from pbft.errors import Reason, Rejected
from pbft.messages import Kind, Prepare, Request, Signed
from tests.unit.crypto import edwards
from tests.unit.crypto.cluster import Cluster, cluster

IDENTITY = edwards.encode(edwards.IDENTITY)
IDENTITY_NOT_REDUCED = (edwards.P + 1).to_bytes(32, "little")
"""y = p + 1: the identity again, in bytes that are not canonical."""
IDENTITY_WITH_SIGN = bytes([1] + [0] * 30 + [0x80])
"""x = 0 with the sign bit set."""
TORSION = edwards.encode(edwards.TORSION)


@pytest.fixture(scope="module")
def world() -> Cluster:
    return cluster("ed25519", open_admission=True)


class Forge:
    """Makes requests for any public key, and any (R, S) under them."""

    def __init__(self, world: Cluster) -> None:
        self.world = world
        honest = world.clients[0]
        self.key = honest.client
        self.secret = edwards.secret_scalar(honest.key_pair.seed)
        self.nonce = 0x1234567890ABCDEF

    def data(self, client: bytes, expires_at_us: int = 0) -> tuple[Request, bytes]:
        """A request of this client and the bytes to sign."""
        request = replace(self.world.request(), client=client, expires_at_us=expires_at_us)
        cluster_id = self.world.genesis.cluster_id
        return request, sign_bytes(Kind.REQUEST, cluster_id, encode_message(request))

    def signed(self, request: Request, commitment: bytes, scalar: int) -> Signed:
        """The envelope with R = commitment and S = scalar."""
        signature = commitment + edwards.scalar_bytes(scalar)
        return Signed(Kind.REQUEST, request.client, encode_message(request), signature)

    def with_scalar(self, client: bytes, commitment: bytes, nonce: int, secret: int) -> Signed:
        """S = r + h a, as an honest signer would compute it for these R and A."""
        request, data = self.data(client)
        scalar = nonce + edwards.challenge(commitment, client, data) * secret
        return self.signed(request, commitment, scalar % edwards.ORDER)

    def mixed_key(self, divisible: bool) -> Signed:
        """A key with a torsion part; the equation without cofactor holds only if 8 divides h."""
        client = edwards.encode(
            edwards.add(edwards.multiply(self.secret, edwards.BASE), edwards.TORSION)
        )
        commitment = edwards.encode(edwards.multiply(self.nonce, edwards.BASE))
        for expires_at_us in range(10_000):
            request, data = self.data(client, expires_at_us)
            hashed = edwards.challenge(commitment, client, data)
            # libsodium reduces h modulo the order before it multiplies.
            if (hashed % edwards.ORDER % 8 == 0) is divisible:
                scalar = (self.nonce + hashed * self.secret) % edwards.ORDER
                return self.signed(request, commitment, scalar)
        raise AssertionError("one request in eight has a hash that 8 divides")

    def small_order_key(self, client: bytes, point: edwards.Point) -> Signed:
        """S = 0 and R = -h A: holds for A of small order without any secret."""
        for expires_at_us in range(10_000):
            request, data = self.data(client, expires_at_us)
            for multiple in range(8):
                commitment = edwards.encode(edwards.multiply(8 - multiple, point))
                hashed = edwards.challenge(commitment, client, data) % edwards.ORDER
                if hashed % 8 == multiple:
                    return self.signed(request, commitment, 0)
        raise AssertionError("one attempt in eight fits")


def vectors(world: Cluster) -> Iterator[tuple[str, bool, Signed]]:
    """(name, whether libsodium accepts it, the request)."""
    forge = Forge(world)
    honest = world.signed_request()
    scalar = int.from_bytes(honest.signature[32:], "little")
    commitment = honest.signature[:32]
    yield "honest", True, honest
    for times in (1, 2, 7):
        shifted = forge.signed(world.request(), commitment, scalar + times * edwards.ORDER)
        yield f"S + {times} L", False, shifted
    yield "S with its top bits set", False, forge.signed(world.request(), commitment, 2**256 - 1)

    for name, commitment in (
        ("the identity", IDENTITY),
        ("the identity not reduced", IDENTITY_NOT_REDUCED),
        ("the identity with a sign", IDENTITY_WITH_SIGN),
        ("a torsion point", TORSION),
    ):
        yield f"R is {name}", False, forge.with_scalar(forge.key, commitment, 0, forge.secret)
    mixed = edwards.add(edwards.multiply(forge.nonce, edwards.BASE), edwards.TORSION)
    commitment = edwards.encode(mixed)
    with_torsion = forge.with_scalar(forge.key, commitment, forge.nonce, forge.secret)
    yield "R has a torsion part", False, with_torsion

    for name, key in (
        ("the identity", IDENTITY),
        ("the identity not reduced", IDENTITY_NOT_REDUCED),
        ("the identity with a sign", IDENTITY_WITH_SIGN),
    ):
        yield f"A is {name}", False, forge.small_order_key(key, edwards.IDENTITY)
    yield "A is a torsion point", False, forge.small_order_key(TORSION, edwards.TORSION)
    yield "A has a torsion part, h fits", True, forge.mixed_key(divisible=True)
    yield "A has a torsion part, h does not fit", False, forge.mixed_key(divisible=False)
    yield "A is no point", False, forge.with_scalar(b"\x02" + bytes(31), IDENTITY, 0, 0)


NAMES = [name for name, _, _ in vectors(cluster("ed25519", open_admission=True))]


def test_there_are_vectors() -> None:
    assert len(set(NAMES)) >= 16


@pytest.mark.parametrize("name", NAMES)
def test_one_verdict_and_no_second_identity(world: Cluster, name: str) -> None:
    accepted, signed = next((yes, it) for called, yes, it in vectors(world) if called == name)
    for verifier in [Verifier(world.genesis)] * 2 + [Verifier(world.genesis)]:
        if accepted:
            admitted = verifier.admit_request(signed)
            assert admitted.digest == request_digest(signed.payload)
            assert encode_message(admitted.message) == signed.payload
        else:
            with pytest.raises(Rejected) as caught:
                verifier.admit_request(signed)
            assert caught.value.reason is Reason.BAD_SIGNATURE


def test_the_vectors_test_what_they_say(world: Cluster) -> None:
    """The curve in the tests is the curve: its honest computation is accepted by libsodium."""
    forge = Forge(world)
    assert edwards.encode(edwards.multiply(forge.secret, edwards.BASE)) == forge.key
    commitment = edwards.encode(edwards.multiply(forge.nonce, edwards.BASE))
    signed = forge.with_scalar(forge.key, commitment, forge.nonce, forge.secret)
    assert Verifier(world.genesis).admit_request(signed).message == world.request()
    assert edwards.multiply(8, edwards.TORSION) == edwards.IDENTITY
    assert edwards.multiply(edwards.ORDER, edwards.BASE) == edwards.IDENTITY


def test_two_valid_signatures_are_one_request(world: Cluster) -> None:
    """A signer may sign twice with other nonces: both are valid, and it is the same request."""
    forge = Forge(world)
    commitment = edwards.encode(edwards.multiply(forge.nonce, edwards.BASE))
    second = forge.with_scalar(forge.key, commitment, forge.nonce, forge.secret)
    first = world.signed_request()
    assert first.signature != second.signature
    verifier = Verifier(world.genesis)
    ours, theirs = verifier.admit_request(first), verifier.admit_request(second)
    assert (ours.message, ours.digest) == (theirs.message, theirs.digest)


def test_a_good_signature_remembered_does_not_vouch_for_a_shifted_one(world: Cluster) -> None:
    verifier = Verifier(world.genesis)
    vote = world.replicas[1].sign(Prepare(1, 2, b"d" * 32))
    assert verifier.is_authentic(vote)
    scalar = int.from_bytes(vote.signature[32:], "little") + edwards.ORDER
    shifted = replace(vote, signature=vote.signature[:32] + edwards.scalar_bytes(scalar))
    assert not verifier.is_authentic(shifted)
    assert not ED25519.verify(
        world.genesis.replicas[1],
        sign_bytes(vote.kind, world.genesis.cluster_id, vote.payload),
        shifted.signature,
    )
