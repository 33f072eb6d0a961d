"""Rules of the layered state that the random model does not single out (protocol.md sections 6 and
10)."""

import random
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from pbft.core.effects import Merge
from pbft.messages import Leaf
from pbft.storage import lmdb_base
from pbft.storage.api import (
    RUN_CHANGES,
    BaseChange,
    DurableCheckpoint,
    StateBase,
    StorageCorrupt,
    StorageFailed,
)
from pbft.storage.changes import SealedLayer, changes_of
from pbft.storage.lmdb_base import LmdbBase
from pbft.storage.memory import MemoryBase
from pbft.storage.ordered import encode_key
from pbft.storage.sealing import PORTION_CHANGES
from pbft.storage.state import (
    KNOWN_BYTES,
    MERGE_PAUSE_SECONDS,
    MERGE_PAUSES_SECONDS,
    LayeredState,
)
from tests.unit.storage.builders import (
    MAP_BYTES,
    SALT,
    Disk,
    certificate,
    digest_from_scratch,
    merge,
    merge_sealed,
    new_state,
    seal,
)

RECORDS = [(1 + i % 3, b"key %d" % (i % 50), i, b"value %d" % i) for i in range(200)]


def filled(records: list[tuple[int, bytes, int, bytes]]) -> LayeredState:
    state = new_state(MemoryBase())
    for domain, key, version, value in records:
        state.domain(domain).put(key, version, value)
    return state


def test_the_digest_depends_on_the_records_and_not_on_how_they_came() -> None:
    expected = digest_from_scratch(RECORDS)
    for seed in range(5):
        shuffled = random.Random(seed).sample(RECORDS, len(RECORDS))
        state = filled(shuffled[:70])
        state.domain(9).put(b"gone", 1, b"before the end")
        merge(state, 1)
        for domain, key, version, value in shuffled[70:]:
            state.domain(domain).put(key, version, b"first " + value)
            state.domain(domain).put(key, version, value)
        state.domain(9).delete(b"gone", 1)
        assert seal(state, 2) == expected


@pytest.mark.parametrize(
    "changed",
    [
        (2, b"key", 1, b"value"),
        (1, b"kez", 1, b"value"),
        (1, b"key", 2, b"value"),
        (1, b"key", 1, b""),
    ],
    ids=["domain", "key", "version", "value"],
)
def test_the_digest_covers(changed: tuple[int, bytes, int, bytes]) -> None:
    assert seal(filled([(1, b"key", 1, b"value")]), 1) != seal(filled([changed]), 1)


def test_a_small_layer_that_was_merged_is_still_read_from_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = new_state(MemoryBase())
    records = state.domain(1)
    records.put(b"first", 1, b"a")
    records.put(b"gone", 1, b"a")
    merge(state, 1)
    records.put(b"second", 2, b"b")
    records.delete(b"gone", 1)
    merge(state, 2)
    seeks: list[bytes] = []
    latest = state._base.view.latest

    def counting(domain: int, key: bytes) -> tuple[int, bytes] | None:
        seeks.append(key)
        return latest(domain, key)

    monkeypatch.setattr(state._base.view, "latest", counting)
    assert records.get(b"second") == (2, b"b") and records.get(b"gone") is None
    assert seeks == []
    assert records.get(b"first") == (1, b"a")
    assert seeks == [b"first"]


def test_a_large_layer_that_was_merged_leaves_the_memory() -> None:
    state = new_state(MemoryBase())
    state.domain(1).put(b"large", 1, bytes(KNOWN_BYTES))
    merge(state, 1)
    assert state._merged == ()
    assert state.domain(1).get(b"large") == (1, bytes(KNOWN_BYTES))


def test_keys_that_came_and_went_weigh_something_too() -> None:
    state = new_state(MemoryBase())
    for number in range(KNOWN_BYTES // 700 + 1):
        state.domain(1).put(b"%0450d" % number, 1, b"")
        state.domain(1).delete(b"%0450d" % number, 1)
    merge(state, 1)
    assert state._merged == ()


def test_a_key_overwritten_all_the_time_leaves_no_trail(disk: Disk) -> None:
    state = new_state(disk.open_base())
    records = state.domain(1)
    records.put(b"hot", 1, b"")
    merge(state, 1)
    for version in range(2, 300):
        records.put(b"hot", version, b"")
        records.delete(b"hot", version - 1)
    assert list(changes_of([SealedLayer(state._open, 2)])) == [
        (1, b"hot", 299, b""),
        (1, b"hot", 1, None),
    ]
    merge(state, 2)
    assert records.get(b"hot") == (299, b"")
    state._base.close()


@pytest.mark.parametrize("layers", [1, 4])
def test_a_merge_changes_each_record_once_in_the_order_of_the_disk(layers: int) -> None:
    """LMDB has no room for what removals leave behind in any other order."""
    state, choice = new_state(MemoryBase()), random.Random(layers)
    there: dict[tuple[int, bytes], int] = {}
    changes: dict[tuple[int, bytes, int], bytes | None] = {}
    sealed = []
    for version in range(1, layers + 1):
        for _ in range(4 * RUN_CHANGES):
            domain, key = choice.randrange(3), b"%03d\x00" % choice.randrange(600)
            known = there.get((domain, key))
            if known is not None and choice.random() < 0.7:
                state.domain(domain).delete(key, known)
                changes[domain, key, known] = None
                del there[domain, key]
            elif known is None:
                state.domain(domain).put(key, version, b"value")
                changes[domain, key, version] = b"value"
                there[domain, key] = version
        sealed.append(SealedLayer(state._open, version))
        seal(state, version)
    merged = list(changes_of(sealed))
    names = [encode_key(*change[:3]) for change in merged]
    assert names == sorted(set(names))
    left_out = changes.keys() - {change[:3] for change in merged}
    assert all(changes[name] is None for name in left_out), "came and went within a layer"
    assert all(changes[change[:3]] == change[3] for change in merged)


def test_deleting_the_highest_version_uncovers_the_next(disk: Disk) -> None:
    state = new_state(disk.open_base())
    records = state.domain(1)
    for sequence, versions in enumerate([(1, 2, 3), (4, 5), (6,)], 1):
        for version in versions:
            records.put(b"key", version, b"%d" % version)
        merge(state, sequence) if sequence == 1 else seal(state, sequence)
    records.delete(b"key", 2)
    records.delete(b"key", 5)
    for version, below in ((6, 4), (4, 3), (3, 1)):
        records.delete(b"key", version)
        assert records.get(b"key") == (below, b"%d" % below)
        assert list(records.scan(b"", None)) == [(b"key", below, b"%d" % below)]
    records.delete(b"key", 1)
    assert records.get(b"key") is None
    assert list(records.scan(b"", None)) == []
    assert seal(state, 4) == digest_from_scratch([])
    state._base.close()


def test_changes_made_while_a_merge_runs_stay_above_it(disk: Disk) -> None:
    base = disk.open_base()
    state = new_state(base)
    records = state.domain(1)
    records.put(b"a", 1, b"merged")
    records.put(b"b", 1, b"merged")
    digest = seal(state, 1)
    plan = state.begin_merge(Merge(1, digest, certificate(1)))
    records.put(b"a", 2, b"above")
    records.delete(b"b", 1)
    seal(state, 2)
    worker = threading.Thread(target=plan.run)
    worker.start()
    records.put(b"c", 3, b"open")
    worker.join()
    assert state.durable_sequence == 0, "nothing is read from it before it is finished"
    state.finish_merge(plan)
    assert (state.durable_sequence, state.durable_digest) == (1, digest)
    assert base.view.first(1, b"", None) == (b"a", 1, b"merged")
    assert base.view.first(1, b"a\x00", None) == (b"b", 1, b"merged")
    assert base.view.first(1, b"a\x00", b"b") is None
    assert base.view.first(1, b"b\x00", None) is None
    assert base.view.first(0, b"", None) is None
    assert list(records.scan(b"", None)) == [(b"a", 2, b"above"), (b"c", 3, b"open")]
    base.close()


def test_a_merge_makes_several_layers_durable_at_once(disk: Disk) -> None:
    base = disk.open_base()
    state = new_state(base)
    records = state.domain(1)
    for sequence in (64, 128, 192):
        records.put(b"key", sequence, b"")
        records.put(b"only in %d" % sequence, sequence, b"")
        if sequence > 64:
            records.delete(b"key", sequence - 64)
        digest = seal(state, sequence)
        if sequence == 128:
            merged = digest
    merge_sealed(state, 128, merged)
    assert records.get(b"key") == (192, b"")
    base.close()
    again = new_state(disk.open_base())
    assert (again.durable_sequence, again.digest) == (128, merged)
    assert again.pin().certificate == certificate(128)
    assert again.domain(1).get(b"key") == (128, b"")
    again.close()
    again._base.close()


def test_only_an_own_checkpoint_of_that_digest_is_merged() -> None:
    state = filled(RECORDS)
    digest = seal(state, 64)
    with pytest.raises(AssertionError):
        state.begin_merge(Merge(63, digest, ()))
    with pytest.raises(AssertionError):
        state.begin_merge(Merge(64, bytes(32), ()))


def test_a_key_added_during_a_scan_ends_it(disk: Disk) -> None:
    base = disk.open_base()
    state = new_state(base)
    records = state.domain(1)
    for key in (b"a", b"b", b"c"):
        records.put(key, 1, b"")
    merge(state, 1)
    scanning = records.scan(b"", None)
    assert next(scanning) == (b"a", 1, b"")
    records.put(b"b", 2, b"changed")
    records.put(b"a", 2, b"behind")
    assert next(scanning) == (b"b", 2, b"changed")
    records.delete(b"c", 1)
    assert list(scanning) == []
    scanning = records.scan(b"", None)
    next(scanning)
    records.put(b"c", 2, b"born again")
    with pytest.raises(RuntimeError, match="added"):
        next(scanning)
    base.close()


def test_domains_do_not_see_each_other(disk: Disk) -> None:
    base = disk.open_base()
    state = new_state(base)
    for sequence in (1, 2):
        for domain in (0, 1, 254, 255):
            state.domain(domain).put(b"\xff", sequence, b"%d" % domain)
        merge(state, sequence) if sequence == 1 else seal(state, 2)
    for domain in (0, 1, 254, 255):
        expected = (b"\xff", 2, b"%d" % domain)
        assert list(state.domain(domain).scan(b"", None)) == [expected]
    assert state.domain(7).get(b"\xff") is None
    with pytest.raises(ValueError, match="256"):
        state.domain(256)
    base.close()


def test_a_record_that_cannot_be_stored_is_refused_and_can_be_asked_for(disk: Disk) -> None:
    base = disk.open_base()
    state = new_state(base)
    records = state.domain(1)
    longest, too_long = b"k" * 500, b"k" * 501
    records.put(longest, 1, b"fits")
    with pytest.raises(ValueError, match="501 bytes"):
        records.put(too_long, 1, b"")
    merge(state, 1)
    for key in (too_long, bytes(10_000), b"k" * 100_000):
        assert records.get(key) is None
        above = [(longest, 1, b"fits")] if key < longest else []
        assert list(records.scan(key, None)) == above
        with pytest.raises(KeyError):
            records.delete(key, 1)
    assert list(records.scan(b"", too_long)) == [(longest, 1, b"fits")]
    base.close()


def test_restart_with_other_buckets_is_refused(disk: Disk) -> None:
    base = disk.open_base()
    state = new_state(base)
    for domain, key, version, value in RECORDS:
        state.domain(domain).put(key, version, value)
    merge(state, 1)
    with pytest.raises(StorageCorrupt, match="buckets"):
        LayeredState(base, 2, SALT)
    with pytest.raises(StorageCorrupt, match="does not hash"):
        LayeredState(base, 1024, SALT)
    assert new_state(base).digest == digest_from_scratch(RECORDS)
    base.close()


def test_leaves_that_do_not_hash_to_the_stored_digest_are_refused(disk: Disk) -> None:
    base = disk.open_base()
    leaf = Leaf(1, 5, b"s" * 512)
    base.apply(BaseChange((), {3: leaf}, DurableCheckpoint(9, bytes(32), ())))
    with pytest.raises(StorageCorrupt, match="sequence 9"):
        new_state(base)
    base.close()


@pytest.fixture
def merged_base(disk: Disk) -> StateBase:
    base = disk.open_base()
    state = new_state(base)
    for domain, key, version, value in RECORDS:
        state.domain(domain).put(key, version, value)
    merge(state, 1)
    return base


def flip(base: StateBase, table: str, key: bytes) -> None:
    """Flips a bit of the last byte of a value behind the base's back."""
    if isinstance(base, LmdbBase):
        database = getattr(base, f"_{table}")
        with base._environment.begin(write=True) as transaction:
            value = bytearray(transaction.get(key, db=database) or b"")
            value[-1] ^= 1
            assert transaction.put(key, bytes(value), db=database)
    else:
        assert isinstance(base, MemoryBase)
        items = base._image.items
        items[key] = items[key][:-1] + bytes([items[key][-1] ^ 1])
    base.refresh()


def test_a_flipped_record_is_detected_by_every_read(merged_base: StateBase) -> None:
    domain, key, version, _ = RECORDS[-1]
    flip(merged_base, "records", encode_key(domain, key, version))
    state = new_state(merged_base)
    records = state.domain(domain)
    named = encode_key(domain, key, version).hex()
    with pytest.raises(StorageCorrupt, match=named):
        records.get(key)
    with pytest.raises(StorageCorrupt, match=named):
        list(records.scan(b"", None))
    with pytest.raises(StorageCorrupt, match=named):
        merged_base.view.value(domain, key, version)
    pinned = state.pin()
    with pytest.raises(StorageCorrupt, match=named):
        pinned.chunk(b"\xff\xff", b"")
    pinned.release()
    assert records.get(RECORDS[-4][1]) == (RECORDS[-4][2], RECORDS[-4][3])
    merged_base.close()


@pytest.mark.parametrize(("table", "key"), [("leaves", bytes(4)), ("checkpoint", b"checkpoint")])
def test_a_flipped_leaf_or_checkpoint_is_detected_at_the_start(
    tmp_path: Path, table: str, key: bytes
) -> None:
    base = LmdbBase(tmp_path, create=True, map_bytes=MAP_BYTES)
    state = new_state(base)
    for domain, name, version, value in RECORDS:
        state.domain(domain).put(name, version, value)
    merge(state, 1)
    with pytest.raises(StorageCorrupt, match=key.hex()):
        flip(base, table, key)
        new_state(base)
    base.close()


def test_a_leaf_of_another_form_is_detected(tmp_path: Path) -> None:
    base = LmdbBase(tmp_path, create=True, map_bytes=MAP_BYTES)
    for leaf in (Leaf(1, 5, b"s" * 511), Leaf(0, 5, b"")):
        base.apply(BaseChange((), {3: leaf}, DurableCheckpoint(9, bytes(32), ())))
        with pytest.raises(StorageCorrupt, match="malformed"):
            new_state(base)
    base.close()


def test_what_lmdb_cannot_read_is_corrupt(tmp_path: Path) -> None:
    base = LmdbBase(tmp_path, create=True, map_bytes=MAP_BYTES)
    view = base.open_view()
    view.close()
    for read in (
        lambda: view.latest(1, b"key"),
        lambda: view.value(1, b"key", 1),
        lambda: list(view.walk(b"")),
        lambda: view.record(encode_key(1, b"key", 1)),
        lambda: view.leaves(1),
    ):
        with pytest.raises(StorageCorrupt, match="cannot be read"):
            read()
    base.close()


def test_a_state_that_outgrows_its_map_fails_clearly_and_for_good(
    tmp_path: Path,
) -> None:
    base = LmdbBase(tmp_path, create=True, map_bytes=1 << 18)
    state = new_state(base)
    state.domain(1).put(b"small", 1, b"")
    merge(state, 1)
    state.domain(1).put(b"large", 1, bytes(1 << 20))
    digest = seal(state, 2)
    plan = state.begin_merge(Merge(2, digest, ()))
    with pytest.raises(StorageFailed, match="MAP_FULL"):
        plan.run()
    with pytest.raises(StorageFailed, match="MAP_FULL"):
        base.apply(BaseChange((), {}, DurableCheckpoint(3, digest, ())))
    base.refresh()
    assert base.view.checkpoint.sequence == 1
    assert base.view.latest(1, b"large") is None
    base.close()


@pytest.mark.parametrize(
    ("keys", "pauses", "pause"),
    [
        (10 * RUN_CHANGES, 20, MERGE_PAUSE_SECONDS),
        (200 * RUN_CHANGES, 400, MERGE_PAUSES_SECONDS / 400),
    ],
    ids=["small", "large"],
)
def test_a_merge_leaves_time_to_others_but_not_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int, pauses: int, pause: float
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(lmdb_base.time, "sleep", slept.append)
    base = LmdbBase(tmp_path, create=True, map_bytes=MAP_BYTES)
    state = new_state(base)
    for sequence in (1, 2):
        slept.clear()
        for number in range(keys):
            key = b"%d" % number
            records = state.domain(1)
            records.supersede(key, records.get(key), sequence, b"")
        merge(state, sequence)
    assert len(slept) == pauses, "two changes of each key"
    assert slept[0] == pytest.approx(pause, rel=0.01)
    base.close()


def test_merged_layers_are_freed_in_bounded_steps() -> None:
    state = new_state(MemoryBase())
    changes = 10 * PORTION_CHANGES
    for number in range(changes):
        state.domain(1).put(b"%d" % number, 0, b"")
    merge(state, 1)
    left = [sum(map(len, state._retired))]
    assert 0 < left[0] <= changes
    merge(state, 2)
    state.seal(3)
    while state.is_sealing:
        state.advance_seal()
        left.append(sum(map(len, state._retired)))
    for sequence in range(4, 10):
        seal(state, sequence)
        left.append(sum(map(len, state._retired)))
    assert left[-1] == 0 and state._merged != ()
    assert max(before - after for before, after in pairwise(left)) <= 4 * PORTION_CHANGES
