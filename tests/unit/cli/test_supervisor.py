"""The supervisor with a stand-in for the replica: real processes, no protocol."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbft.cli.failure import CommandFailed
from pbft.cli.layout import Layout
from pbft.cli.main import run
from pbft.cli.process_table import ProcessRecord, ProcessState
from pbft.cli.supervisor import STARTED, LocalCluster
from pbft_client.cluster_file import ClusterFile, ReplicaAddresses, dump_cluster_file

STAND_IN = """
import json, os, signal, sys, time
stop = signal.SIG_IGN if "--stubborn" in sys.argv else lambda *_: sys.exit(0)
signal.signal(signal.SIGTERM, stop)
own_session = os.getsid(0) == os.getpid()
while "--busy" in sys.argv and sum(os.times()[:2]) < 0.05:
    pass
print(json.dumps([sys.argv[1:], own_session, os.environ.get("PBFT_DATA")]), flush=True)
time.sleep(60)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    layout = Layout(tmp_path)
    layout.cluster_file.touch()
    for replica in range(2):
        layout.data_directory(replica).mkdir(parents=True)
        layout.configuration_file(replica).touch()
    cluster = LocalCluster(tmp_path, command=(sys.executable, "-c", STAND_IN))
    yield cluster
    for replica in cluster.replicas:
        cluster.kill(replica)


def wait_for_line(cluster: LocalCluster, replica: int, lines: int = 1) -> list[str]:
    deadline = time.monotonic() + 60
    while True:
        path = cluster.layout.log_file(replica)
        text = path.read_text() if path.exists() else ""
        if text.count("\n") >= lines:
            return text.splitlines()
        assert time.monotonic() < deadline, f"replica {replica} wrote {text!r}"
        time.sleep(0.01)


def wait_for_state(cluster: LocalCluster, replica: int, state: ProcessState) -> None:
    deadline = time.monotonic() + 60
    while cluster.state(replica) is not state:
        assert time.monotonic() < deadline, f"still {cluster.state(replica)}"
        time.sleep(0.01)


def test_a_replica_is_started_once_in_a_session_of_its_own(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PBFT_DATA", "/one/for/all")
    assert cluster.running() == []
    assert cluster.start(1)
    assert not cluster.start(1)
    assert cluster.running() == [1]
    (line,) = wait_for_line(cluster, 1)
    configuration = str(cluster.layout.configuration_file(1))
    arguments = ["--allow-fault-injection", "--config", configuration]
    assert json.loads(line) == [arguments, True, None]


def test_another_supervisor_finds_what_the_first_started(cluster: LocalCluster) -> None:
    cluster.start(0)
    wait_for_line(cluster, 0)
    other = LocalCluster(cluster.layout.directory)
    assert other.state(0) is ProcessState.RUNNING
    assert other.stop(other.running()) == []
    assert cluster.state(0) is ProcessState.DOWN


def test_a_frozen_replica_stops_cleanly(cluster: LocalCluster) -> None:
    cluster.start(0)
    wait_for_line(cluster, 0)
    assert cluster.signal(0, signal.SIGSTOP)
    wait_for_state(cluster, 0, ProcessState.FROZEN)
    assert cluster.running() == [0]
    assert cluster.stop([0]) == []


def test_a_stubborn_replica_is_killed_after_the_time_is_up(cluster: LocalCluster) -> None:
    cluster.start(0, ["--stubborn"])
    cluster.start(1)
    wait_for_line(cluster, 0)
    wait_for_line(cluster, 1)
    assert cluster.stop([0, 1], timeout_seconds=2.0) == [0]
    assert cluster.running() == []


def test_a_killed_replica_stays_down_until_started_again(cluster: LocalCluster) -> None:
    cluster.start(0)
    first = cluster.record(0)
    assert cluster.kill(0)
    assert cluster.state(0) is ProcessState.DOWN
    assert not cluster.kill(0)
    assert not cluster.signal(0, signal.SIGTERM)
    assert cluster.start(0)
    assert cluster.record(0) != first


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CommandFailed),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_process_that_cannot_be_recorded_does_not_stay(
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    shown: type[BaseException],
) -> None:
    recorded = []

    def fail(record: ProcessRecord, path: Path) -> None:
        recorded.append(record)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ProcessRecord, "save", fail)
        with pytest.raises(shown) as told:
            cluster.start(0)
    assert [record.state() for record in recorded] == [ProcessState.DOWN]
    if shown is CommandFailed:
        assert "replica 0 was not started" in str(told.value)
        assert "No space left on device" in str(told.value)
        assert "\n" not in str(told.value)
    assert cluster.start(0)


def test_an_interrupt_waits_until_the_process_is_recorded(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = LocalCluster._spawn

    def interrupted(*arguments: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        return spawn(*arguments)

    monkeypatch.setattr(LocalCluster, "_spawn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cluster.start(0)
    assert cluster.running() == [0]
    assert cluster.stop([0]) == []


def test_a_process_file_of_somebody_else_is_not_believed(cluster: LocalCluster) -> None:
    mine = ProcessRecord.of(os.getpid())
    ProcessRecord(mine.pid, mine.start_ticks - 1, mine.boot).save(cluster.layout.process_file(0))
    assert cluster.state(0) is ProcessState.DOWN
    assert not cluster.kill(0)
    assert cluster.stop([0]) == []


def test_a_missing_data_directory_is_never_made(cluster: LocalCluster) -> None:
    cluster.layout.data_directory(0).rmdir()
    with pytest.raises(CommandFailed, match="pbft storage init --config"):
        cluster.start(0)
    assert not cluster.layout.data_directory(0).exists()


def test_what_is_not_there_is_named(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no replica 7 here; there are 0, 1"):
        cluster.start(7)
    with pytest.raises(CommandFailed, match="pbft up --dir"):
        LocalCluster(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["replica1.bak", "replica", "replica01", "replica-1", "replicas"])
def test_a_directory_named_otherwise_is_no_replicas(cluster: LocalCluster, name: str) -> None:
    copy = cluster.layout.directory / name
    copy.mkdir()
    (copy / "replica.toml").touch()
    assert LocalCluster(cluster.layout.directory).replicas == [0, 1]
    assert run(["down", "--dir", str(cluster.layout.directory)]) == 0


def test_up_names_a_cluster_file_that_is_unusable(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["up", "--dir", str(cluster.layout.directory)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {cluster.layout.cluster_file} lacks the key: genesis\n"
    assert cluster.running() == []


def test_up_names_the_replicas_that_are_not_there(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    replicas = (ReplicaAddresses("127.0.0.1:1"),) * 4
    text = dump_cluster_file(ClusterFile(Path("genesis.toml"), replicas), Path())
    cluster.layout.cluster_file.write_text(text)
    assert run(["up", "--dir", str(cluster.layout.directory)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {cluster.layout.cluster_file} names 4 replicas, 0 to 3, but")
    assert said.endswith("are: 0, 1\n")
    assert cluster.running() == []


def test_the_log_tail_is_the_end_of_the_log(cluster: LocalCluster) -> None:
    assert cluster.log_tail(0) == ""
    cluster.layout.log_file(0).write_text("\n".join(f"line {i}" for i in range(20)))
    assert cluster.log_tail(0).splitlines() == [f"line {i}" for i in range(15, 20)]


@pytest.mark.parametrize(
    ("story", "ended", "tail"),
    [
        (f"print('{{{STARTED}}}', flush=True); time.sleep(60)", [], f"{{{STARTED}}}"),
        ("time.sleep(0.2); print('error: no luck'); sys.exit(1)", [0], "error: no luck"),
    ],
    ids=["listens", "ends"],
)
def test_whether_a_replica_came_up_is_what_it_says_this_time(
    cluster: LocalCluster, story: str, ended: list[int], tail: str
) -> None:
    command = (sys.executable, "-c", f"import sys, time; {story}")
    starter = LocalCluster(cluster.layout.directory, command)
    starter.layout.log_file(0).write_text(f"{{{STARTED}}}\n" * 9)
    starter.start(0)
    assert starter.wait_until_up([0]) == ended
    assert starter.log_tail(0) == tail


def test_a_replica_that_does_not_listen_is_not_waited_for_for_ever(cluster: LocalCluster) -> None:
    cluster.start(0)
    with pytest.raises(CommandFailed, match="does not listen after 0 s"):
        cluster.wait_until_up([0], timeout_seconds=0.1)
    assert cluster.running() == [0]


def test_cpu_time_is_that_of_the_running_replicas(cluster: LocalCluster) -> None:
    assert cluster.cpu_seconds() == 0.0
    # The kernel counts in ticks, so the process works for some of them before it says a word.
    cluster.start(0, ["--busy"])
    wait_for_line(cluster, 0)
    assert cluster.cpu_seconds() >= 0.05
    cluster.kill(0)
    assert cluster.cpu_seconds() == 0.0


def test_fault_commands(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--dir", str(cluster.layout.directory)]
    assert run(["fault", "kill", "0", *place]) == 1
    assert "down already" in capsys.readouterr().err
    assert run(["fault", "freeze", "0", *place]) == 1
    assert "pbft fault start 0" in capsys.readouterr().err
    cluster.start(0)
    wait_for_line(cluster, 0)
    assert run(["fault", "start", "0", *place]) == 1
    assert run(["fault", "resume", "0", *place]) == 1
    assert run(["fault", "freeze", "0", *place]) == 0
    wait_for_state(cluster, 0, ProcessState.FROZEN)
    assert run(["fault", "resume", "0", *place]) == 0
    wait_for_state(cluster, 0, ProcessState.RUNNING)
    assert run(["fault", "kill", "0", *place]) == 0
    assert cluster.state(0) is ProcessState.DOWN
    assert capsys.readouterr().out == ""


def test_down_stops_what_runs_and_says_so(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.start(1)
    wait_for_line(cluster, 1)
    place = ["--dir", str(cluster.layout.directory)]
    assert run(["down", *place, "-w", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"directory": place[1], "stopped": [1], "killed": []}
    assert cluster.running() == []
    assert run(["down", *place]) == 0
    assert "none ran" in capsys.readouterr().err
