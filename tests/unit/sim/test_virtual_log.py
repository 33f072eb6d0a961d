"""The simulated vote log keeps what the real one keeps, and its damage is detected like real
damage."""

from random import Random

import pytest

from pbft.core.effects import LogRecord, Persist, RejoinRecord, Truncate
from pbft.sim.rot import Rot, flip, misdirect, tear
from pbft.sim.virtual_log import VirtualLog
from pbft.storage.api import StorageCorrupt
from pbft.storage.memory import MemoryLog
from tests.unit.storage.builders import accepted, decided, new_view, prepared, stable, view_change

RECORDS: list[LogRecord] = [
    accepted(0, 1),
    accepted(0, 2, b""),
    accepted(1, 2, b"other"),
    prepared(1, 2),
    decided(3),
    decided(4, b"a batch"),
    view_change(2),
    view_change(3),
    new_view(1),
    stable(64),
    RejoinRecord(9, done=False),
]


def written() -> VirtualLog:
    log = VirtualLog()
    log.sync(log.append([Persist(record) for record in RECORDS]))
    return log


def test_it_keeps_what_the_other_twin_keeps() -> None:
    log, other = VirtualLog(), MemoryLog()
    for step in (RECORDS[:4], [Truncate(1)], RECORDS[4:], [Truncate(2), Truncate(3)]):
        effects = [one if isinstance(one, Truncate) else Persist(one) for one in step]
        log.sync(log.append(effects))
        other.write(effects)
        assert log.load() == other.load()


def test_a_crash_loses_what_was_not_synced() -> None:
    log = VirtualLog()
    position = log.append([Persist(RECORDS[0])])
    log.append([Persist(RECORDS[3])])
    log.sync(position)
    log.crash()
    assert log.load().accepted == (RECORDS[0],)
    assert log.load().prepared == ()
    log.sync(log.append([Persist(RECORDS[3])]))
    assert log.load().prepared == (RECORDS[3],)


@pytest.mark.parametrize("rot", [flip, tear, misdirect])
def test_damage_is_detected_wherever_it_falls(rot: Rot) -> None:
    for seed in range(40):
        log = written()
        assert log.damage(rot, Random(seed))
        with pytest.raises(StorageCorrupt):
            log.load()


def test_nothing_can_be_damaged_in_an_empty_log() -> None:
    log, random = VirtualLog(), Random(1)
    assert not any(log.damage(rot, random) for rot in (flip, tear, misdirect))
    log.load()


def test_a_backup_stays_as_it_was() -> None:
    log = written()
    backup = log.copy()
    log.sync(log.append([Persist(accepted(4, 9)), Truncate(8)]))
    assert backup.load() == written().load()
    assert log.load() != backup.load()
