"""The end of a rejoin, and what it leaves behind (protocol.md section 10)."""

from dataclasses import replace

import pytest

from pbft.messages import Checkpoint, Request, Signed, StateChunk
from pbft.types import View
from tests.harness.core_cluster import SECOND, Cluster, lose_disk
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

A = b"a" * 32
SETTLED = WINDOW + INTERVAL
"""The first checkpoint at or above s + L when the rejoin is executed at s = 1."""


def rejoining() -> Solo:
    """Replica 1, whose operator declares a rollback."""
    solo = Solo()
    solo.node.settings = replace(solo.node.settings, rejoin=True)
    solo.node.restart()
    assert solo.node.core.rejoining is not None
    return solo


def execute(solo: Solo, last: int, first: int = 1, view: View = 0) -> None:
    """The others decided the rejoin at 1 and empty batches after it; their certificates come."""
    now_us = solo.node.now().wall_us
    for sequence in range(first, last + 1):
        requests = [solo.forge.rejoin(1, solo.node.core.incarnation)] if sequence == 1 else []
        batch = solo.forge.batch(*requests, time_us=now_us)
        solo.cluster.tell(1, solo.forge.committed(sequence, batch, view), sender=2)


def certify(solo: Solo, sequence: int, digest: bytes | None = None) -> None:
    """The others vouch for its own state at n, or for another."""
    known = digest or solo.node.core.sealed[sequence]
    solo.cluster.tell(1, solo.forge.stable(sequence, known), sender=2)
    solo.cluster.advance(2 * SECOND)


def test_only_a_stable_checkpoint_ends_a_rejoin() -> None:
    """Execution at or above s + L is not enough: what was prepared here before the loss may be
    above h, and the view-changes would lack it."""
    solo = rejoining()
    core = solo.node.core
    execute(solo, INTERVAL)
    certify(solo, INTERVAL)
    execute(solo, SETTLED, first=INTERVAL + 1)
    solo.cluster.advance(2 * SECOND)
    assert core.executed == SETTLED >= core.rejoins[1] + WINDOW
    assert core.state.durable_sequence >= core.rejoins[1]
    assert core.rejoining is not None
    certify(solo, SETTLED)
    assert core.rejoining is None


def test_a_certificate_of_a_state_that_is_not_here_ends_no_rejoin() -> None:
    solo = rejoining()
    core = solo.node.core
    execute(solo, INTERVAL)
    certify(solo, INTERVAL)
    certify(solo, SETTLED, A)
    assert core.low_water_mark == SETTLED >= core.rejoins[1] + WINDOW
    assert core.state.durable_sequence >= core.rejoins[1]
    assert core.rejoining is not None


@pytest.mark.parametrize("restarts", [False, True])
def test_a_rejoined_replica_votes_in_no_view_below_that_of_its_highest_commit_certificate(
    restarts: bool,
) -> None:
    """It may have left them with a view-change that it does not know any more."""
    solo = rejoining()
    core = solo.node.core
    for last in range(INTERVAL, SETTLED + 1, INTERVAL):
        execute(solo, last, first=last - INTERVAL + 1, view=6)
        certify(solo, last)
    assert core.rejoining is None
    if restarts:
        execute(solo, SETTLED + 1, first=SETTLED + 1, view=6)
        solo.node.settings = replace(solo.node.settings, rejoin=False)
        solo.restart()
        core = solo.node.core

    def new_view(view: View) -> Signed:
        checkpoints = core.stable.checkpoints
        changes = [solo.forge.view_change(i, view, (), SETTLED, checkpoints) for i in solo.others]
        return solo.forge.new_view(view, changes)

    solo.cluster.tell(1, new_view(3))
    assert core.entered_view == 0 and not core.is_voting
    solo.cluster.tell(1, new_view(6))
    assert core.entered_view == 6 and core.is_voting


def test_a_rejoin_that_is_tried_again_has_a_later_incarnation_though_the_clock_went_back() -> None:
    """Its own state need not know of the one that was refused."""
    solo = rejoining()
    first = solo.node.core.incarnation
    solo.node.wall_skew_us = -3600 * SECOND
    solo.cluster.advance(62 * SECOND)
    assert solo.node.core.incarnation > first


def test_progress_starts_the_time_of_an_open_rejoin_afresh() -> None:
    """A primary that fills the pipeline for it is not suspect, however long that takes."""
    solo = Solo()
    solo.decide(1, solo.forge.batch(solo.forge.rejoin(3, 1)))
    for sequence in range(2, 8):
        solo.cluster.advance(SECOND)
        solo.decide(sequence, solo.forge.batch())
    assert not solo.node.core.suspicion.mine


def test_a_rejoin_is_not_given_up_while_the_state_is_under_way() -> None:
    """It may have been executed above what this replica has: that it does not show says nothing,
    and a new incarnation would have to wait for a later rejoin."""
    cluster = Cluster(4)
    cluster.run(INTERVAL + 1)
    cluster.drop(lambda message: message.to == 2 and isinstance(message.item, StateChunk))
    lose_disk(cluster, 2)
    cluster.advance(SECOND)
    incarnation = cluster[2].core.incarnation
    cluster.advance(150 * SECOND)
    assert cluster[2].core.transfer is not None
    assert cluster[2].core.incarnation == incarnation
    cluster.drop(None)
    cluster.advance(30 * SECOND)
    assert cluster[2].core.rejoining is None
    assert cluster[2].core.incarnation == incarnation


def test_who_rejoins_signs_no_checkpoint() -> None:
    """It may have signed another before its loss."""
    cluster = Cluster(4)
    cluster.run(INTERVAL)
    cluster.drop(lambda m: m.sender == 3 and m.says(Request))
    lose_disk(cluster, 3)
    cluster.advance(5 * SECOND)
    cluster.run(3 * INTERVAL, first=INTERVAL + 1)
    late = cluster[3]
    assert late.core.rejoining is not None and late.core.executed >= 3 * INTERVAL
    assert not late.sent(Checkpoint)
