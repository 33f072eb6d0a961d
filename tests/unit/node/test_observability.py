"""What an operator sees: HTTP, metrics, log."""

import io
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from pbft.core.effects import Event, EventName
from pbft.errors import ConfigurationError, Reason
from pbft.node import event_log as event_log_module
from pbft.node import line_writer
from pbft.node import status as status_module
from pbft.node.admin import AdminListener
from pbft.node.event_log import LINES_PER_WINDOW, EventLog, LibraryHandler
from pbft.node.event_stream import EventStream
from pbft.node.metrics import Metrics
from pbft.node.status import NodeStatus, StatusBoard
from pbft.quorum import Thresholds

STATUS = NodeStatus(
    replica=2,
    view=5,
    role="backup",
    mode="normal",
    low_water_mark=64,
    executed=70,
    state_digest="ab" * 32,
    state_digest_sequence=64,
    pending_requests=4,
    tail_memory_bytes=10,
    tail_log_bytes=2_000,
    faults=["silent"],
    rejections={"malformed": 3},
    peers_connected=[0, 1],
    clients_connected=1,
)


def board(status: NodeStatus = STATUS, disk: bool = True) -> StatusBoard:
    return StatusBoard(Thresholds.of(4), status, lambda: disk)


@contextmanager
def admin(shown: StatusBoard, metrics: Metrics) -> Iterator[str]:
    listener = AdminListener("127.0.0.1", 0, shown, metrics.registry, EventStream(2))
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        listener.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_status_is_the_published_one() -> None:
    shown = board()
    with admin(shown, Metrics(2, "1")) as url:
        code, body = get(f"{url}/status")
        assert code == 200
        document = json.loads(body)
        assert document["replica"] == 2 and document["role"] == "backup"
        assert document["rejections"] == {"malformed": 3}
        assert document["faults"] == ["silent"]
        shown.publish(replace(STATUS, view=6, role="primary"))
        assert json.loads(get(f"{url}/status")[1])["view"] == 6
        assert get(f"{url}/elsewhere")[0] == 404


def test_readiness_names_its_checks() -> None:
    with admin(board(), Metrics(2, "1")) as url:
        assert get(f"{url}/readyz") == (200, "ok\n")
        code, body = get(f"{url}/readyz?verbose")
        assert code == 200
        assert body.splitlines() == [
            "[+] event_loop",
            "[+] storage",
            "[+] peers",
            "[+] caught_up",
            "[+] view_stable",
            "[+] state_digest",
            "ok",
        ]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"peers_connected": [0]}, "peers"),
        ({"mode": "view_changing"}, "view_stable"),
        ({"mode": "diverged"}, "state_digest"),
        ({"mode": "state_transfer"}, "caught_up"),
        ({"mode": "recalling"}, "caught_up"),
        ({"mode": "rejoining"}, "caught_up"),
        ({"executed": 63}, "caught_up"),
    ],
)
def test_each_check_fails_alone(change: dict[str, object], check: str) -> None:
    with admin(board(replace(STATUS, **change)), Metrics(2, "1")) as url:
        code, body = get(f"{url}/readyz?verbose")
        assert code == 503
        failed = [line for line in body.splitlines() if line.startswith("[-]")]
        assert failed == [f"[-] {check}"]
        assert get(f"{url}/livez")[0] == 200


def test_a_stuck_disk_is_not_ready() -> None:
    assert board(disk=False).readiness()["storage"] is False


def test_a_blocked_event_loop_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = board()
    shown.beat(0.25)
    metrics = Metrics(2, "1")
    metrics.watch(shown.lag_seconds, lambda: 0)
    with admin(shown, metrics) as url:
        assert get(f"{url}/livez") == (200, "ok\n")
        assert "pbft_event_loop_lag_seconds 0.25" in get(f"{url}/metrics")[1]
        now = time.monotonic()
        monkeypatch.setattr(status_module.time, "monotonic", lambda: now + 11)
        assert shown.lag_seconds() > 10
        assert not shown.is_live()
        assert not shown.readiness()["event_loop"]


def test_a_taken_admin_port_says_so() -> None:
    registry, events = Metrics(2, "1").registry, EventStream(2)
    first = AdminListener("127.0.0.1", 0, board(), registry, events)
    try:
        with pytest.raises(ConfigurationError, match=f"{first.port} for admin"):
            AdminListener("127.0.0.1", first.port, board(), registry, events)
    finally:
        first.close()


def test_bad_requests_do_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    with admin(board(), Metrics(2, "1")) as url:
        request = urllib.request.Request(f"{url}/status", method="POST", data=b"x")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        caught.value.close()
        assert get(f"{url}/status")[0] == 200
    assert capsys.readouterr().err == ""


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pbft_{name}", labels)


def test_two_replicas_have_registries_of_their_own() -> None:
    one, two = Metrics(0, "1"), Metrics(1, "1")
    one.on_message("in", "prepare")
    assert value(one, "messages_total", direction="in", type="prepare") == 1
    assert value(two, "messages_total", direction="in", type="prepare") is None
    assert value(two, "build_info", version="1", replica="1") == 1


def test_counters_take_what_they_are_given() -> None:
    metrics = Metrics(0, "1")
    metrics.on_rejection("frame", Reason.MALFORMED, 3)
    metrics.on_rejection("frame", Reason.MALFORMED, None, count=2)
    labels = {"message": "frame", "reason": "malformed"}
    assert value(metrics, "rejected_total", **labels, peer="3") == 1
    assert value(metrics, "rejected_total", **labels, peer="client") == 2
    assert metrics.rejections == {"malformed": 3}
    metrics.on_bytes("out", 100)
    assert value(metrics, "message_bytes_total", direction="out") == 100
    metrics.on_sync(0.003, 7)
    assert value(metrics, "storage_sync_seconds_count") == 1
    assert value(metrics, "storage_records_total") == 7
    metrics.on_peer(2, True, 55)
    assert value(metrics, "peer_connected", peer="2") == 1
    assert value(metrics, "peer_queue_bytes", peer="2") == 55
    metrics.on_status(replace(STATUS, role="primary"))
    assert value(metrics, "view") == 5
    assert value(metrics, "is_primary") == 1
    assert value(metrics, "low_water_mark") == 64
    assert value(metrics, "pending_requests") == 4
    assert value(metrics, "tail_bytes", where="memory") == 10
    assert value(metrics, "tail_bytes", where="log") == 2_000
    assert value(metrics, "sequence", stage="executed") == 70


def test_phases_are_timed_from_events() -> None:
    metrics = Metrics(0, "1")
    for name in (EventName.PRE_PREPARED, EventName.PREPARED, EventName.COMMITTED):
        metrics.on_event(Event(name, 0, 9, 4))
    metrics.on_event(Event(EventName.EXECUTED, 0, 9, 4))
    for phase in ("prepare", "commit", "execute"):
        assert value(metrics, "phase_duration_seconds_count", phase=phase) == 1
    assert value(metrics, "batch_requests_sum") == 4
    assert value(metrics, "sequence", stage="committed") == 9
    metrics.on_event(Event(EventName.EXECUTED, 0, 9, 0))
    assert value(metrics, "phase_duration_seconds_count", phase="execute") == 1


def test_rare_events_are_counted() -> None:
    metrics = Metrics(0, "1")
    for event in (
        Event(EventName.VIEW_CHANGE_STARTED, 1, 0, 0, "suspicion"),
        Event(EventName.VIEW_ENTERED, 1, 0),
        Event(EventName.EVIDENCE, 1, 5, 3, "equivocation"),
        Event(EventName.STATE_DIVERGED, 1, 5),
        Event(EventName.STATE_TRANSFER_STARTED, 1, 5),
        Event(EventName.STATE_TRANSFER_FINISHED, 1, 5),
    ):
        metrics.on_event(event)
    assert value(metrics, "view_changes_total", cause="suspicion") == 1
    assert value(metrics, "view_change_duration_seconds_count") == 1
    assert value(metrics, "evidence_total", kind="equivocation", replica="3") == 1
    assert value(metrics, "state_digest_mismatch_total") == 1
    assert value(metrics, "state_transfer_total", outcome="started") == 1
    assert value(metrics, "state_transfer_total", outcome="finished") == 1


def test_log_lines_are_json_objects() -> None:
    stream = io.StringIO()
    log = EventLog(3, stream)
    log.info("peer_connected", peer=1)
    log.error("halted", why="because")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["event"] == "peer_connected" and first["peer"] == 1
    assert first["level"] == "info" and first["replica"] == 3
    assert first["time"].endswith("+00:00")
    assert second["level"] == "error" and second["why"] == "because"


def test_log_lines_are_readable_on_a_terminal() -> None:
    stream = io.StringIO()
    log = EventLog(3, stream, readable=True)
    log.warning("rejected", peer=1, reason="malformed")
    log.flush()
    assert stream.getvalue().endswith("replica 3: rejected peer=1 reason=malformed\n")


def test_one_peer_cannot_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(event_log_module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    log = EventLog(0, stream)
    for _ in range(LINES_PER_WINDOW + 50):
        log.warning("rejected", peer=1)
    log.warning("rejected", peer=2)
    log.error("halted")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("peer") for line in lines] == [1] * LINES_PER_WINDOW + [2, None]
    now[0] += event_log_module.WINDOW_SECONDS
    log.warning("rejected", peer=1)
    log.flush()
    assert json.loads(stream.getvalue().splitlines()[-1])["suppressed"] == 50


@pytest.mark.parametrize("end", ["broken pipe", "closed"])
def test_a_log_that_cannot_be_written_stops_nobody(end: str) -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    log = EventLog(0, stream)
    log.info("started")
    log.flush()
    os.close(reader)
    if end == "closed":
        stream.close()
    log.info("peer_connected", peer=1)
    log.error("halted")
    assert log.lost == 2
    with suppress(OSError):
        stream.close()


def test_a_log_that_nobody_reads_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "LINES_WAITING_MAX", 100)
    monkeypatch.setattr(line_writer, "FLUSH_SECONDS", 0.05)
    reader, writer = os.pipe()
    text = "x" * 1_000
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as stream:
        log = EventLog(0, stream)
        for peer in range(1_000):
            log.info("peer_connected", peer=peer, text=text)
        log.error("halted")
        assert log.lost > 500
        with os.fdopen(reader) as lines:
            for _ in range(10):
                assert json.loads(lines.readline())["text"] == text


def test_warnings_of_libraries_become_events() -> None:
    stream = io.StringIO()
    log = EventLog(0, stream)
    handler = LibraryHandler(log)
    library = logging.getLogger("a.library.of.a.test")
    library.propagate = False
    library.addHandler(handler)
    library.info("nothing")
    try:
        raise ValueError("inner")
    except ValueError:
        library.exception("it broke %d", 5)
    library.removeHandler(handler)
    log.flush()
    line = json.loads(stream.getvalue())
    assert line["event"] == "library_warning" and line["library"] == "a.library.of.a.test"
    assert line["text"] == "it broke 5: ValueError('inner')"
