"""Crimes on the wire, each with the reason under which it is refused (adversary.md section 2)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pbft.codec import encode_batch, encode_peer_item, encode_signed
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.crypto.verifier import Verifier
from pbft.errors import Reason, Rejected
from pbft.messages import (
    REJOIN_OPERATION,
    Batch,
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    Hello,
    Kind,
    Leaf,
    PeerItem,
    Prepare,
    PrePrepare,
    Proposal,
    ReadReplies,
    Recall,
    Recalled,
    Replies,
    Role,
    Signed,
    StableCertificate,
    StateLeaves,
    StateRequest,
    Status,
    ViewChange,
)
from tests.unit.crypto.cluster import SCHEMES, Cluster, cluster

DIGEST = b"d" * 32
NONCE = b"n" * 32
STATUS = Status(0, True, 0, 0, 5, False, False, 0, 0, 0, 0, ())


@pytest.fixture(params=SCHEMES)
def world(request: pytest.FixtureRequest) -> Cluster:
    return cluster(request.param)


def refused(step: Callable[[], object]) -> Reason:
    with pytest.raises(Rejected) as caught:
        step()
    return caught.value.reason


def peer(world: Cluster, item: PeerItem, sender: int = 3) -> Reason:
    """Why a peer's item is refused."""
    verifier = Verifier(world.genesis, world.scheme)
    return refused(lambda: verifier.admit_peer(sender, encode_peer_item(item)))


def client(world: Cluster, signed: Signed) -> Reason:
    """Why a request is refused, the same whether it comes from its client, a peer or in a batch."""
    reason = refused(lambda: Verifier(world.genesis, world.scheme).admit_request(signed))
    assert peer(world, signed) is reason
    for position in range(3):
        items = [world.signed_request(1), world.signed_request(2)]
        items.insert(position, signed)
        batch = encode_batch(Batch(9, tuple(map(encode_signed, items))))
        assert peer(world, world.proposal(batch)) in (Reason.BAD_BODY, Reason.OVERSIZE)
    return reason


# Envelopes.


def test_a_signature_for_another_kind(world: Cluster) -> None:
    prepare = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    assert peer(world, replace(prepare, kind=Kind.COMMIT)) is Reason.BAD_SIGNATURE


def test_a_signature_for_another_cluster(world: Cluster) -> None:
    elsewhere = cluster("ed25519" if world is cluster("ed25519") else "fake", b"o" * 32)
    assert elsewhere.genesis.replicas == world.genesis.replicas
    assert peer(world, elsewhere.replicas[1].sign(Prepare(1, 2, DIGEST))) is Reason.BAD_SIGNATURE
    assert client(world, elsewhere.signed_request()) is Reason.BAD_SIGNATURE


def test_a_signature_of_another_replica(world: Cluster) -> None:
    prepare = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    assert peer(world, replace(prepare, signer=2)) is Reason.BAD_SIGNATURE


def test_a_changed_payload(world: Cluster) -> None:
    prepare = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    other = world.replicas[1].sign(Prepare(1, 3, DIGEST))
    assert peer(world, replace(prepare, payload=other.payload)) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("message", [Prepare(1, 2, DIGEST), STATUS, PrePrepare(1, 2, DIGEST)])
def test_a_replica_that_the_genesis_lacks(world: Cluster, message: Prepare | Status) -> None:
    signed = replace(world.replicas[1].sign(message), signer=4)
    assert peer(world, signed) is Reason.UNKNOWN_SENDER
    if signed.kind is Kind.PRE_PREPARE:
        assert peer(world, Proposal(signed, world.batch())) is Reason.UNKNOWN_SENDER


def test_a_client_that_signs_as_a_replica_and_the_other_way_round(world: Cluster) -> None:
    as_client = world.clients[0]
    forged = replace(world.replicas[0], key_pair=as_client.key_pair)
    assert peer(world, forged.sign(Prepare(1, 2, DIGEST))) is Reason.BAD_SIGNATURE
    as_replica = replace(as_client, key_pair=world.replicas[0].key_pair)
    request = replace(world.request(), client=world.genesis.replicas[0])
    assert client(world, as_replica.sign(request)) is Reason.CLIENT_UNAUTHORIZED


def test_a_replica_asks_to_rejoin_by_number_one_of_a_session_only(world: Cluster) -> None:
    """The session is the incarnation: each is decided once."""
    key = world.genesis.replicas[0]
    first, second = (
        world.replicas[0].sign(
            replace(world.request(number), client=key, operations=(REJOIN_OPERATION,))
        )
        for number in (1, 2)
    )
    assert Verifier(world.genesis, world.scheme).admit_request(first).message.number == 1
    assert client(world, second) is Reason.CLIENT_UNAUTHORIZED


@pytest.mark.parametrize(
    "message", [STATUS, Recall(1, NONCE), Recalled(3, NONCE, 0, 0, (), None, ())]
)
def test_what_is_never_relayed(world: Cluster, message: Status | Recall | Recalled) -> None:
    """Else an old one, come by way of another, would be taken for new."""
    signed = world.replicas[1].sign(message)
    assert peer(world, signed, sender=2) is Reason.SENDER_MISMATCH


def test_a_recall_in_the_name_of_another(world: Cluster) -> None:
    recall = world.replicas[1].sign(Recall(2, NONCE))
    assert peer(world, recall, sender=1) is Reason.SENDER_MISMATCH


def test_a_view_change_in_the_name_of_another(world: Cluster) -> None:
    view_change = world.replicas[1].sign(ViewChange(3, 2, 0, 0, (), ()))
    assert peer(world, view_change) is Reason.SENDER_MISMATCH
    verifier = Verifier(world.genesis, world.scheme)
    assert refused(lambda: verifier.decode(view_change)) is Reason.SENDER_MISMATCH


def test_statements_that_have_no_place_between_replicas(world: Cluster) -> None:
    key = world.clients[0].client
    for message in (
        Replies(key, 0, ()),
        ReadReplies(key, 0, ()),
        Hello(Role.REPLICA, world.genesis.replicas[1], NONCE),
    ):
        assert peer(world, world.replicas[1].sign(message), sender=1) is Reason.WRONG_DOMAIN


# Requests: adversary.md C1, C2, C5, C8.


def test_a_request_with_a_bad_signature(world: Cluster) -> None:
    signed = world.signed_request()
    assert client(world, replace(signed, signature=b"s" * 64)) is Reason.BAD_SIGNATURE


def test_a_request_of_a_client_that_is_not_admitted(world: Cluster) -> None:
    stranger = world.stranger
    signed = stranger.sign(replace(world.request(), client=stranger.client))
    assert client(world, signed) is Reason.CLIENT_UNAUTHORIZED


def test_an_open_cluster_accepts_any_key() -> None:
    world = cluster("ed25519", open_admission=True)
    stranger = world.stranger
    signed = stranger.sign(replace(world.request(), client=stranger.client))
    admitted = Verifier(world.genesis, world.scheme).admit_request(signed)
    assert admitted.message.client == stranger.client


def test_a_request_in_the_name_of_another_client(world: Cluster) -> None:
    request = replace(world.request(), client=world.clients[1].client)
    assert client(world, world.clients[0].sign(request)) is Reason.SENDER_MISMATCH


@pytest.mark.parametrize(
    ("number", "acknowledged"), [(0, 0), (1, 1), (2, 3), (9, 0), (2**64 - 1, 0), (0, 2**64 - 1)]
)
def test_numbers_outside_the_window(world: Cluster, number: int, acknowledged: int) -> None:
    signed = world.signed_request(number, acknowledged=acknowledged)
    assert client(world, signed) is Reason.MALFORMED


@pytest.mark.parametrize(("number", "acknowledged"), [(1, 0), (8, 0), (2**64 - 1, 2**64 - 9)])
def test_numbers_at_the_ends_of_the_window(world: Cluster, number: int, acknowledged: int) -> None:
    signed = world.signed_request(number, acknowledged=acknowledged)
    admitted = Verifier(world.genesis, world.scheme).admit_request(signed)
    assert admitted.message.number == number


def test_other_shapes_that_no_request_has(world: Cluster) -> None:
    assert client(world, world.signed_request(session=0)) is Reason.MALFORMED
    assert client(world, world.signed_request(operations=())) is Reason.MALFORMED
    assert client(world, world.signed_request(close_session=True)) is Reason.MALFORMED


def test_requests_beyond_their_limits(world: Cluster) -> None:
    for operations in ((b"x" * 65,), (b"",) * 5, (b"x" * 64,) * 4):
        assert client(world, world.signed_request(operations=operations)) is Reason.OVERSIZE


def test_an_operation_beyond_its_limit_in_a_request_within(world: Cluster) -> None:
    at_the_limit = world.signed_request(operations=(b"x" * 64,))
    assert Verifier(world.genesis, world.scheme).admit_request(at_the_limit)


def test_sizes_are_judged_before_signatures(world: Cluster) -> None:
    signed = replace(world.signed_request(operations=(b"",) * 5), signature=b"s" * 64)
    assert client(world, signed) is Reason.OVERSIZE
    assert client(world, replace(signed, payload=b"\xff" * 257)) is Reason.OVERSIZE


def test_a_vote_where_a_request_belongs(world: Cluster) -> None:
    vote = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    verifier = Verifier(world.genesis, world.scheme)
    assert refused(lambda: verifier.admit_request(vote)) is Reason.WRONG_DOMAIN
    assert refused(lambda: verifier.verified_batch(world.batch(vote))) is Reason.BAD_BODY


# Proposals and bodies: adversary.md P2, P3, P10.


def test_a_body_that_does_not_hash_to_the_digest(world: Cluster) -> None:
    proposal = world.proposal(world.batch())
    assert peer(world, replace(proposal, batch=world.batch(time_us=98))) is Reason.BAD_BODY
    assert peer(world, replace(proposal, batch=b"")) is Reason.BAD_BODY


def test_a_proposal_whose_pre_prepare_is_forged(world: Cluster) -> None:
    proposal = world.proposal(world.batch())
    forged = replace(proposal.pre_prepare, signature=b"s" * 64)
    assert peer(world, replace(proposal, pre_prepare=forged)) is Reason.BAD_SIGNATURE


def test_a_body_for_the_null_digest(world: Cluster) -> None:
    pre_prepare = world.replicas[0].sign(PrePrepare(0, 1, NULL_DIGEST))
    for batch in (b"", world.batch()):
        assert peer(world, Proposal(pre_prepare, batch)) is Reason.BAD_BODY


@pytest.mark.parametrize("batch", [b"", b"\xff", encode_batch(Batch(5, (b"",)))])
def test_a_body_that_is_no_batch(world: Cluster, batch: bytes) -> None:
    assert peer(world, world.proposal(batch)) is Reason.BAD_BODY
    assert peer(world, BatchBytes(batch)) is Reason.BAD_BODY


def test_a_batch_beyond_its_limits(world: Cluster) -> None:
    many = world.batch(*(world.signed_request(number) for number in range(1, 7)))
    assert len(many) < world.genesis.limits.batch_bytes
    large = world.batch(*(world.signed_request(operations=(b"x" * 60,) * 3) for _ in range(5)))
    assert len(large) > world.genesis.limits.batch_bytes
    for batch in (many, large):
        assert peer(world, world.proposal(batch)) is Reason.OVERSIZE
        assert peer(world, BatchBytes(batch)) is Reason.OVERSIZE
        assert peer(world, world.committed(batch)) is Reason.OVERSIZE


# Certificates: adversary.md Q2, Q4, K5.


def test_commit_certificates_that_do_not_agree(world: Cluster) -> None:
    good = world.committed(world.batch())
    digest = batch_digest(good.batch)
    for other in (Commit(1, 1, digest), Commit(0, 2, digest), Commit(0, 1, DIGEST)):
        commits = (*good.commits[:2], world.replicas[3].sign(other))
        assert peer(world, replace(good, commits=commits)) is Reason.BAD_CERTIFICATE


def test_commit_certificates_with_bad_signers(world: Cluster) -> None:
    good = world.committed(world.batch())
    first, second, third = good.commits
    for commits in (
        (),
        (first, second, first),
        (first, second, replace(third, signer=4)),
        (first, second, replace(third, signer=3)),
        (first, second, replace(third, signature=b"s" * 64)),
    ):
        assert peer(world, replace(good, commits=commits)) is Reason.BAD_CERTIFICATE


def test_commit_certificates_with_another_body(world: Cluster) -> None:
    good = world.committed(world.batch())
    for batch in (b"", world.batch(time_us=98)):
        assert peer(world, replace(good, batch=batch)) is Reason.BAD_CERTIFICATE
    null = CommittedBatch(world.commits(NULL_DIGEST), world.batch())
    assert peer(world, null) is Reason.BAD_CERTIFICATE
    bad = encode_batch(Batch(9, (b"no request",)))
    assert peer(world, world.committed(bad)) is Reason.BAD_BODY


def test_a_commit_certificate_for_no_bytes(world: Cluster) -> None:
    assert peer(world, world.committed(b"")) is Reason.BAD_BODY


def test_a_null_certificate_with_a_forged_signature(world: Cluster) -> None:
    first, second, _ = world.commits(NULL_DIGEST)
    forged = replace(second, signature=b"s" * 64)
    assert peer(world, CommittedBatch((first, forged), b"")) is Reason.BAD_CERTIFICATE


def test_stable_certificates(world: Cluster) -> None:
    first, second, third = world.stable().checkpoints
    other = world.replicas[3].sign(Checkpoint(128, b"s" * 32))
    for checkpoints in (
        (),
        (first, second, second),
        (first, second, other),
        (first, second, replace(third, signer=4)),
        (first, second, replace(third, signature=b"s" * 64)),
    ):
        certificate = StableCertificate(checkpoints)
        assert peer(world, certificate) is Reason.BAD_CERTIFICATE
        leaves = StateLeaves(certificate, (Leaf(0, 0, b""),) * 4096)
        assert peer(world, leaves) is Reason.BAD_CERTIFICATE


@pytest.mark.parametrize("count", [0, 4095, 4097])
def test_another_number_of_leaves(world: Cluster, count: int) -> None:
    leaves = StateLeaves(world.stable(), (Leaf(0, 0, b""),) * count)
    assert peer(world, leaves) is Reason.BAD_SNAPSHOT


def test_a_state_request_with_an_endless_bitmap(world: Cluster) -> None:
    assert peer(world, StateRequest(1, 2, b"\xff" * 513)) is Reason.OVERSIZE


def test_nested_envelopes_that_are_not_authentic(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    good = world.replicas[1].sign(Prepare(1, 2, DIGEST))
    assert verifier.is_authentic(good)
    assert not verifier.is_authentic(replace(good, signer=2))
    assert not verifier.is_authentic(replace(good, signer=4))
    assert not verifier.is_authentic(replace(good, signer=-1))
    assert not verifier.is_authentic(replace(good, kind=Kind.COMMIT))


# Hellos.


def test_hellos(world: Cluster) -> None:
    verifier = Verifier(world.genesis, world.scheme)
    mine, other = world.clients
    good = mine.sign(Hello(Role.CLIENT, mine.client, NONCE))
    key = world.genesis.replicas[1]
    stranger = world.stranger
    cases = [
        (replace(good, signature=b"s" * 64), Role.CLIENT, Reason.BAD_SIGNATURE),
        (good, Role.REPLICA, Reason.WRONG_DOMAIN),
        (mine.sign(Hello(Role.REPLICA, mine.client, NONCE)), Role.REPLICA, Reason.WRONG_DOMAIN),
        (mine.sign(Hello(Role.REPLICA, mine.client, NONCE)), Role.CLIENT, Reason.WRONG_DOMAIN),
        (
            world.replicas[1].sign(Hello(Role.CLIENT, key, NONCE)),
            Role.REPLICA,
            Reason.WRONG_DOMAIN,
        ),
        (
            world.replicas[1].sign(Hello(Role.CLIENT, key, NONCE)),
            Role.CLIENT,
            Reason.WRONG_DOMAIN,
        ),
        (
            mine.sign(Hello(Role.CLIENT, mine.client, b"o" * 32)),
            Role.CLIENT,
            Reason.WRONG_DOMAIN,
        ),
        (
            mine.sign(Hello(Role.CLIENT, other.client, NONCE)),
            Role.CLIENT,
            Reason.SENDER_MISMATCH,
        ),
        (
            world.replicas[2].sign(Hello(Role.REPLICA, key, NONCE)),
            Role.REPLICA,
            Reason.SENDER_MISMATCH,
        ),
        (
            replace(world.replicas[1].sign(Hello(Role.REPLICA, key, NONCE)), signer=4),
            Role.REPLICA,
            Reason.UNKNOWN_SENDER,
        ),
        (
            stranger.sign(Hello(Role.CLIENT, stranger.client, NONCE)),
            Role.CLIENT,
            Reason.CLIENT_UNAUTHORIZED,
        ),
        (world.signed_request(), Role.CLIENT, Reason.WRONG_DOMAIN),
        (replace(good, payload=b"\xff"), Role.CLIENT, Reason.MALFORMED),
    ]
    for hello, role, reason in cases:
        assert refused(lambda it=hello, r=role: verifier.admit_hello(it, NONCE, r)) is reason
