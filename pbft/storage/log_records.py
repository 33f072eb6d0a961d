"""Keys and values of the vote log as bytes.

Keys: a letter for the kind, then big-endian sequence and view, so that the order of the keys is the
order of the slots and truncation is a range.
"""

import struct
from collections.abc import Sequence

from pbft.codec import decode_signed, encode_signed
from pbft.core.effects import (
    AcceptedRecord,
    DecidedRecord,
    NewViewRecord,
    PreparedRecord,
    RejoinRecord,
    ViewChangeRecord,
)
from pbft.errors import Rejected
from pbft.messages import PreparedProof, Signed
from pbft.storage.api import DurableCheckpoint, StorageCorrupt
from pbft.types import DIGEST_BYTES, Digest, SequenceNumber, View

ACCEPTED = b"a"
PREPARED = b"p"
DECIDED = b"d"
BODY = b"b"
VIEW_CHANGE = b"v"
NEW_VIEW = b"n"
STABLE = b"s"
REJOIN = b"r"

SLOT_KINDS = (ACCEPTED, PREPARED, DECIDED, BODY)
"""Kinds whose keys begin with a sequence: those that truncation removes."""

NAMES = {
    ACCEPTED: "accepted pre-prepare",
    PREPARED: "prepared certificate",
    DECIDED: "commit certificate",
    BODY: "batch",
    VIEW_CHANGE: "view-change",
    NEW_VIEW: "new-view",
    STABLE: "stable checkpoint",
    REJOIN: "rejoin",
}

_LENGTH = struct.Struct(">I")
_NUMBER = struct.Struct(">Q")
_SLOT = struct.Struct(">cQQ")
_SEQUENCE = struct.Struct(">cQ")
_HAS_BODY = b"\x01"
_KEY_BYTES = {
    ACCEPTED: _SLOT.size,
    PREPARED: _SLOT.size,
    DECIDED: _SEQUENCE.size,
    BODY: _SEQUENCE.size + DIGEST_BYTES,
    VIEW_CHANGE: 1,
    NEW_VIEW: 1,
    STABLE: 1,
    REJOIN: 1,
}


def slot_key(kind: bytes, sequence: SequenceNumber, view: View) -> bytes:
    """Key of an accepted or prepared record."""
    return _SLOT.pack(kind, sequence, view)


def decided_key(sequence: SequenceNumber) -> bytes:
    """Key of the commit certificate of a slot."""
    return _SEQUENCE.pack(DECIDED, sequence)


def body_key(sequence: SequenceNumber, digest: Digest) -> bytes:
    """Key of a body: one copy, whichever records mention it."""
    return _SEQUENCE.pack(BODY, sequence) + digest


def first_key_above(kind: bytes, sequence: SequenceNumber) -> bytes:
    """A bound: keys of this kind at or below `sequence` sort before it."""
    return _SEQUENCE.pack(kind, sequence + 1)


def check_key(key: bytes) -> None:
    """Raises StorageCorrupt unless a record can have this key."""
    if len(key) != _KEY_BYTES.get(key[:1]):
        raise StorageCorrupt(f"nobody writes the key {key.hex()}")


def sequence_of(key: bytes) -> SequenceNumber:
    """The sequence in a slot's key."""
    return int.from_bytes(key[1:9], "big")


def view_of(key: bytes) -> View:
    """The view in the key of an accepted or prepared record."""
    return int.from_bytes(key[9:17], "big")


def describe(key: bytes) -> str:
    """The record's name for an error message."""
    name = NAMES.get(key[:1], "unknown record")
    if key[:1] not in SLOT_KINDS:
        return name
    view = f", view {view_of(key)}" if key[:1] in (ACCEPTED, PREPARED) else ""
    return f"{name} of sequence {sequence_of(key)}{view}"


def encode_accepted(record: AcceptedRecord) -> bytes:
    """Without the body, which has a record of its own."""
    flag = _HAS_BODY if record.batch else b""
    return _join((record.digest, flag, encode_signed(record.pre_prepare)))


def decode_accepted(key: bytes, value: bytes) -> tuple[AcceptedRecord, bool]:
    """The record without its body, and whether it has one. Raises StorageCorrupt."""
    digest, flag, signed = _exactly(value, 3)
    view = int.from_bytes(key[9:17], "big")
    record = AcceptedRecord(view, sequence_of(key), _digest(digest), _signed(signed), b"")
    return record, flag == _HAS_BODY


def encode_prepared(record: PreparedRecord) -> bytes:
    """A prepared certificate."""
    envelopes = (record.proof.pre_prepare, *record.proof.prepares)
    return _join((record.digest, *map(encode_signed, envelopes)))


def decode_prepared(key: bytes, value: bytes) -> PreparedRecord:
    """Raises StorageCorrupt."""
    digest, pre_prepare, *prepares = _fields(value, 2)
    proof = PreparedProof(_signed(pre_prepare), tuple(map(_signed, prepares)))
    return PreparedRecord(
        int.from_bytes(key[9:17], "big"), sequence_of(key), _digest(digest), proof
    )


def encode_decided(record: DecidedRecord) -> bytes:
    """A commit certificate without the body, which has a record of its own."""
    flag = _HAS_BODY if record.batch else b""
    return _join((record.digest, flag, *map(encode_signed, record.commits)))


def decode_decided(key: bytes, value: bytes) -> tuple[DecidedRecord, bool]:
    """The record without its body, and whether it has one. Raises StorageCorrupt."""
    digest, flag, *commits = _fields(value, 2)
    record = DecidedRecord(sequence_of(key), _digest(digest), tuple(map(_signed, commits)), b"")
    return record, flag == _HAS_BODY


def encode_view_change(record: ViewChangeRecord) -> bytes:
    """The signed bytes exactly as they were sent."""
    return _join((_NUMBER.pack(record.view), encode_signed(record.view_change)))


def decode_view_change(value: bytes) -> ViewChangeRecord:
    """Raises StorageCorrupt."""
    view, signed = _exactly(value, 2)
    return ViewChangeRecord(int.from_bytes(view, "big"), _signed(signed))


def encode_new_view(record: NewViewRecord) -> bytes:
    """The signed bytes exactly as they were sent or received."""
    return _join((_NUMBER.pack(record.view), encode_signed(record.new_view)))


def decode_new_view(value: bytes) -> NewViewRecord:
    """Raises StorageCorrupt."""
    view, signed = _exactly(value, 2)
    return NewViewRecord(int.from_bytes(view, "big"), _signed(signed))


def encode_rejoin(record: RejoinRecord) -> bytes:
    """Incarnation, and whether it is done."""
    return _join((_NUMBER.pack(record.incarnation), b"\x01" if record.done else b""))


def decode_rejoin(value: bytes) -> RejoinRecord:
    """Raises StorageCorrupt."""
    incarnation, done = _exactly(value, 2)
    return RejoinRecord(int.from_bytes(incarnation, "big"), bool(done))


def encode_checkpoint(
    sequence: SequenceNumber, digest: Digest, certificate: Sequence[Signed]
) -> bytes:
    """A stable checkpoint with its certificate."""
    return _join((_NUMBER.pack(sequence), digest, *map(encode_signed, certificate)))


def decode_checkpoint(value: bytes) -> DurableCheckpoint:
    """Raises StorageCorrupt."""
    sequence, digest, *certificate = _fields(value, 2)
    return DurableCheckpoint(
        int.from_bytes(sequence, "big"), _digest(digest), tuple(map(_signed, certificate))
    )


def _join(fields: Sequence[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(field)) + field for field in fields)


def _fields(value: bytes, at_least: int) -> list[bytes]:
    fields = []
    position = 0
    while position < len(value):
        start = position + _LENGTH.size
        position = start + int.from_bytes(value[position:start], "big")
        fields.append(value[start:position])
    if position != len(value) or len(fields) < at_least:
        raise StorageCorrupt("its fields do not add up")
    return fields


def _exactly(value: bytes, count: int) -> list[bytes]:
    fields = _fields(value, count)
    if len(fields) > count:
        raise StorageCorrupt("its fields do not add up")
    return fields


def _digest(data: bytes) -> Digest:
    if len(data) != DIGEST_BYTES:
        raise StorageCorrupt(f"a digest of {len(data)} bytes")
    return data


def _signed(data: bytes) -> Signed:
    try:
        return decode_signed(data)
    except Rejected as error:
        raise StorageCorrupt(f"an envelope that does not decode: {error}") from error
