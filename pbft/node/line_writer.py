"""Lines to a stream that may be slow, full or gone, written by a thread of their own.

Whoever reads a replica's log must not be able to stop the replica: writing never waits, and never
raises. What does not fit or cannot be written is counted.
"""

import queue
import threading
from typing import TextIO

LINES_WAITING_MAX = 10_000
FLUSH_SECONDS = 1.0
"""How long the end of the process waits for a log that nobody reads."""


class LineWriter:
    """A bounded queue in front of one stream. Any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | threading.Event] = queue.Queue(LINES_WAITING_MAX)
        self._unwritable = 0
        self._overflown = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()

    @property
    def lost(self) -> int:
        """Lines that were not written."""
        return self._unwritable + self._overflown

    def put(self, line: str) -> None:
        """Has a line written soon."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._overflown += 1

    def flush(self) -> None:
        """Returns when all lines before are written, or after FLUSH_SECONDS."""
        done = threading.Event()
        try:
            self._queue.put(done, timeout=FLUSH_SECONDS)
        except queue.Full:
            return
        done.wait(FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._stream.write(item)
                self._stream.flush()
            except (OSError, ValueError):
                # ValueError: the stream is closed.
                self._unwritable += 1
