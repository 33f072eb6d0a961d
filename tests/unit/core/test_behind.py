"""A replica that executes, behind h, what it missed (protocol.md sections 6, 8 and 9)."""

import pytest

from pbft.core.certificates import CheckpointCertificate
from pbft.core.effects import EventName, Install, Persist, StableRecord, Truncate
from pbft.core.relevance import relevance
from pbft.core.tail import CERTIFICATES_MAX, Tail
from pbft.errors import Reason
from pbft.limits import KIB, LocalLimits
from pbft.messages import StableCertificate
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.unit.core.test_tail import LATE, fetching


@pytest.mark.parametrize("knows", [True, False], ids=["known", "pushed"])
def test_what_is_executed_behind_h_becomes_durable(knows: bool) -> None:
    """Else all of a long tail would stay in the memory and in the log of who executes it. Either it
    was there when the checkpoints became stable, or its sources push their certificates."""
    cluster = fetching(LocalLimits(tail_bytes=KIB, healing_bytes_per_status=1))
    late = cluster[LATE].core
    if not knows:
        late.tail.certificates.clear()
    cluster.release()
    if knows:
        cluster.drop(lambda m: m.to == LATE and isinstance(m.item, StableCertificate))
    durable = set()
    for _ in range(100):
        cluster.advance(SECOND // 10)
        if late.transfer is None and late.executed < late.low_water_mark - INTERVAL:
            durable.add(late.state.durable_sequence)
    assert len(durable) > 2, durable
    assert not late.diverged and len(cluster[LATE].events(EventName.STATE_TRANSFER_STARTED)) == 1


def test_a_certificate_that_h_has_passed_is_taken_only_if_it_is_of_use() -> None:
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    late = cluster[LATE].core
    late.tail.certificates.clear()
    near = (late.executed // INTERVAL + 1) * INTERVAL
    far = near + WINDOW // INTERVAL * INTERVAL
    assert far < late.low_water_mark

    def reason(sequence: int) -> Reason | None:
        item = cluster.forge.stable(sequence, bytes(32))
        return relevance(late, 0, item)

    assert reason(near) is None
    assert reason(far) is Reason.SEQUENCE_LOW
    late.certified[near] = cluster[0].core.stable
    assert reason(near) is Reason.SEQUENCE_LOW, "one is enough"


def test_an_installation_truncates_the_log() -> None:
    """What was decided before is part of the state; and there may never be a merge."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    cluster.release()
    late = cluster[LATE]
    cluster.advance(5 * SECOND)
    (install,) = [effect for effect in late.effects if isinstance(effect, Install)]
    truncated = late.effects.index(Truncate(install.sequence))
    before = [e.record for e in late.effects[:truncated] if isinstance(e, Persist)]
    stable = [record for record in before if isinstance(record, StableRecord)]
    assert max(record.sequence for record in stable) >= install.sequence


def test_certificates_are_kept_above_the_floor_and_the_newest() -> None:
    tail = Tail(INTERVAL)
    for number in range(1, CERTIFICATES_MAX + 3):
        tail.note_stable(CheckpointCertificate(number * INTERVAL, b"", ()))
    assert len(tail.certificates) == CERTIFICATES_MAX
    assert min(tail.certificates) == 3 * INTERVAL
    tail.restart(5 * INTERVAL)
    assert min(tail.certificates) == 6 * INTERVAL
    for sequence in range(5 * INTERVAL + 1, 8 * INTERVAL + 1):
        tail.note_executed(sequence, 1, 1)
    tail.cut(7 * INTERVAL, 8 * INTERVAL, 1 << 30)
    assert min(tail.certificates) == 8 * INTERVAL


def test_after_an_installation_nothing_of_before_is_counted_on() -> None:
    """In the log there is a gap below the state, and what was sealed then is of no interest."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    late = cluster[LATE]
    late.core.unsealed.add(INTERVAL)
    cluster.release()
    while late.core.transfer is not None:
        cluster.advance(SECOND // 100)
    (install,) = [effect for effect in late.effects if isinstance(effect, Install)]
    assert late.core.tail.floor >= install.sequence
    assert not late.core.unsealed
