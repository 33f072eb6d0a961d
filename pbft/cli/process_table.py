"""Processes as the kernel knows them (Linux: /proc), told apart even when an id is used again."""

import json
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessState(Enum):
    """What a replica's process is doing, as far as the operating system knows."""

    DOWN = "down"
    RUNNING = "running"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process for ever: an id alone names another process once the first one has ended."""

    pid: int
    start_ticks: int
    """When it started, in clock ticks since boot."""
    boot: str
    """Which boot those ticks count from."""

    def save(self, path: Path) -> None:
        """Writes it so that a crash leaves the old file or the new one."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "ProcessRecord | None":
        """Reads what `save` wrote; None if the file is missing or is not such a record."""
        try:
            record = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return record if type(record.pid) is int and record.pid > 1 else None

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord":
        """The process that has this id now. Raises ProcessLookupError if there is none."""
        fields = _stat(pid)
        if fields is None:
            raise ProcessLookupError(f"no process has the id {pid}")
        return cls(pid, int(fields[19]), _boot())

    def state(self) -> ProcessState:
        """What the process does now; a process that ended but was not waited for is down."""
        fields = _stat(self.pid)
        if fields is None or fields[0] in "ZXx":
            _reap(self.pid)
            return ProcessState.DOWN
        if int(fields[19]) != self.start_ticks or _boot() != self.boot:
            return ProcessState.DOWN
        return ProcessState.FROZEN if fields[0] in "Tt" else ProcessState.RUNNING

    def signal(self, number: int) -> bool:
        """Sends a signal; False if the process has ended (a recycled id is never signalled)."""
        if self.state() is ProcessState.DOWN:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far; 0.0 once it has ended."""
        fields = _stat(self.pid) if self.state() is not ProcessState.DOWN else None
        if fields is None:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_SECOND


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third one (state) on; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses, which may itself hold blanks and parentheses.
    return text[text.rindex(")") + 2 :].split()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _reap(pid: int) -> None:
    """Collects the process if it is a child of this one and has ended, so that it is no zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
