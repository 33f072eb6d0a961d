"""How protobuf spells tags and lengths, for the few messages that are so common that they are read
and written without it."""

from google.protobuf.message import Message

SHORT_BYTES = 0x80
"""From here on a length takes a second byte ..."""
LONG_BYTES = 0x4000
"""... and from here on a third."""


def tag_of(message: type[Message], field: str) -> int:
    """The tag of a length-delimited field with a number below 16: one byte."""
    return message.DESCRIPTOR.fields_by_name[field].number << 3 | 2


def spell_length(length: int) -> bytes:
    """A length of less than 2^21, in the one way in which protobuf writes it."""
    if length < SHORT_BYTES:
        return bytes((length,))
    if length < LONG_BYTES:
        return bytes((length & 0x7F | 0x80, length >> 7))
    return bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))
