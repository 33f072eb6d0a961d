"""A cluster's keys without a cluster: what replicas would sign, for tests of the sans-IO parts."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from pbft.codec import decode_client_item, decode_message
from pbft.crypto.digest import query_digest, request_digest, results_digest
from pbft.crypto.keys import KeyPair
from pbft.crypto.signing import ED25519, FAKE, ClientSigner, ReplicaSigner, SignatureScheme
from pbft.crypto.verifier import ReplicaVerifier
from pbft.genesis import Genesis
from pbft.messages import (
    Outcome,
    ReadReplies,
    ReadReply,
    ReadRequest,
    Replies,
    Reply,
    Request,
    Signed,
    Submit,
)
from pbft.types import Instant
from pbft_client.envelope import EnvelopeOpener, ReadEnvelope, ReplyEnvelope

CLIENT_SEED = b"c" * 32
OTHER_CLIENT_SEED = b"o" * 32


def seed_of(replica: int) -> bytes:
    return hashlib.sha256(b"replica %d" % replica).digest()


def at(seconds: float, wall_us: int = 1_000_000) -> Instant:
    return Instant(int(seconds * 1_000_000), wall_us)


class World:
    """Genesis, signers and an opener of n replicas; builds envelopes as replicas would send
    them."""

    def __init__(self, replicas: int = 4, scheme: SignatureScheme = FAKE) -> None:
        self.keys = [scheme.key_pair(seed_of(replica)) for replica in range(replicas)]
        self.client_keys = scheme.key_pair(CLIENT_SEED)
        self.genesis = Genesis.create(
            nonce=b"n" * 32,
            replicas=tuple(pair.public for pair in self.keys),
            clients=frozenset([self.client_keys.public]),
        )
        self.scheme = scheme
        self.client = self.client_keys.public
        self.signer = ClientSigner(self.client_keys, self.genesis.cluster_id, scheme)
        verifier = ReplicaVerifier(self.genesis, scheme)
        self.opener = EnvelopeOpener(self.client, verifier.is_authentic)

    def replica_signer(self, replica: int, keys: KeyPair | None = None) -> ReplicaSigner:
        return ReplicaSigner(
            replica, keys or self.keys[replica], self.genesis.cluster_id, self.scheme
        )

    def replies(self, replica: int, replies: Iterable[Reply], view: int = 0) -> ReplyEnvelope:
        message = Replies(self.client, view, tuple(replies))
        envelope = self.opener.open(replica, self.replica_signer(replica).sign(message))
        assert isinstance(envelope, ReplyEnvelope)
        return envelope

    def forged(self, replica: int, replies: Iterable[Reply], view: int = 0) -> ReplyEnvelope:
        """An envelope that says it is of `replica` but is signed with another replica's key."""
        message = Replies(self.client, view, tuple(replies))
        other = self.keys[(replica + 1) % len(self.keys)]
        envelope = self.opener.open(replica, self.replica_signer(replica, other).sign(message))
        assert isinstance(envelope, ReplyEnvelope)
        return envelope

    def reads(self, replica: int, replies: Iterable[ReadReply], view: int = 0) -> ReadEnvelope:
        message = ReadReplies(self.client, view, tuple(replies))
        envelope = self.opener.open(replica, self.replica_signer(replica).sign(message))
        assert isinstance(envelope, ReadEnvelope)
        return envelope


def real_world() -> World:
    """With Ed25519, as in a real cluster."""
    return World(scheme=ED25519)


def reply(
    digest: bytes,
    results: tuple[bytes, ...] = (b"result",),
    *,
    session: int = 7,
    number: int = 1,
    sequence: int = 5,
    time_us: int = 99,
    outcome: Outcome = Outcome.EXECUTED,
    highest_session: int = 0,
) -> Reply:
    """A reply with full results."""
    return Reply(
        session,
        number,
        digest,
        sequence,
        time_us,
        outcome,
        results_digest(outcome, highest_session, results),
        results,
        highest_session,
    )


def digest_only(full: Reply) -> Reply:
    return replace(full, results=None)


def forgotten(full: Reply) -> Reply:
    return replace(full, results=None, outcome=Outcome.RESULT_FORGOTTEN)


def read_reply(
    nonce: int, queries: tuple[bytes, ...], results: tuple[bytes, ...], sequence: int = 3
) -> ReadReply:
    """An answer with full results."""
    digest = results_digest(Outcome.EXECUTED, 0, results)
    return ReadReply(nonce, query_digest(queries), digest, results, sequence)


def refused_read(nonce: int, queries: tuple[bytes, ...]) -> ReadReply:
    """What a replica says that does not answer."""
    return ReadReply(nonce, query_digest(queries), b"", None, 3, True)


def request_in(item: bytes) -> tuple[Request, Submit]:
    """The request that a transmission carries, and how it was submitted."""
    submit = decode_client_item(item)
    assert isinstance(submit, Submit)
    request = decode_message(submit.request.kind, submit.request.payload)
    assert isinstance(request, Request)
    return request, submit


def read_in(item: bytes) -> ReadRequest:
    """The read that a transmission carries."""
    read = decode_client_item(item)
    assert isinstance(read, ReadRequest)
    return read


def digest_of(signed: Signed) -> bytes:
    return request_digest(signed.payload)
