"""Received records wait on disk, and go with whatever ends the transfer (protocol.md section 9)."""

import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import pytest

from pbft.core.effects import Install
from pbft.crypto.lthash import bucket_of
from pbft.messages import StateRecord
from pbft.storage import lmdb_base, stage_store
from pbft.storage.api import StageStore, StorageCorrupt, StorageFailed
from pbft.storage.bitmap import from_bitmap
from pbft.storage.lmdb_base import LmdbBase
from pbft.storage.memory import MemoryBase, MemoryLog
from pbft.storage.ordered import encode_key
from pbft.storage.stage_store import LmdbStageStore, MemoryStageStore
from pbft.storage.state import LayeredState
from tests.unit.storage.builders import (
    BUCKETS,
    MAP_BYTES,
    SALT,
    Disk,
    certificate,
    install,
    items_of,
    merge,
    new_state,
)


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StageStore:
    return MemoryStageStore() if request.param == "memory" else LmdbStageStore(tmp_path / "stage")


def source_with(count: int, value: bytes = b"value") -> LayeredState:
    state = new_state(Disk.make(None).open_base())
    for number in range(count):
        state.domain(1).put(b"key %04d" % number, 0, value)
    merge(state, 64)
    return state


def records_of(state: LayeredState) -> list[StateRecord]:
    pinned = state.pin()
    records = pinned.chunk(b"\xff" * (BUCKETS // 8), b"").records
    pinned.release()
    return list(records)


def bucket(record: StateRecord) -> int:
    return bucket_of(record.domain, record.key, SALT, BUCKETS)


def test_a_store_keeps_buckets_apart(store: StageStore) -> None:
    long_name = b"n" * 511
    assert store.add([(0, b"a", b"1"), (1, b"a", b"2"), (1, long_name, b""), (256, b"a", b"3")])
    assert sorted(items_of(store, 1)) == [(b"a", b"2"), (long_name, b"")]
    assert items_of(store, 2) == []
    store.drop(1)
    assert not store.has(1, b"a")
    assert store.has(0, b"a")
    assert items_of(store, 256) == [(b"a", b"3")]
    store.close()


def test_what_is_there_is_not_added_again_and_nothing_with_it(store: StageStore) -> None:
    assert store.add([(0, b"a", b"1")])
    assert not store.add([(0, b"b", b"2"), (0, b"a", b"1")])
    assert not store.add([(0, b"b", b"2"), (0, b"b", b"2")])
    assert not store.has(0, b"b")
    assert store.add([(0, b"b", b"2"), (1, b"a", b"1")])
    store.close()


def test_a_dropped_bucket_is_empty_at_once_and_takes_the_same_records_again(
    store: StageStore,
) -> None:
    assert store.add([(0, b"a", b"1"), (0, b"b", b"2"), (1, b"a", b"3")])
    store.drop(0)
    assert items_of(store, 0) == []
    assert store.add([(0, b"a", b"4")])
    store.drop(7)
    assert items_of(store, 0) == [(b"a", b"4")]
    assert items_of(store, 1) == [(b"a", b"3")]
    assert not store.add([(0, b"a", b"4")])
    assert not store.has(0, b"b")
    store.close()


def test_giving_up_what_was_received_takes_no_transaction(tmp_path: Path) -> None:
    """A source that stalls after 95 % of its share must not stop the event loop of its peer."""
    target, source = new_state(Disk.make(tmp_path).open_base()), source_with(300)
    differing = target.stage(source.pin().leaves(), source.durable_digest)
    assert differing is not None
    records = records_of(source)
    incomplete = [one for one in records if one.key not in some_of_each_bucket(records)]
    assert target.stage_records(incomplete, differing)
    assert target._stage is not None
    store = target._stage.store
    assert isinstance(store, LmdbStageStore)
    transactions = store._environment.info()["last_txnid"]
    assert target.staged(differing) == differing
    assert store._environment.info()["last_txnid"] == transactions
    assert target.stage_records(records, differing)
    assert store._environment.stat()["entries"] == 300, "what was given up is gone"
    install(target, 64, source.durable_digest)
    assert target.digest == source.digest
    target.close()
    target._base.close()


def some_of_each_bucket(records: list[StateRecord]) -> set[bytes]:
    return set({bucket(record): record.key for record in records}.values())


def test_what_is_dropped_again_and_again_does_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_store, "REMOVED_RECORDS", 3)
    store = LmdbStageStore(tmp_path / "stage")
    found = []
    for attempt in range(12):
        for part in range(5):
            names = [b"%d %d %d" % (attempt, part, number) for number in range(20)]
            assert store.add([(part, name, b"value") for name in names])
            assert not store.add([(part, names[0], b"value")])
        found.append(store._environment.stat()["entries"])
        for part in range(5):
            store.drop(part)
    assert found[0] == 100
    assert max(found) <= 200
    for number in range(100):
        assert store.add([(9, b"%d" % number, b"")])
    assert store._environment.stat()["entries"] == 100
    store.close()


def test_a_damaged_record_is_not_installed(tmp_path: Path) -> None:
    store = LmdbStageStore(tmp_path / "stage")
    assert store.add([(0, b"a", b"value")])
    with store._environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        assert cursor.first()
        transaction.put(cursor.key(), cursor.value()[:-1] + b"?")
    # What is on disk besides is as good as before: nobody is told to throw that away.
    with pytest.raises(StorageFailed, match="checksum"):
        items_of(store, 0)
    store.close()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    store = LmdbStageStore(tmp_path / "stage")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(StorageFailed, match="cannot be received"):
            store.add([(0, b"%d" % number, bytes(100_000)) for number in range(20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.close()


def test_a_stage_leaves_no_files(tmp_path: Path) -> None:
    disk = Disk.make(tmp_path)
    target, source = new_state(disk.open_base()), source_with(200)
    stage = tmp_path / "state" / "stage"
    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    assert target.stage_records(records_of(source), b"\xff\xff")
    assert stage.exists()
    install(target, 64, source.durable_digest)
    assert not stage.exists()

    source.domain(1).put(b"another", 0, b"")
    merge(source, 128)
    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    assert stage.exists()
    target.domain(1).put(b"of my own", 0, b"")
    merge(target, 128)
    assert not stage.exists(), "the transfer was given up"

    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    target.close()
    assert not stage.exists()
    target._base.close()


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portions: int) -> LayeredState:
    """A source whose state was being installed in the directory when the power went: after so many
    transactions with its records, or (-1) before the first."""
    disk = Disk.make(tmp_path)
    target, source = new_state(disk.open_base()), source_with(200)
    target.domain(1).put(b"old", 0, b"")
    merge(target, 1)
    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    assert target.stage_records(records_of(source), b"\xff\xff")
    plan = target.begin_install(Install(64, source.durable_digest, certificate(64)))
    left = iter(range(portions))

    def portion(changes: Iterator[tuple[bytes, bytes | None]]) -> list[Any]:
        if next(left, None) is None:
            raise lmdb.DiskError("the power is gone")
        return list(islice(changes, 50))

    with monkeypatch.context() as patched:
        patched.setattr(lmdb_base, "_portion", portion)
        if portions < 0:
            patched.setattr(LmdbStageStore, "changes", portion)
        with pytest.raises(StorageFailed):
            plan.run()
    assert (tmp_path / "state" / "stage").exists()
    base = target._base
    assert isinstance(base, LmdbBase)
    base._view.close()
    base._environment.close()
    store = plan.stage.store
    assert isinstance(store, LmdbStageStore)
    store._environment.close()
    return source


def test_a_crash_before_an_installation_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T7. Nothing of the stage survives."""
    source = interrupted(tmp_path, monkeypatch, -1)
    again = new_state(Disk(tmp_path, MemoryLog(), MemoryBase()).open_base())
    assert again.durable_sequence == 1
    assert list(again.domain(1).scan(b"", None)) == [(b"old", 0, b"")]
    assert not (tmp_path / "state" / "stage").exists()
    assert again.stage(source.pin().leaves(), source.durable_digest) is not None
    assert again.stage_records(records_of(source), b"\xff\xff")
    install(again, 64, source.durable_digest)
    assert again.digest == source.digest
    again._base.close()


@pytest.mark.parametrize("portions", range(5))
def test_an_installation_that_was_interrupted_is_ended_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portions: int
) -> None:
    """T7. It is written in many transactions: whichever was the last, the state is the new one."""
    source = interrupted(tmp_path, monkeypatch, portions)
    disk = Disk(tmp_path, MemoryLog(), MemoryBase())
    for _ in range(2):
        again = new_state(disk.open_base())
        assert (again.digest, again.durable_sequence) == (source.digest, 64)
        assert records_of(again) == records_of(source)
        assert again.pin().certificate == certificate(64)
        assert not (tmp_path / "state" / "stage").exists()
        again.close()
        again._base.close()


@pytest.mark.parametrize("portions", [0, 3])
def test_an_installation_that_cannot_be_ended_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portions: int
) -> None:
    """What is there is half one state and half another."""
    interrupted(tmp_path, monkeypatch, portions)
    stage = lmdb.open(str(tmp_path / "state" / "stage"))
    with stage.begin(write=True) as transaction:
        cursor = transaction.cursor()
        assert cursor.first()
        transaction.put(cursor.key(), cursor.value()[:-1] + b"?")
    stage.close()
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match="half installed"):
            Disk(tmp_path, MemoryLog(), MemoryBase()).open_base()


def test_an_installation_is_written_in_transactions_of_bounded_size() -> None:
    """LMDB holds in memory what one changes."""
    sizes = [1, 100, 5_000_000, 8_000_000, 7_000_000, 1_000, 20_000_000, 3]
    changes = iter([(b"%d" % size, bytes(size)) for size in sizes])
    portions = []
    while portion := lmdb_base._portion(changes):
        portions.append([len(value or b"") for _, value in portion])
    assert portions == [[1, 100, 5_000_000, 8_000_000, 7_000_000], [1_000, 20_000_000], [3]]
    removals = [(b"%d" % number, None) for number in range(10_000)]
    counts = []
    changes = iter(removals)
    while portion := lmdb_base._portion(changes):
        counts.append(len(portion))
    assert counts == [4096, 4096, 1808]


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_received_need_not_come_again_when_the_target_moves(
    tmp_path: Path, on_disk: bool
) -> None:
    disk = Disk.make(tmp_path if on_disk else None)
    target, source = new_state(disk.open_base()), source_with(300)
    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    first = records_of(source)
    lie = replace(first[0], value=b"eulav")
    assert target.stage_records([lie, *first[1:]], b"\xff\xff")
    source.domain(1).put(first[-1].key, 0, b"changed")
    merge(source, 128)
    differing = target.stage(source.pin().leaves(), source.durable_digest)
    assert differing is not None
    assert from_bitmap(differing, BUCKETS) == {bucket(first[0]), bucket(first[-1])}
    missing = [one for one in records_of(source) if bucket(one) in from_bitmap(differing, BUCKETS)]
    assert target.stage_records(missing, differing)
    install(target, 128, source.durable_digest)
    assert target.digest == source.digest
    assert records_of(target) == records_of(source)
    target._base.close()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_rotten_record_of_the_old_state_stops_no_installation(
    tmp_path: Path, is_replaced: bool
) -> None:
    """Or none would ever succeed: each attempt would come to it again."""
    disk = Disk.make(tmp_path)
    source = source_with(300)
    target = new_state(disk.open_base())
    for number in range(300):
        target.domain(1).put(b"key %04d" % number, 0, b"value")
    merge(target, 64)
    old, *_ = others = records_of(target)
    rotten = old if is_replaced else next(one for one in others if bucket(one) != bucket(old))
    rot(target, rotten)
    source.domain(1).put(old.key, 0, b"changed")
    merge(source, 128)
    differing = target.stage(source.pin().leaves(), source.durable_digest)
    assert differing is not None and from_bitmap(differing, BUCKETS) == {bucket(old)}
    assert target.stage_records(source.pin().chunk(differing, b"").records, differing)
    install(target, 128, source.durable_digest)
    assert target.digest == source.digest
    assert target.domain(1).get(old.key) == (0, b"changed")
    if not is_replaced:
        with pytest.raises(StorageCorrupt, match="fails its checksum"):
            target.domain(1).get(rotten.key)
    target.close()
    target._base.close()


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_rotten_record_is_replaced_after_a_recount(tmp_path: Path, is_gone: bool) -> None:
    """Also if its bucket has no record any more in the state that is fetched."""
    disk = Disk.make(tmp_path)
    source, target = source_with(1), new_state(disk.open_base())
    target.domain(1).put(b"key 0000", 0, b"value")
    merge(target, 64)
    (rotten,) = records_of(target)
    rot(target, rotten)
    target._base.refresh()
    target._bind()
    if is_gone:
        source.domain(1).delete(rotten.key, 0)
    merge(source, 128)
    while not target.recount():
        pass
    differing = target.stage(source.pin().leaves(), source.durable_digest)
    assert differing is not None and from_bitmap(differing, BUCKETS) <= {bucket(rotten)}
    assert target.stage_records(source.pin().chunk(differing, b"").records, differing)
    install(target, 128, source.durable_digest)
    assert records_of(target) == ([] if is_gone else [rotten])
    target.close()
    target._base.close()


def rot(state: LayeredState, record: StateRecord) -> None:
    """Flips the last bit of its value on disk."""
    base = state._base
    assert isinstance(base, LmdbBase)
    key = encode_key(record.domain, record.key, record.version)
    with base._environment.begin(write=True, db=base._records) as transaction:
        stored = transaction.get(key)
        assert stored is not None
        transaction.put(key, stored[:-1] + bytes((stored[-1] ^ 1,)))


def test_memory_does_not_grow_with_what_is_staged(tmp_path: Path) -> None:
    target = LayeredState(LmdbBase(tmp_path, create=True, map_bytes=MAP_BYTES << 4), BUCKETS, SALT)
    source = source_with(400, os.urandom(200_000))
    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    records = records_of(source)
    before = anonymous_bytes()
    pinned = source.pin()
    cursor, staged_bytes = b"", 0
    while True:
        chunk = pinned.chunk(b"\xff\xff", cursor)
        assert target.stage_records(chunk.records, b"\xff\xff")
        staged_bytes += sum(len(record.value) for record in chunk.records)
        cursor = chunk.cursor
        if not cursor:
            break
    assert staged_bytes == 400 * 200_000 > sum(len(one.value) for one in records)
    assert anonymous_bytes() - before < staged_bytes / 4
    target.close()
    target._base.close()


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024
