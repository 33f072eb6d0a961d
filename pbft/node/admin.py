"""The admin listener: /livez, /readyz, /metrics, /status, /events over HTTP (operations.md section
5).

It runs in threads of its own, so that a replica whose event loop is blocked can still be seen. It
changes nothing, except where a replica allows fault injection: POST /faults, which takes the
operator's certificate (`pbft.node.admin_tls`).
"""

import json
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pbft.errors import ConfigurationError
from pbft.node.admin_tls import AdminSecurity
from pbft.node.event_stream import EventStream
from pbft.node.faults import BODY_BYTES_MAX, FaultDesk
from pbft.node.status import StatusBoard

REQUEST_SECONDS = 5
"""A connection that says nothing for this long is closed."""
CONNECTIONS_MAX = 64
"""At a time, each with a thread; beyond, the oldest is cut, so that one that says nothing keeps
nobody out."""
POLL_SECONDS = 0.2
NUMBER_DIGITS_MAX = 18
"""Of a number in a query: what comes from outside is not turned into huge integers."""
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
JSON_LINES = "application/jsonl"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    board: StatusBoard
    registry: CollectorRegistry
    events: EventStream
    faults: FaultDesk | None
    security: AdminSecurity | None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._lock = threading.Lock()
        self._controls: dict[object, socket] = {}
        """For each connection another handle on it, by which it can be cut whatever TLS made of
        the first."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a new connection, and cuts the oldest if they are too many."""
        with self._lock:
            self._controls[request] = request.dup()
            if len(self._controls) > CONNECTIONS_MAX:
                oldest = self._controls.pop(next(iter(self._controls)))
                with oldest, suppress(OSError):
                    oldest.shutdown(SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection for good."""
        with self._lock:
            control = self._controls.pop(request, None)
        if control is not None:
            control.close()
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks, or that TLS refuses, is no news; anything else is a bug."""
        if not isinstance(sys.exception(), OSError):
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

    def finish(self) -> None:
        """Ends the connection; the server itself knows only the plain one below TLS."""
        try:
            super().finish()
        finally:
            self.request.close()

    def do_GET(self) -> None:
        """Answers one request."""
        url = urlsplit(self.path)
        match url.path:
            case "/livez":
                self._answer_checks({"event_loop": self.server.board.is_live()}, url.query)
            case "/readyz":
                self._answer_checks(self.server.board.readiness(), url.query)
            case "/status":
                body = json.dumps(self.server.board.status.as_json()).encode()
                self._answer(HTTPStatus.OK, JSON, body)
            case "/metrics":
                body = generate_latest(self.server.registry)
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, body)
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
        length = self.headers.get("Content-Length", "")
        if urlsplit(self.path).path != "/faults" or self.server.faults is None:
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
        self._server.registry = registry
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
