"""What a damaged data directory ends in: a word, never a dead process or a silent loss."""

import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from pbft.core.effects import LogRecord, Persist, RejoinRecord
from pbft.errors import ConfigurationError
from pbft.storage import directory, inspection, log_records
from pbft.storage.api import StorageCorrupt
from pbft.storage.checksum import protect
from pbft.storage.environment import UNWRITTEN_PAGES_MAX, open_environment
from pbft.storage.inspection import Slots, inspect
from pbft.storage.lmdb_base import INSTALLING
from pbft.storage.ordered import encode_key
from tests.unit.storage.builders import (
    accepted,
    certificate,
    decided,
    digest_of,
    merge,
    new_state,
    new_view,
    prepared,
    stable,
    view_change,
)

CLUSTER = bytes(range(32))
ROOT = Path(__file__).resolve().parents[3]
PAGE_BYTES = 4096


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a record of every kind, closed."""
    path = tmp_path / "data"
    directory.create(path, CLUSTER, 2)
    storage = directory.open(path, CLUSTER, 2, state_map_bytes=1 << 26)
    saved = [accepted(3, number, bytes(20_000) + b"%d" % number) for number in range(65, 85)]
    others: list[LogRecord] = [
        prepared(3, 65),
        prepared(3, 66),
        decided(65, saved[0].batch),
        view_change(4),
    ]
    single: list[LogRecord] = [new_view(3), stable(64), RejoinRecord(7, done=True)]
    storage.log.write([Persist(record) for record in (*saved, *others, *single)])
    state = new_state(storage.base)
    for number in range(200):
        state.domain(1).put(b"key %03d" % number, 1, bytes(3_000))
    merge(state, 64)
    state.close()
    storage.close()
    return path


def rewrite(path: Path, table: bytes | None, letter: bytes, position: int) -> None:
    """Flips a bit of the first value whose key begins with `letter`, behind everybody's back."""
    with lmdb.open(str(path), map_size=1 << 26, max_dbs=3) as environment:
        database = environment.open_db(table)
        with environment.begin(write=True, db=database) as transaction:
            cursor = transaction.cursor()
            assert cursor.set_range(letter)
            key, value = bytearray(cursor.key()), bytearray(cursor.value())
            value[position] ^= 4
            transaction.put(bytes(key), bytes(value))


def test_a_sound_directory(data: Path) -> None:
    found = inspect(data)
    assert found.corruption == []
    assert (found.format_version, found.replica) == (directory.FORMAT_VERSION, 2)
    assert found.cluster_id == CLUSTER.hex()
    assert (found.view, found.view_change) == (3, 4)
    assert (found.low_water_mark, found.durable_checkpoint) == (64, 64)
    assert (found.rejoin_incarnation, found.rejoin_done) == (7, True)
    assert found.accepted == found.batches == Slots(20, 65, 84)
    assert found.prepared == Slots(2, 65, 66)
    assert found.decided == Slots(1, 65, 65)
    assert found.state_records == 200
    assert found.log_bytes == (data / "log" / "data.mdb").stat().st_size
    assert found.state_bytes == (data / "state" / "data.mdb").stat().st_size


def test_it_reads_beside_the_replica_and_changes_nothing(data: Path) -> None:
    before = {file: file.read_bytes() for file in data.rglob("data.mdb")}
    storage = directory.open(data, CLUSTER, 2, state_map_bytes=1 << 26)
    done = subprocess.run(
        [sys.executable, "-m", inspection.__name__, str(data)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    storage.close()
    assert '"corruption": []' in done.stdout
    assert {file: file.read_bytes() for file in data.rglob("data.mdb")} == before


@pytest.mark.parametrize("letter", [b"a", b"p", b"d", b"b", b"v", b"n", b"s", b"r"])
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_bit_in_the_log_is_named_and_refused(
    data: Path, letter: bytes, position: int
) -> None:
    rewrite(data / "log", None, letter, position)
    (told,) = inspect(data).corruption
    assert "fails its checksum" in told
    storage = directory.open(data, CLUSTER, 2, state_map_bytes=1 << 26)
    with pytest.raises(StorageCorrupt, match="fails its checksum"):
        storage.log.load()
    storage.close()


@pytest.mark.parametrize("table", [b"records", b"leaves", b"checkpoint"])
def test_a_flipped_bit_in_the_state_is_told(data: Path, table: bytes) -> None:
    rewrite(data / "state", table, b"", -1)
    (told, *_) = inspect(data).corruption
    assert "fails its checksum" in told


def test_a_batch_or_a_record_that_is_missing_is_told(data: Path) -> None:
    for path, table, letter in (("log", None, b"b"), ("state", b"records", b"")):
        with lmdb.open(str(data / path), map_size=1 << 26, max_dbs=3) as environment:
            database = environment.open_db(table)
            with environment.begin(write=True, db=database) as transaction:
                cursor = transaction.cursor()
                assert cursor.set_range(letter)
                cursor.delete()
    told = inspect(data).corruption
    assert any("its batch is missing" in text for text in told)
    assert any("there are 199 records, the leaves count 200" in text for text in told)


def exchange(data: Path, table: bytes, removed: bytes, key: bytes, value: bytes) -> None:
    """Puts a well-formed record in the place of another."""
    with lmdb.open(str(data / "state"), map_size=1 << 26, max_dbs=3) as environment:
        database = environment.open_db(table, create=False)
        with environment.begin(write=True, db=database) as transaction:
            assert transaction.delete(removed)
            transaction.put(key, protect(key, value))


def test_an_older_record_in_the_place_of_the_last_one_is_told(data: Path) -> None:
    """A write that the disk lost: every record and every leaf is well-formed."""
    key, older = encode_key(1, b"key 007", 1), encode_key(1, b"key 007", 0)
    exchange(data, b"records", key, older, bytes(3_000))
    assert inspect(data).corruption == [
        "the state: the records are not those of the leaves: one that was written is not there, "
        "or an older one is in its place"
    ]


def test_leaves_of_another_checkpoint_are_told(data: Path) -> None:
    checkpoint = b"checkpoint"
    stale = log_records.encode_checkpoint(64, digest_of("another state"), certificate(64))
    exchange(data, checkpoint, checkpoint, checkpoint, stale)
    assert inspect(data).corruption == [
        "the state: the leaves do not hash to the digest of the durable checkpoint"
    ]


def test_an_installation_that_was_interrupted_is_told_and_is_no_damage(data: Path) -> None:
    assert not inspect(data).installing
    with lmdb.open(str(data / "state"), map_size=1 << 26, max_dbs=3) as environment:
        checkpoint, records = (environment.open_db(name) for name in (b"checkpoint", b"records"))
        with environment.begin(write=True) as transaction:
            transaction.put(INSTALLING, protect(INSTALLING, b""), db=checkpoint)
            cursor = transaction.cursor(records)
            assert cursor.first() and cursor.delete()
    found = inspect(data)
    assert found.installing and found.corruption == []
    assert found.durable_checkpoint == 64


def test_damage_is_told_a_bounded_number_of_times(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "CORRUPTION_SHOWN", 2)
    for letter in (b"a", b"p", b"d", b"s"):
        rewrite(data / "log", None, letter, -1)
    assert len(inspect(data).corruption) == 2


def test_what_is_no_data_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a data directory"):
        inspect(tmp_path)


def test_another_format_is_shown_and_not_interpreted(data: Path) -> None:
    (data / "identity.json").write_text('{"format": 2}')
    assert inspect(data).format_version == 2
    assert inspect(data).accepted == Slots()


@pytest.mark.parametrize("part", ["log", "state"])
def test_a_truncated_file_is_refused_whatever_is_left(data: Path, part: str) -> None:
    file = data / part / "data.mdb"
    whole = file.read_bytes()
    for eighths in range(8):
        file.write_bytes(whole[: len(whole) * eighths // 8])
        if len(whole) - file.stat().st_size <= UNWRITTEN_PAGES_MAX * PAGE_BYTES:
            continue
        with pytest.raises(StorageCorrupt, match=r"truncated|empty|damaged"):
            directory.open(data, CLUSTER, 2, state_map_bytes=1 << 26)
        assert any(word in inspect(data).corruption[0] for word in ("truncated", "empty", "MDB"))


READ_ALL = """
import sys
from pathlib import Path
from pbft.storage import directory
storage = directory.open(Path(sys.argv[1]), bytes(range(32)), 2, state_map_bytes=1 << 26)
storage.log.load()
storage.base.view.leaves(16)
view = storage.base.view
print(len([view.record(position) for position, _ in view.walk(b"")]))
"""


@pytest.mark.parametrize("part", ["log", "state"])
@pytest.mark.parametrize("pages", [8, UNWRITTEN_PAGES_MAX // 2])
def test_the_last_pages_lost_are_no_bus_error(data: Path, part: str, pages: int) -> None:
    file = data / part / "data.mdb"
    file.write_bytes(file.read_bytes()[: -pages * PAGE_BYTES])
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode != 0
    assert "StorageCorrupt" in done.stderr or "mdb" in done.stderr


def test_a_page_that_was_never_written_is_no_truncation(tmp_path: Path) -> None:
    open_environment(tmp_path, create=True, map_size=1 << 24).close()
    environment = open_environment(tmp_path, create=False, map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
        for number in range(40):
            transaction.put(b"gone", bytes(PAGE_BYTES * (number % 7 + 1)))
        transaction.delete(b"gone")
    environment.close()
    again = open_environment(tmp_path, create=False, map_size=1 << 24)
    with again.begin() as transaction:
        assert transaction.get(b"key") == b"value"
    again.close()
