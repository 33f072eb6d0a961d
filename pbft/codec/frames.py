"""Frames: items that waited together and travel as one gRPC message.

The frames of the three streams (PeerFrame, ClientFrame, GatewayFrame) have one shape on the wire:
field 1, repeated, each the bytes of an item. They are read as bytes here, so that each item is
parsed, judged and counted alone and a bad one does not hide its neighbours.
"""

from collections.abc import Sequence

from pbft.codec.parsing import malformed, parse
from pbft.wire import peer_pb2


def encode_frame(items: Sequence[bytes]) -> bytes:
    """One frame of at least one encoded item. The caller keeps it within MESSAGE_BYTES_MAX."""
    return peer_pb2.PeerFrame(items=items).SerializeToString(deterministic=True)


def decode_frame(data: bytes) -> list[bytes]:
    """The encoded items of a frame, in order, at least one. Raises Rejected(MALFORMED |
    OVERSIZE)."""
    items = list(parse(peer_pb2.PeerFrame, data).items)
    if not items:
        raise malformed("an empty frame")
    return items
