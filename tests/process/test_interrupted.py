"""A measurement that is ended, by hand or by a time limit, leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def processes_of(directory: Path) -> list[str]:
    """Command lines that name it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("module", ["bench.measure", "bench.rejoin_under_load"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_replica_outlives_it(tmp_path: Path, module: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        deadline = time.monotonic() + 60
        while len(processes_of(tmp_path)) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) != 0
    assert processes_of(tmp_path) == []
    assert not list(tmp_path.iterdir())
