"""`pbft log inspect` on sound and on damaged directories."""

import json
import sys
from pathlib import Path

import pytest

from pbft.cli import exit_codes, log, main
from pbft.storage import directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory.create(tmp_path / "data", bytes(32), 3)
    return tmp_path / "data"


def test_it_shows_what_is_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["log", "inspect", str(data), "-w", "json"]) == exit_codes.OK
    document = json.loads(capsys.readouterr().out)
    assert (document["replica"], document["format_version"]) == (3, 1)
    assert document["accepted"] == {"count": 0, "first": None, "last": None}
    assert document["corruption"] == []
    assert main.run(["log", "inspect", str(data)]) == exit_codes.OK
    told = capsys.readouterr()
    assert "low water mark" in told.out
    assert told.err == ""


def test_damage_has_an_exit_code_of_its_own(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "log" / "data.mdb").write_bytes(b"")
    assert main.run(["log", "inspect", str(data)]) == exit_codes.VERIFICATION_FAILED
    assert "damaged: the vote log" in capsys.readouterr().err


def test_no_data_directory_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["log", "inspect", str(tmp_path)]) == exit_codes.ERROR
    assert "not a data directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), 7)", exit_codes.VERIFICATION_FAILED, "SIGBUS"),
        ("raise SystemExit('no such luck')", exit_codes.ERROR, "no such luck"),
    ],
)
def test_a_reader_that_dies_is_told(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    code: int,
    told: str,
) -> None:
    monkeypatch.setattr(log, "READER", (sys.executable, "-c", program))
    assert main.run(["log", "inspect", str(data)]) == code
    assert told in capsys.readouterr().err


def test_slots_are_shown_with_their_span() -> None:
    document = {"batches": {"count": 2, "first": 5, "last": 9}, "view": None, "corruption": ["x"]}
    assert log.rows(document) == [["batches", "2 (sequences 5 to 9)"], ["view", None]]
