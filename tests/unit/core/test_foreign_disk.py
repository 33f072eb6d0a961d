"""What lies on disk is verified before anything is done with it (protocol.md section 10): the state
or the log of another cluster or replica may have been put in its place."""

import pytest

from pbft.core.effects import (
    AcceptedRecord,
    DecidedRecord,
    LogRecord,
    Merge,
    Persist,
    StableRecord,
    ViewChangeRecord,
)
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason, Rejected
from pbft.messages import Commit, Prepare
from pbft.storage.memory import MemoryBase, MemoryLog
from pbft.storage.state import LayeredState
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL, Forge
from tests.harness.core_solo import Solo

ELSEWHERE = Forge(7)
"""Another cluster."""


def start_with(solo: Solo, *records: LogRecord) -> None:
    """Starts on a log of these records."""
    solo.node.crash()
    solo.node.log = MemoryLog()
    solo.node.log.write([Persist(record) for record in records])
    solo.node.start()


def start_with_state_of(solo: Solo, world: Forge, sequence: int, digest: bytes = b"") -> None:
    """Starts on a state that the replicas of that cluster certified, or certified as another."""
    base = MemoryBase()
    constants = solo.forge.genesis.constants
    state = LayeredState(base, constants.buckets, constants.bucket_salt)
    state.domain(7).put(b"key", 1, b"value")
    state.seal(sequence)
    while (done := state.advance_seal()) is None:
        pass
    certificate = world.checkpoints(sequence, digest or done[1])
    plan = state.begin_merge(Merge(sequence, done[1], certificate))
    plan.run()
    state.finish_merge(plan)
    solo.node.crash()
    solo.node.base = base
    solo.node.start()


@pytest.mark.parametrize("sequence", [INTERVAL, 1000 * INTERVAL])
def test_a_state_of_another_cluster_is_refused(sequence: int) -> None:
    solo = Solo()
    with pytest.raises(Rejected, match=Reason.BAD_CERTIFICATE.value):
        start_with_state_of(solo, ELSEWHERE, sequence)


def test_a_state_that_its_certificate_is_not_of_is_refused() -> None:
    solo = Solo()
    with pytest.raises(Rejected, match="another state"):
        start_with_state_of(solo, solo.forge, INTERVAL, digest=b"d" * 32)
    start_with_state_of(Solo(), solo.forge, INTERVAL)


def test_a_checkpoint_in_the_log_of_another_cluster_is_refused() -> None:
    digest = b"d" * 32
    record = StableRecord(INTERVAL, digest, ELSEWHERE.checkpoints(INTERVAL, digest))
    with pytest.raises(Rejected, match=Reason.BAD_CERTIFICATE.value):
        start_with(Solo(), record)


def test_a_batch_that_another_cluster_decided_is_refused() -> None:
    batch = ELSEWHERE.batch(ELSEWHERE.request(1))
    item = ELSEWHERE.committed(1, batch)
    with pytest.raises(Rejected, match=Reason.BAD_CERTIFICATE.value):
        start_with(Solo(), DecidedRecord(1, batch_digest(batch), item.commits, batch))


def test_commits_for_something_else_are_refused() -> None:
    solo = Solo()
    batch, other = solo.batch(1), solo.batch(2)
    commits = solo.forge.committed(1, other).commits
    with pytest.raises(Rejected, match="commits for sequence 1"):
        start_with(solo, DecidedRecord(1, batch_digest(batch), commits, batch))


def test_a_pre_prepare_of_another_cluster_is_refused() -> None:
    batch = ELSEWHERE.batch(ELSEWHERE.request(1))
    signed = ELSEWHERE.proposal(1, batch).pre_prepare
    with pytest.raises(Rejected, match="pre-prepare for sequence 1"):
        start_with(Solo(), AcceptedRecord(0, 1, batch_digest(batch), signed, batch))


@pytest.mark.parametrize(("world", "replica"), [(ELSEWHERE, 1), (Forge(4), 2)])
def test_a_view_change_of_another_replica_is_refused(world: Forge, replica: int) -> None:
    with pytest.raises(Rejected, match=Reason.BAD_CERTIFICATE.value):
        start_with(Solo(me=1), ViewChangeRecord(3, world.view_change(replica, 3)))


def test_no_vote_leaves_before_the_recall_is_answered() -> None:
    """Also none that healing pushes: in the log of another replica of this cluster, which has its
    pre-prepares right, they would contradict what this one said."""
    solo = Solo()
    digest = solo.propose(1)
    solo.prepare(1, digest)
    node = solo.node
    assert node.sent(Prepare) and node.sent(Commit)
    node.restart()
    solo.cluster.advance(SECOND)
    statuses = [solo.forge.status(peer) for peer in (2, 3)]
    solo.cluster.tell(1, *statuses)
    assert node.core.recalling is not None and not node.sent(Prepare, Commit)
    solo.recall()
    solo.cluster.advance(SECOND)
    solo.cluster.tell(1, *statuses)
    assert node.sent(Prepare) and node.sent(Commit)
