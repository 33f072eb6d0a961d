"""The admin listener: /livez, /readyz, /metrics, /status, /events over HTTP (operations.md section
5).

It runs in threads of its own, so that a replica whose event loop is blocked can still be seen. It
changes nothing, except where a replica allows fault injection: POST /faults, which takes the
operator's certificate (`pbft.node.admin_tls`).
"""

import json
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from typing import Any, BinaryIO
from urllib.parse import SplitResult, parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pbft.errors import ConfigurationError
from pbft.node.admin_tls import AdminSecurity
from pbft.node.event_stream import EventStream
from pbft.node.faults import BODY_BYTES_MAX, FaultDesk
from pbft.node.status import StatusBoard

REQUEST_SECONDS = 5
"""A connection that says nothing for this long is closed."""
CONNECTION_SECONDS = 15
"""One that is still there after so long is cut, whatever it says: it carries one request."""
HEAD_BYTES_MAX = 16_384
"""Of a request before its body."""
METRICS_SECONDS = 0.5
"""One rendering of the metrics serves everybody for so long: it holds the interpreter, which the
event loop needs."""
CONNECTIONS_MAX = 64
"""At a time, each with a thread; beyond, the oldest is cut, so that one that says nothing keeps
nobody out."""
POLL_SECONDS = 0.2
NUMBER_DIGITS_MAX = 18
"""Of a number in a query: what comes from outside is not turned into huge integers."""
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
JSON_LINES = "application/jsonl"


class _Head:
    """What a request is read from: bounded up to its body, or lines of 64 KiB would be kept a
    hundred at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._room = HEAD_BYTES_MAX
        self.read = stream.read
        self.close = stream.close

    def readline(self, limit: int) -> bytes:
        """A line of the head. Raises HTTPException when it is too much altogether, which the
        library answers with 431 once it knows what is asked for."""
        line = self._stream.readline(min(limit, self._room + 1))
        self._room -= len(line)
        if self._room < 0:
            raise HTTPException("the head is too long")
        return line


class _MetricsPage:
    """The metrics as text, rendered now and then. Any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._rendered_at: float | None = None
        self._text = b""

    def text(self) -> bytes:
        """As they are, or were METRICS_SECONDS ago at most."""
        with self._lock:
            now = time.monotonic()
            if self._rendered_at is None or now >= self._rendered_at + METRICS_SECONDS:
                self._text = generate_latest(self._registry)
                self._rendered_at = time.monotonic()
            return self._text


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    board: StatusBoard
    metrics: _MetricsPage
    events: EventStream
    faults: FaultDesk | None
    security: AdminSecurity | None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._lock = threading.Lock()
        self._controls: dict[object, tuple[float, socket]] = {}
        """For each connection, oldest first, when it came, and another handle on it, by which it
        can be cut whatever TLS made of the first."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a new connection, and cuts the oldest if they are too many."""
        with self._lock:
            self._controls[request] = (time.monotonic(), request.dup())
            if len(self._controls) > CONNECTIONS_MAX:
                self._cut_oldest()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called now and then: cuts who took too long."""
        with self._lock:
            while self._controls:
                came_at, _ = next(iter(self._controls.values()))
                if time.monotonic() < came_at + CONNECTION_SECONDS:
                    return
                self._cut_oldest()

    def _cut_oldest(self) -> None:
        _, oldest = self._controls.pop(next(iter(self._controls)))
        with oldest, suppress(OSError):
            oldest.shutdown(SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection for good."""
        with self._lock:
            known = self._controls.pop(request, None)
        if known is not None:
            known[1].close()
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks, or that is refused, is no news; anything else is a bug."""
        if not isinstance(sys.exception(), OSError | HTTPException):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server_version = "pbft"
    sys_version = ""
    server: _Server
    may_command = False

    def setup(self) -> None:
        """Finds out who is there."""
        if self.server.security is None:
            self.may_command = True
        else:
            self.request, self.may_command = self.server.security.accept(
                self.request, REQUEST_SECONDS
            )
        super().setup()
        self.rfile = _Head(self.rfile)  # type: ignore[assignment, arg-type]

    def finish(self) -> None:
        """Ends the connection; the server itself knows only the plain one below TLS."""
        try:
            super().finish()
        finally:
            self.request.close()

    def do_GET(self) -> None:
        """Answers one request."""
        if (url := self._url()) is None:
            return
        match url.path:
            case "/livez":
                self._answer_checks({"event_loop": self.server.board.is_live()}, url.query)
            case "/readyz":
                self._answer_checks(self.server.board.readiness(), url.query)
            case "/status":
                body = json.dumps(self.server.board.status.as_json()).encode()
                self._answer(HTTPStatus.OK, JSON, body)
            case "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, self.server.metrics.text())
            case "/events":
                self._answer_events(url.query)
            case "/faults" if self.server.faults is not None:
                self._answer_json(*self.server.faults.report())
            case _:
                known = "/livez /readyz?verbose /status /metrics /events?since=0"
                self._answer(HTTPStatus.NOT_FOUND, TEXT, f"try {known}\n".encode())

    def do_POST(self) -> None:
        """Answers one command, if it comes from whoever may give one: the operator, or anybody
        where TLS was given up on purpose."""
        if (url := self._url()) is None:
            return
        length = self.headers.get("Content-Length", "")
        if url.path != "/faults" or self.server.faults is None:
            self._answer(HTTPStatus.NOT_FOUND, TEXT, b"commands go to /faults\n")
        elif self.headers.get("Content-Type") != JSON:
            # A page in somebody's browser cannot send this type to another site.
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, TEXT, b"commands are JSON\n")
        elif not length.isdecimal() or len(length) > NUMBER_DIGITS_MAX:
            self._answer(HTTPStatus.LENGTH_REQUIRED, TEXT, b"Content-Length is missing\n")
        elif int(length) > BODY_BYTES_MAX:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TEXT, b"too long for a command\n")
        else:
            body = self.rfile.read(int(length))
            if not self.may_command:
                self._answer(HTTPStatus.FORBIDDEN, TEXT, b"only by TLS as the operator\n")
                return
            self._answer_json(*self.server.faults.command(body))

    def _url(self) -> SplitResult | None:
        """What is asked for; None, and 400 is answered, if that is no URL."""
        try:
            return urlsplit(self.path)
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST, TEXT, b"this is no URL\n")
            return None

    def _answer_json(self, code: HTTPStatus, document: dict[str, Any]) -> None:
        self._answer(code, JSON, json.dumps(document).encode())

    def _answer_checks(self, checks: dict[str, bool], query: str) -> None:
        passed = all(checks.values())
        lines = [f"[{'+' if good else '-'}] {name}" for name, good in checks.items()]
        if "verbose" not in parse_qs(query, keep_blank_values=True):
            lines = []
        lines.append("ok" if passed else "not ok")
        code = HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(code, TEXT, ("\n".join(lines) + "\n").encode())

    def _answer_events(self, query: str) -> None:
        since = parse_qs(query).get("since", ["0"])[0]
        if not since.isdecimal() or len(since) > NUMBER_DIGITS_MAX:
            self._answer(HTTPStatus.BAD_REQUEST, TEXT, b"since must be a number\n")
            return
        body = self.server.events.page(int(since)).encode()
        self._answer(HTTPStatus.OK, JSON_LINES, body)

    def _answer(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: probes come every few seconds, and anybody can send bad ones."""


class AdminListener:
    """Serves one replica's board and metrics."""

    def __init__(
        self,
        host: str,
        port: int,
        board: StatusBoard,
        registry: CollectorRegistry,
        events: EventStream,
        faults: FaultDesk | None = None,
        security: AdminSecurity | None = None,
    ) -> None:
        """Listens at once; port 0 takes a free one. `faults`: who takes commands; without
        `security`, from anybody. Raises ConfigurationError if it cannot."""
        family = AF_INET6 if ":" in host else AF_INET
        server_class = type("_FamilyServer", (_Server,), {"address_family": family})
        try:
            self._server: _Server = server_class((host, port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} for admin: {error.strerror}"
            ) from error
        self._server.board = board
        self._server.metrics = _MetricsPage(registry)
        self._server.events = events
        self._server.faults = faults
        self._server.security = security
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="admin", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stops listening; blocks for at most POLL_SECONDS."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
