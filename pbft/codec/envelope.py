"""The envelope: who signed which bytes as what (protocol.md section 3)."""

from collections.abc import Iterable

from pbft.codec.parsing import malformed, parse, require_key
from pbft.messages import Kind, Signed
from pbft.quorum import MAX_REPLICAS
from pbft.types import SIGNATURE_BYTES
from pbft.wire import message_pb2

_KINDS = {kind.value: kind for kind in Kind}


def encode_signed(signed: Signed) -> bytes:
    """The envelope as it travels inside a batch. Its payload stays the bytes that were signed."""
    return signed_to_wire(signed).SerializeToString(deterministic=True)


def decode_signed(data: bytes) -> Signed:
    """An envelope of a known kind with a signer that may sign it and a signature of the right
    length.

    Raises Rejected(MALFORMED | OVERSIZE). Nothing is verified.
    """
    return signed_from_wire(parse(message_pb2.Signed, data))


def signed_to_wire(signed: Signed) -> message_pb2.Signed:
    """For encoders of messages that hold envelopes."""
    wire = message_pb2.Signed(
        kind=signed.kind.value,  # type: ignore[arg-type]
        payload=signed.payload,
        signature=signed.signature,
    )
    if isinstance(signed.signer, int):
        wire.replica = signed.signer
    else:
        wire.client = signed.signer
    return wire


def signed_from_wire(wire: message_pb2.Signed) -> Signed:
    """For decoders of messages that hold envelopes. Raises Rejected(MALFORMED)."""
    kind = _KINDS.get(wire.kind)
    if kind is None:
        raise malformed("unknown kind")
    signature = wire.signature
    if len(signature) != SIGNATURE_BYTES:
        raise malformed(f"a signature of {len(signature)} bytes")
    replica, client = wire.replica, wire.client
    # Clients sign requests, replicas everything else; both open streams with a hello.
    if kind is Kind.REQUEST or (kind is Kind.HELLO and client):
        if replica:
            raise malformed("signed by a client and by a replica")
        return Signed(kind, require_key(client, "the key of a client"), wire.payload, signature)
    if client:
        raise malformed(f"a client cannot sign {kind.name}")
    if replica >= MAX_REPLICAS:
        raise malformed(f"no cluster has a replica {replica}")
    return Signed(kind, replica, wire.payload, signature)


def signed_of_kind(wire: message_pb2.Signed, kind: Kind) -> Signed:
    """An envelope in a place where only one kind belongs. Raises Rejected(MALFORMED)."""
    signed = signed_from_wire(wire)
    if signed.kind is not kind:
        raise malformed(f"an envelope that is not {kind.name}")
    return signed


def all_of_kind(wires: Iterable[message_pb2.Signed], kind: Kind) -> tuple[Signed, ...]:
    """Envelopes in a list where only one kind belongs. Raises Rejected(MALFORMED)."""
    return tuple([signed_of_kind(wire, kind) for wire in wires])
