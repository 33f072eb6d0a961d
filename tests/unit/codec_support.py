"""What the tests of the codec's refusals share."""

from collections.abc import Callable

import pytest

from pbft import codec
from pbft.errors import Reason, Rejected
from pbft.messages import (
    Kind,
    Prepare,
)
from pbft.wire import message_pb2

UNKNOWN = b"\xf8\x07\x01"
"""Field 127, a number: unknown in all our messages."""
DIGEST = b"d" * 32
SIGNATURE = b"s" * 64
VOTE = codec.encode_message(Prepare(1, 2, DIGEST))


def envelope(kind: int = 17, **values: object) -> message_pb2.Signed:
    """An envelope of the generated class, by default a good prepare."""
    fields = {"replica": 1, "payload": VOTE, "signature": SIGNATURE} | values
    return message_pb2.Signed(kind=kind, **fields)


def refuse(decode: Callable[[bytes], object], data: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        decode(data)
    assert caught.value.reason is reason


def refuse_malformed(decode: Callable[[bytes], object], wire: object) -> None:
    data = wire if isinstance(wire, bytes) else wire.SerializeToString()
    refuse(decode, data, Reason.MALFORMED)


def of_kind(kind: Kind) -> Callable[[bytes], object]:
    return lambda payload: codec.decode_message(kind, payload)
