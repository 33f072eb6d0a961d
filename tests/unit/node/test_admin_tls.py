"""The admin listener: everybody may look, only the operator may command."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pbft.crypto.certificates import Authority
from pbft.crypto.keys import write_private_file
from pbft.crypto.tls import TlsIdentity, load_identity, operator_name, server_name
from pbft.node import admin
from pbft.node.admin import CONNECTIONS_MAX, AdminListener
from pbft.node.admin_tls import AdminSecurity
from pbft.node.event_stream import EventStream
from pbft.node.faults import FaultDesk
from pbft.node.metrics import Metrics
from tests.unit.node.test_observability import board

CLUSTER = bytes(32)
AUTHORITY = Authority.create(CLUSTER)
STRANGERS = Authority.create(CLUSTER)
OTHER_CLUSTER = Authority(bytes([1]) * 32, AUTHORITY.certificate, AUTHORITY.key)


class Desk:
    """Takes commands, and remembers them."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def report(self) -> tuple[int, dict[str, Any]]:
        return 200, {"active": []}

    def command(self, body: bytes) -> tuple[int, dict[str, Any]]:
        self.commands.append(body)
        return 200, {"done": True}


def identity(place: Path, pair: bytes, authority: Authority = AUTHORITY) -> TlsIdentity:
    authority.save(place / "authority.pem", place / "authority.key")
    write_private_file(place / "own.pem", pair)
    return load_identity(place / "authority.pem", place / "own.pem")


@contextmanager
def listening(desk: Desk, security: AdminSecurity | None) -> Iterator[int]:
    listener = AdminListener(
        "127.0.0.1",
        0,
        board(),
        Metrics(2, "1").registry,
        EventStream(2),
        cast(FaultDesk, desk),
        security,
    )
    try:
        yield listener.port
    finally:
        listener.close()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def port(tmp_path: Path, desk: Desk) -> Iterator[int]:
    own = identity(tmp_path / "replica2", AUTHORITY.issue_replica(2))
    with listening(desk, AdminSecurity.of(own, CLUSTER)) as port:
        yield port


def ask(port: int, method: str, path: str, context: ssl.SSLContext | None) -> int:
    """The status code; plain HTTP without a context."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if context is not None:
            connection.connect()
            connection.sock = context.wrap_socket(
                connection.sock, server_hostname=server_name(CLUSTER, 2)
            )
        body = b"{}" if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def anonymous() -> ssl.SSLContext:
    """Trusts the authority and shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(
        cadata=AUTHORITY.certificate.public_bytes(Encoding.PEM).decode("ascii")
    )
    return context


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/status", "/faults"])
def test_everybody_may_look(port: int, desk: Desk, path: str) -> None:
    assert ask(port, "GET", path, None) == 200
    assert ask(port, "GET", path, anonymous()) == 200
    assert desk.commands == []


def test_the_operator_may_command(port: int, desk: Desk, tmp_path: Path) -> None:
    operator = identity(tmp_path / "operator", AUTHORITY.issue_operator())
    assert ask(port, "POST", "/faults", operator.client_context()) == 200
    assert desk.commands == [b"{}"]


def two_names() -> bytes:
    names = [operator_name(CLUSTER), operator_name(CLUSTER) + "s"]
    return AUTHORITY._issue("two", [x509.UniformResourceIdentifier(it) for it in names], 1)


@pytest.mark.parametrize(
    "issue",
    [
        lambda: AUTHORITY.issue_client(bytes(32)),
        lambda: AUTHORITY.issue_replica(1),
        OTHER_CLUSTER.issue_operator,
        two_names,
    ],
)
def test_nobody_else_may_command(
    port: int, desk: Desk, tmp_path: Path, issue: Callable[[], bytes]
) -> None:
    other = identity(tmp_path / "other", issue())
    assert ask(port, "GET", "/faults", other.client_context()) == 200
    assert ask(port, "POST", "/faults", other.client_context()) == 403
    assert desk.commands == []


def test_commands_in_plain_text_or_from_nobody_are_refused(port: int, desk: Desk) -> None:
    assert ask(port, "POST", "/faults", None) == 403
    assert ask(port, "POST", "/faults", anonymous()) == 403
    assert desk.commands == []


@pytest.mark.parametrize("issue", [lambda: AUTHORITY.issue_operator(-1), STRANGERS.issue_operator])
def test_a_certificate_that_is_worth_nothing_ends_the_connection(
    port: int,
    desk: Desk,
    tmp_path: Path,
    issue: Callable[[], bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    other = identity(tmp_path / "other", issue())
    with pytest.raises(OSError):
        ask(port, "POST", "/faults", other.client_context())
    assert desk.commands == []
    assert ask(port, "GET", "/status", None) == 200
    assert capfd.readouterr().err == ""


def test_noise_does_no_harm(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    for noise in (b"\x16\x03\x01" + bytes(500), b"\x16", b"\x00" * 100, b""):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(noise)
    assert ask(port, "GET", "/status", None) == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("noise", [b"", b"GET /status HT", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_connections_that_never_finish_keep_nobody_out(
    port: int, noise: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that nothing of this test waits for it by chance, however slow the machine.
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 600)
    monkeypatch.setattr(admin, "CONNECTION_SECONDS", 600)
    monkeypatch.setattr(admin._Handler, "timeout", 600)
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS_MAX):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            slow.sendall(noise)
        # If those before it held it up, or went only after REQUEST_SECONDS, these would time out.
        assert ask(port, "GET", "/status", None) == 200
        assert ask(port, "GET", "/status", anonymous()) == 200
        assert threading.active_count() <= before + CONNECTIONS_MAX + 10


def test_where_tls_was_given_up_anybody_may_command(desk: Desk) -> None:
    with listening(desk, None) as port:
        assert ask(port, "POST", "/faults", None) == 200
    assert desk.commands == [b"{}"]


def test_a_client_sees_whether_it_is_the_replica_it_wanted(port: int, tmp_path: Path) -> None:
    operator = identity(tmp_path / "operator", AUTHORITY.issue_operator())
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        operator.client_context().wrap_socket(connection, server_hostname=server_name(CLUSTER, 3))


def test_the_published_status_is_json_by_tls_too(port: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    with anonymous().wrap_socket(connection, server_hostname=server_name(CLUSTER, 2)) as secured:
        secured.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        answer = secured.makefile("rb").read()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["replica"] == 2
