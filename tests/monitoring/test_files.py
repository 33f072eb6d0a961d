"""The monitoring files by themselves: valid, complete, and about metrics that exist."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from pbft.core.effects import Event, EventName
from pbft.errors import Reason
from pbft.node.metrics import Metrics
from pbft.node.network import FAULTY
from pbft.node.status import NodeStatus
from tests.monitoring.prometheus import (
    CONFIGURATION,
    DASHBOARD,
    DEPLOY,
    RULES,
    TARGET,
    faster_rules,
    installed,
    local_configuration,
)

NAME = re.compile(r"\bpbft_[a-z_]+\b")


def known_names() -> set[str]:
    """Every name under which a replica exposes a sample."""
    metrics = Metrics(0, "1")
    metrics.watch(lambda: 0.0, lambda: 0)
    metrics.on_bytes("out", 1)
    metrics.on_message("out", "commit")
    metrics.on_rejection("frame", Reason.MALFORMED, 1)
    metrics.on_operations("put", False, 1)
    metrics.on_query(False)
    metrics.on_executed(1)
    metrics.on_reply(0.1)
    metrics.on_peer(1, True, 0)
    metrics.on_status(NodeStatus(0, 0, "primary", "normal", 0, 0, "", 0))
    for signer in (0, 1):
        metrics.on_checkpoint(signer, 64, b"d")
    for name in EventName:
        metrics.on_event(Event(name, 1, 1, 1, "prepare"))
    text = generate_latest(metrics.registry).decode()
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def panels() -> list[dict[str, Any]]:
    document = json.loads(DASHBOARD.read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def test_promtool_accepts_the_configuration_and_the_rules(tmp_path: Path) -> None:
    for name, text in {
        "prometheus.yml": CONFIGURATION.read_text(),
        "rules.yml": RULES.read_text(),
    }.items():
        (tmp_path / name).write_text(text)
    command = [installed("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {RULES.read_text().count('expr:')} rules found" in done.stdout


def test_every_replica_of_the_compose_file_is_scraped() -> None:
    compose = (DEPLOY.parent / "docker-compose.yml").read_text()
    targets = TARGET.findall(CONFIGURATION.read_text())
    services = re.findall(r"^  replica(\d+):$", compose, re.MULTILINE)
    assert targets == services == ["0", "1", "2", "3"]
    published = re.findall(r":(\d+):\1\"", compose)
    for address in re.findall(r"replica\d+:(\d+)", CONFIGURATION.read_text()):
        assert address in published


def test_alerts_and_panels_use_metrics_that_exist() -> None:
    known = known_names()
    used = set(NAME.findall(RULES.read_text()))
    for panel in panels():
        for target in panel["targets"]:
            used |= set(NAME.findall(target["expr"]))
    assert used - known == set()


def test_every_metric_of_the_design_exists() -> None:
    known = known_names()
    for name in (
        "pbft_view",
        "pbft_is_primary",
        "pbft_sequence",
        "pbft_low_water_mark",
        "pbft_view_changes_total",
        "pbft_view_change_duration_seconds_count",
        "pbft_phase_duration_seconds_count",
        "pbft_request_duration_seconds_count",
        "pbft_batch_requests_count",
        "pbft_batch_operations_count",
        "pbft_pending_requests",
        "pbft_messages_total",
        "pbft_message_bytes_total",
        "pbft_rejected_total",
        "pbft_evidence_total",
        "pbft_peer_connected",
        "pbft_peer_queue_bytes",
        "pbft_state_digest_mismatch_total",
        "pbft_state_transfer_total",
        "pbft_storage_sync_seconds_count",
        "pbft_event_loop_lag_seconds",
        "pbft_kv_operations_total",
        "pbft_build_info",
    ):
        assert name in known


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    rules = RULES.read_text().split("- alert: ")[1:]
    assert len(rules) == len({rule.split()[0] for rule in rules})
    for rule in rules:
        for key in ("expr:", "severity:", "summary:", "action:"):
            assert key in rule, rule


def test_the_alert_on_hostile_messages_names_every_hostile_reason() -> None:
    listed = re.search(r'reason=~"([^"]+)"', RULES.read_text())
    assert listed is not None
    # Who sends nothing but a Hello is nobody yet: strangers knock at every open port.
    strangers = {Reason.UNKNOWN_SENDER, Reason.CLIENT_UNAUTHORIZED}
    assert set(listed[1].split("|")) == {reason.value for reason in FAULTY - strangers}


def test_the_top_row_is_the_one_of_the_design() -> None:
    first = [panel["title"] for panel in panels()][:5]
    assert first == [
        "View and primary",
        "Executed sequence per replica",
        "Phase latency",
        "Rejections by reason",
        "Digest agreement",
    ]


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert panel["description"] and panel["targets"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_is_provisioned_with_the_data_source_it_names() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = (provisioning / "datasources" / "prometheus.yml").read_text()
    assert "uid: prometheus" in source
    assert {panel["datasource"]["uid"] for panel in panels()} == {"prometheus"}
    compose = (DEPLOY.parent / "docker-compose.yml").read_text()
    path = re.search(r"path: (\S+)}", (provisioning / "dashboards" / "pbft.yml").read_text())
    assert path is not None and f"./deploy/grafana/dashboards:{path[1]}:ro" in compose


@pytest.mark.parametrize(
    ("text", "faster"),
    [
        ("for: 15s", "for: 1s"),
        ("for: 2m", "for: 8s"),
        ("rate(x[5m])", "rate(x[30s])"),
        ("changes(x[30s])", "changes(x[4s])"),
        ("x unless x offset 1m", "x unless x offset 6s"),
    ],
)
def test_rules_are_made_impatient(text: str, faster: str) -> None:
    assert faster_rules(text) == faster


def test_targets_are_replaced() -> None:
    text = local_configuration(CONFIGURATION.read_text(), [f"127.0.0.1:{port}" for port in "1234"])
    assert 'targets: ["127.0.0.1:3"]\n        labels: {node: "2"}' in text
    assert "replica" not in text.split("scrape_configs:")[1]
    assert text.count("500ms") == 2
