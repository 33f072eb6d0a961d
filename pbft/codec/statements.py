"""What is signed, by kind: payload bytes to message and back, and the body of a batch."""

from collections.abc import Callable
from typing import Any, cast

from pbft.codec.envelope import all_of_kind, signed_from_wire, signed_of_kind, signed_to_wire
from pbft.codec.parsing import malformed, oversize, parse, require_digest, require_key
from pbft.codec.replies import (
    decode_read_replies,
    decode_replies,
    encode_read_replies,
    encode_replies,
)
from pbft.limits import (
    CERTIFICATES_ELEMENTS_MAX,
    MESSAGE_ELEMENTS_MAX,
    STATUS_BITMAP_BYTES_MAX,
)
from pbft.messages import (
    Batch,
    Checkpoint,
    Commit,
    Hello,
    Kind,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    ReadReplies,
    Recall,
    Recalled,
    Replies,
    Request,
    Role,
    SignedMessage,
    Status,
    ViewChange,
    Vote,
)
from pbft.quorum import MAX_REPLICAS
from pbft.wire import message_pb2

_ROLES = {role.value: role for role in Role}
_NONCE_BYTES = 32
_VOTES = frozenset({Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT})


def encode_message(message: SignedMessage) -> bytes:
    """The payload to sign. The same message gives the same bytes."""
    return _ENCODERS[type(message)](message)


def decode_message(kind: Kind, payload: bytes) -> SignedMessage:
    """The message of this kind in these bytes. Raises Rejected(MALFORMED | OVERSIZE)."""
    return _DECODERS[kind](payload)


def kind_of(message: SignedMessage) -> Kind:
    """The kind under which such a message is signed."""
    return _KIND_OF[type(message)]


def encode_batch(batch: Batch) -> bytes:
    """The body of a batch: the bytes that its digest covers."""
    wire = message_pb2.Batch(time_us=batch.time_us, items=batch.items)
    return wire.SerializeToString(deterministic=True)


def decode_batch(data: bytes) -> Batch:
    """The body of a batch; its items are still encoded. Raises Rejected(MALFORMED | OVERSIZE)."""
    wire = parse(message_pb2.Batch, data)
    return Batch(wire.time_us, tuple(wire.items))


def _encode_hello(hello: Hello) -> bytes:
    wire = message_pb2.Hello(
        role=hello.role.value,  # type: ignore[arg-type]
        key=hello.key,
        nonce=hello.nonce,
    )
    return wire.SerializeToString(deterministic=True)


def _decode_hello(payload: bytes) -> Hello:
    wire = parse(message_pb2.Hello, payload)
    role = _ROLES.get(wire.role)
    if role is None:
        raise malformed("unknown role")
    return Hello(role, require_key(wire.key, "the key of a hello"), _require_nonce(wire.nonce))


def _encode_request(request: Request) -> bytes:
    wire = message_pb2.Request(
        client=request.client,
        session=request.session,
        number=request.number,
        acknowledged=request.acknowledged,
        expires_at_us=request.expires_at_us,
        operations=request.operations,
        close_session=request.close_session,
    )
    return wire.SerializeToString(deterministic=True)


def _decode_request(payload: bytes) -> Request:
    # Counting first would cost more than what empty operations within the request limit allocate.
    wire = parse(message_pb2.Request, payload, elements_max=None)
    operations = wire.operations
    if len(operations) > MESSAGE_ELEMENTS_MAX:
        raise oversize(f"{len(operations)} operations")
    return Request(
        require_key(wire.client, "the client of a request"),
        wire.session,
        wire.number,
        wire.acknowledged,
        wire.expires_at_us,
        tuple(operations),
        wire.close_session,
    )


def _encode_vote(vote: Vote) -> bytes:
    wire = message_pb2.Vote(view=vote.view, sequence=vote.sequence, digest=vote.digest)
    return wire.SerializeToString(deterministic=True)


def _vote_decoder(vote: type[Vote]) -> Callable[[bytes], Vote]:
    wire_class, digest_bytes = message_pb2.Vote, 32

    def decode(payload: bytes) -> Vote:
        wire = parse(wire_class, payload)
        sequence, digest = wire.sequence, wire.digest
        if not sequence:
            raise malformed("a vote for sequence 0")
        if len(digest) != digest_bytes:
            raise malformed(f"a digest of {len(digest)} bytes")
        return vote(wire.view, sequence, digest)

    return decode


def _encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    wire = message_pb2.Checkpoint(sequence=checkpoint.sequence, digest=checkpoint.digest)
    return wire.SerializeToString(deterministic=True)


def _decode_checkpoint(payload: bytes) -> Checkpoint:
    wire = parse(message_pb2.Checkpoint, payload)
    if not wire.sequence:
        raise malformed("a checkpoint of sequence 0")
    return Checkpoint(wire.sequence, require_digest(wire.digest, "the digest of a checkpoint"))


def _encode_view_change(view_change: ViewChange) -> bytes:
    wire = message_pb2.ViewChange(
        view=view_change.view,
        replica=view_change.replica,
        incarnation=view_change.incarnation,
        stable_sequence=view_change.stable_sequence,
        checkpoints=[signed_to_wire(signed) for signed in view_change.checkpoints],
        prepared=[
            message_pb2.PreparedProof(
                pre_prepare=signed_to_wire(proof.pre_prepare),
                prepares=[signed_to_wire(prepare) for prepare in proof.prepares],
            )
            for proof in view_change.prepared
        ],
    )
    return wire.SerializeToString(deterministic=True)


def _decode_view_change(payload: bytes) -> ViewChange:
    wire = parse(message_pb2.ViewChange, payload, CERTIFICATES_ELEMENTS_MAX)
    if not wire.view:
        raise malformed("a view-change to view 0")
    if wire.replica >= MAX_REPLICAS:
        raise malformed(f"no cluster has a replica {wire.replica}")
    return ViewChange(
        wire.view,
        wire.replica,
        wire.incarnation,
        wire.stable_sequence,
        all_of_kind(wire.checkpoints, Kind.CHECKPOINT),
        tuple(
            [
                PreparedProof(
                    signed_of_kind(proof.pre_prepare, Kind.PRE_PREPARE),
                    all_of_kind(proof.prepares, Kind.PREPARE),
                )
                for proof in wire.prepared
            ]
        ),
    )


def _encode_new_view(new_view: NewView) -> bytes:
    wire = message_pb2.NewView(
        view=new_view.view,
        view_changes=[signed_to_wire(signed) for signed in new_view.view_changes],
        pre_prepares=[signed_to_wire(signed) for signed in new_view.pre_prepares],
    )
    return wire.SerializeToString(deterministic=True)


def _decode_new_view(payload: bytes) -> NewView:
    wire = parse(message_pb2.NewView, payload, CERTIFICATES_ELEMENTS_MAX)
    if not wire.view:
        raise malformed("a new-view of view 0")
    return NewView(
        wire.view,
        all_of_kind(wire.view_changes, Kind.VIEW_CHANGE),
        all_of_kind(wire.pre_prepares, Kind.PRE_PREPARE),
    )


def _encode_status(status: Status) -> bytes:
    wire = message_pb2.Status(
        view=status.view,
        normal=status.normal,
        stable_sequence=status.stable_sequence,
        executed=status.executed,
        clock_us=status.clock_us,
        suspects=status.suspects,
        primary_unreachable=status.primary_unreachable,
        prepared=_bitmap_to_wire(status.prepared),
        committed=_bitmap_to_wire(status.committed),
        accepted=_bitmap_to_wire(status.accepted),
        view_changes=status.view_changes,
        missing=status.missing,
    )
    return wire.SerializeToString(deterministic=True)


def _decode_status(payload: bytes) -> Status:
    wire = parse(message_pb2.Status, payload)
    return Status(
        view=wire.view,
        normal=wire.normal,
        stable_sequence=wire.stable_sequence,
        executed=wire.executed,
        clock_us=wire.clock_us,
        suspects=wire.suspects,
        primary_unreachable=wire.primary_unreachable,
        prepared=_bitmap_from_wire(wire.prepared),
        committed=_bitmap_from_wire(wire.committed),
        accepted=_bitmap_from_wire(wire.accepted),
        view_changes=wire.view_changes,
        missing=tuple([require_digest(digest, "a missing digest") for digest in wire.missing]),
    )


def _bitmap_to_wire(bitmap: int) -> bytes:
    return bitmap.to_bytes((bitmap.bit_length() + 7) // 8, "little")


def _bitmap_from_wire(bitmap: bytes) -> int:
    if len(bitmap) > STATUS_BITMAP_BYTES_MAX:
        raise oversize(f"a bitmap of {len(bitmap)} bytes")
    return int.from_bytes(bitmap, "little")


def _encode_recall(recall: Recall) -> bytes:
    wire = message_pb2.Recall(replica=recall.replica, nonce=recall.nonce)
    return wire.SerializeToString(deterministic=True)


def _decode_recall(payload: bytes) -> Recall:
    wire = parse(message_pb2.Recall, payload)
    return Recall(wire.replica, _require_nonce(wire.nonce))


def _encode_recalled(recalled: Recalled) -> bytes:
    wire = message_pb2.Recalled(
        replica=recalled.replica,
        nonce=recalled.nonce,
        view=recalled.view,
        stable_sequence=recalled.stable_sequence,
        checkpoints=map(signed_to_wire, recalled.checkpoints),
        votes=map(signed_to_wire, recalled.votes),
    )
    if recalled.view_change is not None:
        wire.view_change.CopyFrom(signed_to_wire(recalled.view_change))
    return wire.SerializeToString(deterministic=True)


def _decode_recalled(payload: bytes) -> Recalled:
    wire = parse(message_pb2.Recalled, payload, CERTIFICATES_ELEMENTS_MAX)
    view_change = None
    if wire.HasField("view_change"):
        view_change = signed_of_kind(wire.view_change, Kind.VIEW_CHANGE)
    votes = tuple(map(signed_from_wire, wire.votes))
    if any(vote.kind not in _VOTES for vote in votes):
        raise malformed("a recalled statement that is no vote")
    return Recalled(
        wire.replica,
        _require_nonce(wire.nonce),
        wire.view,
        wire.stable_sequence,
        all_of_kind(wire.checkpoints, Kind.CHECKPOINT),
        view_change,
        votes,
    )


def _require_nonce(nonce: bytes) -> bytes:
    if len(nonce) != _NONCE_BYTES:
        raise malformed(f"a nonce of {len(nonce)} bytes")
    return nonce


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    Request: _encode_request,
    Hello: _encode_hello,
    PrePrepare: _encode_vote,
    Prepare: _encode_vote,
    Commit: _encode_vote,
    Checkpoint: _encode_checkpoint,
    ViewChange: _encode_view_change,
    NewView: _encode_new_view,
    Status: _encode_status,
    Replies: encode_replies,
    ReadReplies: encode_read_replies,
    Recall: _encode_recall,
    Recalled: _encode_recalled,
}

_DECODERS = cast(
    dict[Kind, Callable[[bytes], SignedMessage]],
    {
        Kind.REQUEST: _decode_request,
        Kind.HELLO: _decode_hello,
        Kind.PRE_PREPARE: _vote_decoder(PrePrepare),
        Kind.PREPARE: _vote_decoder(Prepare),
        Kind.COMMIT: _vote_decoder(Commit),
        Kind.CHECKPOINT: _decode_checkpoint,
        Kind.VIEW_CHANGE: _decode_view_change,
        Kind.NEW_VIEW: _decode_new_view,
        Kind.STATUS: _decode_status,
        Kind.REPLIES: decode_replies,
        Kind.READ_REPLIES: decode_read_replies,
        Kind.RECALL: _decode_recall,
        Kind.RECALLED: _decode_recalled,
    },
)

_KIND_OF: dict[type, Kind] = {
    Request: Kind.REQUEST,
    Hello: Kind.HELLO,
    PrePrepare: Kind.PRE_PREPARE,
    Prepare: Kind.PREPARE,
    Commit: Kind.COMMIT,
    Checkpoint: Kind.CHECKPOINT,
    ViewChange: Kind.VIEW_CHANGE,
    NewView: Kind.NEW_VIEW,
    Status: Kind.STATUS,
    Replies: Kind.REPLIES,
    ReadReplies: Kind.READ_REPLIES,
    Recall: Kind.RECALL,
    Recalled: Kind.RECALLED,
}
