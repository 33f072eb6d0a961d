"""What anybody can cost a replica by its admin port, which asks nobody for a certificate."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pbft.node import admin, event_stream
from pbft.node.admin import HEAD_BYTES_MAX, AdminListener
from pbft.node.event_stream import EventStream
from pbft.node.metrics import Metrics
from pbft.node.status import NodeStatus, StatusBoard
from pbft.quorum import Thresholds


@pytest.fixture
def port() -> Iterator[int]:
    status = NodeStatus(0, 0, "primary", "normal", 0, 0, "", 0)
    board = StatusBoard(Thresholds.of(4), status, lambda: True)
    listener = AdminListener("127.0.0.1", 0, board, Metrics(0, "1").registry, EventStream(2))
    try:
        yield listener.port
    finally:
        listener.close()


def answer_to(port: int, request: bytes) -> bytes:
    """All that comes back, until the connection ends."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        with suppress(ConnectionError):
            while part := connection.recv(65_536):
                received += part
    return received


@pytest.mark.parametrize("lines", [1, 4])
def test_a_head_is_bounded_as_a_whole(
    port: int, lines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    line = b"x: " + b"y" * (HEAD_BYTES_MAX // lines) + b"\r\n"
    assert b" 431 " in answer_to(port, b"GET /livez HTTP/1.1\r\n" + lines * line + b"\r\n")
    assert answer_to(port, b"GET /" + b"z" * HEAD_BYTES_MAX) == b""
    line = b"x: " + b"y" * (HEAD_BYTES_MAX // 2) + b"\r\n"
    assert b" 200 " in answer_to(port, b"GET /livez HTTP/1.1\r\n" + line + b"\r\n")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_who_asks_for_no_url_is_told_so_and_nobody_else_is(
    port: int, method: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else anybody could fill the replica's log with tracebacks."""
    assert b" 400 " in answer_to(port, method + b" http://[ HTTP/1.1\r\n\r\n")
    assert b" 404 " in answer_to(port, method + b" http://host/ HTTP/1.1\r\n\r\n")
    assert capfd.readouterr().err == ""


def test_who_sends_a_byte_now_and_then_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CONNECTION_SECONDS", 0.5)
    until = time.monotonic() + 60
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    with connection, pytest.raises(OSError):
        while time.monotonic() < until:
            connection.sendall(b"G")
            time.sleep(0.05)


def test_one_rendering_of_the_metrics_serves_everybody(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    render = admin.generate_latest
    monkeypatch.setattr(admin, "METRICS_SECONDS", 600)
    monkeypatch.setattr(
        admin, "generate_latest", lambda registry: rendered.append(1) or render(registry)
    )
    first = answer_to(port, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b"pbft_view" in first
    for _ in range(5):
        again = answer_to(port, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert again.partition(b"\r\n\r\n")[2] == first.partition(b"\r\n\r\n")[2]
    assert len(rendered) == 1


def test_an_event_is_spelled_once_however_many_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventStream(2)
    for sequence in range(3):
        events.add("executed", 1, sequence, 4, "")
    spelled = []
    spell = event_stream.json.dumps
    monkeypatch.setattr(
        event_stream.json, "dumps", lambda document: spelled.append(document) or spell(document)
    )
    pages = {events.page(0) for _ in range(10)}
    assert len(pages) == 1
    assert sum("number" in document for document in spelled) == 3
