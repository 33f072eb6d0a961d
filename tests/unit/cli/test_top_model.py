"""What `pbft top` makes of what replicas tell, lies among it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pbft.cli.process_table import ProcessState
from pbft.cli.top.journal import LINES_KEPT, Journal, Tone
from pbft.cli.top.lanes import LANES_AHEAD, LANES_KEPT, Lane, Lanes
from pbft.cli.top.model import CHECKPOINTS_KEPT, HOSTILE, VIEWS_AHEAD, ClusterModel
from pbft.cli.top.reading import Reading, Status, parse_page, parse_status
from pbft.cli.untrusted import LIST_MAX, NUMBER_MAX, TEXT_MAX
from pbft.node.event_stream import Entry
from pbft.node.network import FAULTY
from pbft.quorum import Thresholds

RECORDING = Path(__file__).with_name("recorded_view_change.jsonl")
SECOND = 1_000_000
RIGHT, WRONG = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def recorded() -> list[Reading]:
    """A real cluster of four whose primary, replica 3, was killed under load."""
    return [Reading.from_json(json.loads(line)) for line in RECORDING.read_text().splitlines()]


def status(**changes: Any) -> Status:
    parsed = parse_status({"view": 0, "mode": "normal", "role": "backup", **changes})
    assert parsed is not None
    return parsed


def entry(event: str, sequence: int = 0, value: int = 0, detail: str = "", **more: int) -> Entry:
    return Entry(0, more.get("at_us", 0), event, more.get("view", 0), sequence, value, detail)


def reading(replica: int, *entries: Entry, at_us: int = 0, **changes: Any) -> Reading:
    return Reading(replica, at_us, None, status(**changes), "run", entries)


def model_of(*readings: Reading) -> ClusterModel:
    model = ClusterModel(4)
    for one in readings:
        model.take(one)
    return model


def texts(model: ClusterModel) -> list[str]:
    return [line.text for line in model.journal.newest(LINES_KEPT)]


def test_a_recorded_view_change_is_understood() -> None:
    model = ClusterModel(4)
    changing = []
    for one in recorded():
        model.take(one)
        changing.append(model.is_changing_view)
    assert any(changing) and not changing[-1]
    change = model.view_change
    assert change is not None and change.view == 4
    assert change.signed == {0, 1, 2}
    assert model.entered(change) == {0, 1, 2}
    took_us = change.took_us(3)
    assert took_us is not None and 10_000 < took_us < 2 * SECOND
    assert model.view == 4
    assert model.replicas[3].process is ProcessState.DOWN and model.replicas[3].is_silent
    told = texts(model)
    for text in ("replica 3 is down", "primary 3 is unreachable", "entered view 4, primary 0"):
        assert text in told
    suspecting = next(
        line for line in model.journal.newest(99) if line.text == "primary 3 is unreachable"
    )
    assert suspecting.replicas == {0, 1, 2}
    assert model.operations_per_second > 0
    median_ms = model.latency_ms(0.5)
    assert median_ms is not None and 1 < median_ms < 1_000
    assert all(model.agrees(model.replicas[one]) for one in (0, 1, 2))
    lane = model.lanes.newest(1)[0]
    assert lane.view == 4 and lane.prepares.keys() <= {1, 2, 3}
    done = [lane for lane in model.lanes.newest(50) if len(lane.executed) >= 2]
    assert done and all(lane.began_us is not None for lane in done[:5])


def test_a_recording_survives_a_round_trip() -> None:
    for one in recorded()[:8]:
        assert Reading.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_hostile_reasons_are_those_that_the_node_charges() -> None:
    assert {reason.value for reason in FAULTY} == HOSTILE
    model = model_of(reading(0, rejections={"bad_signature": 2, "duplicate": 5}))
    assert (model.replicas[0].hostile, model.replicas[0].rejected) == (2, 7)


def test_one_liar_moves_neither_view_nor_throughput_nor_lanes() -> None:
    model = ClusterModel(4)
    for second in range(3):
        for honest in (0, 1):
            model.take(
                reading(honest, at_us=second * SECOND, view=2, executed=10, operations=second * 50)
            )
        lie = entry("pre_prepared", sequence=10**9)
        liar = {"view": 10**6, "executed": 10**9, "operations": second * 10**9}
        model.take(reading(2, lie, at_us=second * SECOND, **liar))
    assert model.view == 2
    assert model.operations_per_second == 50
    assert model.lanes.newest(5) == []


def test_a_restart_counts_operations_from_zero() -> None:
    model = ClusterModel(4)
    for second, operations in enumerate((1_000, 1_100, 5, 25)):
        for replica in (0, 1):
            model.take(reading(replica, at_us=second * SECOND, operations=operations))
    assert model.operations_per_second == 20


def test_a_lane_fills_phase_by_phase() -> None:
    lanes = Lanes(Thresholds.of(4))

    def lane_of() -> Lane:
        return lanes.newest(1)[0]

    lanes.take(0, entry("pre_prepared", 7, 3, at_us=1_000))
    assert (lane_of().accepted, lane_of().requests) == ({0}, 3)
    lanes.take(0, entry("prepare_vote", 7, 1, RIGHT))
    lanes.take(0, entry("prepare_vote", 7, 2, RIGHT))
    lanes.take(0, entry("prepare_vote", 7, 99, RIGHT))
    lanes.take(1, entry("commit_vote", 7, 3, WRONG))
    assert lane_of().prepares == {1: RIGHT, 2: RIGHT}
    assert lane_of().conflicting(lane_of().commits) == {3}
    assert lane_of().conflicting(lane_of().prepares) == set()
    lanes.take(2, entry("executed", 7, 3, at_us=3_000))
    assert lane_of().ordered_us(2) is None
    lanes.take(1, entry("executed", 7, 3, at_us=5_000))
    lanes.take(0, entry("executed", 7, 3, at_us=9_000))
    assert lane_of().ordered_us(2) == 4_000
    assert lanes.latencies_us(since_us=0) == [4_000]
    assert lanes.latencies_us(since_us=2_000) == []


def test_votes_of_an_earlier_view_do_not_count_in_a_later_one() -> None:
    lanes = Lanes(Thresholds.of(4))
    lanes.take(0, entry("prepare_vote", 7, 1, RIGHT))
    lanes.take(0, entry("executed", 7, 1, at_us=50))
    lanes.take(0, entry("prepare_vote", 7, 2, RIGHT, view=1))
    lanes.take(0, entry("commit_vote", 7, 3, RIGHT))
    (lane,) = lanes.newest(9)
    assert (lane.view, lane.prepares, lane.commits) == (1, {2: RIGHT}, {})
    assert lane.executed == {0: 50}


def test_lanes_are_bounded_and_keep_the_highest() -> None:
    lanes = Lanes(Thresholds.of(4))
    lanes.advance([10_000, 10_000])
    for sequence in range(1, LANES_KEPT + 50):
        lanes.take(0, entry("pre_prepared", sequence))
    lanes.take(0, entry("pre_prepared", 1))
    known = [lane.sequence for lane in lanes.newest(10_000)]
    assert len(known) == LANES_KEPT
    assert known[0] == LANES_KEPT + 49 and min(known) == 50
    assert lanes.is_plausible(10_000 + LANES_AHEAD)
    assert not lanes.is_plausible(10_001 + LANES_AHEAD)


def told(replica: int, digest: str, *entries: Entry, sequence: int = 64) -> Reading:
    return reading(replica, *entries, state_digest=digest, state_digest_sequence=sequence)


def test_the_state_of_the_majority_is_right() -> None:
    model = model_of(*(told(one, RIGHT) for one in (0, 1, 2)), told(3, WRONG))
    assert [model.agrees(one) for one in model.replicas] == [True, True, True, False]


def test_a_digest_that_only_one_tells_is_not_compared() -> None:
    model = model_of(told(0, RIGHT), told(1, RIGHT, sequence=128))
    assert [model.agrees(one) for one in model.replicas] == [None, None, None, None]


def test_who_signs_another_digest_than_it_tells_is_found_out_by_two() -> None:
    lie = entry("checkpoint_vote", 64, 3, WRONG)
    one_witness = model_of(told(0, RIGHT, lie), *(told(one, RIGHT) for one in (1, 2, 3)))
    assert one_witness.agrees(one_witness.replicas[3]) is True
    two = model_of(told(0, RIGHT, lie), told(1, RIGHT, lie), told(2, RIGHT), told(3, RIGHT))
    assert two.agrees(two.replicas[3]) is False
    assert two.agrees(two.replicas[0]) is True


def test_checkpoints_far_ahead_do_not_push_out_real_ones() -> None:
    lies = [entry("checkpoint_vote", 10**6 + one, 0, WRONG) for one in range(CHECKPOINTS_KEPT)]
    model = model_of(told(0, RIGHT), told(1, RIGHT), told(3, RIGHT, *lies))
    assert model.agrees(model.replicas[0]) is True


def test_views_far_ahead_are_lies() -> None:
    model = ClusterModel(4)
    for replica in (0, 1):
        votes = [
            entry("view_change_vote", value=replica, view=1),
            entry("view_change_started", view=VIEWS_AHEAD + 1),
        ]
        model.take(reading(replica, *votes))
    change = model.view_change
    assert change is not None and change.view == 1


def test_evidence_names_the_accused_and_who_holds_it() -> None:
    proof = entry("evidence", 9, 2, "pre_prepare")
    model = model_of(reading(0, proof), reading(1, proof, proof))
    assert model.replicas[2].accusers == {0, 1}
    assert texts(model) == ["proof against 2: pre-prepare"]
    model.take(Reading(1, 0, None, status(), "another run"))
    assert model.replicas[2].accusers == {0}


def test_faults_and_processes_that_come_and_go_are_told() -> None:
    model = ClusterModel(4)
    running, down = ProcessState.RUNNING, ProcessState.DOWN
    model.take(Reading(1, 1, running, status(), "a"))
    assert texts(model) == []
    model.take(Reading(1, 2, running, status(faults=["wrong-reply"]), "a"))
    model.take(Reading(1, 3, running, status(), "a"))
    model.take(Reading(1, 4, down, None))
    model.take(Reading(1, 5, running, status(), "b"))
    assert texts(model) == [
        "replica 1 runs",
        "replica 1 is down",
        "replica 1 is honest again",
        "replica 1 wrong-reply",
    ]


def test_a_replica_of_another_machine_falls_silent_and_answers_again() -> None:
    model = ClusterModel(4)
    model.take(Reading(1, 1, None, status(), "a"))
    model.take(Reading(1, 2, None, None))
    model.take(Reading(1, 3, None, None))
    model.take(Reading(1, 4, None, status(), "a"))
    assert texts(model) == ["replica 1 answers", "replica 1 is silent"]


def test_only_the_last_checkpoint_is_news() -> None:
    stable = [entry("checkpoint_stable", sequence, at_us=sequence) for sequence in (64, 128)]
    model = model_of(reading(0, *stable), reading(1, *stable))
    assert texts(model) == ["checkpoint 128 is stable"]
    assert model.journal.newest(1)[0].replicas == {0, 1}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("state_diverged", "replica 0 has a state of its own"),
        ("state_transfer_started", "replica 0 fetches state"),
        ("state_transfer_finished", "replica 0 has state again"),
        ("amnesia", "replica 0 lost its memory"),
        ("rejoined", "replica 0 has rejoined"),
    ],
)
def test_what_happens_to_a_replica_is_told(event: str, words: str) -> None:
    assert texts(model_of(reading(0, entry(event)))) == [words]


def test_the_journal_is_bounded() -> None:
    journal = Journal()
    for number in range(LINES_KEPT + 5):
        journal.tell((number,), number, 0, Tone.QUIET, str(number))
    lines = journal.newest(LINES_KEPT + 5)
    assert len(lines) == LINES_KEPT
    assert lines[0].text == str(LINES_KEPT + 4) and lines[-1].text == "5"


@pytest.mark.parametrize("document", [None, 5, "text", [], [{}]])
def test_what_is_no_status_is_none(document: object) -> None:
    assert parse_status(document) is None


def test_an_odd_status_is_made_harmless() -> None:
    parsed = parse_status(
        {
            "view": -1,
            "executed": NUMBER_MAX + 1,
            "operations": True,
            "mode": "\x1b[2J" + "x" * 1_000,
            "role": 7,
            "peers_connected": ["a", 1, -4, 2.5],
            "faults": ["\x1b[2J", [], *["f"] * 1_000],
            "rejections": {"a": "many", "\x1bb": 2, **{str(one): 1 for one in range(500)}},
        }
    )
    assert parsed is not None
    assert (parsed.view, parsed.executed, parsed.operations, parsed.role) == (0, 0, 0, "")
    assert "\x1b" not in parsed.mode and len(parsed.mode) <= TEXT_MAX
    assert parsed.peers_connected == (1,)
    assert parsed.faults[:2] == ("[2J", "f") and len(parsed.faults) <= LIST_MAX
    assert parsed.rejections["b"] == 2 and len(parsed.rejections) <= LIST_MAX


def test_pages_are_read_and_odd_entries_left_out() -> None:
    good = {"number": 4, "at_us": 5, "event": "executed", "view": 1, "sequence": 9, "value": 2}
    lines = [
        {"run": "r", "next": 7, "missed": 1},
        good | {"detail": ""},
        good | {"view": -1},
        good | {"value": "2"},
        [],
    ]
    page = parse_page("\n".join(map(json.dumps, lines)).encode())
    assert page is not None
    assert (page.run, page.following, page.missed) == ("r", 7, 1)
    assert page.entries == (Entry(4, 5, "executed", 1, 9, 2, ""),)
    assert parse_page(b"") is None
    assert parse_page(b"not found") is None
    assert parse_page(b"[" * 200_000) is None
    assert parse_page(b"[]") is None
