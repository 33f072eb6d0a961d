"""Agreed time and held batches (protocol.md section 5)."""

import pytest

from pbft.core.normal_case import corrected_clock_us
from pbft.core.replica import Replica
from pbft.messages import BatchBytes, Prepare, Proposal
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import WALL_EPOCH_US
from tests.harness.core_solo import Solo

DRIFT_US = 500_000


def batch_at(solo: Solo, number: int, ahead_us: int) -> bytes:
    """A body whose time is so far ahead of the replica's clock."""
    return solo.forge.batch(solo.forge.request(number), time_us=solo.node.now().wall_us + ahead_us)


def test_the_primary_proposes_its_clock() -> None:
    cluster = Cluster(4)
    cluster[0].wall_skew_us = 12_345
    cluster.run(1)
    assert {node.core.agreed_time_us for node in cluster.up} == {cluster[0].now().wall_us}


def test_a_primary_whose_clock_is_wrong_proposes_that_of_its_peers() -> None:
    """It would be held until it is right, and the primary replaced, in each of its views."""
    cluster = Cluster(4)
    cluster[0].wall_skew_us = 3 * SECOND
    cluster.advance(SECOND)
    cluster.run(1)
    assert cluster.executed() == {1}
    assert {node.core.agreed_time_us for node in cluster.up} == {cluster[1].now().wall_us}


def test_agreed_time_never_goes_back() -> None:
    solo = Solo()
    solo.decide(1, batch_at(solo, 1, 0))
    first = solo.node.core.agreed_time_us
    solo.decide(2, batch_at(solo, 2, -SECOND))
    assert solo.node.core.agreed_time_us == first
    assert {reply.agreed_time_us for reply in solo.node.replies()} == {first}
    solo.decide(3, batch_at(solo, 3, 5))
    assert solo.node.core.agreed_time_us == first + 5


def test_the_null_batch_leaves_it() -> None:
    solo = Solo(me=2)
    solo.decide(1, batch_at(solo, 1, 0))
    first = solo.node.core.agreed_time_us
    digest = solo.slot(1).decision.digest  # type: ignore[union-attr]
    proofs = [solo.forge.proof(1, digest), solo.forge.proof(3, bytes(32))]
    changes = [solo.forge.view_change(i, 1, proofs) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    solo.cluster.tell(2, solo.forge.committed(2, b"", view=1))
    assert solo.node.core.executed == 2
    assert solo.node.core.agreed_time_us == first


def test_an_empty_batch_is_legal_and_moves_time() -> None:
    solo = Solo()
    solo.decide(1, solo.forge.batch(time_us=WALL_EPOCH_US + 77))
    assert solo.node.core.executed == 1
    assert solo.node.core.agreed_time_us == WALL_EPOCH_US + 77


def test_it_survives_a_restart() -> None:
    solo = Solo()
    solo.decide_to(4)
    solo.stabilise(4)
    before = solo.node.core.agreed_time_us
    solo.restart()
    assert solo.node.core.agreed_time_us == before > 0


def test_a_batch_ahead_of_the_clock_is_held_not_rejected() -> None:
    """P13: honest replicas whose clocks differ must not split over it."""
    solo = Solo()
    solo.propose(1, batch_at(solo, 1, DRIFT_US + SECOND))
    assert not solo.prepared_for()
    assert not solo.node.rejections
    solo.cluster.advance(SECOND - 20_000)
    assert not solo.prepared_for()
    solo.cluster.advance(40_000)
    assert len(solo.prepared_for()) == 1


def test_a_batch_within_the_drift_or_behind_is_accepted_at_once() -> None:
    solo = Solo()
    for sequence, ahead_us in ((1, DRIFT_US), (2, -3600 * SECOND)):
        solo.propose(sequence, batch_at(solo, sequence, ahead_us))
        assert len(solo.prepared_for()) == sequence


def test_a_time_of_the_far_future_is_never_agreed_on() -> None:
    """The primary that proposes it is replaced."""
    cluster = Cluster(4)
    cluster[0].wall_skew_us = 10**15
    cluster.submit(cluster.forge.request(1), to=range(4))
    cluster.advance(5 * SECOND)
    assert all(node.core.view == 1 for node in cluster.up[1:])
    assert cluster[1].journal == [b"0.1.1"]
    assert cluster[1].core.agreed_time_us < WALL_EPOCH_US * 1.1


def test_a_held_batch_is_looked_at_however_busy_the_replica_is() -> None:
    solo = Solo()
    solo.propose(1, batch_at(solo, 1, DRIFT_US + 100_000))
    for _ in range(200):
        solo.cluster.now_us += 1000
        if (solo.node.replica.next_deadline_us() or 0) <= solo.cluster.now_us:
            solo.node.tick()
        else:
            solo.node.receive(2, solo.forge.commit(2, 5, bytes(32)))
    assert len(solo.prepared_for()) == 1


def test_batches_of_a_new_view_and_decided_ones_bypass_the_clock() -> None:
    solo = Solo(me=2)
    ahead = batch_at(solo, 1, 3600 * SECOND)
    proposal = solo.forge.proposal(1, ahead)
    digest = solo.forge.vote(proposal.pre_prepare).digest
    changes = [solo.forge.view_change(i, 1, [solo.forge.proof(1, digest)]) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    solo.cluster.tell(2, BatchBytes(ahead))
    assert [vote.view for vote in solo.prepared_for()] == [1]
    other = Solo()
    other.cluster.tell(1, other.forge.committed(1, batch_at(other, 1, 3600 * SECOND)))
    assert other.node.core.executed == 1


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [((), 0), ((40,), 0), ((40, 60), 0), ((40, 60, 80), 40), ((-40, -60), -40), ((-9, 10**9), 0)],
)
def test_the_clock_is_corrected_to_the_median_of_all(
    offsets: tuple[int, ...], expected: int
) -> None:
    """f liars move it no further than an honest clock."""
    solo = Solo()
    wall_us = solo.node.now().wall_us
    for peer, offset in zip((0, 2, 3), offsets, strict=False):
        solo.cluster.tell(1, solo.forge.status(peer, clock_us=wall_us + offset))
    assert corrected_clock_us(solo.node.core) - wall_us == expected


@pytest.mark.parametrize("n", [4, 7])
def test_liars_that_speak_first_do_not_set_the_clock(n: int) -> None:
    """At a start, or as long as honest statuses are lost, the f liars may be all that is known."""
    solo = Solo(n)
    hour_us = 3600 * SECOND
    for offset in (hour_us, -hour_us):
        solo.cluster.advance(SECOND)
        wall_us = solo.node.now().wall_us
        for liar in solo.others[: solo.thresholds.faulty]:
            solo.cluster.tell(1, solo.forge.status(liar, clock_us=wall_us + offset))
        assert len(solo.node.core.clock_offsets_us) == solo.thresholds.faulty
        assert corrected_clock_us(solo.node.core) == wall_us


def test_requests_expire_by_agreed_time() -> None:
    solo = Solo()
    deadline = solo.node.now().wall_us
    late = solo.forge.request(2, expires_at_us=deadline)
    early = solo.forge.request(1, expires_at_us=deadline)
    solo.decide(1, solo.forge.batch(early, time_us=deadline))
    solo.decide(2, solo.forge.batch(late, time_us=deadline + 1))
    assert solo.node.journal == [b"0.1.1"]
    assert [reply.outcome.name for reply in solo.node.replies()] == ["EXECUTED", "EXPIRED"]


def test_a_step_back_of_the_monotonic_clock_is_a_bug_of_the_caller() -> None:
    solo = Solo()
    replica: Replica = solo.node.replica
    solo.cluster.now_us -= 1
    with pytest.raises(AssertionError, match="time went back"):
        replica.tick(solo.node.now())
    assert not solo.node.sent(Proposal)


def test_a_backup_whose_clock_is_behind_goes_by_those_of_its_peers() -> None:
    """Else it would hold every batch, and never vote."""
    cluster = Cluster(4)
    cluster[3].wall_skew_us = -3 * SECOND
    cluster.advance(4 * SECOND)
    cluster.run(1)
    assert len(cluster[3].sent(Prepare)) == 1
