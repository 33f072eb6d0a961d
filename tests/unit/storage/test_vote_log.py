"""What a replica must not forget, on LMDB and on its twin (protocol.md section 10)."""

import pytest

from pbft.core.effects import LogRecord, Persist, RejoinRecord, SavedLog, Truncate
from pbft.limits import STATEMENT_BYTES
from pbft.storage.api import VoteLog
from pbft.storage.memory import MemoryLog
from tests.unit.storage.builders import (
    Disk,
    accepted,
    decided,
    new_view,
    prepared,
    stable,
    view_change,
)


def reloaded(disk: Disk, log: VoteLog) -> SavedLog:
    """What a restart finds."""
    log.close()
    again = disk.open_log()
    try:
        return again.load()
    finally:
        again.close()


def test_of_the_slots_only_those_above_a_sequence_are_loaded(disk: Disk) -> None:
    log = disk.open_log()
    others: list[LogRecord] = [view_change(3), new_view(2), stable(7), RejoinRecord(5, done=True)]
    for sequence in (7, 8, 9):
        slots = [accepted(0, sequence), prepared(0, sequence), decided(sequence)]
        log.write([Persist(record) for record in slots])
    log.write([Persist(record) for record in others])
    whole, part, nothing = log.load(), log.load(8), log.load(9)
    assert whole.decided == (decided(7), decided(8), decided(9))
    assert (part.accepted, part.prepared, part.decided) == (
        (accepted(0, 9),),
        (prepared(0, 9),),
        (decided(9),),
    )
    assert nothing.accepted == nothing.prepared == nothing.decided == ()
    for loaded in (part, nothing):
        assert (loaded.view_change, loaded.new_view) == (view_change(3), new_view(2))
        assert (loaded.stable, loaded.rejoin) == (stable(7), RejoinRecord(5, done=True))
    log.close()


def test_decided_records_are_read_up_to_the_first_that_is_not_there_or_a_size(disk: Disk) -> None:
    log = disk.open_log()
    log.write([Persist(decided(sequence)) for sequence in (7, 8, 9, 11)])
    size = len(decided(7).batch) + STATEMENT_BYTES * len(decided(7).commits)
    assert list(log.read_decided((7, 9, 11, 12, 8), 100 * size)) == [
        decided(7),
        decided(9),
        decided(11),
    ]
    assert list(log.read_decided((7, 8, 9), 2 * size)) == [decided(7), decided(8)]
    assert list(log.read_decided((7, 8, 9), 1)) == [decided(7)]
    assert list(log.read_decided((10, 11), size)) == []
    log.close()


def test_an_empty_log_loads_empty(disk: Disk) -> None:
    assert reloaded(disk, disk.open_log()) == SavedLog()


def test_every_kind_of_record_comes_back_in_order(disk: Disk) -> None:
    log = disk.open_log()
    records: list[LogRecord] = [
        accepted(1, 9),
        accepted(0, 300),
        accepted(0, 9),
        prepared(2, 9),
        prepared(0, 9),
        prepared(0, 8),
        decided(300),
        decided(8),
        view_change(3),
        new_view(2),
        stable(7),
        RejoinRecord(5, done=True),
    ]
    log.write([Persist(record) for record in records[:4]])
    log.write([Persist(record) for record in records[4:]])
    assert reloaded(disk, log) == SavedLog(
        accepted=(accepted(0, 9), accepted(1, 9), accepted(0, 300)),
        prepared=(prepared(0, 8), prepared(0, 9), prepared(2, 9)),
        decided=(decided(8), decided(300)),
        view_change=view_change(3),
        new_view=new_view(2),
        stable=stable(7),
        rejoin=RejoinRecord(5, done=True),
    )


def test_a_newer_record_replaces_the_older(disk: Disk) -> None:
    log = disk.open_log()
    log.write([Persist(item) for item in (view_change(1), new_view(1), stable(64), decided(5))])
    newer = (view_change(4), new_view(3), stable(128), decided(5, b"the same slot"))
    log.write([Persist(item) for item in newer])
    saved = reloaded(disk, log)
    assert (saved.view_change, saved.new_view, saved.stable, *saved.decided) == newer


def test_null_batches_and_several_bodies_of_one_slot(disk: Disk) -> None:
    log = disk.open_log()
    records = [accepted(0, 5, b"first"), accepted(1, 5, b""), accepted(2, 5, b"second")]
    log.write([*map(Persist, records), Persist(decided(5, b"second")), Persist(decided(6, b""))])
    saved = reloaded(disk, log)
    assert saved.accepted == tuple(records)
    assert [record.batch for record in saved.decided] == [b"second", b""]


def test_truncation_takes_what_is_at_or_below_and_nothing_else(disk: Disk) -> None:
    log = disk.open_log()
    slots = (1, 2, 255, 256, 257, 65_536)
    for sequence in slots:
        log.write([Persist(accepted(0, sequence)), Persist(accepted(1, sequence, b"other"))])
        log.write([Persist(prepared(1, sequence)), Persist(decided(sequence))])
    log.write([Persist(view_change(1)), Persist(new_view(1)), Persist(stable(256))])
    log.write([Truncate(256), Persist(accepted(2, 256))])
    saved = reloaded(disk, log)
    kept = [(record.sequence, record.view) for record in saved.accepted]
    assert kept == [(256, 2), (257, 0), (257, 1), (65_536, 0), (65_536, 1)]
    assert [record.sequence for record in saved.prepared] == [257, 65_536]
    assert [record.sequence for record in saved.decided] == [257, 65_536]
    assert (saved.view_change, saved.new_view, saved.stable) == (
        view_change(1),
        new_view(1),
        stable(256),
    )


def test_truncating_everything_leaves_a_usable_log(disk: Disk) -> None:
    log = disk.open_log()
    log.write([Persist(accepted(0, 3)), Persist(decided(3)), Persist(prepared(0, 3))])
    log.write([Truncate(1_000)])
    assert log.load() == SavedLog()
    log.write([Persist(accepted(0, 1_001))])
    assert reloaded(disk, log).accepted == (accepted(0, 1_001),)


@pytest.mark.parametrize("synced", range(4))
def test_a_crash_loses_what_was_not_synced(synced: int) -> None:
    log = MemoryLog()
    records = [accepted(0, sequence) for sequence in range(1, 4)]
    positions = [0, *(log.append([Persist(record)]) for record in records)]
    assert log.load() == SavedLog(), "what is dirty is not durable"
    log.sync(positions[synced])
    log.crash()
    assert log.load().accepted == tuple(records[:synced])
    log.sync(log.append([Persist(accepted(0, 9))]))
    assert log.load().accepted == (*records[:synced], accepted(0, 9)), "what was lost stays lost"


def test_syncing_twice_the_same_position_changes_nothing() -> None:
    log = MemoryLog()
    first = log.append([Persist(accepted(0, 1))])
    log.sync(first)
    log.append([Persist(accepted(0, 2))])
    log.sync(first)
    assert log.load().accepted == (accepted(0, 1),)
