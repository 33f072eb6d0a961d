"""Asking an admin listener that may answer with anything, or for ever."""

import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import pytest

from pbft.cli.admin import ANSWER_BYTES_MAX, get, read_samples, total

HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answering(pieces: Iterable[bytes], pause_seconds: float = 0.0) -> Iterator[str]:
    """The address of somebody who answers one request with these pieces, with pauses between
    them."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_seconds)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"Content-Length: 3\r\n\r\n", b"a", b"bc", b"too much"],
        [HEAD + b"\r\nab", b"c"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"],
    ],
)
def test_an_answer_may_come_in_pieces(pieces: list[bytes]) -> None:
    with answering(pieces) as address:
        assert get(address, "/status") == (200, b"abc")


@pytest.mark.parametrize(
    ("head", "dripping"),
    [
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD, b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_one_who_sends_a_byte_now_and_then_is_not_waited_for(head: bytes, dripping: bytes) -> None:
    pieces = itertools.chain([head], itertools.repeat(dripping, 1_000))
    with answering(pieces, pause_seconds=0.02) as address:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            get(address, "/status", timeout_seconds=0.3)
        assert time.monotonic() - begin < 5


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    whole = b" " * ANSWER_BYTES_MAX
    with answering([HEAD + b"\r\n", whole]) as address:
        assert get(address, "/status", 30) == (200, whole)
    endless = itertools.chain([HEAD + b"\r\n"], itertools.repeat(b" " * 65_536))
    with (
        answering(endless) as address,
        pytest.raises(ConnectionError, match=f"more than {ANSWER_BYTES_MAX} bytes"),
    ):
        get(address, "/status", 30)


def test_samples_are_added_up_by_their_labels() -> None:
    body = b'a_total{of="1",why="x"} 2.0\na_total{of="2",why="x"} 3.0\nab_total 9.0\n'
    with answering([HEAD, b"Content-Length: %d\r\n\r\n" % len(body), body]) as address:
        samples = read_samples(address)
    assert total(samples, "a_total") == 5
    assert total(samples, "a_total", of="2") == 3
    assert total(samples, "a_total", of="3") == 0


@pytest.mark.parametrize("body", [b"a_total{ 1\n", b"\xff"])
def test_what_are_no_metrics_is_no_answer(body: bytes) -> None:
    """A corrupt replica may say anything."""
    with (
        answering([HEAD, b"Content-Length: %d\r\n\r\n" % len(body), body]) as address,
        pytest.raises(OSError, match="something else than metrics"),
    ):
        read_samples(address)
