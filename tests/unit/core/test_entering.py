"""V of a new primary, and what entering a view keeps (protocol.md section 7)."""

import pytest

from pbft.core.effects import Send
from pbft.core.state import Mode
from pbft.crypto.digest import batch_digest
from pbft.limits import LocalLimits
from pbft.messages import Kind, NewView, Signed
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo

A = b"a" * 32


@pytest.mark.parametrize("n", [5, 6, 7])
def test_v_holds_view_changes_for_this_view_only(n: int) -> None:
    """What was verified for a view that its primary gave up is no part of its next one."""
    solo = Solo(n)
    movers = solo.others[: solo.thresholds.quorum - 1]
    solo.cluster.tell(1, *(solo.forge.view_change(i, 1) for i in movers[: solo.thresholds.weak]))
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    solo.cluster.tell(1, *(solo.forge.view_change(i, n + 1) for i in movers))
    (new_view,) = solo.node.sent(NewView)
    changes = [solo.forge.valid(signed) for signed in new_view.view_changes]
    assert {change.view for change in changes} == {n + 1}


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_v_holds_q_view_changes_though_more_are_there(n: int) -> None:
    """All of them came while it asked what it had told the others."""
    solo = Solo(n)
    solo.node.restart()
    solo.cluster.tell(1, *(solo.forge.view_change(i, 1) for i in solo.others))
    assert not solo.node.sent(NewView)
    solo.recall()
    solo.cluster.advance(SECOND)
    (new_view,) = solo.node.sent(NewView)
    assert len(new_view.view_changes) == solo.thresholds.quorum


def test_a_new_primary_proposes_above_its_own_h() -> None:
    """Which passed the max-s of V while the view-changes were collected."""
    solo = Solo(5)
    solo.cluster.tell(1, *(solo.forge.view_change(i, 1) for i in (2, 3)))
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    solo.cluster.tell(1, solo.forge.stable(2 * INTERVAL, A))
    solo.cluster.tell(1, solo.forge.view_change(4, 1))
    assert solo.node.core.is_primary and solo.node.core.mode is Mode.NORMAL
    assert solo.node.core.next_sequence == 2 * INTERVAL + 1


def test_a_quorum_of_commits_that_came_early_decides_on_entering() -> None:
    """Though O says nothing about their sequence."""
    solo = Solo()
    digest = batch_digest(solo.batch(1))
    for peer in (0, 2, 3):
        solo.cluster.tell(1, solo.forge.commit(peer, 1, digest, view=2))
    assert not solo.decided()
    solo.enter(2)
    assert solo.decided() == [1]


def test_entries_of_o_at_or_below_h_leave_nothing_in_the_log() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.stable(2 * INTERVAL, A))
    proofs = [solo.forge.proof(1, A)]
    changes = [solo.forge.view_change(i, 3, proofs) for i in (0, 2, 3)]
    solo.cluster.tell(1, solo.forge.new_view(3, changes))
    assert solo.node.core.entered_view == 3
    assert solo.node.core.log.get(1) is None


def test_what_goes_to_a_new_primary_at_once_is_bounded() -> None:
    """Clients may have filled the pools of all backups."""
    solo = Solo(limits=LocalLimits(healing_bytes_per_status=4_000))
    for number in range(1, 11):
        request = solo.forge.request(number, bytes(1_000), client=2, acknowledged=0)
        solo.node.submit(request)
    before = len(solo.node.effects)
    solo.enter(2)
    effects = [e for e in solo.node.effects[before:] if isinstance(e, Send) and e.to == 2]
    sent = [e.item for e in effects if isinstance(e.item, Signed) and e.item.kind is Kind.REQUEST]
    assert 1 <= len(sent) <= 3
