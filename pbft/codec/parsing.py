"""The strict parser under every decoder: size, number of elements, superfluous bytes."""

from functools import cache
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from pbft.errors import Reason, Rejected
from pbft.limits import MESSAGE_BYTES_MAX, MESSAGE_ELEMENTS_MAX
from pbft.types import DIGEST_BYTES, KEY_BYTES

M = TypeVar("M", bound=Message)

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_ELEMENT_BYTES_MIN = 2
"""A tag and a length: a message of N bytes cannot hold more than N / 2 elements."""


def malformed(detail: str) -> Rejected:
    """The rejection of bytes that are no message of ours; `detail` says what is wrong."""
    return Rejected(Reason.MALFORMED, detail)


def oversize(detail: str) -> Rejected:
    """The rejection of a message that is larger than its limit; `detail` says which."""
    return Rejected(Reason.OVERSIZE, detail)


def parse(kind: type[M], data: bytes, elements_max: int | None = MESSAGE_ELEMENTS_MAX) -> M:
    """Parses `data` as exactly one message of the generated class `kind`.

    `elements_max` bounds the elements of lists at all levels before anything is allocated for them;
    None leaves that to the caller. Raises Rejected(OVERSIZE | MALFORMED).
    """
    size = len(data)
    if size > MESSAGE_BYTES_MAX:
        raise oversize(f"{size} bytes")
    if elements_max is not None and size > elements_max * _ELEMENT_BYTES_MIN:
        descriptor = cast(Descriptor, kind.DESCRIPTOR)
        # An element begins with its tag, so there are no more of them than such bytes, which are
        # counted in no time.
        if sum(map(data.count, _list_tags(descriptor))) > elements_max:
            _count_elements(descriptor, data, elements_max)
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise malformed(f"not a {kind.DESCRIPTOR.name}") from error
    # Known fields never take more bytes when written again, so the sizes are equal only if nothing
    # was unknown and nothing was spelled longer than needed. Both calls are recursive and in C.
    # (A negative enum could grow, and is out of range in every field that we have.)
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        raise malformed(f"unknown or superfluous bytes in a {kind.DESCRIPTOR.name}")
    return message


def require_digest(value: bytes, name: str) -> bytes:
    """`value` if it has the length of a digest, else raises Rejected(MALFORMED)."""
    if len(value) != DIGEST_BYTES:
        raise malformed(f"{name} has {len(value)} bytes")
    return value


def require_key(value: bytes, name: str) -> bytes:
    """`value` if it has the length of a public key, else raises Rejected(MALFORMED)."""
    if len(value) != KEY_BYTES:
        raise malformed(f"{name} has {len(value)} bytes")
    return value


@cache
def _list_tags(descriptor: Descriptor) -> frozenset[bytes]:
    """The tags of all lists at all levels. No message of ours has a list of numbers, nor one with
    a field number above 15: such a tag is one byte."""
    tags = set[bytes]()
    for field in descriptor.fields:
        if field.is_repeated:
            tags.add(bytes((field.number << 3 | _LENGTH,)))
        if field.message_type is not None:
            tags |= _list_tags(field.message_type)
    return frozenset(tags)


@cache
def _lists_within(descriptor: Descriptor) -> dict[int, Descriptor]:
    """Fields whose content can hold lists itself, by number: where counting must descend."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.message_type is not None and _holds_lists(field.message_type)
    }


def _holds_lists(descriptor: Descriptor) -> bool:
    return any(
        field.is_repeated or (field.message_type is not None and _holds_lists(field.message_type))
        for field in descriptor.fields
    )


def _count_elements(descriptor: Descriptor, data: bytes, elements_max: int) -> None:
    """Raises Rejected(OVERSIZE) if `data` has more fields than `elements_max` in all messages that
    can hold lists, Rejected(MALFORMED) if it is no sequence of fields.

    Only large messages come here; the work is bounded by `elements_max`, not by their size.
    """
    count = 0
    waiting = [(descriptor, 0, len(data))]
    while waiting:
        current, position, end = waiting.pop()
        nested = _lists_within(current)
        while position < end:
            count += 1
            if count > elements_max:
                raise oversize(f"more than {elements_max} elements")
            tag, position = _varint(data, position, end)
            wire_type = tag & 7
            if wire_type == _LENGTH:
                length, position = _varint(data, position, end)
                if length > end - position:
                    raise malformed("a field is longer than its message")
                inner = nested.get(tag >> 3)
                if inner is not None:
                    waiting.append((inner, position, position + length))
                position += length
            elif wire_type == _VARINT:
                _, position = _varint(data, position, end)
            elif wire_type == _FIXED64:
                position += 8
            elif wire_type == _FIXED32:
                position += 4
            else:
                raise malformed("a group")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise malformed("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise malformed("a number is too long")
