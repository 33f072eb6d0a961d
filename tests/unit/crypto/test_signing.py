"""Signatures: what they cover, that they are deterministic, and both schemes alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.codec import decode_message
from pbft.crypto.signing import ED25519, ClientSigner, ReplicaSigner, sign_bytes
from pbft.messages import Commit, Hello, Kind, Prepare, Role
from tests.unit.crypto.cluster import SCHEMES, cluster

VOTE = Prepare(3, 4, b"d" * 32)


def test_the_signed_bytes() -> None:
    assert sign_bytes(Kind.PREPARE, b"c" * 32, b"rest") == b"pbft/1\x00\x11" + b"c" * 32 + b"rest"


@given(
    *(st.tuples(st.sampled_from(Kind), st.sampled_from([b"a" * 32, b"b" * 32]), st.binary()),) * 2
)
def test_no_two_statements_share_their_bytes(
    first: tuple[Kind, bytes, bytes], second: tuple[Kind, bytes, bytes]
) -> None:
    assert (sign_bytes(*first) == sign_bytes(*second)) is (first == second)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_signers(scheme: str) -> None:
    replica, client = cluster(scheme).replicas[2], cluster(scheme).clients[0]
    signed = replica.sign(VOTE)
    assert (signed.kind, signed.signer) == (Kind.PREPARE, 2)
    assert decode_message(signed.kind, signed.payload) == VOTE
    assert len(signed.signature) == 64
    assert replica.sign(VOTE) == signed
    hello = Hello(Role.CLIENT, client.client, b"n" * 32)
    assert client.sign(hello).signer == client.key_pair.public


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_signature_is_worth_something_for_its_own_bytes_only(scheme: str) -> None:
    it = SCHEMES[scheme]
    owner, other = it.key_pair(b"1" * 32), it.key_pair(b"2" * 32)
    signature = it.sign(owner, b"data")
    assert it.verify(owner.public, b"data", signature)
    assert not it.verify(owner.public, b"date", signature)
    assert not it.verify(owner.public, b"data" + b"\x00", signature)
    assert not it.verify(other.public, b"data", signature)
    for bit in range(0, 512, 37):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not it.verify(owner.public, b"data", bytes(flipped))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_verify_takes_any_bytes(scheme: str) -> None:
    it = SCHEMES[scheme]
    owner = it.key_pair(b"1" * 32)
    signature = it.sign(owner, b"")
    assert it.verify(owner.public, b"", signature)
    for length in (0, 1, 63, 65, 128):
        assert not it.verify(owner.public, b"", (signature * 2)[:length])
    for length in (0, 1, 31, 33, 64):
        assert not it.verify((owner.public * 2)[:length], b"", signature)


def test_a_known_signature() -> None:
    # RFC 8032, section 7.1, test 2.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signature = ED25519.sign(ED25519.key_pair(seed), b"\x72")
    assert signature.hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223eb")


def test_the_cluster_is_part_of_the_signature() -> None:
    pair = ED25519.key_pair(b"1" * 32)
    here, there = (ReplicaSigner(0, pair, cluster_id * 32) for cluster_id in (b"a", b"b"))
    assert here.sign(VOTE).payload == there.sign(VOTE).payload
    assert here.sign(VOTE).signature != there.sign(VOTE).signature
    assert here.sign(VOTE).signature != here.sign(Commit(3, 4, b"d" * 32)).signature
    assert ClientSigner(pair, b"a" * 32).client == pair.public
