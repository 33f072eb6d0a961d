"""`pbft start` of a replica on a machine that is too slow: its event loop is held up again and
again, and its disk takes its time. Run as a program in place of the command.
"""

import time
from typing import Any

from pbft.cli.main import main
from pbft.node.status import StatusBoard
from pbft.storage.vote_log import LmdbVoteLog

LOOP_SECONDS = 1.0
DISK_SECONDS = 1.0

prompt_beat, prompt_write = StatusBoard.beat, LmdbVoteLog.write


def beat(self: StatusBoard, lag_seconds: float) -> None:
    """Called in the event loop, ten times a second."""
    prompt_beat(self, lag_seconds)
    time.sleep(LOOP_SECONDS)


def write(self: LmdbVoteLog, *arguments: Any) -> None:
    """Called in the thread that writes the vote log."""
    time.sleep(DISK_SECONDS)
    prompt_write(self, *arguments)


if __name__ == "__main__":
    StatusBoard.beat = beat  # type: ignore[method-assign]
    LmdbVoteLog.write = write  # type: ignore[method-assign, assignment]
    main()
