"""A cluster of replica processes on this machine: started, stopped, killed, frozen.

Nothing stays resident: each replica is a process of its own in a session of its own, found again
by its process file. Nothing restarts a replica by itself, so that a kill stays a kill.
"""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pbft.cli.failure import CommandFailed
from pbft.cli.layout import Layout
from pbft.cli.process_table import ProcessRecord, ProcessState

START_COMMAND = (sys.executable, "-P", "-m", "pbft.cli.main", "start")
"""By the running interpreter, and blind to what lies in the working directory."""
OF_ONE_REPLICA = (
    "REPLICA",
    "CERTIFICATE",
    "DATA",
    "PEER_ADDRESS",
    "CLIENT_ADDRESS",
    "ADMIN_ADDRESS",
    "CONFIG",
)
"""PBFT_* variables that would make all replicas the same one: not handed down to them."""
POLL_SECONDS = 0.02
STOP_SECONDS = 10.0
"""How long a replica has to stop cleanly before it is killed."""
KILL_SECONDS = 10.0
"""How long the kernel has to remove a killed process."""
LOG_TAIL_LINES = 5
STARTED = '"event": "started"'
"""In what a replica logs once it listens. An answer on its ports may be that of another process."""
UP_SECONDS = 60.0
"""How long a replica that was started has to listen."""


class LocalCluster:
    """The replica processes below one directory. All methods block; none is for an event loop."""

    def __init__(self, directory: Path, command: Sequence[str] = START_COMMAND) -> None:
        """`command` runs one replica, given `--config FILE` and options after it.

        Raises CommandFailed if no testnet is there.
        """
        self._command = command
        self.layout = Layout(directory.absolute())
        if not self.layout.exists():
            raise CommandFailed(
                f"no cluster in {directory}: make one with `pbft up --dir {directory}`"
            )
        self.replicas = self.layout.replicas()
        self._log_begins: dict[int, int] = {}
        """Where in its log, in bytes, a replica that was started by this object begins."""

    def record(self, replica: int) -> ProcessRecord | None:
        """The process last started for this replica, running or not."""
        self._check(replica)
        return ProcessRecord.load(self.layout.process_file(replica))

    def state(self, replica: int) -> ProcessState:
        """Whether the replica's process runs."""
        record = self.record(replica)
        return ProcessState.DOWN if record is None else record.state()

    def running(self) -> list[int]:
        """Replicas whose process exists, frozen ones included."""
        return [one for one in self.replicas if self.state(one) is not ProcessState.DOWN]

    def start(self, replica: int, options: Sequence[str] = ("--allow-fault-injection",)) -> bool:
        """Starts `pbft start` for the replica, detached; False if it runs already.

        Raises CommandFailed if the replica has no data directory: only `pbft storage init` makes
        one, because an empty directory made by itself would be a replica without its memory.
        """
        with self._lock():
            if self.state(replica) is not ProcessState.DOWN:
                return False
            if not self.layout.data_directory(replica).is_dir():
                configuration = self.layout.configuration_file(replica)
                raise CommandFailed(
                    f"replica {replica} has no data directory: `pbft storage init --config "
                    f"{configuration}` makes an empty one"
                )
            log_file = self.layout.log_file(replica)
            self._log_begins[replica] = log_file.stat().st_size if log_file.exists() else 0
            with _signals_held():
                self._spawn_recorded(replica, options)
        return True

    def wait_until_up(
        self, replicas: Sequence[int], timeout_seconds: float = UP_SECONDS
    ) -> list[int]:
        """Waits until each of these replicas, which `start` started, listens or has ended; returns
        those that have ended. Raises CommandFailed when the time is up."""
        deadline = time.monotonic() + timeout_seconds
        for replica in replicas:
            while self.state(replica) is not ProcessState.DOWN and STARTED not in self._log(
                replica
            ):
                if time.monotonic() > deadline:
                    raise CommandFailed(
                        f"replica {replica} runs, but does not listen after {timeout_seconds:.0f} "
                        f"s; see {self.layout.log_file(replica)}"
                    )
                time.sleep(POLL_SECONDS)
        return [one for one in replicas if self.state(one) is ProcessState.DOWN]

    def kill(self, replica: int) -> bool:
        """SIGKILL, and waits until the process is gone; False if it was down."""
        record = self.record(replica)
        if record is None or not record.signal(signal.SIGKILL):
            return False
        if not _wait_until_down([record], KILL_SECONDS):
            raise CommandFailed(f"process {record.pid} of replica {replica} survives SIGKILL")
        return True

    def signal(self, replica: int, number: int) -> bool:
        """Sends a signal to the replica's process; False if it is down."""
        record = self.record(replica)
        return record is not None and record.signal(number)

    def stop(self, replicas: Sequence[int], timeout_seconds: float = STOP_SECONDS) -> list[int]:
        """SIGTERM to all, and waits; returns those that had to be killed when the time was up."""
        stopping = {}
        for replica in replicas:
            record = self.record(replica)
            if record is not None and record.signal(signal.SIGTERM):
                # A frozen process sees the first signal only once it goes on.
                record.signal(signal.SIGCONT)
                stopping[replica] = record
        _wait_until_down(list(stopping.values()), timeout_seconds)
        return [replica for replica in stopping if self.kill(replica)]

    def cpu_seconds(self) -> float:
        """CPU time that the running replicas have used since each was started."""
        records = (self.record(replica) for replica in self.replicas)
        return sum(record.cpu_seconds() for record in records if record is not None)

    def log_tail(self, replica: int) -> str:
        """The last lines that the replica's process wrote, for an error message. Of one that was
        started by this object, nothing from before."""
        return "\n".join(self._log(replica).splitlines()[-LOG_TAIL_LINES:])

    def _log(self, replica: int) -> str:
        try:
            with self.layout.log_file(replica).open("rb") as file:
                file.seek(self._log_begins.get(replica, 0))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _check(self, replica: int) -> None:
        if replica not in self.replicas:
            known = ", ".join(map(str, self.replicas))
            raise CommandFailed(f"there is no replica {replica} here; there are {known}")

    def _spawn_recorded(self, replica: int, options: Sequence[str]) -> None:
        """Starts the process; ends it if it cannot be recorded, because nobody could find it."""
        pid = self._spawn(replica, options)
        try:
            ProcessRecord.of(pid).save(self.layout.process_file(replica))
        except BaseException as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if not isinstance(error, OSError):
                raise
            raise CommandFailed(
                f"replica {replica} was not started, its process cannot be recorded: {error}"
            ) from error

    def _spawn(self, replica: int, options: Sequence[str]) -> int:
        """Starts the process by exec in a session of its own; returns its id."""
        log = str(self.layout.log_file(replica))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        configuration = str(self.layout.configuration_file(replica))
        private = {f"PBFT_{name}" for name in OF_ONE_REPLICA}
        return os.posix_spawn(
            self._command[0],
            [*self._command, *options, "--config", configuration],
            {name: value for name, value in os.environ.items() if name not in private},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One starter at a time, so that two `pbft up` do not start a replica twice."""
        with (self.layout.directory / "supervisor.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that end a command wait until what it is doing is done."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_until_down(records: Sequence[ProcessRecord], timeout_seconds: float) -> bool:
    """Waits until none of the processes runs; False if one still does when the time is up."""
    deadline = time.monotonic() + timeout_seconds
    while any(record.state() is not ProcessState.DOWN for record in records):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
