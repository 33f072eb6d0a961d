"""State transfer between two states, honest and not (protocol.md section 9; adversary.md group
T)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pbft.crypto.lthash import bucket_of
from pbft.limits import TRANSFER_CHUNK_BYTES
from pbft.messages import Leaf, StateRecord
from pbft.storage import ordered, recount, transfer
from pbft.storage.api import BaseChange
from pbft.storage.bitmap import from_bitmap, to_bitmap
from pbft.storage.bucket_sums import state_digest
from pbft.storage.checksum import checked
from pbft.storage.memory import MemoryBase
from pbft.storage.ordered import encode_key
from pbft.storage.state import LayeredState
from pbft.storage.transfer import CHUNK_SCAN_RECORDS, PinnedCheckpoint
from tests.unit.storage.builders import (
    BUCKETS,
    SALT,
    Disk,
    install,
    lose_write,
    merge,
    new_state,
    seal,
)

ALL = b"\xff" * (BUCKETS // 8)


def filled(disk: Disk, count: int, value: bytes = b"value") -> LayeredState:
    """A state with `count` records, merged at sequence 64."""
    state = new_state(disk.open_base())
    for number in range(count):
        state.domain(1 + number % 2).put(b"key %04d" % number, number, value)
    merge(state, 64)
    return state


def chunks(pinned: PinnedCheckpoint, buckets: bytes) -> Iterator[tuple[StateRecord, ...]]:
    """All chunks, one after the other."""
    cursor = b""
    while True:
        chunk = pinned.chunk(buckets, cursor)
        assert chunk.sequence == pinned.sequence
        yield chunk.records
        cursor = chunk.cursor
        if not cursor:
            return


def records_of(state: LayeredState, buckets: bytes = ALL) -> list[StateRecord]:
    pinned = state.pin()
    found = [record for records in chunks(pinned, buckets) for record in records]
    pinned.release()
    return found


def bucket(record: StateRecord) -> int:
    return bucket_of(record.domain, record.key, SALT, BUCKETS)


def test_a_chunk_has_the_wanted_buckets_in_order_and_a_cursor(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = filled(disk, 300)
    monkeypatch.setattr(transfer, "CHUNK_SCAN_RECORDS", 40)
    pinned = state.pin()
    whole = records_of(state)
    assert len(whole) == 300
    assert whole == sorted(whole)
    wanted = to_bitmap([3, 9], BUCKETS)
    parts = list(chunks(pinned, wanted))
    assert len(parts) == 8, "each looked at 40 records, the last found the end"
    some = [record for part in parts for record in part]
    assert some == [record for record in whole if bucket(record) in (3, 9)]
    assert all(len(part) < 40 for part in parts)
    pinned.release()
    state._base.close()


def test_a_chunk_is_bounded_in_bytes_but_has_at_least_one_record(disk: Disk) -> None:
    state = new_state(disk.open_base())
    part = TRANSFER_CHUNK_BYTES * 3 // 10
    sizes = [part] * 7 + [TRANSFER_CHUNK_BYTES * 2] + [1] * 3
    for number, size in enumerate(sizes):
        state.domain(1).put(b"%03d" % number, 0, bytes(size))
    merge(state, 64)
    pinned = state.pin()
    parts = [[len(record.value) for record in part] for part in chunks(pinned, ALL)]
    assert parts == [
        [part] * 3,
        [part] * 3,
        [part],
        [TRANSFER_CHUNK_BYTES * 2],
        [1] * 3,
    ]
    pinned.release()
    state._base.close()


def test_one_chunk_is_bounded_in_work() -> None:
    state = filled(Disk.make(None), CHUNK_SCAN_RECORDS + 10)
    pinned = state.pin()
    assert [len(part) for part in chunks(pinned, ALL)] == [CHUNK_SCAN_RECORDS, 10]
    assert [len(part) for part in chunks(pinned, b"")] == [0, 0]


def test_one_chunk_is_bounded_in_bytes_passed_on_the_way(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "CHUNK_SCAN_BYTES", 2_500)
    state = filled(disk, 10, bytes(1_000))
    pinned = state.pin()
    assert [len(part) for part in chunks(pinned, ALL)] == [3, 3, 3, 1]
    assert [len(part) for part in chunks(pinned, b"")] == [0, 0, 0, 0]
    pinned.release()
    state._base.close()


@pytest.mark.parametrize("wanted", [range(BUCKETS), [3, 9], []], ids=["all", "two", "none"])
def test_only_the_values_that_a_chunk_carries_are_read(
    disk: Disk, wanted: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the source's pace, which counts what it sent, counts what it read."""
    state = filled(disk, 40, bytes(TRANSFER_CHUNK_BYTES // 3))
    pinned, read = state.pin(), list[bytes]()

    def noting(key: bytes, stored: bytes) -> bytes:
        read.append(key)
        return checked(key, stored)

    monkeypatch.setattr(ordered, "checked", noting)
    parts = list(chunks(pinned, to_bitmap(wanted, BUCKETS)))
    carried = [record for part in parts for record in part]
    assert all(bucket(record) in wanted for record in carried)
    assert read == [encode_key(record.domain, record.key, record.version) for record in carried]
    assert len(carried) == 40 or len(wanted) < BUCKETS
    pinned.release()
    state._base.close()


@pytest.mark.parametrize(
    "cursor", [b"\x00", b"\xff" * 3, b"\xff" * 512, bytes(100_000), b"\x01key 0100", b"\x02\x00"]
)
@pytest.mark.parametrize("buckets", [b"", b"\x01", b"\xff" * 1_000])
def test_a_hostile_request_for_a_chunk_does_no_harm(
    disk: Disk, cursor: bytes, buckets: bytes
) -> None:
    state = filled(disk, 300)
    pinned = state.pin()
    known = set(records_of(state, buckets))
    chunk = pinned.chunk(buckets, cursor)
    assert set(chunk.records) <= known
    assert chunk.cursor == b""
    pinned.release()
    state._base.close()


def test_a_pinned_checkpoint_stays_whatever_happens_meanwhile(disk: Disk) -> None:
    state = filled(disk, 300)
    pinned = state.pin()
    before, leaves, digest = records_of(state), pinned.leaves(), state.durable_digest
    for number in range(300):
        state.domain(1 + number % 2).delete(b"key %04d" % number, number)
    state.domain(3).put(b"new", 1, b"")
    merge(state, 128)
    assert records_of(state) == [StateRecord(3, b"new", 1, b"")]
    assert [record for part in chunks(pinned, ALL) for record in part] == before
    assert pinned.leaves() == leaves
    assert state_digest(leaves) == digest
    assert pinned.sequence == 64
    pinned.release()
    pinned.release()
    state._base.close()


def test_closing_the_state_releases_what_is_pinned(disk: Disk) -> None:
    state = filled(disk, 3)
    released, kept = state.pin(), state.pin()
    released.release()
    assert state._pinned == {kept}
    state.close()
    assert state._pinned == set()
    state._base.close()


def test_only_differing_buckets_travel_and_the_state_is_the_sources(disk: Disk) -> None:
    source = filled(Disk.make(None), 300)
    target = filled(disk, 300)
    for state, value in ((source, b"changed"), (target, b"another")):
        state.domain(1).put(b"key 0004", 4, value)
    source.domain(2).delete(b"key 0007", 7)
    merge(source, 128)
    target.domain(1).put(b"only in a layer", 9, b"")
    pinned = source.pin()
    differing = target.stage(pinned.leaves(), source.durable_digest)
    assert differing is not None
    wanted = {bucket_of(1, b"key 0004", SALT, BUCKETS), bucket_of(2, b"key 0007", SALT, BUCKETS)}
    assert from_bitmap(differing, BUCKETS) == wanted
    for records in chunks(pinned, differing):
        assert target.stage_records(records, differing)
    assert not any(target.staged(differing))
    install(target, 128, source.durable_digest)
    assert target.digest == source.digest
    assert target.durable_sequence == 128
    assert target.domain(1).get(b"only in a layer") is None
    assert target.domain(1).get(b"key 0004") == (4, b"changed")
    target._base.close()
    again = new_state(disk.open_base())
    assert (again.digest, again.durable_sequence) == (source.digest, 128)
    assert records_of(again) == records_of(source)
    again.domain(1).put(b"goes on", 1, b"")
    source.domain(1).put(b"goes on", 1, b"")
    assert seal(again, 192) == seal(source, 192)
    again._base.close()


def fetch(target: LayeredState, source: LayeredState, sequence: int) -> frozenset[int]:
    """A whole transfer; returns the buckets that travelled."""
    pinned = source.pin()
    differing = target.stage(pinned.leaves(), source.durable_digest)
    assert differing is not None
    for records in chunks(pinned, differing):
        assert target.stage_records(records, differing)
    assert not any(target.staged(differing))
    install(target, sequence, source.durable_digest)
    pinned.release()
    return from_bitmap(differing, BUCKETS)


def test_a_record_that_is_not_the_leafs_is_fetched_after_a_recount(disk: Disk) -> None:
    """A write that the disk lost: records and leaves are well-formed, and of two states."""
    source = filled(Disk.make(None), 300)
    filled(disk, 300)._base.close()
    base = disk.open_base()
    lose_write(base, (1, b"key 0004", 4), (1, b"key 0004", 3, b"older"))
    target = new_state(base)
    assert target.digest == source.digest
    source.domain(2).put(b"key 0007", 8, b"changed")
    merge(source, 128)
    while not target.recount():
        pass
    assert fetch(target, source, 128) == {
        bucket_of(1, b"key 0004", SALT, BUCKETS),
        bucket_of(2, b"key 0007", SALT, BUCKETS),
    }
    assert records_of(target) == records_of(source)
    assert target.domain(1).get(b"key 0004") == (4, b"value")
    assert target._recount is None, "the state is another one"
    target._base.close()


def test_a_leaf_that_is_not_the_records_is_repaired_after_a_recount(disk: Disk) -> None:
    """The other way round: the leaf is older than the record."""
    source = filled(Disk.make(None), 300)
    source.domain(1).put(b"key 0004", 5, b"newer")
    merge(source, 128)
    filled(disk, 300)._base.close()
    base = disk.open_base()
    change = [(1, b"key 0004", 5, b"newer")]
    base.apply(BaseChange([change], {}, base.view.checkpoint))
    base.refresh()
    target = new_state(base)
    while not target.recount():
        pass
    assert fetch(target, source, 128) == frozenset()
    base.close()
    again = new_state(disk.open_base())
    assert again.digest == source.digest
    assert records_of(again) == records_of(source)
    again._base.close()


def test_a_recount_comes_in_portions(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    state = filled(disk, 300)
    monkeypatch.setattr(recount, "PORTION_CHANGES", 100)
    monkeypatch.setattr(recount, "PORTION_LEAVES", 10)
    calls = 1
    while not state.recount():
        calls += 1
    assert calls == 3 + 2, "100 records at a time, then 10 leaves"
    counted = state._recount
    assert counted is not None
    assert counted.leaves == state._base.view.leaves(BUCKETS)
    merge(state, 128)
    assert state._recount is None, "it was of another state"
    state._base.close()

    monkeypatch.setattr(recount, "PORTION_BYTES", 10_000)
    large = filled(Disk.make(None), 20, bytes(3_000))
    calls = 1
    while not large.recount():
        calls += 1
    assert calls == 5 + 2, "four of these records are as much"


def test_leaves_that_do_not_hash_to_the_digest_are_refused() -> None:
    source = filled(Disk.make(None), 300)
    target = new_state(MemoryBase())
    leaves, digest = list(source.pin().leaves()), source.durable_digest
    full = next(index for index, leaf in enumerate(leaves) if leaf.count)
    assert target.stage(leaves, digest) is not None
    wrong: list[list[Leaf]] = [
        [],
        leaves[:-1],
        [*leaves, Leaf(0, 0, b"")],
        leaves[::-1],
    ]
    for change in (
        Leaf(0, 0, b""),
        Leaf(1 << 70, 1, bytes(512)),
        Leaf(1, -1, bytes(512)),
        Leaf(0, 5, b""),
        Leaf(0, 0, bytes(512)),
        replace(leaves[full], sum=b""),
        replace(leaves[full], sum=leaves[full].sum + b"\x00"),
        replace(leaves[full], sum=bytes(600)),
        replace(leaves[full], count=leaves[full].count + 1),
        replace(leaves[full], size=leaves[full].size + 1),
    ):
        wrong.append([*leaves[:full], change, *leaves[full + 1 :]])
    for claimed in wrong:
        assert target.stage(claimed, digest) is None
    assert target.stage(leaves, bytes(32)) is None


@pytest.fixture
def staging() -> tuple[LayeredState, list[StateRecord], bytes]:
    """An empty state that has staged the leaves of a full one, whose records these are."""
    source = filled(Disk.make(None), 300)
    target = new_state(MemoryBase())
    differing = target.stage(source.pin().leaves(), source.durable_digest)
    assert differing is not None
    return target, records_of(source), differing


Staging = tuple[LayeredState, list[StateRecord], bytes]


@pytest.mark.parametrize(
    "crime",
    [
        lambda records: [*records, records[0]],
        lambda records: [
            *records[:-1],
            StateRecord(1, b"in place of the last one", 0, b"too long"),
        ],
        lambda records: [*records, StateRecord(1, b"one more", 0, b"")],
        lambda records: [replace(records[0], value=bytes(100_000)), *records[1:]],
        lambda records: [*records[:-1], replace(records[-1], domain=256)],
        lambda records: [*records[:-1], replace(records[-1], domain=1 << 31)],
        lambda records: [*records[:-1], replace(records[-1], key=bytes(400))],
        lambda records: [*records[:-1], replace(records[-1], version=1 << 64)],
    ],
    ids=["duplicate", "size", "count", "huge", "domain", "huge domain", "key", "version"],
)
def test_records_that_no_honest_source_sends_are_refused_whole(
    staging: Staging, crime: "object"
) -> None:
    target, records, differing = staging
    assert callable(crime)
    assert not target.stage_records(crime(records), differing)
    assert target.staged(differing) == differing, "nothing was added"
    assert target.stage_records(records, differing)
    assert not any(target.staged(differing))


def test_a_leaf_bounds_the_number_of_its_records_and_their_size(staging: Staging) -> None:
    target, records, differing = staging
    assert target._stage is not None
    index = bucket_of(1, b"", SALT, BUCKETS)
    count = target._stage.leaves[index].count
    weightless = [StateRecord(1, b"", version, b"") for version in range(count + 1)]
    assert not target.stage_records(weightless, differing)
    assert target.stage_records(weightless[:count], differing)
    assert not target.stage_records(weightless[count:], differing)
    other = next(record for record in records if bucket(record) != index)
    size = target._stage.leaves[bucket(other)].size
    heavy = replace(other, value=bytes(size + 1 - len(other.key)))
    assert not target.stage_records([heavy], differing)
    assert target.stage_records([replace(heavy, value=heavy.value[1:])], differing)


def test_a_duplicate_is_refused_in_one_chunk_and_over_two(staging: Staging) -> None:
    target, records, differing = staging
    assert not target.stage_records([records[0], records[0]], differing)
    assert target.stage_records(records[:1], differing)
    assert not target.stage_records(records[:1], differing)


def test_a_record_of_another_bucket_is_refused(staging: Staging) -> None:
    target, records, _ = staging
    first = bucket(records[0])
    assert not target.stage_records(records[:1], to_bitmap([first ^ 1], BUCKETS))
    assert not target.stage_records(records[:1], b"")
    assert target.stage_records(records[:1], to_bitmap([first], BUCKETS))


def test_a_bucket_that_does_not_differ_takes_nothing(disk: Disk) -> None:
    target = filled(disk, 300)
    leaves = target.pin().leaves()
    assert target.stage(leaves, target.durable_digest) == bytes(BUCKETS // 8)
    assert not target.stage_records(records_of(target)[:1], ALL)
    assert not any(target.staged(ALL))
    target.close()
    target._base.close()


def test_a_lie_within_the_bounds_is_found_and_only_its_bucket_is_dropped(
    staging: Staging,
) -> None:
    target, records, differing = staging
    lie = replace(records[5], value=bytes(len(records[5].value)))
    assert target.stage_records([*records[:5], lie, *records[6:]], differing)
    wrong = target.staged(differing)
    assert from_bitmap(wrong, BUCKETS) == {bucket(lie)}
    again = [record for record in records if bucket(record) == bucket(lie)]
    assert target.stage_records(again, wrong), "its records can come from another source"
    assert not any(target.staged(differing))


def test_a_missing_record_is_found(staging: Staging) -> None:
    target, records, differing = staging
    assert target.stage_records(records[1:], differing)
    assert from_bitmap(target.staged(differing), BUCKETS) == {bucket(records[0])}


def test_what_is_not_verified_is_not_installed(staging: Staging) -> None:
    target, records, differing = staging
    assert target._stage is not None
    digest = target._stage.digest
    assert target.stage_records(records[1:], differing)
    with pytest.raises(AssertionError):
        install(target, 64, digest)
    assert target.stage_records(records[:1], differing)
    with pytest.raises(AssertionError):
        install(target, 64, bytes(32))
    install(target, 64, digest)
    assert target.digest == digest


def test_a_new_stage_forgets_the_old_one_and_a_merge_drops_it(staging: Staging) -> None:
    target, records, differing = staging
    assert target.stage_records(records, differing)
    other = filled(Disk.make(None), 100)
    assert target.stage(other.pin().leaves(), other.durable_digest) is not None
    assert target.stage_records(records_of(other), ALL)
    merge(target, 1)
    assert not target.stage_records(records, differing)


@pytest.mark.parametrize("members", [[], [0], [7, 8], list(range(BUCKETS))])
def test_bitmaps(members: list[int]) -> None:
    bitmap = to_bitmap(members, BUCKETS)
    assert int.from_bytes(bitmap, "little") == sum(1 << index for index in members)
    assert from_bitmap(bitmap, BUCKETS) == set(members)
    assert from_bitmap(bitmap + b"\xff", BUCKETS) == set(members)
