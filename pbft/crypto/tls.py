"""TLS identities: what a certificate calls its owner, and the files it lies in (protocol.md section
3, operations.md section 3).

A certificate of the cluster carries exactly one URI, which names the cluster and who in it the
owner is. That of a replica carries one DNS name too, because a dialler can have only that checked
by TLS itself. This module needs neither gRPC nor a library for certificates: see
`pbft.crypto.certificates` for how they are made.
"""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pbft.crypto.keys import read_private_file
from pbft.errors import ConfigurationError
from pbft.limits import KIB
from pbft.types import ClientKey, Digest, ReplicaId

_SCHEME = "pbft://"
_DNS_DIGITS = 16
_PEM_BYTES_MAX = 64 * KIB
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"-----BEGIN PRIVATE KEY-----"


def replica_name(cluster_id: Digest, replica: ReplicaId) -> str:
    """The URI of replica i."""
    return f"{_SCHEME}{cluster_id.hex()}/replica/{replica}"


def client_name(cluster_id: Digest, client: ClientKey) -> str:
    """The URI of a client, which is its public key."""
    return f"{_SCHEME}{cluster_id.hex()}/client/{client.hex()}"


def client_in(cluster_id: Digest, name: str | None) -> ClientKey | None:
    """The client that `client_name` gave this name; None for any other name."""
    digits = (name or "").rpartition("/")[2]
    try:
        client = bytes.fromhex(digits)
    except ValueError:
        return None
    return client if client_name(cluster_id, client) == name else None


def operator_name(cluster_id: Digest) -> str:
    """The URI of whoever may change how replicas behave."""
    return f"{_SCHEME}{cluster_id.hex()}/operator"


def server_name(cluster_id: Digest, replica: ReplicaId) -> str:
    """The DNS name in a replica's certificate. It need not resolve: it is compared, not dialled."""
    return f"replica{replica}.{cluster_id.hex()[:_DNS_DIGITS]}"


def sole_name(uris: Iterable[str]) -> str | None:
    """The name a certificate gives its owner; None unless there is exactly one URI in it, because
    of two nobody could say which one counts."""
    names = list(uris)
    return names[0] if len(names) == 1 else None


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What one end of a connection shows and what it trusts, in PEM. Never shows in a repr."""

    authority: bytes = field(repr=False)
    """Certificate of the cluster's authority: the only one trusted."""
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    """The private key of `certificate`."""

    file: Path
    """Where key and certificate were read."""

    def server_context(self) -> ssl.SSLContext:
        """For Python's own TLS: a server that looks at a client's certificate if there is one."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client_context(self) -> ssl.SSLContext:
        """For Python's own TLS: a client that trusts nothing but the cluster's authority. The host
        it checks is a `server_name`."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(cadata=self.authority.decode("ascii"))
            context.load_cert_chain(self.file)
        except ssl.SSLError as error:
            raise ConfigurationError(f"{self.file} is not usable for TLS: {error}") from error
        return context


def load_identity(authority: Path, certificate: Path) -> TlsIdentity:
    """Reads the authority's certificate, and the file with an own certificate and its private key.

    Raises ConfigurationError if one cannot be read or is not such a file, or as `read_private_file`
    if the private key is not safe from others.
    """
    try:
        trusted = authority.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the authority's certificate {authority}: {error.strerror}"
        ) from error
    if not trusted.startswith(_CERTIFICATE) or not trusted.isascii():
        raise ConfigurationError(f"{authority} is not a certificate in PEM")
    pair = read_private_file(certificate, _PEM_BYTES_MAX)
    middle = pair.find(_CERTIFICATE)
    if not pair.startswith(_KEY) or middle < 0:
        raise ConfigurationError(
            f"{certificate} must hold a private key and then its certificate, both in PEM"
        )
    return TlsIdentity(trusted, pair[middle:], pair[:middle], certificate)
