"""SHA-256 digests, each with its own domain tag and length-prefixed inputs (protocol.md section 3).

Two digests of different domains are hashes of different strings whatever their inputs are, and no
two lists of inputs give the same string.
"""

import hashlib
from collections.abc import Sequence

from pbft.messages import Outcome
from pbft.types import Digest

_LENGTH_BYTES = 8


def _domain(name: str) -> bytes:
    tag = f"pbft/1/{name}".encode()
    return bytes((len(tag),)) + tag


_BATCH = _domain("batch")
_REQUEST = _domain("request")
_RESULTS = _domain("results")
_QUERIES = _domain("queries")

NULL_DIGEST: Digest = hashlib.sha256(_domain("null")).digest()
"""Digest of the null batch. No body hashes to it: bodies are hashed under another domain."""


def batch_digest(batch: bytes) -> Digest:
    """d: the digest of the encoded body of a batch (section 5), with the full signed bytes of every
    item."""
    return _digest(_BATCH, batch)


def request_digest(payload: bytes) -> Digest:
    """With (client, session, number) the identity of a request; the signature is not part of it
    (section 4)."""
    return _digest(_REQUEST, payload)


def results_digest(outcome: Outcome, highest_session: int, results: Sequence[bytes]) -> Digest:
    """What replies must match in besides their header (section 4)."""
    head = outcome.to_bytes(2, "big") + highest_session.to_bytes(8, "big")
    return _digest_of_list(_RESULTS + head, results)


def query_digest(queries: Sequence[bytes]) -> Digest:
    """Binds a read answer to the queries as they were asked (section 11)."""
    return _digest_of_list(_QUERIES, queries)


def _digest(domain: bytes, data: bytes) -> Digest:
    hasher = hashlib.sha256(domain + len(data).to_bytes(_LENGTH_BYTES, "big"))
    hasher.update(data)
    return hasher.digest()


def _digest_of_list(domain: bytes, parts: Sequence[bytes]) -> Digest:
    # Each part stands behind its length, so the end of the string is the end of the list.
    return hashlib.sha256(domain + behind_lengths(parts, _LENGTH_BYTES)).digest()


def behind_lengths(parts: Sequence[bytes], length_bytes: int) -> bytes:
    """The parts one after the other, each behind its length in so many bytes, big-endian. Raises
    OverflowError for a part that is too long."""
    if len(set(map(len, parts))) == 1:
        # Nearly always: the results of puts are all alike.
        length = len(parts[0]).to_bytes(length_bytes, "big")
        return length + length.join(parts)
    return b"".join([len(part).to_bytes(length_bytes, "big") + part for part in parts])
