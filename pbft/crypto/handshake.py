"""Nonces: what a server challenges with, so that a Hello is fresh and meant for this server.

The second half of the nonce names the server's key. A dialler signs only a nonce that names the
replica it dialled; otherwise a Byzantine replica could pass an honest one's challenge on to a third
that dials it, and present the signed Hello as its own stream. (With TLS the certificate says the
same.)
"""

import hashlib
import secrets

from pbft.types import KEY_BYTES

NONCE_BYTES = 32
_FRESH_BYTES = 16
_DOMAIN = b"pbft/1/acceptor"


def _name_of(server_key: bytes) -> bytes:
    assert len(server_key) == KEY_BYTES
    return hashlib.sha256(_DOMAIN + server_key).digest()[: NONCE_BYTES - _FRESH_BYTES]


def make_nonce(server_key: bytes) -> bytes:
    """A fresh nonce of the server with this public key."""
    return secrets.token_bytes(_FRESH_BYTES) + _name_of(server_key)


def is_nonce_of(nonce: bytes, server_key: bytes) -> bool:
    """Whether the server with this public key could have made the nonce."""
    return len(nonce) == NONCE_BYTES and nonce[_FRESH_BYTES:] == _name_of(server_key)
