"""The simulated state on disk is damaged as a real one is, and the damage is detected likewise."""

from random import Random

import pytest

from pbft.sim.rot import Rot, flip, misdirect, tear
from pbft.sim.virtual_base import VirtualBase
from pbft.storage.api import StorageCorrupt
from pbft.types import Digest
from tests.unit.storage.builders import merge_sealed, new_state, seal, stored_records


def written() -> tuple[VirtualBase, Digest]:
    """Twenty records in the durable state, and its digest."""
    base = VirtualBase()
    state = new_state(base)
    for number in range(20):
        state.domain(1).put(b"key%d" % number, number, b"value")
    digest = seal(state, 1)
    merge_sealed(state, 1, digest)
    return base, digest


@pytest.mark.parametrize("rot", [flip, tear, misdirect])
def test_a_damaged_record_is_detected_when_it_is_read(rot: Rot) -> None:
    for seed in range(40):
        base, digest = written()
        assert base.damage(rot, Random(seed))
        assert new_state(base).digest == digest
        with pytest.raises(StorageCorrupt):
            stored_records(base.view)


def test_a_damaged_leaf_is_detected_at_the_start() -> None:
    for seed in range(40):
        base, _ = written()
        assert base.damage_leaf(Random(seed))
        with pytest.raises(StorageCorrupt, match="does not hash to its digest"):
            new_state(base)


def test_nothing_can_be_damaged_in_an_empty_state() -> None:
    base, random = VirtualBase(), Random(1)
    assert not any(base.damage(rot, random) for rot in (flip, tear, misdirect))
    assert not base.damage_leaf(random)
    new_state(base)


def test_a_backup_stays_as_it_was() -> None:
    base, digest = written()
    backup = base.copy()
    assert base.damage(flip, Random(1))
    assert new_state(backup).digest == digest
    assert len(stored_records(backup.view)) == 20
