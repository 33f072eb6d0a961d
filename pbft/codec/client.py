"""Items and frames of the stream between a client and a replica."""

from pbft.codec.envelope import signed_from_wire, signed_of_kind, signed_to_wire
from pbft.codec.frames import decode_frame, encode_frame
from pbft.codec.parsing import malformed, parse, require_digest
from pbft.limits import MESSAGE_ELEMENTS_MAX
from pbft.messages import (
    ClientItem,
    Consistency,
    GatewayChallenge,
    GatewayItem,
    Kind,
    ReadRequest,
    Refusal,
    Signed,
    Submit,
)
from pbft.wire import client_pb2

_CHALLENGE_NONCE_BYTES = 32
_FIELDS_BESIDE_QUERIES = 8
"""The item's own, and those of the read."""
_CONSISTENCIES = {consistency.value: consistency for consistency in Consistency}

encode_client_frame = encode_frame
decode_client_frame = decode_frame
encode_gateway_frame = encode_frame
decode_gateway_frame = decode_frame


def encode_client_item(item: ClientItem) -> bytes:
    """One item from a client: a Signed is its Hello."""
    match item:
        case Signed():
            wire = client_pb2.ClientItem(hello=signed_to_wire(item))
        case Submit():
            submit = client_pb2.Submit(
                request=signed_to_wire(item.request), full_results=item.full_results
            )
            wire = client_pb2.ClientItem(submit=submit)
        case ReadRequest():
            read = client_pb2.ReadRequest(
                nonce=item.nonce,
                queries=item.queries,
                consistency=item.consistency.value,  # type: ignore[arg-type]
                full_results=item.full_results,
            )
            wire = client_pb2.ClientItem(read=read)
    return wire.SerializeToString(deterministic=True)


def decode_client_item(data: bytes, queries_max: int = MESSAGE_ELEMENTS_MAX) -> ClientItem:
    """One item from a client, nothing verified; a Signed is of kind HELLO.

    Raises Rejected(MALFORMED | OVERSIZE).
    """
    wire = parse(client_pb2.ClientItem, data, queries_max + _FIELDS_BESIDE_QUERIES)
    match wire.WhichOneof("item"):
        case "hello":
            return signed_of_kind(wire.hello, Kind.HELLO)
        case "submit":
            request = signed_of_kind(wire.submit.request, Kind.REQUEST)
            return Submit(request, wire.submit.full_results)
        case "read":
            consistency = _CONSISTENCIES.get(wire.read.consistency)
            if consistency is None:
                raise malformed("unknown consistency")
            return ReadRequest(
                wire.read.nonce, tuple(wire.read.queries), consistency, wire.read.full_results
            )
    raise malformed("an item that holds nothing")


def encode_gateway_item(item: GatewayItem) -> bytes:
    """One item to a client: a Signed is Replies or ReadReplies."""
    match item:
        case GatewayChallenge():
            challenge = client_pb2.GatewayChallenge(nonce=item.nonce, cluster_id=item.cluster_id)
            wire = client_pb2.GatewayItem(challenge=challenge)
        case Signed():
            wire = client_pb2.GatewayItem(replies=signed_to_wire(item))
        case Refusal():
            refusal = client_pb2.Refusal(
                session=item.session, number=item.number, reason=item.reason
            )
            wire = client_pb2.GatewayItem(refusal=refusal)
    return wire.SerializeToString(deterministic=True)


def decode_gateway_item(data: bytes) -> GatewayItem:
    """One item to a client, nothing verified; a Signed is of kind REPLIES or READ_REPLIES.

    Raises Rejected(MALFORMED | OVERSIZE).
    """
    wire = parse(client_pb2.GatewayItem, data)
    match wire.WhichOneof("item"):
        case "challenge":
            nonce = wire.challenge.nonce
            if len(nonce) != _CHALLENGE_NONCE_BYTES:
                raise malformed(f"a nonce of {len(nonce)} bytes")
            cluster_id = require_digest(wire.challenge.cluster_id, "the cluster id")
            return GatewayChallenge(nonce, cluster_id)
        case "replies":
            signed = signed_from_wire(wire.replies)
            if signed.kind not in (Kind.REPLIES, Kind.READ_REPLIES):
                raise malformed("an envelope that holds no replies")
            return signed
        case "refusal":
            return Refusal(wire.refusal.session, wire.refusal.number, wire.refusal.reason)
    raise malformed("an item that holds nothing")
