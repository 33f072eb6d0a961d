"""A reader that died (`pbft log inspect`, killed) does not keep a replica's files growing."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pbft.core.effects import Persist, Truncate
from pbft.storage.api import BaseChange, Change, DurableCheckpoint
from pbft.storage.environment import open_environment
from pbft.storage.lmdb_base import LmdbBase
from pbft.storage.vote_log import LmdbVoteLog
from tests.unit.storage.builders import MAP_BYTES, accepted, digest_of

ROOT = Path(__file__).resolve().parents[3]
RECORD_BYTES = 50_000

READER = """
import sys
from pathlib import Path
from pbft.storage.environment import open_environment
environment = open_environment(Path(sys.argv[1]), create=False, readonly=True, map_size=1 << 30)
transaction = environment.begin()
print("reading", flush=True)
sys.stdin.read()
"""


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """The id of a process that is within a read transaction, and is killed there."""
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "reading\n"
        yield reader.pid
    finally:
        reader.kill()
        reader.wait()
        reader.stdin.close()
        reader.stdout.close()


def write_on(path: Path, write: Callable[[int], None]) -> int:
    """By how much the file grows in 100 writes after a reader died."""
    for number in range(1, 11):
        write(number)
    with reading(path):
        pass
    before = (path / "data.mdb").stat().st_size
    for number in range(11, 111):
        write(number)
    return (path / "data.mdb").stat().st_size - before


def test_merged_space_is_used_again_after_a_reader_died(tmp_path: Path) -> None:
    base = LmdbBase(tmp_path, create=True, map_bytes=MAP_BYTES)

    def merge(number: int) -> None:
        change: Change = (1, b"key", 0, os.urandom(RECORD_BYTES))
        base.apply(BaseChange([[change]], {}, DurableCheckpoint(number, digest_of("state"), ())))
        base.refresh()

    grown = write_on(tmp_path, merge)
    base.close()
    assert grown < 10 * RECORD_BYTES


def test_truncated_space_is_used_again_after_a_reader_died(tmp_path: Path) -> None:
    log = LmdbVoteLog(tmp_path, create=True)

    def write(number: int) -> None:
        record = accepted(0, number, os.urandom(RECORD_BYTES))
        log.write([Persist(record), Truncate(number - 1)])

    grown = write_on(tmp_path, write)
    log.close()
    assert grown < 10 * RECORD_BYTES


def test_a_start_forgets_dead_readers(tmp_path: Path) -> None:
    LmdbVoteLog(tmp_path, create=True).close()
    # As long as somebody has it open, LMDB does not begin a new table of readers.
    with reading(tmp_path) as living:
        with reading(tmp_path) as dead:
            pass
        environment = open_environment(tmp_path, create=False)
        readers = environment.readers()
        environment.close()
    assert str(living) in readers
    assert str(dead) not in readers
