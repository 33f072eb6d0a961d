"""TLS on the admin listener, beside plain HTTP on the same port (operations.md section 3).

What the listener shows is for everybody who reaches it: probes and Prometheus read it in plain
HTTP. What changes something needs TLS with the operator's certificate. The first byte of a
connection tells which of the two it is.
"""

import ssl
from dataclasses import dataclass
from socket import MSG_PEEK, socket

from pbft.crypto.tls import TlsIdentity, operator_name, sole_name
from pbft.types import Digest

HANDSHAKE_BYTE = b"\x16"
"""A TLS connection begins with it, a line of HTTP with a letter."""


@dataclass(frozen=True, slots=True)
class AdminSecurity:
    """Tells operators from everybody else."""

    context: ssl.SSLContext
    operator: str
    """What the operator's certificate must call its owner."""

    @classmethod
    def of(cls, identity: TlsIdentity, cluster_id: Digest) -> "AdminSecurity":
        """With the replica's own certificate. Raises ConfigurationError if it is of no use."""
        return cls(identity.server_context(), operator_name(cluster_id))

    def accept(self, connection: socket, seconds: float) -> tuple[socket, bool]:
        """The connection to go on with, and whether it is the operator's. Raises OSError."""
        connection.settimeout(seconds)
        if connection.recv(1, MSG_PEEK) != HANDSHAKE_BYTE:
            return connection, False
        secured = self.context.wrap_socket(connection, server_side=True)
        names = (secured.getpeercert() or {}).get("subjectAltName", ())
        uris = [str(name[1]) for name in names if name[0] == "URI"]
        return secured, sole_name(uris) == self.operator
