"""The vote log against what disks and processes do."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from pbft.core.effects import Persist, RejoinRecord, Truncate
from pbft.crypto.digest import NULL_DIGEST
from pbft.limits import MIB
from pbft.storage import log_records
from pbft.storage.api import StorageCorrupt, StorageFailed
from pbft.storage.checksum import protect
from pbft.storage.vote_log import TRUNCATED_MAX, LmdbVoteLog
from tests.unit.storage.builders import (
    accepted,
    decided,
    new_view,
    prepared,
    stable,
    view_change,
)

ROOT = Path(__file__).resolve().parents[3]

RECORDS = (
    accepted(2, 9),
    prepared(2, 9),
    decided(9),
    view_change(3),
    new_view(2),
    stable(7),
    RejoinRecord(5, done=False),
)
DAMAGED = {
    log_records.slot_key(log_records.ACCEPTED, 9, 2): "accepted pre-prepare of sequence 9, view 2",
    log_records.slot_key(log_records.PREPARED, 9, 2): "prepared certificate of sequence 9, view 2",
    log_records.decided_key(9): "commit certificate of sequence 9",
    log_records.body_key(9, decided(9).digest): "batch of sequence 9",
    log_records.VIEW_CHANGE: "view-change",
    log_records.NEW_VIEW: "new-view",
    log_records.STABLE: "stable checkpoint",
    log_records.REJOIN: "rejoin",
}


def written_log(directory: Path, *, map_bytes: int = 1 << 20) -> LmdbVoteLog:
    """A log with a record of every kind."""
    log = LmdbVoteLog(directory, create=True, map_bytes=map_bytes)
    log.write([Persist(record) for record in RECORDS])
    return log


def raw_items(directory: Path) -> dict[bytes, bytes]:
    """What LMDB holds."""
    with lmdb.open(str(directory), create=False) as environment, environment.begin() as reading:
        return dict(reading.cursor())


def overwrite(directory: Path, key: bytes, value: bytes) -> None:
    """Changes what is on disk behind the log's back."""
    with (
        lmdb.open(str(directory), create=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(key, value)


def remove(directory: Path, key: bytes) -> bytes:
    """Takes a record away behind the log's back; returns its value."""
    with (
        lmdb.open(str(directory), create=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        value = transaction.pop(key)
        assert value is not None
        return value


@pytest.mark.parametrize("key", DAMAGED, ids=DAMAGED.values())
def test_a_flipped_bit_in_any_record_is_detected_and_named(tmp_path: Path, key: bytes) -> None:
    written_log(tmp_path).close()
    value = raw_items(tmp_path)[key]
    for position in (0, len(value) // 2, len(value) - 1):
        damaged = bytearray(value)
        damaged[position] ^= 0x10
        overwrite(tmp_path, key, bytes(damaged))
        log = LmdbVoteLog(tmp_path)
        with pytest.raises(StorageCorrupt, match=DAMAGED[key]):
            log.load()
        log.close()
    overwrite(tmp_path, key, value)
    log = LmdbVoteLog(tmp_path)
    assert log.load().stable == stable(7)
    log.close()


def test_what_is_kept_for_others_is_read_only_for_them(tmp_path: Path) -> None:
    """A rotten batch at or below the durable state is neither met at a start nor sent."""
    log = written_log(tmp_path)
    log.write([Persist(decided(10)), Persist(decided(11))])
    log.close()
    overwrite(tmp_path, log_records.body_key(11, decided(11).digest), b"rotten")
    log = LmdbVoteLog(tmp_path)
    assert log.load(above=11).decided == ()
    log.close()
    overwrite(tmp_path, log_records.decided_key(10), b"rotten")
    log = LmdbVoteLog(tmp_path)
    assert list(log.read_decided((9, 10), MIB)) == [decided(9)]
    for sequence, named in ((10, "commit certificate of sequence 10"), (11, "sequence 11")):
        with pytest.raises(StorageCorrupt, match=named):
            log.read_decided((sequence,), MIB)
    log.close()
    remove(tmp_path, log_records.body_key(9, decided(9).digest))
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match=r"sequence 9.*batch is missing"):
        log.read_decided((9,), MIB)
    log.close()


@pytest.mark.parametrize(
    "key",
    [
        log_records.slot_key(log_records.ACCEPTED, 12, 0),
        log_records.slot_key(log_records.PREPARED, 12, 0),
        log_records.decided_key(12),
        log_records.body_key(12, decided(12).digest),
    ],
)
def test_a_vote_whose_key_rotted_into_an_old_one_is_missed(tmp_path: Path, key: bytes) -> None:
    """What is kept for others is no place where votes of this replica get lost."""
    log = LmdbVoteLog(tmp_path, create=True)
    kept = [accepted(0, 12), prepared(0, 12), decided(12)]
    log.write([Persist(decided(9)), Persist(decided(10)), *(Persist(record) for record in kept)])
    log.close()
    rotten = bytearray(key)
    rotten[8] = 8
    overwrite(tmp_path, bytes(rotten), remove(tmp_path, key))
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt):
        log.load(above=10)
    log.close()


def test_keys_that_are_out_of_order_are_noticed_and_end_the_loading(tmp_path: Path) -> None:
    """A bit of a key on a page of LMDB, which walks by position and looks for by order."""
    log = LmdbVoteLog(tmp_path, create=True)
    log.write([Persist(decided(sequence)) for sequence in range(1, 101)])
    log.close()
    path = tmp_path / "data.mdb"
    data = path.read_bytes()
    for whole, rotten in ((90, 10), (60, 90)):
        key = log_records.body_key(whole, decided(whole).digest)
        assert key in data
        damaged = data.replace(key, log_records.body_key(rotten, decided(whole).digest))
        path.write_bytes(damaged)
        log = LmdbVoteLog(tmp_path)
        with pytest.raises(StorageCorrupt):
            log.load(above=50)
        log.close()


def test_a_long_truncation_ends_with_later_ones(tmp_path: Path) -> None:
    """So that it holds no vote up."""
    log = LmdbVoteLog(tmp_path, create=True)
    last = TRUNCATED_MAX + 10
    log.write([Persist(decided(sequence)) for sequence in range(1, last + 1)])
    log.write([Truncate(last - 1)])
    assert [record.sequence for record in log.load().decided] == list(
        range(TRUNCATED_MAX + 1, last + 1)
    )
    log.write([Truncate(last - 1)])
    assert [record.sequence for record in log.load().decided] == [last]
    log.close()


def test_no_batch_goes_before_what_mentions_it(tmp_path: Path) -> None:
    """A null batch has no body: of those there are fewer to delete than of certificates."""
    log = LmdbVoteLog(tmp_path, create=True)
    null = replace(decided(10), digest=NULL_DIGEST, batch=b"")
    last = TRUNCATED_MAX + 10
    records = [decided(sequence) for sequence in range(1, last + 1)]
    log.write([Persist(null if record.sequence == 10 else record) for record in records])
    log.write([Truncate(last - 1)])
    assert log.load().decided == tuple(records[TRUNCATED_MAX:])
    log.close()


def test_a_batch_that_is_written_and_deleted_at_once_leaves_a_sound_file(tmp_path: Path) -> None:
    log = LmdbVoteLog(tmp_path, create=True)
    for sequence in range(1, 21):
        body = bytes([sequence]) * 1_000_000
        log.write([Persist(decided(sequence, body)), *([Truncate(20)] if sequence == 20 else [])])
    log.close()
    log = LmdbVoteLog(tmp_path)
    assert not log.load().decided
    log.close()


def test_a_record_in_the_place_of_another_is_detected(tmp_path: Path) -> None:
    log = written_log(tmp_path)
    log.write([Persist(decided(10))])
    log.close()
    misplaced = raw_items(tmp_path)[log_records.decided_key(10)]
    overwrite(tmp_path, log_records.decided_key(9), misplaced)
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match="commit certificate of sequence 9"):
        log.load()
    log.close()


def test_a_missing_batch_is_detected(tmp_path: Path) -> None:
    written_log(tmp_path).close()
    remove(tmp_path, log_records.body_key(9, decided(9).digest))
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match=r"sequence 9.*batch is missing"):
        log.load()
    log.close()


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("key", DAMAGED, ids=DAMAGED.values())
def test_a_flipped_bit_in_any_key_is_detected(tmp_path: Path, key: bytes, position: int) -> None:
    """What comes after it in the order of the keys is not taken to be absent."""
    written_log(tmp_path).close()
    damaged = bytearray(key)
    damaged[position] ^= 0x40
    with (
        lmdb.open(str(tmp_path), create=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        stored = transaction.pop(key)
        assert stored is not None
        transaction.put(bytes(damaged), stored)
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match=r"nobody writes the key|fails its checksum"):
        log.load()
    log.close()


def test_a_key_out_of_its_order_does_not_end_the_reading(tmp_path: Path) -> None:
    log = LmdbVoteLog(tmp_path, create=True)
    log.write([Persist(prepared(0, number)) for number in range(1, 60)])
    log.close()
    key = log_records.slot_key(log_records.PREPARED, 20, 0)
    file = tmp_path / "data.mdb"
    file.write_bytes(file.read_bytes().replace(key, b"q" + key[1:]))
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match="nobody writes the key 71"):
        log.load()
    log.close()


def test_a_key_with_too_much_in_it_is_detected(tmp_path: Path) -> None:
    written_log(tmp_path).close()
    key = log_records.STABLE + b"?"
    overwrite(tmp_path, key, protect(key, b""))
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match="nobody writes the key 733f"):
        log.load()
    log.close()


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (log_records.STABLE, b"\x00\x00\x00\x09short", "do not add up"),
        (log_records.STABLE, b"", "do not add up"),
        (log_records.REJOIN, bytes(12), "do not add up"),
        (log_records.STABLE, bytes(8), "a digest of 0 bytes"),
        (log_records.VIEW_CHANGE, b"\x00\x00\x00\x01v\x00\x00\x00\x01s", "does not decode"),
    ],
)
def test_a_record_of_another_form_is_detected(
    tmp_path: Path, key: bytes, value: bytes, complaint: str
) -> None:
    written_log(tmp_path).close()
    overwrite(tmp_path, key, protect(key, value))
    log = LmdbVoteLog(tmp_path)
    with pytest.raises(StorageCorrupt, match=f"{log_records.NAMES[key]}: .*{complaint}"):
        log.load()
    log.close()


def test_a_log_that_lmdb_cannot_read_is_corrupt(tmp_path: Path) -> None:
    log = written_log(tmp_path)
    log.close()
    with pytest.raises(StorageCorrupt, match="cannot be read"):
        log.load()


def test_a_body_is_stored_once(tmp_path: Path) -> None:
    log = LmdbVoteLog(tmp_path, create=True)
    body = b"x" * 10_000
    views = [accepted(view, 5, body) for view in range(5)]
    log.write([*map(Persist, views), Persist(decided(5, body))])
    log.write([Persist(accepted(7, 5, body))])
    log.close()
    items = raw_items(tmp_path)
    assert [len(value) > 10_000 for value in items.values()].count(True) == 1
    assert sum(len(value) for value in items.values()) < 15_000


def test_the_map_grows_with_the_log(tmp_path: Path) -> None:
    log = LmdbVoteLog(tmp_path, create=True, map_bytes=1 << 16)
    records = [accepted(0, number, bytes([number]) * 50_000) for number in range(1, 21)]
    for record in records[:4]:
        log.write([Persist(record)])
    log.write([Persist(record) for record in records[4:]])
    assert log.load().accepted == tuple(records)
    log.close()
    again = LmdbVoteLog(tmp_path, map_bytes=1 << 16)
    again.write([Persist(accepted(1, 1, b"y" * 100_000))])
    assert len(again.load().accepted) == 21
    again.close()


def test_truncated_space_is_used_again(tmp_path: Path) -> None:
    log = LmdbVoteLog(tmp_path, create=True)
    for number in range(1, 200):
        log.write([Persist(accepted(0, number, os.urandom(50_000))), Truncate(number - 1)])
    log.close()
    assert (tmp_path / "data.mdb").stat().st_size < 1 << 20


class FailingEnvironment:
    """An environment whose disk refuses to sync."""

    def __init__(self, real: lmdb.Environment) -> None:
        self.real = real

    def begin(self, *, write: bool) -> "FailingEnvironment":
        return self

    def __enter__(self) -> "lmdb.Transaction[bytes]":
        self.transaction = self.real.begin(write=True)
        return self.transaction

    def __exit__(self, *_: object) -> None:
        self.transaction.abort()
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    log = written_log(tmp_path)
    working = log._environment
    log._environment = FailingEnvironment(working)  # type: ignore[assignment]
    with pytest.raises(StorageFailed, match="Input/output error"):
        log.write([Persist(accepted(0, 20))])
    # The disk works again: nobody knows what became of the failed transaction, so it stays shut.
    log._environment = working
    with pytest.raises(StorageFailed, match="Input/output error"):
        log.write([Persist(accepted(0, 21))])
    assert log.load().accepted == (accepted(2, 9),)
    log.close()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pbft.core.effects import Persist
from pbft.storage.api import StorageFailed
from pbft.storage.vote_log import LmdbVoteLog
from tests.unit.storage.builders import accepted

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = LmdbVoteLog(Path(sys.argv[1]), create=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
written = 0
try:
    while written < 1000:
        log.write([Persist(accepted(0, written + 1, bytes(20_000)))])
        written += 1
except StorageFailed as error:
    print(f"{written} {error}", flush=True)
"""


def test_a_full_disk_fails_clearly_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    written, _, message = run.stdout.strip().partition(" ")
    assert int(written) > 10
    assert message.startswith("the vote log could not be written")
    log = LmdbVoteLog(tmp_path)
    sequences = [record.sequence for record in log.load().accepted]
    log.close()
    assert sequences == list(range(1, int(written) + 1))


KILLED = """
import sys
from pathlib import Path
from pbft.core.effects import Persist, Truncate
from pbft.storage.vote_log import LmdbVoteLog
from tests.unit.storage.builders import accepted, prepared

log = LmdbVoteLog(Path(sys.argv[1]), create=True)
number = 0
while True:
    number += 1
    log.write([Persist(accepted(0, number, b"%d" % number)), Persist(prepared(0, number))])
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    try:
        acknowledged = 0
        while acknowledged < 50:
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        # What it had told before it died is acknowledged, too.
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    log = LmdbVoteLog(tmp_path)
    saved = log.load()
    numbers = [record.sequence for record in saved.accepted]
    assert numbers == list(range(1, len(numbers) + 1))
    assert acknowledged <= len(numbers) <= acknowledged + 1
    assert [record.sequence for record in saved.prepared] == numbers, "one transaction, one fate"
    assert all(record.batch == b"%d" % record.sequence for record in saved.accepted)
    log.write([Persist(accepted(1, 1))])
    log.close()
