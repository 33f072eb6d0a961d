"""Records in the order of their keys: the encoding, and every read that rests on it.

A record's key is domain || escaped key || 00 00 || complement of the version. It sorts by domain,
then key, then version from the highest down, so that the highest version of a key is one seek away.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.messages import Leaf, StateRecord
from pbft.storage.api import DurableCheckpoint
from pbft.storage.checksum import CHECKSUM_BYTES, checked
from pbft.types import UINT64_MAX

KEY_BYTES_MAX = 511
"""The longest key that LMDB stores; it may be asked for longer ones."""
DOMAIN_MAX = 255

_ESCAPED_ZERO = b"\x00\xff"
_END = b"\x00\x00"
_VERSION_BYTES = 8
_TAIL_BYTES = len(_END) + _VERSION_BYTES
assert RECORD_KEY_BYTES_MAX <= KEY_BYTES_MAX - 1 - _TAIL_BYTES


def is_storable(domain: int, key: bytes, version: int) -> bool:
    """Whether such a record can exist: domain and version in range, and len(key) plus its number of
    zero bytes at most 500."""
    return (
        0 <= domain <= DOMAIN_MAX
        and 0 <= version <= UINT64_MAX
        and len(key) + key.count(0) <= RECORD_KEY_BYTES_MAX
    )


def key_prefix(domain: int, key: bytes) -> bytes:
    """What the keys of all versions of one key begin with, and no others."""
    return bytes((domain,)) + key.replace(b"\x00", _ESCAPED_ZERO) + _END


def encode_key(domain: int, key: bytes, version: int) -> bytes:
    """The record's key on disk."""
    tail = (UINT64_MAX - version).to_bytes(_VERSION_BYTES, "big")
    return bytes((domain,)) + key.replace(b"\x00", _ESCAPED_ZERO) + _END + tail


def decode_key(encoded: bytes) -> tuple[int, bytes, int]:
    """(domain, key, version)."""
    key = encoded[1:-_TAIL_BYTES].replace(_ESCAPED_ZERO, b"\x00")
    return encoded[0], key, _version(encoded)


def _version(encoded: bytes) -> int:
    return UINT64_MAX - int.from_bytes(encoded[-_VERSION_BYTES:], "big")


class OrderedView(ABC):
    """A BaseView over an ordered map of encoded keys to protected values."""

    checkpoint: DurableCheckpoint

    @abstractmethod
    def _seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The first item at or after the key."""

    @abstractmethod
    def _get(self, key: bytes) -> bytes | None:
        """The value of exactly this key."""

    @abstractmethod
    def _items(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All items at or after the key, ascending."""

    @abstractmethod
    def _sizes(self, key: bytes) -> Iterator[tuple[bytes, int]]:
        """Key and length of the value of all items at or after the key, ascending."""

    @abstractmethod
    def leaves(self, buckets: int) -> list[Leaf]:
        """See BaseView.leaves."""

    @abstractmethod
    def close(self) -> None:
        """See BaseView.close."""

    def latest(self, domain: int, key: bytes) -> tuple[int, bytes] | None:
        """See BaseView.latest."""
        prefix = key_prefix(domain, key)
        item = self._seek(prefix)
        if item is None or not item[0].startswith(prefix):
            return None
        return _version(item[0]), checked(*item)

    def value(self, domain: int, key: bytes, version: int) -> bytes | None:
        """See BaseView.value."""
        encoded = encode_key(domain, key, version)
        stored = self._get(encoded)
        return None if stored is None else checked(encoded, stored)

    def older(self, domain: int, key: bytes, version: int) -> Iterator[tuple[int, bytes]]:
        """See BaseView.older."""
        if version == 0:
            return
        prefix = key_prefix(domain, key)
        # Not from `version` itself on: it would be copied for nothing, and may be large.
        for encoded, stored in self._items(encode_key(domain, key, version - 1)):
            if not encoded.startswith(prefix):
                return
            yield _version(encoded), checked(encoded, stored)

    def first(
        self, domain: int, start: bytes, end: bytes | None
    ) -> tuple[bytes, int, bytes] | None:
        """See BaseView.first."""
        item = self._seek(bytes((domain,)) + start.replace(b"\x00", _ESCAPED_ZERO))
        if item is None:
            return None
        encoded, stored = item
        found, key, version = decode_key(encoded)
        if found != domain or (end is not None and key >= end):
            return None
        return key, version, checked(encoded, stored)

    def walk(self, after: bytes) -> Iterator[tuple[bytes, int]]:
        """See BaseView.walk."""
        for encoded, size in self._sizes(after):
            if encoded > after:
                yield encoded, size - CHECKSUM_BYTES

    def record(self, position: bytes) -> StateRecord:
        """See BaseView.record."""
        stored = self._get(position)
        assert stored is not None
        return StateRecord(*decode_key(position), checked(position, stored))
