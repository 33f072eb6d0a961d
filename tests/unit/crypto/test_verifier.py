"""The verifier admits what is right, with both schemes, and remembers it."""

from dataclasses import replace

import pytest

from pbft.codec import encode_batch, encode_peer_item
from pbft.crypto.digest import NULL_DIGEST, batch_digest, request_digest
from pbft.crypto.signing import SignatureScheme
from pbft.crypto.verifier import ReplicaVerifier, Verifier
from pbft.errors import Reason, Rejected
from pbft.messages import (
    Authenticated,
    Batch,
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    Hello,
    Leaf,
    NewView,
    PeerItem,
    Prepare,
    PrePrepare,
    ReadReplies,
    Replies,
    Role,
    Signed,
    SignedMessage,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
    StateRequest,
    Status,
    VerifiedBatch,
    VerifiedCommitted,
    VerifiedLeaves,
    VerifiedProposal,
    VerifiedStable,
    ViewChange,
)
from tests.unit.crypto.cluster import SCHEMES, Cluster, cluster

DIGEST = b"d" * 32
STATUS = Status(0, True, 0, 0, 5, False, False, 0, 0, 0, 0, ())


@pytest.fixture(params=SCHEMES)
def world(request: pytest.FixtureRequest) -> Cluster:
    return cluster(request.param)


class Counting:
    """A scheme that counts how many signatures were checked."""

    def __init__(self, scheme: SignatureScheme) -> None:
        self.key_pair = scheme.key_pair
        self.sign = scheme.sign
        self._verify = scheme.verify
        self.checks = 0

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        self.checks += 1
        return self._verify(public, data, signature)


@pytest.mark.parametrize(
    "message",
    [
        PrePrepare(4, 1, DIGEST),
        Prepare(4, 1, DIGEST),
        Commit(4, 1, DIGEST),
        Checkpoint(64, DIGEST),
        ViewChange(3, 1, 0, 0, (), ()),
        NewView(1, (), ()),
        STATUS,
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_replicas_statement(world: Cluster, message: SignedMessage) -> None:
    signed = world.replicas[1].sign(message)
    verifier = Verifier(world.genesis, world.scheme)
    assert verifier.admit_peer(1, encode_peer_item(signed)) == Authenticated(message, signed)
    if not isinstance(message, Status):
        assert verifier.admit_peer(3, encode_peer_item(signed)) == Authenticated(message, signed)


def test_a_request_however_it_comes(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    signed = world.signed_request()
    admitted = verifier.admit_request(signed)
    assert admitted == Authenticated(world.request(), signed, request_digest(signed.payload))
    assert verifier.admit_peer(2, encode_peer_item(signed)) == admitted


def test_a_request_that_closes_the_session(world: Cluster) -> None:
    signed = world.signed_request(operations=(), close_session=True)
    assert Verifier(world.genesis, world.scheme).admit_request(signed).message.close_session


def test_a_proposal(world: Cluster) -> None:
    batch = world.batch()
    proposal = world.proposal(batch, view=1, sequence=9)
    admitted = Verifier(world.genesis, world.scheme).admit_peer(1, encode_peer_item(proposal))
    assert isinstance(admitted, VerifiedProposal)
    assert admitted.pre_prepare.message == PrePrepare(1, 9, batch_digest(batch))
    assert (admitted.batch.encoded, admitted.batch.time_us) == (batch, 99)
    assert [it.message.number for it in admitted.batch.requests] == [1, 2]
    assert admitted.batch.digest == batch_digest(batch)


def test_bodies(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    batch = world.batch()
    admitted = verifier.admit_peer(3, encode_peer_item(BatchBytes(batch)))
    assert isinstance(admitted, VerifiedBatch)
    assert admitted == verifier.verified_batch(batch)
    without_items = verifier.verified_batch(encode_batch(Batch(5, ())))
    assert (without_items.time_us, without_items.requests) == (5, ())


def test_a_body_from_the_own_log_is_only_decoded(world: Cluster) -> None:
    scheme = Counting(world.scheme)
    verifier = Verifier(world.genesis, scheme)
    batch = world.batch()
    restored = verifier.restored_batch(batch)
    assert scheme.checks == 0
    assert restored == verifier.verified_batch(batch)
    assert scheme.checks == 2


def test_a_body_from_the_own_log_that_is_none(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    vote = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    for bad, reason in ((b"\xff", Reason.MALFORMED), (world.batch(vote), Reason.WRONG_DOMAIN)):
        with pytest.raises(Rejected) as caught:
            verifier.restored_batch(bad)
        assert caught.value.reason is reason


def test_duplicates_inside_a_batch_are_fine(world: Cluster) -> None:
    batch = world.batch(world.signed_request(1), world.signed_request(1))
    assert len(Verifier(world.genesis, world.scheme).verified_batch(batch).requests) == 2


def test_commit_certificates(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    batch = world.batch()
    admitted = verifier.admit_peer(2, encode_peer_item(world.committed(batch)))
    assert isinstance(admitted, VerifiedCommitted)
    assert [commit.signer for commit in admitted.commits] == [0, 1, 2]
    assert admitted.batch is not None
    assert admitted.batch.encoded == batch
    null = CommittedBatch(world.commits(NULL_DIGEST), b"")
    admitted = verifier.admit_peer(2, encode_peer_item(null))
    assert isinstance(admitted, VerifiedCommitted)
    assert admitted.batch is None


def test_stable_certificates_and_leaves(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    stable = verifier.admit_peer(2, encode_peer_item(world.stable()))
    assert isinstance(stable, VerifiedStable)
    assert [it.message for it in stable.checkpoints] == [Checkpoint(64, b"s" * 32)] * 3
    leaves = (Leaf(1, 2, b"s" * 512),) + (Leaf(0, 0, b""),) * 4095
    item = StateLeaves(world.stable(), leaves)
    admitted = verifier.admit_peer(2, encode_peer_item(item))
    assert admitted == VerifiedLeaves(stable.checkpoints, leaves)


@pytest.mark.parametrize(
    "item",
    [
        StateRequest(1, 2, b"\xff" * 512, b"cursor"),
        StateChunk(64, (StateRecord(2, b"k", 1, b"v"),), b""),
    ],
)
def test_items_that_nobody_signs(world: Cluster, item: PeerItem) -> None:
    assert Verifier(world.genesis, world.scheme).admit_peer(2, encode_peer_item(item)) == item


def test_hellos(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    nonce, client, replica = b"n" * 32, world.clients[0], world.replicas[3]
    hello = client.sign(Hello(Role.CLIENT, client.client, nonce))
    assert verifier.admit_hello(hello, nonce, Role.CLIENT) == client.client
    key = world.genesis.replicas[3]
    hello = replica.sign(Hello(Role.REPLICA, key, nonce))
    assert verifier.admit_hello(hello, nonce, Role.REPLICA) == key


def test_nested_envelopes(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    signed = world.replicas[2].sign(Prepare(1, 2, DIGEST))
    assert verifier.is_authentic(signed)
    assert verifier.decode(signed) == Prepare(1, 2, DIGEST)
    assert not verifier.is_authentic(world.signed_request())


def test_nothing_is_verified_twice(world: Cluster) -> None:
    scheme = Counting(world.scheme)
    verifier = Verifier(world.genesis, scheme)
    batch = world.batch()
    items = [
        encode_peer_item(item)
        for item in (
            world.signed_request(1),
            world.proposal(batch),
            *world.commits(batch_digest(batch)),
            world.committed(batch),
            world.stable(),
        )
    ]
    for item in items:
        verifier.admit_peer(0, item)
    # Two requests, a pre-prepare, three commits, three checkpoints.
    assert scheme.checks == 9
    for item in items:
        verifier.admit_peer(0, item)
    assert all(verifier.is_authentic(commit) for commit in world.commits(batch_digest(batch)))
    assert verifier.admit_request(world.signed_request(2, client=1)).message.number == 2
    assert scheme.checks == 9


def test_what_was_wrong_is_checked_and_refused_again(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    good = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    forged = world.replicas[2].sign(Prepare(1, 2, DIGEST))
    forged = type(good)(good.kind, good.signer, good.payload, forged.signature)
    assert verifier.is_authentic(good)
    for _ in range(2):
        assert not verifier.is_authentic(forged)
        with pytest.raises(Rejected) as caught:
            verifier.admit_peer(1, encode_peer_item(forged))
        assert caught.value.reason is Reason.BAD_SIGNATURE


def test_a_good_request_in_the_name_of_another_is_refused_whatever_is_remembered(
    world: Cluster,
) -> None:
    """Else those that saw the request before would accept a batch that the others condemn."""
    verifier = Verifier(world.genesis, world.scheme)
    good = world.signed_request(client=0)
    bad = replace(good, signer=world.clients[1].client)
    for _ in range(2):
        with pytest.raises(Rejected) as caught:
            verifier.admit_request(bad)
        assert caught.value.reason is Reason.SENDER_MISMATCH
        verifier.admit_request(good)


def test_a_good_signature_under_other_bytes_is_refused_whatever_is_remembered(
    world: Cluster,
) -> None:
    """Else those that saw the request before would accept a batch that the others condemn."""
    verifier = Verifier(world.genesis, world.scheme)
    good = world.signed_request()
    bad = replace(good, payload=world.signed_request(operations=(b"another",)).payload)
    verifier.admit_request(good)
    with pytest.raises(Rejected) as caught:
        verifier.admit_request(bad)
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_what_is_as_large_as_it_may_be_is_admitted(world: Cluster) -> None:
    limits, verifier = world.genesis.limits, Verifier(world.genesis, world.scheme)

    def sized(number: int, *sizes: int) -> Signed:
        return world.signed_request(number, operations=tuple(b"x" * size for size in sizes))

    requests = (sized(1, 64, 64, 64, last) for last in range(64))
    largest = next(it for it in requests if len(it.payload) == limits.request_bytes)
    assert len(verifier.admit_request(largest).message.operations) == limits.operations_per_request
    others = [sized(number, 64, 64, 15) for number in range(1, limits.batch_requests)]
    batches = (world.batch(*others, sized(5, 64, 64, last)) for last in range(64))
    batch = next(it for it in batches if len(it) == limits.batch_bytes)
    assert len(verifier.verified_batch(batch).requests) == limits.batch_requests


def test_relevance_is_asked_before_any_signature(world: Cluster) -> None:
    scheme = Counting(world.scheme)
    asked: list[tuple[int, object]] = []

    def irrelevant(sender: int, message: object) -> Reason:
        asked.append((sender, message))
        return Reason.UNWANTED

    verifier = Verifier(world.genesis, scheme)
    verifier.relevance = irrelevant
    batch = world.batch()
    vote = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    leaves = StateLeaves(world.stable(), (Leaf(0, 0, b""),) * 4096)
    cases: list[tuple[PeerItem, int, object]] = [
        (vote, 1, Prepare(1, 2, DIGEST)),
        (world.signed_request(), 3, world.request()),
        *(
            (item, 3, item)
            for item in (
                world.proposal(batch),
                BatchBytes(batch),
                world.committed(batch),
                world.stable(),
                StateRequest(1, 2),
            )
        ),
        # Refused before they are decoded.
        (leaves, 3, StateLeaves(StableCertificate(()), ())),
        (StateChunk(64, (), b""), 3, StateChunk(0, (), b"", 0)),
    ]
    for item, sender, message in cases:
        with pytest.raises(Rejected) as caught:
            verifier.admit_peer(3, encode_peer_item(item))
        assert caught.value.reason is Reason.UNWANTED
        assert asked.pop() == (sender, message)
    assert scheme.checks == 0


def test_the_shape_of_a_certificate_is_judged_before_any_signature(world: Cluster) -> None:
    scheme = Counting(world.scheme)
    verifier = Verifier(world.genesis, scheme)
    first, second, third = world.stable().checkpoints
    for checkpoints in (
        (first, second, second),
        (first, second, replace(third, signer=4)),
        (first, second, world.replicas[2].sign(Checkpoint(128, b"s" * 32))),
    ):
        with pytest.raises(Rejected) as caught:
            verifier.admit_peer(3, encode_peer_item(StableCertificate(checkpoints)))
        assert caught.value.reason is Reason.BAD_CERTIFICATE
        assert scheme.checks == 0


def test_relevance_is_asked_also_for_a_remembered_request(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    verifier.admit_request(world.signed_request())
    verifier.relevance = lambda sender, message: Reason.SETTLED
    with pytest.raises(Rejected) as caught:
        verifier.admit_peer(3, encode_peer_item(world.signed_request()))
    assert caught.value.reason is Reason.SETTLED
    assert verifier.admit_request(world.signed_request()).message == world.request()


@pytest.mark.parametrize("kind", [Replies, ReadReplies])
def test_what_a_client_verifies(world: Cluster, kind: type[Replies] | type[ReadReplies]) -> None:
    verifier = ReplicaVerifier(world.genesis, world.scheme)
    replies = kind(world.clients[0].client, 0, ())
    signed = world.replicas[2].sign(replies)
    assert verifier.verify(signed) == replies
    assert verifier.is_authentic(signed)


def test_what_a_client_refuses(world: Cluster) -> None:
    verifier = ReplicaVerifier(world.genesis, world.scheme)
    signed = world.replicas[2].sign(Replies(world.clients[0].client, 0, ()))
    signed_as = type(signed)
    cases = [
        (world.replicas[1].sign(Prepare(1, 2, DIGEST)), Reason.WRONG_DOMAIN),
        (signed_as(signed.kind, 1, signed.payload, signed.signature), Reason.BAD_SIGNATURE),
        (signed_as(signed.kind, 9, signed.payload, signed.signature), Reason.UNKNOWN_SENDER),
        (signed_as(signed.kind, 2, b"\xff", signed.signature), Reason.MALFORMED),
    ]
    for bad, reason in cases:
        with pytest.raises(Rejected) as caught:
            verifier.verify(bad)
        assert caught.value.reason is reason
    assert not verifier.is_authentic(cases[1][0])
    assert not verifier.is_authentic(world.signed_request())
