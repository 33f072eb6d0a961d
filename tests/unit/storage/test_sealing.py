"""The digest of a sealed layer is computed afterwards, in portions, while other things go on
(protocol.md section 6)."""

import random
from collections.abc import Iterable

import pytest

from pbft.core.effects import Install
from pbft.crypto import lthash
from pbft.crypto.lthash import bucket_of
from pbft.limits import MIB
from pbft.storage import bucket_sums, changes, sealing
from pbft.storage.changes import HashedChange
from pbft.storage.memory import MemoryBase
from pbft.storage.sealing import PORTION_BYTES, PORTION_CHANGES, SMALL_PORTION_CHANGES
from tests.unit.storage.builders import (
    BUCKETS,
    SALT,
    Disk,
    certificate,
    digest_from_scratch,
    merge,
    new_state,
    seal,
)
from tests.unit.storage.test_state import RECORDS, filled


def test_a_record_changed_many_times_is_hashed_for_its_net_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[bytes] = []

    def counting(domain: int, key: bytes, version: int, value: bytes) -> int:
        hashed.append(value)
        return lthash.record_hash(domain, key, version, value)

    monkeypatch.setattr(bucket_sums, "record_hash", counting)
    state = new_state(MemoryBase())
    records = state.domain(1)
    for number in range(500):
        records.put(b"hot", 0, b"%d" % number)
        records.put(b"brief", number, b"comes and goes")
        records.delete(b"brief", number)
    assert seal(state, 1) == digest_from_scratch([(1, b"hot", 0, b"499")])
    assert hashed == [b"499"]
    records.put(b"hot", 0, b"other")
    records.put(b"hot", 0, b"499")
    seal(state, 2)
    assert hashed == [b"499"], "what came back to its value costs nothing"


@pytest.mark.parametrize(
    ("waiting", "portion"),
    [(0, SMALL_PORTION_CHANGES), (1, PORTION_CHANGES)],
    ids=["alone", "and more waits"],
)
def test_a_digest_is_computed_in_bounded_portions(
    monkeypatch: pytest.MonkeyPatch, waiting: int, portion: int
) -> None:
    state = new_state(MemoryBase())
    portions: list[int] = []
    replace = state._sums.replace

    def counting(changed: Iterable[HashedChange]) -> None:
        listed = list(changed)
        portions.append(len(listed))
        replace(listed)

    monkeypatch.setattr(state._sums, "replace", counting)
    monkeypatch.setattr(sealing, "PORTION_LEAVES", BUCKETS // 4)
    for number in range(2 * portion + 1):
        state.domain(1).put(b"%d" % number, 0, b"")
    for sequence in range(1, 2 + waiting):
        state.seal(sequence)
    assert not portions, "closing a layer costs nothing"
    steps = 0
    while state.advance_seal() is None:
        steps += 1
    assert portions == [portion, portion, 1]
    assert steps == 3 + 3, "and the leaves by quarters"


def test_large_values_are_hashed_in_bounded_portions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state(MemoryBase())
    hashing = bucket_sums.record_hash
    portions: list[int] = [0]

    def counting(domain: int, key: bytes, version: int, value: bytes) -> int:
        portions[-1] += len(value)
        return hashing(domain, key, version, value)

    monkeypatch.setattr(bucket_sums, "record_hash", counting)
    monkeypatch.setattr(changes, "UNHASHED_MAX", 1 << 30)
    records, value = state.domain(1), bytes(MIB)
    for number in range(40):
        key, current = b"%d" % (number % 20), records.get(b"%d" % (number % 20))
        records.supersede(key, current, number, value)
        if number % 4 == 0:
            records.put(b"beside %d" % number, 1, value)
            records.put(b"beside %d" % number, 2, value)
        if number == 19:
            merge(state, 1)
    state.seal(2)
    portions = [0]
    while state.advance_seal() is None:
        portions.append(0)
    assert sum(portions) == (2 * 20 + 2 * 5) * MIB
    assert max(portions) <= PORTION_BYTES + 2 * MIB


@pytest.mark.parametrize("relief", [None, 5], ids=["at rest", "and under pressure"])
def test_what_changes_while_a_digest_is_computed_is_of_the_next(
    disk: Disk, relief: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if relief is not None:
        monkeypatch.setattr(changes, "UNHASHED_MAX", relief)
        monkeypatch.setattr(changes, "RELIEF_STEP", 2)
        monkeypatch.setattr(sealing, "PORTION_CHANGES", 3)
    state = new_state(disk.open_base())
    rng = random.Random(7)
    expected: dict[tuple[int, bytes], tuple[int, bytes]] = {}
    digests: dict[int, bytes] = {}
    told: dict[int, bytes] = {}

    def change(count: int) -> None:
        for _ in range(count):
            domain, key = rng.randrange(3), b"key %d" % rng.randrange(60)
            records, current = state.domain(domain), state.domain(domain).get(key)
            version = 1 if current is None else current[0] + rng.randrange(2)
            if current is not None and rng.random() < 0.2:
                records.delete(key, current[0])
                del expected[domain, key]
                continue
            if current is None or rng.random() < 0.6:
                records.supersede(key, current, version, rng.randbytes(5))
            else:
                records.delete(key, current[0])
                records.put(key, version, rng.randbytes(5))
            expected[domain, key] = records.get(key)  # type: ignore[assignment]

    def advance() -> None:
        if state.is_sealing and (done := state.advance_seal()) is not None:
            told[done[0]] = done[1]

    for sequence in range(1, 30):
        change(40)
        state.seal(sequence)
        digests[sequence] = digest_from_scratch(
            (domain, key, *record) for (domain, key), record in expected.items()
        )
        for _ in range(rng.randrange(4)):
            change(3)
            advance()
    while state.is_sealing:
        advance()
    assert told == digests and list(told) == sorted(told)
    state._base.close()


def test_what_comes_and_goes_within_a_layer_costs_no_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = new_state(MemoryBase())
    records = state.domain(2)
    records.put(b"k", 1, b"first")
    seal(state, 1)
    hashed: list[HashedChange] = []
    replace = state._sums.replace

    def watching(changes: Iterable[HashedChange]) -> None:
        listed = list(changes)
        hashed.extend(item for item in listed if item[2] != item[3])
        replace(listed)

    monkeypatch.setattr(state._sums, "replace", watching)
    for version in range(2, 100):
        current = records.get(b"k")
        assert current is not None
        records.supersede(b"k", current, version, b"%d" % version)
    digest = seal(state, 2)
    assert hashed == [(2, b"k", (1, b"first"), (99, b"99"))]
    fresh = new_state(MemoryBase())
    fresh.domain(2).put(b"k", 99, b"99")
    assert seal(fresh, 1) == digest


def test_a_checkpoint_costs_what_changed_since_the_last() -> None:
    state = filled(RECORDS)
    seal(state, 64)
    assert len(state._sealed[0].leaves) == BUCKETS
    state.domain(1).put(b"key", 1, b"value")
    seal(state, 128)
    assert list(state._sealed[1].leaves) == [bucket_of(1, b"key", SALT, BUCKETS)]
    seal(state, 192)
    assert state._sealed[2].leaves == {}


def test_no_digest_of_a_state_is_told_that_is_being_replaced() -> None:
    source, target = new_state(MemoryBase()), new_state(MemoryBase())
    source.domain(1).put(b"k", 1, b"theirs")
    merge(source, 3)
    target.domain(1).put(b"k", 1, b"ours")
    target.seal(1)
    snapshot = source.pin()
    differing = target.stage(snapshot.leaves(), source.durable_digest)
    assert differing is not None
    assert target.stage_records(snapshot.chunk(differing, b"").records, differing)
    assert not any(target.staged(differing))
    plan = target.begin_install(Install(3, source.durable_digest, certificate(3)))
    assert not target.is_sealing
    plan.run()
    target.finish_install(plan)
    assert target.domain(1).get(b"k") == (1, b"theirs")


def test_whoever_writes_much_pays_for_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the event loop is: what is left when the layer is sealed is bounded, and no
    write does more than a portion."""
    monkeypatch.setattr(changes, "UNHASHED_MAX", 2_000)
    state = new_state(MemoryBase())
    steps: list[int] = []
    replace = state._sums.replace

    def counting(portion: Iterable[HashedChange]) -> None:
        listed = list(portion)
        steps[-1] += len(listed)
        replace(listed)

    monkeypatch.setattr(state._sums, "replace", counting)
    records = state.domain(1)
    left = []
    for sequence in range(1, 6):
        for number in range(20_000):
            steps.append(0)
            records.supersede(b"%d" % number, records.get(b"%d" % number), sequence, b"value")
        left.append(len(state._open.domains[1].found))
        state.seal(sequence)
    assert max(steps) <= PORTION_CHANGES
    assert max(left) <= 2 * 2_000 + 2 * PORTION_CHANGES
    digests = []
    while state.is_sealing:
        if (done := state.advance_seal()) is not None:
            digests.append(done)
    assert [sequence for sequence, _ in digests] == [1, 2, 3, 4, 5], "those computed on the way too"
    expected = digest_from_scratch((1, b"%d" % number, 5, b"value") for number in range(20_000))
    assert digests[-1] == (5, expected)


def test_large_values_are_paid_for_by_their_size() -> None:
    state = new_state(MemoryBase())
    records, value = state.domain(1), bytes(MIB)
    for number in range(40):
        records.put(b"%d" % (number % 20), 1, value)
        records.put(b"%d" % (number % 20), 2, value)
    opened = state._open.domains[1]
    assert opened.unhashed <= changes.UNHASHED_MAX + 3 * MIB // changes.UNIT_BYTES
    assert len(opened.found_records) <= 8, "of 40"
