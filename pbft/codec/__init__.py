"""Bytes to dataclasses and back: the only place that knows the generated classes (protocol.md 3).

What comes from outside is hostile. Every `decode_` function either returns a dataclass of
pbft.messages whose lengths, ranges and kinds are right, or raises Rejected with Reason.MALFORMED or
Reason.OVERSIZE, and nothing else. Unknown fields, also nested ones, and longer spellings than
needed (a field twice, a default written out, an overlong number) are malformed: nobody can carry
unsigned or unseen bytes through a replica. Encoding is deterministic; a value out of range is a bug
of the caller and raises ValueError.
"""

from pbft.codec.client import (
    decode_client_frame,
    decode_client_item,
    decode_gateway_frame,
    decode_gateway_item,
    encode_client_frame,
    encode_client_item,
    encode_gateway_frame,
    encode_gateway_item,
)
from pbft.codec.envelope import decode_signed, encode_signed
from pbft.codec.peer import (
    STATE_CHUNK_TAG,
    STATE_LEAVES_TAG,
    decode_challenge,
    decode_peer_frame,
    decode_peer_item,
    encode_challenge,
    encode_peer_frame,
    encode_peer_item,
)
from pbft.codec.statements import (
    decode_batch,
    decode_message,
    encode_batch,
    encode_message,
    kind_of,
)

__all__ = [
    "STATE_CHUNK_TAG",
    "STATE_LEAVES_TAG",
    "decode_batch",
    "decode_challenge",
    "decode_client_frame",
    "decode_client_item",
    "decode_gateway_frame",
    "decode_gateway_item",
    "decode_message",
    "decode_peer_frame",
    "decode_peer_item",
    "decode_signed",
    "encode_batch",
    "encode_challenge",
    "encode_client_frame",
    "encode_client_item",
    "encode_gateway_frame",
    "encode_gateway_item",
    "encode_message",
    "encode_peer_frame",
    "encode_peer_item",
    "encode_signed",
    "kind_of",
]
