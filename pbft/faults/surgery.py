"""Cutting messages open and sewing them together again, with the corrupt replica's own key."""

from dataclasses import replace
from random import Random

from pbft.codec import (
    decode_batch,
    decode_message,
    decode_signed,
    encode_batch,
    encode_signed,
)
from pbft.core.ports import Signer
from pbft.crypto.digest import batch_digest
from pbft.messages import (
    Batch,
    Commit,
    Kind,
    PeerItem,
    Prepare,
    PrePrepare,
    Proposal,
    Signed,
    Vote,
)
from pbft.types import DIGEST_BYTES, Digest, ReplicaId, SequenceNumber, View

VOTES = (Kind.PREPARE, Kind.COMMIT)


def vote_of(signed: Signed) -> Vote:
    """The vote in an envelope whose kind is a pre-prepare, a prepare or a commit."""
    message = decode_message(signed.kind, signed.payload)
    assert isinstance(message, Vote)
    return message


def own_proposal(item: PeerItem, replica: ReplicaId) -> Proposal | None:
    """The item if it is a proposal that this replica signed itself."""
    if isinstance(item, Proposal) and item.pre_prepare.signer == replica:
        return item
    return None


def own_signed(item: PeerItem, replica: ReplicaId, *kinds: Kind) -> Signed | None:
    """The item if it is an envelope of one of these kinds that this replica signed itself."""
    if isinstance(item, Signed) and item.kind in kinds and item.signer == replica:
        return item
    return None


def sign_vote(
    signer: Signer, kind: Kind, view: View, sequence: SequenceNumber, digest: Digest
) -> Signed:
    """A pre-prepare, prepare or commit of the signer."""
    if kind is Kind.PRE_PREPARE:
        return signer.sign(PrePrepare(view, sequence, digest))
    if kind is Kind.PREPARE:
        return signer.sign(Prepare(view, sequence, digest))
    return signer.sign(Commit(view, sequence, digest))


def sign_proposal(signer: Signer, view: View, sequence: SequenceNumber, batch: bytes) -> Proposal:
    """A proposal of this body, whose pre-prepare carries the body's true digest."""
    return Proposal(signer.sign(PrePrepare(view, sequence, batch_digest(batch))), batch)


def another_batch(batch: bytes, random: Random) -> bytes:
    """A different body that is just as valid: fewer requests, another order, or another time."""
    body = decode_batch(batch)
    items = body.items
    choice = random.randrange(3)
    if choice == 0 and items:
        return encode_batch(Batch(body.time_us, items[:-1]))
    if choice == 1 and len(set(items)) > 1:
        return encode_batch(Batch(body.time_us, (*items[1:], items[0])))
    return encode_batch(Batch(body.time_us + 1, items))


def with_forged_request(batch: bytes, random: Random) -> bytes | None:
    """The body with one request's signature broken; None if it carries no request."""
    body = decode_batch(batch)
    if not body.items:
        return None
    position = random.randrange(len(body.items))
    broken = encode_signed(break_signature(decode_signed(body.items[position])))
    items = (*body.items[:position], broken, *body.items[position + 1 :])
    return encode_batch(Batch(body.time_us, items))


def break_signature(signed: Signed) -> Signed:
    """The envelope with one bit of its signature flipped."""
    return replace(signed, signature=bytes((signed.signature[0] ^ 1,)) + signed.signature[1:])


def random_digest(random: Random) -> Digest:
    """A digest of nothing."""
    return random.randbytes(DIGEST_BYTES)
