"""What f replicas that lie in their metrics can do to the alerts: promtool plays the rules."""

import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.monitoring.prometheus import RULES, installed, scraping

SECONDS = 180
"""Played; each alert has had its time by then."""
STEPS = SECONDS // 5
BUSY, IDLE = f"100+7x{STEPS}", f"100x{STEPS}"
AHEAD = f"1000000+1000x{STEPS}"
NONE, WAITING = f"0x{STEPS}", f"9x{STEPS}"
Series = dict[str, str]


def cluster(executed: list[str], pending: list[str]) -> Series:
    """The metrics of replicas that are up, one after the other."""
    series = {f'up{{job="pbft",node="{node}"}}': f"1x{STEPS}" for node in range(len(executed))}
    for node, (sequences, requests) in enumerate(zip(executed, pending, strict=True)):
        series[f'pbft_sequence{{stage="executed",node="{node}"}}'] = sequences
        series[f'pbft_pending_requests{{node="{node}"}}'] = requests
    return series


def view_changing(*nodes: int) -> Series:
    return {f'pbft_mode{{mode="view_changing",node="{node}"}}': f"1x{STEPS}" for node in nodes}


def check(directory: Path, series: Series, expression: str, expected: dict[str, float]) -> None:
    """Plays the series, and has promtool compare what the expression has at the end."""
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    (directory / "rules.yml").write_text(RULES.read_text())
    test = directory / "test.json"
    test.write_text(
        json.dumps(
            {
                "rule_files": ["rules.yml"],
                "evaluation_interval": "5s",
                "tests": [
                    {
                        "interval": "5s",
                        "input_series": [
                            {"series": name, "values": values} for name, values in series.items()
                        ],
                        "promql_expr_test": [
                            {
                                "expr": expression,
                                "eval_time": f"{SECONDS}s",
                                "exp_samples": samples,
                            }
                        ],
                    }
                ],
            }
        )
    )
    command = [installed("promtool"), "test", "rules", str(test)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expect(directory: Path, series: Series, **firing: int) -> None:
    """That exactly these alerts fire, each so often."""
    expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = {f'{{alertname="{alert}"}}': float(count) for alert, count in firing.items()}
    check(directory, series, expression, expected)


def test_nothing_fires_where_all_is_well(tmp_path: Path) -> None:
    expect(tmp_path, cluster([BUSY] * 4, [WAITING] * 4))
    expect(tmp_path, cluster([IDLE] * 4, [NONE] * 4))


def test_no_f_replicas_silence_a_stall(tmp_path: Path) -> None:
    expect(tmp_path, cluster([IDLE] * 4, [WAITING] * 4), PbftStalled=1)
    expect(tmp_path, cluster([BUSY, *[IDLE] * 3], [NONE, *[WAITING] * 3]), PbftStalled=1)
    two_of_seven = cluster([*[BUSY] * 2, *[IDLE] * 5], [*[NONE] * 2, *[WAITING] * 5])
    expect(tmp_path, two_of_seven, PbftStalled=1)


def test_no_f_replicas_make_up_a_stall(tmp_path: Path) -> None:
    expect(tmp_path, cluster([IDLE] * 4, [WAITING, *[NONE] * 3]))
    expect(tmp_path, cluster([IDLE] * 7, [*[WAITING] * 2, *[NONE] * 5]))
    expect(tmp_path, cluster([IDLE, *[BUSY] * 3], [WAITING] * 4))


def test_who_tells_of_many_counts_once(tmp_path: Path) -> None:
    idle = cluster([IDLE] * 4, [WAITING, *[NONE] * 3])
    more = {f'pbft_pending_requests{{node="0",x="{x}"}}': WAITING for x in range(4)}
    expect(tmp_path, idle | more)
    stalled = cluster([BUSY, *[IDLE] * 3], [WAITING] * 4)
    more = {f'pbft_sequence{{stage="executed",node="0",x="{x}"}}': BUSY for x in range(4)}
    expect(tmp_path, stalled | more, PbftStalled=1)


def test_a_stall_is_seen_with_only_f_plus_one_replicas_left(tmp_path: Path) -> None:
    series = cluster([IDLE] * 2, [WAITING] * 2)
    series |= {f'up{{job="pbft",node="{node}"}}': f"0x{STEPS}" for node in (2, 3)}
    expect(tmp_path, series, PbftStalled=1, PbftQuorumLost=1, PbftReplicaDown=2)


def test_no_f_replicas_make_up_a_view_change(tmp_path: Path) -> None:
    busy = cluster([BUSY] * 4, [NONE] * 4)
    expect(tmp_path, busy | view_changing(0))
    expect(tmp_path, busy | view_changing(0, 1), PbftViewChangeStuck=1)


def test_who_is_behind_is_behind_f_plus_one_replicas(tmp_path: Path) -> None:
    expect(tmp_path, cluster([AHEAD, *[BUSY] * 3], [NONE] * 4))
    expect(tmp_path, cluster([*[AHEAD] * 2, *[BUSY] * 5], [NONE] * 7))
    late = f"0+1x{STEPS}"
    series = cluster([AHEAD, BUSY, BUSY, late], [NONE] * 4)
    behind = 'ALERTS{alertname="PbftReplicaBehind",alertstate="firing"}'
    labels = 'severity="warning",alertname="PbftReplicaBehind",alertstate="firing",node="3"'
    check(tmp_path, series, behind, {f"ALERTS{{{labels}}}": 1.0})


@pytest.mark.parametrize("witnesses", [1, 3])
def test_evidence_says_how_many_say_so(tmp_path: Path, witnesses: int) -> None:
    series = cluster([BUSY] * 4, [NONE] * 4)
    for node in range(witnesses):
        for replica in ("3", "0") if node == 0 else ("3",):
            name = f'pbft_evidence_total{{node="{node}",replica="{replica}",kind="commit"}}'
            series[name] = f"50x{STEPS}"
    expect(tmp_path, series, PbftEvidence=2)
    (rule,) = [rule for rule in RULES.read_text().split("- alert: ") if "PbftEvidence" in rule[:20]]
    assert "prove" not in rule
    expression = rule.split("expr: ")[1].split("\n")[0]
    expected = {'{replica="3",kind="commit"}': float(witnesses), '{replica="0",kind="commit"}': 1.0}
    check(tmp_path, series, expression, expected)


class Liar(BaseHTTPRequestHandler):
    """Claims that more replicas are up than Prometheus scrapes."""

    def do_GET(self) -> None:
        body = b'pbft_view 3\nup{job="pbft",node="5"} 1\nup{x="y"} 1\n'
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_no_target_tells_which_targets_are_up(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        addresses = [f"127.0.0.1:{server.server_port}"] * 4
        with scraping(tmp_path / "prometheus", addresses) as prometheus:
            deadline = time.monotonic() + 30
            while len(prometheus.query("pbft_view")) < 4:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert len(prometheus.query("up")) == 4
        server.shutdown()
