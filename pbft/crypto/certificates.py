"""The cluster's certificate authority: makes the certificates that `pbft.crypto.tls` describes.

ECDSA P-256 throughout: gRPC's TLS refuses leaf certificates of Ed25519 and P-521 (operations.md
section 3). Importing this module loads a library that only those need who make certificates or look
at their dates.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pbft.crypto.keys import read_private_file, write_private_file
from pbft.crypto.tls import client_name, operator_name, replica_name, server_name
from pbft.errors import ConfigurationError
from pbft.types import ClientKey, Digest, ReplicaId

VALID_DAYS = 3_650
AUTHORITY_VALID_DAYS = 2 * VALID_DAYS
"""Longer than what it signs: certificates can be made anew, but an authority is trusted by files
that lie everywhere."""
CLOCK_DRIFT = timedelta(hours=1)
"""A certificate is valid from this long ago: the clock of its reader may be behind."""
_FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs all certificates of one cluster. Nothing else may be signed with it."""

    cluster_id: Digest
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, cluster_id: Digest, valid_days: int = AUTHORITY_VALID_DAYS) -> "Authority":
        """A new authority, which the caller saves or lets go."""
        key = _new_key()
        name = _common_name(f"pbft authority {cluster_id.hex()[:16]}")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(name, key, valid_days)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        return cls(cluster_id, builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cluster_id: Digest, certificate: Path, key: Path) -> "Authority":
        """Raises ConfigurationError if a file cannot be read, is none of these, or is open to
        others."""
        try:
            secret = serialization.load_pem_private_key(
                read_private_file(key, _FILE_BYTES_MAX), None
            )
            shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{certificate} and {key} are not a certificate authority: {error}"
            ) from error
        if not isinstance(secret, ec.EllipticCurvePrivateKey) or (
            secret.public_key() != shown.public_key()
        ):
            raise ConfigurationError(f"{key} is not the private key of {certificate}")
        return cls(cluster_id, shown, secret)

    def save(self, certificate: Path, key: Path) -> None:
        """Writes the certificate, which everybody may read, and the private key, which nobody else
        may. Raises ConfigurationError."""
        write_private_file(key, _key_pem(self.key))
        certificate.write_bytes(_pem(self.certificate))

    def issue_replica(self, replica: ReplicaId, valid_days: int = VALID_DAYS) -> bytes:
        """Private key and certificate of replica i, in PEM."""
        names = [
            x509.UniformResourceIdentifier(replica_name(self.cluster_id, replica)),
            x509.DNSName(server_name(self.cluster_id, replica)),
        ]
        return self._issue(f"replica {replica}", names, valid_days, serves=True)

    def issue_client(self, client: ClientKey, valid_days: int = VALID_DAYS) -> bytes:
        """Private key and certificate of a client, in PEM."""
        name = x509.UniformResourceIdentifier(client_name(self.cluster_id, client))
        return self._issue(f"client {client.hex()[:16]}", [name], valid_days)

    def issue_operator(self, valid_days: int = VALID_DAYS) -> bytes:
        """Private key and certificate of the operator, in PEM."""
        name = x509.UniformResourceIdentifier(operator_name(self.cluster_id))
        return self._issue("operator", [name], valid_days)

    def _issue(
        self, title: str, names: list[x509.GeneralName], valid_days: int, serves: bool = False
    ) -> bytes:
        key = _new_key()
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if serves:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _builder(_common_name(title), key, valid_days)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        return _key_pem(key) + _pem(builder.sign(self.key, hashes.SHA256()))


def uri_names(certificate: bytes) -> list[str]:
    """The URIs in a certificate in PEM. Raises ConfigurationError if it is not one."""
    try:
        extension = _parse(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    return extension.value.get_values_for_type(x509.UniformResourceIdentifier)


def days_left(certificate: bytes, now: datetime | None = None) -> int:
    """Whole days until a certificate in PEM expires, negative if it has. Raises
    ConfigurationError."""
    return (_parse(certificate).not_valid_after_utc - (now or datetime.now(UTC))).days


def _parse(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise ConfigurationError(f"not a certificate in PEM: {error}") from error


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid_days: int
) -> x509.CertificateBuilder:
    """What all certificates have in common. `valid_days` below 0 makes one that has expired."""
    now = datetime.now(UTC)
    end = now + timedelta(days=valid_days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - CLOCK_DRIFT)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
