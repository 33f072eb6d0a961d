"""The ring of events: bounded, lossy, and readable from where one stopped."""

import json
from http.client import HTTPConnection

import pytest

from pbft.core.effects import Event, EventName
from pbft.node import event_stream
from pbft.node.admin import AdminListener
from pbft.node.event_stream import EventStream
from pbft.node.metrics import Metrics
from pbft.node.status import NodeStatus, StatusBoard
from pbft.quorum import Thresholds


def filled(entries: int, capacity: int) -> EventStream:
    stream = EventStream(2, capacity)
    for sequence in range(entries):
        stream.add("executed", 1, sequence, 4, "")
    return stream


def test_a_reader_goes_on_where_it_stopped() -> None:
    stream = filled(3, 8)
    entries, following, missed = stream.read(0)
    assert [one.sequence for one in entries] == [0, 1, 2]
    assert (following, missed) == (3, 0)
    assert stream.read(following) == ([], 3, 0)
    stream.on_event(Event(EventName.EVIDENCE, 5, 9, 3, "commit"))
    ((entry,), following, missed) = stream.read(following)
    assert (entry.event, entry.view, entry.sequence) == ("evidence", 5, 9)
    assert (entry.value, entry.detail, entry.number) == (3, "commit", 3)
    assert entry.at_us > 1_600_000_000_000_000
    assert (following, missed) == (4, 0)


def test_a_slow_reader_is_told_what_it_missed() -> None:
    stream = filled(20, 8)
    entries, following, missed = stream.read(5)
    assert [one.number for one in entries] == list(range(12, 20))
    assert (following, missed) == (20, 7)
    assert stream.read(0)[2] == 12


def test_a_reader_from_before_a_restart_begins_anew() -> None:
    stream = filled(3, 8)
    assert stream.read(1_000) == ([], 3, 0)


def test_a_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "EVENTS_PER_PAGE", 5)
    stream = filled(8, 8)
    entries, following, missed = stream.read(0)
    assert (len(entries), following, missed) == (5, 5, 0)
    assert [one.number for one in stream.read(following)[0]] == [5, 6, 7]


def test_the_ring_never_grows() -> None:
    stream = filled(1_000, 8)
    assert len(stream._ring) == 8


def test_an_entry_overwritten_while_it_is_read_is_missed() -> None:
    stream = filled(8, 8)
    # As if the writer had come round between the reader's look at the end and at this place.
    ahead = filled(12, 8)
    stream._ring[2] = ahead._ring[2]
    entries, following, missed = stream.read(0)
    assert [one.number for one in entries] == [0, 1, 3, 4, 5, 6, 7]
    assert (following, missed) == (8, 1)


def test_the_page_of_a_full_ring_fits_into_what_a_client_reads() -> None:
    stream = EventStream(2)
    for _ in range(event_stream.EVENTS_KEPT):
        stream.add("state_transfer_finished", 10**6, 10**9, 10**3, "x" * 24)
    assert len(stream.page(0)) < 1 << 20


def test_a_page_is_json_lines() -> None:
    stream = filled(2, 8)
    head, *lines = map(json.loads, stream.page(1).splitlines())
    assert (head["replica"], head["next"], head["missed"]) == (2, 2, 0)
    assert head["run"] != json.loads(filled(2, 8).page(1).splitlines()[0])["run"]
    assert [line["number"] for line in lines] == [1]
    assert list(lines[0]) == ["number", "at_us", "event", "view", "sequence", "value", "detail"]


def test_the_admin_listener_serves_the_stream() -> None:
    status = NodeStatus(2, 0, "backup", "normal", 0, 0, "", 0)
    board = StatusBoard(Thresholds.of(4), status, lambda: True)
    registry = Metrics(2, "1").registry
    listener = AdminListener("127.0.0.1", 0, board, registry, filled(3, 8))
    try:
        assert _get(listener.port, "/events?since=2") == (200, [2])
        assert _get(listener.port, "/events") == (200, [0, 1, 2])
        for odd in ("-1", "x", "9" * 40):
            assert _get(listener.port, f"/events?since={odd}")[0] == 400
    finally:
        listener.close()


def _get(port: int, path: str) -> tuple[int, list[int]]:
    """Status code, and the numbers of the entries."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        lines = answer.read().decode().splitlines()
    finally:
        connection.close()
    if answer.status != 200:
        return answer.status, []
    return answer.status, [json.loads(line)["number"] for line in lines[1:]]
