"""The replica's log: one JSON object per line, or a readable line on a terminal (operations.md
section 5).

Events have stable names; fields never hold values or keys' contents. What one peer can cause is
limited: beyond a few lines per event and peer in a while, lines are counted instead of written.
Whatever becomes of the stream, logging neither raises nor waits.
"""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

from pbft.node.line_writer import LineWriter

LINES_PER_WINDOW = 10
WINDOW_SECONDS = 10.0


class _Window:
    """Lines of one event and peer in the running window."""

    __slots__ = ("began", "lines", "suppressed")

    def __init__(self) -> None:
        self.began = -WINDOW_SECONDS
        self.lines = 0
        self.suppressed = 0


class EventLog:
    """Writes events to a text stream, stderr by default. Any thread."""

    def __init__(
        self, replica: int, stream: TextIO | None = None, readable: bool | None = None
    ) -> None:
        """`readable` of None: if the stream is a terminal."""
        self._replica = replica
        stream = sys.stderr if stream is None else stream
        self._writer = LineWriter(stream)
        self._readable = stream.isatty() if readable is None else readable
        self._windows: dict[tuple[str, object], _Window] = {}

    def info(self, event: str, **fields: object) -> None:
        """Something that is part of normal life."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something that an operator should know."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that this replica cannot go on with. Never suppressed, and written before this
        returns, if it can be soon."""
        self._write("error", event, fields)
        self.flush()

    def flush(self) -> None:
        """Sees to it that what was logged is written, for as long as one may wait at the end of a
        process."""
        self._writer.flush()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._writer.lost

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        # The key set is bounded: event names are ours, peers are replicas.
        window = self._windows.setdefault((event, fields.get("peer")), _Window())
        now = time.monotonic()
        if now - window.began >= WINDOW_SECONDS:
            window.began = now
            window.lines = 0
        window.lines += 1
        if window.lines > LINES_PER_WINDOW and level != "error":
            window.suppressed += 1
            return
        if window.suppressed:
            fields = {**fields, "suppressed": window.suppressed}
            window.suppressed = 0
        self._writer.put(self._line(level, event, fields))

    def _line(self, level: str, event: str, fields: dict[str, object]) -> str:
        moment = datetime.now(UTC)
        if self._readable:
            details = " ".join(f"{name}={value}" for name, value in fields.items())
            clock = moment.strftime("%H:%M:%S.%f")[:-3]
            return f"{clock} {level:7} replica {self._replica}: {event} {details}".rstrip() + "\n"
        record = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": level,
            "replica": self._replica,
            "event": event,
            **fields,
        }
        return json.dumps(record, default=str) + "\n"


class LibraryHandler(logging.Handler):
    """Turns the warnings of libraries (gRPC's among them) into events of ours."""

    def __init__(self, event_log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._event_log = event_log

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        self._event_log.warning("library_warning", library=record.name, text=text)
