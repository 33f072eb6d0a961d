"""The admin listener: /livez, /readyz, /metrics, /status over HTTP (operations.md section 5).

It runs in threads of its own, so that a replica whose event loop is blocked can still be seen. It
changes nothing.
"""

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pbft.errors import ConfigurationError
from pbft.node.status import StatusBoard

REQUEST_SECONDS = 5
"""A connection that says nothing for this long is closed."""
POLL_SECONDS = 0.2
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    board: StatusBoard
    registry: CollectorRegistry


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server_version = "pbft"
    sys_version = ""
    server: _Server

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
            case _:
                self._answer(
                    HTTPStatus.NOT_FOUND, TEXT, b"try /livez /readyz?verbose /status /metrics\n"
                )

    def _answer_checks(self, checks: dict[str, bool], query: str) -> None:
        passed = all(checks.values())
        lines = [f"[{'+' if good else '-'}] {name}" for name, good in checks.items()]
        if "verbose" not in parse_qs(query, keep_blank_values=True):
            lines = []
        lines.append("ok" if passed else "not ok")
        code = HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(code, TEXT, ("\n".join(lines) + "\n").encode())

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
        self, host: str, port: int, board: StatusBoard, registry: CollectorRegistry
    ) -> None:
        """Listens at once; port 0 takes a free one. Raises ConfigurationError if it cannot."""
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
