"""Certificates: what they say, how long they hold, and the files they lie in."""

import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pbft.crypto.certificates import VALID_DAYS, Authority, days_left, uri_names
from pbft.crypto.keys import write_private_file
from pbft.crypto.tls import (
    client_in,
    client_name,
    load_identity,
    operator_name,
    replica_name,
    server_name,
    sole_name,
)
from pbft.errors import ConfigurationError

CLUSTER = bytes(range(32))
OTHER_CLUSTER = bytes(32)
CLIENT = b"\x07" * 32
AUTHORITY = Authority.create(CLUSTER)


def certificate_in(pair: bytes) -> bytes:
    return pair[pair.index(b"-----BEGIN CERTIFICATE-----") :]


def dns_names(pair: bytes) -> list[str]:
    certificate = x509.load_pem_x509_certificate(certificate_in(pair))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory with an authority and the certificate of replica 1."""
    AUTHORITY.save(tmp_path / "authority.pem", tmp_path / "authority" / "authority.key")
    write_private_file(tmp_path / "own" / "replica.pem", AUTHORITY.issue_replica(1))
    return tmp_path


def test_each_certificate_names_its_owner_once() -> None:
    replica = AUTHORITY.issue_replica(3)
    assert uri_names(certificate_in(replica)) == [f"pbft://{CLUSTER.hex()}/replica/3"]
    assert dns_names(replica) == ["replica3.0001020304050607"]
    client = AUTHORITY.issue_client(CLIENT)
    assert uri_names(certificate_in(client)) == [f"pbft://{CLUSTER.hex()}/client/{'07' * 32}"]
    operator = AUTHORITY.issue_operator()
    assert uri_names(certificate_in(operator)) == [f"pbft://{CLUSTER.hex()}/operator"]
    # Without a DNS name nobody who dials a replica takes it for one.
    assert dns_names(client) == dns_names(operator) == []


def test_keys_are_of_the_curve_that_grpc_takes() -> None:
    for pair in (AUTHORITY.issue_replica(0), AUTHORITY.issue_client(CLIENT)):
        key = x509.load_pem_x509_certificate(certificate_in(pair)).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def test_names_of_different_owners_differ() -> None:
    names = {
        replica_name(CLUSTER, 1),
        replica_name(CLUSTER, 11),
        replica_name(OTHER_CLUSTER, 1),
        client_name(CLUSTER, CLIENT),
        client_name(OTHER_CLUSTER, CLIENT),
        operator_name(CLUSTER),
        server_name(CLUSTER, 1),
        server_name(OTHER_CLUSTER, 1),
    }
    assert len(names) == 8


def test_only_a_single_name_counts() -> None:
    assert sole_name(["a"]) == "a"
    assert sole_name([]) is None
    assert sole_name(["a", "b"]) is None


def test_a_clients_name_leads_back_to_it() -> None:
    assert client_in(CLUSTER, client_name(CLUSTER, CLIENT)) == CLIENT


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        replica_name(CLUSTER, 1),
        operator_name(CLUSTER),
        client_name(OTHER_CLUSTER, CLIENT),
        client_name(CLUSTER, CLIENT).removesuffix("07") + "0G",
        client_name(CLUSTER, b"\xab" * 32).upper(),
        client_name(CLUSTER, b"\xab" * 32).replace("ab", "AB"),
        client_name(CLUSTER, CLIENT).replace("/client/", "/client//"),
    ],
)
def test_no_other_name_is_a_clients(name: str | None) -> None:
    assert client_in(CLUSTER, name) is None


def test_256_certificates_are_made_at_once() -> None:
    begin = time.process_time()
    serials = {
        x509.load_pem_x509_certificate(
            certificate_in(AUTHORITY.issue_client(bytes([index]) * 32))
        ).serial_number
        for index in range(256)
    }
    assert len(serials) == 256
    assert time.process_time() - begin < 10


def test_the_time_that_is_left_is_counted_in_days() -> None:
    now = datetime.now(UTC)
    pair = certificate_in(AUTHORITY.issue_operator(valid_days=40))
    assert days_left(pair, now) in (39, 40)
    assert days_left(pair, now + timedelta(days=30)) in (9, 10)
    assert days_left(pair, now + timedelta(days=41)) < 0
    assert days_left(certificate_in(AUTHORITY.issue_operator(valid_days=-1))) < 0
    authority_file = AUTHORITY.certificate.not_valid_after_utc
    assert authority_file > now + timedelta(days=VALID_DAYS), "it outlives what it signs"


def test_an_identity_comes_back_from_its_files(saved: Path) -> None:
    identity = load_identity(saved / "authority.pem", saved / "own" / "replica.pem")
    assert uri_names(identity.certificate) == [replica_name(CLUSTER, 1)]
    assert identity.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert b"CERTIFICATE" not in identity.key
    assert "PRIVATE" not in repr(identity)
    assert identity.server_context().verify_mode is ssl.CERT_OPTIONAL
    assert identity.client_context().verify_mode is ssl.CERT_REQUIRED
    assert identity.client_context().check_hostname


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda it: (it / "own" / "replica.pem").chmod(0o640), "run: chmod 600"),
        (lambda it: (it / "own" / "replica.pem").chmod(0o604), "has mode 0604"),
        (lambda it: (it / "own").chmod(0o770), "others may replace the key file"),
        (lambda it: (it / "own" / "replica.pem").unlink(), "cannot read the key file"),
        (lambda it: (it / "own" / "replica.pem").write_text("x"), "must hold a private key and"),
        (lambda it: (it / "authority.pem").write_text("x"), "not a certificate in PEM"),
        (lambda it: (it / "authority.pem").unlink(), "cannot read the authority's certificate"),
    ],
)
def test_files_that_are_open_or_wrong_are_refused(
    saved: Path, change: Callable[[Path], object], complaint: str
) -> None:
    change(saved)
    with pytest.raises(ConfigurationError, match=complaint):
        load_identity(saved / "authority.pem", saved / "own" / "replica.pem")


def test_a_key_that_is_not_the_certificates_is_refused(saved: Path) -> None:
    one, two = AUTHORITY.issue_replica(1), AUTHORITY.issue_replica(1)
    mixed = saved / "mixed" / "replica.pem"
    write_private_file(mixed, one.replace(certificate_in(one), certificate_in(two)))
    identity = load_identity(saved / "authority.pem", mixed)
    with pytest.raises(ConfigurationError, match="not usable for TLS"):
        identity.server_context()


def test_an_authority_signs_on_after_it_was_read_again(saved: Path) -> None:
    certificate, key = saved / "authority.pem", saved / "authority" / "authority.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    again = Authority.load(CLUSTER, certificate, key)
    issued = x509.load_pem_x509_certificate(certificate_in(again.issue_replica(2)))
    issued.verify_directly_issued_by(AUTHORITY.certificate)
    with pytest.raises(ConfigurationError, match="is not overwritten"):
        AUTHORITY.save(certificate, key)
    Authority.create(CLUSTER).save(saved / "other.pem", saved / "other" / "other.key")
    with pytest.raises(ConfigurationError, match="is not the private key of"):
        Authority.load(CLUSTER, saved / "other.pem", key)
    write_private_file(saved / "empty" / "authority.key", b"")
    with pytest.raises(ConfigurationError, match="are not a certificate authority"):
        Authority.load(CLUSTER, certificate, saved / "empty" / "authority.key")


def test_what_is_not_a_certificate_is_refused() -> None:
    for question in (days_left, uri_names):
        with pytest.raises(ConfigurationError, match="not a certificate in PEM"):
            question(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert uri_names(AUTHORITY.certificate.public_bytes(Encoding.PEM)) == []


def test_a_client_needs_no_library_for_certificates() -> None:
    check = "import sys, pbft_client.client; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
