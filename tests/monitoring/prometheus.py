"""A real Prometheus that scrapes a cluster of this machine, with the project's own configuration:
the same files, made faster, and with other targets.
"""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CONFIGURATION = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "pbft.json"
SCRAPE = "500ms"
RATE_INTERVAL = "4s"
"""What Grafana would put for $__rate_interval: a few scrapes."""
RANGE_SECONDS_MIN = 4
READY_SECONDS = 30.0
ANSWER_SECONDS = 10.0
TARGET = re.compile(r"replica(\d+):\d+")
UNITS = {"s": 1, "m": 60}


def installed(program: str) -> str:
    """Where the program is. It must be there: what is not tried is not known to work."""
    found = shutil.which(program)
    assert found is not None, f"{program} is missing: apt-get install prometheus"
    return found


def faster_rules(text: str) -> str:
    """The same rules, ten times as impatient, so that minutes become seconds."""

    def wait(match: re.Match[str]) -> str:
        return f"for: {max(1, int(match[1]) * UNITS[match[2]] // 15)}s"

    def window(match: re.Match[str]) -> str:
        return f"[{max(RANGE_SECONDS_MIN, int(match[1]) * UNITS[match[2]] // 10)}s]"

    def offset(match: re.Match[str]) -> str:
        return "offset " + window(match).strip("[]")

    text = re.sub(r"for: (\d+)([sm])\b", wait, text)
    text = re.sub(r"offset (\d+)([sm])\b", offset, text)
    return re.sub(r"\[(\d+)([sm])\]", window, text)


def local_configuration(text: str, admin_addresses: Sequence[str]) -> str:
    """The same configuration, for replicas that listen elsewhere, scraped more often."""
    placed = TARGET.sub(lambda match: admin_addresses[int(match[1])], text)
    return re.sub(r"_interval: \w+", f"_interval: {SCRAPE}", placed)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Prometheus:
    """Answers of a running Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an API call. Raises OSError, AssertionError if it is an error."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=ANSWER_SECONDS) as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Samples of an instant query that are numbers (a rate of nothing is NaN)."""
        result: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["result"]
        return [sample for sample in result if sample["value"][1] != "NaN"]

    def rules(self) -> list[dict[str, Any]]:
        """Every alert rule, with its state and how its evaluation went."""
        groups = self.get("/api/v1/rules", type="alert")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """Labels of what fires, by the name of the alert."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self.get("/api/v1/alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def scraping(directory: Path, admin_addresses: Sequence[str]) -> Iterator[Prometheus]:
    """Prometheus on the loopback, its data in `directory`; gone afterwards."""
    directory.mkdir()
    (directory / "rules.yml").write_text(faster_rules(RULES.read_text()))
    configuration = directory / "prometheus.yml"
    configuration.write_text(local_configuration(CONFIGURATION.read_text(), admin_addresses))
    address = f"127.0.0.1:{free_port()}"
    command = [
        installed("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    log = (directory / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        prometheus = Prometheus(f"http://{address}")
        deadline = time.monotonic() + READY_SECONDS
        while not prometheus.is_ready():
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError((directory / "log").read_text())
            time.sleep(0.1)
        yield prometheus
    finally:
        process.kill()
        process.wait()
        log.close()
