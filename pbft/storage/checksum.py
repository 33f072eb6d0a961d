"""A checksum over key and value on everything that goes to disk.

It tells a rotten or misplaced record from the one that was written. It is no protection against
somebody who can write to the disk: that is what signatures and certificates are for.
"""

import zlib

from pbft.storage.api import StorageCorrupt

CHECKSUM_BYTES = 4


def protect(key: bytes, value: bytes) -> bytes:
    """The value as it is stored under `key`: CRC-32 of key and value, then the value."""
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "big") + value


def checked(key: bytes, stored: bytes) -> bytes:
    """The value out of what is stored under `key`. Raises StorageCorrupt with the key in
    hexadecimal."""
    value = stored[CHECKSUM_BYTES:]
    checksum = zlib.crc32(value, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "big")
    if checksum != stored[:CHECKSUM_BYTES]:
        raise StorageCorrupt(f"the record with key {key.hex()} fails its checksum")
    return value
