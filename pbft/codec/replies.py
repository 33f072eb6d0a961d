"""Answers to clients: Replies and ReadReplies (protocol.md sections 4 and 11)."""

from typing import TypeVar

from pbft.codec.parsing import malformed, oversize, parse, require_digest, require_key
from pbft.limits import REPLIES_BYTES_MAX, REPLIES_ELEMENTS_MAX, REPLIES_MAX
from pbft.messages import Outcome, ReadReplies, ReadReply, Replies, Reply
from pbft.wire import message_pb2

_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_AnyReplies = TypeVar("_AnyReplies", message_pb2.Replies, message_pb2.ReadReplies)


def encode_replies(replies: Replies) -> bytes:
    """The payload of Replies."""
    wire = message_pb2.Replies(
        client=replies.client,
        view=replies.view,
        replies=[_reply_to_wire(reply) for reply in replies.replies],
    )
    return wire.SerializeToString(deterministic=True)


def decode_replies(payload: bytes) -> Replies:
    """Replies, their results not yet compared with their digests. Raises Rejected(MALFORMED |
    OVERSIZE)."""
    wire = _parse(message_pb2.Replies, payload)
    return Replies(
        require_key(wire.client, "the client of replies"),
        wire.view,
        tuple([_reply_from_wire(reply) for reply in wire.replies]),
    )


def encode_read_replies(replies: ReadReplies) -> bytes:
    """The payload of ReadReplies."""
    wire = message_pb2.ReadReplies(
        client=replies.client,
        view=replies.view,
        replies=[_read_reply_to_wire(reply) for reply in replies.replies],
    )
    return wire.SerializeToString(deterministic=True)


def decode_read_replies(payload: bytes) -> ReadReplies:
    """ReadReplies, their results not yet compared with their digests. Raises Rejected(MALFORMED |
    OVERSIZE)."""
    wire = _parse(message_pb2.ReadReplies, payload)
    return ReadReplies(
        require_key(wire.client, "the client of read replies"),
        wire.view,
        tuple([_read_reply_from_wire(reply) for reply in wire.replies]),
    )


def _parse(kind: type[_AnyReplies], payload: bytes) -> _AnyReplies:
    """Refuses what would hold a client up before anything is made of it. Counting the elements of
    what several replies may weigh would take longer than to read them."""
    is_large = len(payload) > REPLIES_BYTES_MAX
    wire = parse(kind, payload, REPLIES_ELEMENTS_MAX if is_large else None)
    if len(wire.replies) > REPLIES_MAX:
        raise oversize(f"{len(wire.replies)} replies")
    return wire


def _reply_to_wire(reply: Reply) -> message_pb2.Reply:
    return message_pb2.Reply(
        session=reply.session,
        number=reply.number,
        request_digest=reply.request_digest,
        sequence=reply.sequence,
        agreed_time_us=reply.agreed_time_us,
        outcome=reply.outcome.value,  # type: ignore[arg-type]
        results_digest=reply.results_digest,
        full=reply.results is not None,
        results=reply.results,
        highest_session=reply.highest_session,
    )


def _reply_from_wire(wire: message_pb2.Reply) -> Reply:
    outcome = _OUTCOMES.get(wire.outcome)
    if outcome is None:
        raise malformed("unknown outcome")
    return Reply(
        wire.session,
        wire.number,
        require_digest(wire.request_digest, "the request digest of a reply"),
        wire.sequence,
        wire.agreed_time_us,
        outcome,
        require_digest(wire.results_digest, "the results digest of a reply"),
        _results(wire),
        wire.highest_session,
    )


def _read_reply_to_wire(reply: ReadReply) -> message_pb2.ReadReply:
    return message_pb2.ReadReply(
        nonce=reply.nonce,
        query_digest=reply.query_digest,
        results_digest=reply.results_digest,
        full=reply.results is not None,
        results=reply.results,
        sequence=reply.sequence,
        refused=reply.refused,
    )


def _read_reply_from_wire(wire: message_pb2.ReadReply) -> ReadReply:
    results = _results(wire)
    results_digest = wire.results_digest
    if wire.refused and results is not None:
        raise malformed("a refused read with results")
    if results_digest or not wire.refused:
        require_digest(results_digest, "the results digest of a read reply")
    return ReadReply(
        wire.nonce,
        require_digest(wire.query_digest, "the query digest of a read reply"),
        results_digest,
        results,
        wire.sequence,
        wire.refused,
    )


def _results(wire: message_pb2.Reply | message_pb2.ReadReply) -> tuple[bytes, ...] | None:
    if wire.full:
        return tuple(wire.results)
    if wire.results:
        raise malformed("results in a reply that says it has none")
    return None
