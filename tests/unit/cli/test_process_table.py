"""Processes are found again, and never mistaken for one that came later with the same id."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pbft.cli.process_table import ProcessRecord, ProcessState


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        process.kill()


def wait_for(record: ProcessRecord, state: ProcessState) -> None:
    deadline = time.monotonic() + 60
    while record.state() is not state:
        assert time.monotonic() < deadline, f"still {record.state()}"
        time.sleep(0.01)


def test_a_process_runs_freezes_and_ends(sleeper: int) -> None:
    record = ProcessRecord.of(sleeper)
    assert record.state() is ProcessState.RUNNING
    assert record.signal(signal.SIGSTOP)
    wait_for(record, ProcessState.FROZEN)
    assert record.signal(signal.SIGCONT)
    wait_for(record, ProcessState.RUNNING)
    assert record.signal(signal.SIGKILL)
    wait_for(record, ProcessState.DOWN)
    assert not record.signal(signal.SIGTERM)
    assert record.cpu_seconds() == 0.0


def test_a_recycled_id_is_down_and_never_signalled(sleeper: int) -> None:
    record = ProcessRecord.of(sleeper)
    for other in (
        replace(record, start_ticks=record.start_ticks + 1),
        replace(record, boot="another boot"),
    ):
        assert other.state() is ProcessState.DOWN
        assert not other.signal(signal.SIGKILL)
        assert other.cpu_seconds() == 0.0
    assert record.state() is ProcessState.RUNNING


def test_an_ended_child_that_nobody_waited_for_is_down() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    record = ProcessRecord.of(pid)
    wait_for(record, ProcessState.DOWN)
    assert not Path(f"/proc/{pid}").exists()


def test_an_ended_process_that_its_parent_ignores_is_down() -> None:
    code = (
        "import os, sys, time\n"
        "child = os.posix_spawn(sys.executable, [sys.executable, '-c', 'input()'], os.environ)\n"
        "print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        try:
            assert parent.stdout is not None
            record = ProcessRecord.of(int(parent.stdout.readline()))
            assert record.state() is ProcessState.RUNNING
            record.signal(signal.SIGKILL)
            wait_for(record, ProcessState.DOWN)
            assert Path(f"/proc/{record.pid}").exists()
        finally:
            parent.kill()


def test_a_process_that_does_not_exist_has_no_record() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        ProcessRecord.of(pid)


def test_a_record_is_saved_and_loaded(tmp_path: Path) -> None:
    record = ProcessRecord.of(os.getpid())
    record.save(tmp_path / "process.json")
    assert ProcessRecord.load(tmp_path / "process.json") == record
    assert record.cpu_seconds() > 0


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"pid": 1}', '{"pid": 1, "start_ticks": 1, "boot": ""}']
)
def test_an_unusable_record_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "process.json"
    assert ProcessRecord.load(path) is None
    path.write_text(text)
    assert ProcessRecord.load(path) is None
