"""Where readings come from, and what can be done to a replica from here."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pbft.cli.admin import admin_addresses, get
from pbft.cli.failure import CommandFailed
from pbft.cli.fault import BEHAVIOURS, send_command
from pbft.cli.layout import Layout
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.top.reading import Reading, parse_page, parse_status
from pbft.cli.untrusted import parse_json

ANSWER_SECONDS = 1.0


class Source(Protocol):
    """Something to look at. `read` and the actions may block; they are called in threads."""

    replicas: int
    actions: dict[str, Callable[[int], str]]
    """By name; returns what was done, in words. Raises PbftError or OSError. Empty where nothing
    can be done."""

    behaviours: dict[str, str]
    """What a replica can be made to do, in words, by name."""

    def read(self, replica: int) -> Reading:
        """One look at one replica. Not for two threads at once per replica."""
        ...

    def corrupt(self, replica: int, behaviour: str) -> str:
        """Makes a replica misbehave; as the actions."""
        ...


class LiveSource:
    """The admin listeners of a cluster; and its processes if `pbft up` started them."""

    def __init__(self, cluster_file: Path) -> None:
        """Raises CommandFailed or ConfigurationError if the file cannot be used."""
        self._addresses = admin_addresses(cluster_file)
        self.replicas = len(self._addresses)
        self._since = [0] * self.replicas
        self._runs = [""] * self.replicas
        layout = Layout(cluster_file.absolute().parent)
        started = [layout.process_file(one).exists() for one in layout.replicas()]
        self._local = LocalCluster(layout.directory) if any(started) else None
        self._cluster_file = cluster_file
        self.behaviours = {name: does for name, (_, does) in BEHAVIOURS.items()}
        self.actions: dict[str, Callable[[int], str]] = {"heal": self._heal}
        if self._local is not None:
            self.actions |= {
                "kill": self._kill,
                "start": self._start,
                "freeze": lambda replica: self._signal(replica, signal.SIGSTOP, "is frozen"),
                "resume": lambda replica: self._signal(replica, signal.SIGCONT, "goes on"),
            }

    def read(self, replica: int) -> Reading:
        """See Source."""
        process = None if self._local is None else self._local.state(replica)
        nothing = Reading(replica, time.time_ns() // 1_000, process, None)
        if process in (ProcessState.DOWN, ProcessState.FROZEN):
            return nothing
        address = self._addresses[replica]
        try:
            code, body = get(address, "/status", ANSWER_SECONDS)
            status = parse_status(parse_json(body)) if code == 200 else None
            path = f"/events?since={self._since[replica]}"
            page = parse_page(get(address, path, ANSWER_SECONDS)[1])
            if page is not None and self._runs[replica] not in ("", page.run):
                # Another process answers: its numbers begin at 0.
                page = parse_page(get(address, "/events?since=0", ANSWER_SECONDS)[1])
        except (OSError, ValueError):
            return nothing
        if status is None or page is None:
            return nothing
        self._since[replica], self._runs[replica] = page.following, page.run
        now_us = time.time_ns() // 1_000
        return Reading(replica, now_us, process, status, page.run, page.entries, page.missed)

    def corrupt(self, replica: int, behaviour: str) -> str:
        """See Source."""
        command: dict[str, object] = {"action": "set", "behaviour": behaviour, "options": {}}
        send_command(self._cluster_file, replica, command)
        return f"replica {replica}: {behaviour}"

    def _heal(self, replica: int) -> str:
        send_command(self._cluster_file, replica, {"action": "clear", "behaviour": None})
        return f"replica {replica} is honest again"

    @property
    def _cluster(self) -> LocalCluster:
        assert self._local is not None
        return self._local

    def _kill(self, replica: int) -> str:
        if not self._cluster.kill(replica):
            raise CommandFailed(f"replica {replica} is down already")
        return f"replica {replica} was killed"

    def _start(self, replica: int) -> str:
        if not self._cluster.start(replica):
            raise CommandFailed(f"replica {replica} runs already")
        return f"replica {replica} was started"

    def _signal(self, replica: int, number: int, words: str) -> str:
        if not self._cluster.signal(replica, number):
            raise CommandFailed(f"replica {replica} is down: start it first")
        return f"replica {replica} {words}"
