"""After a restart the replicated state, incarnations included, is that of the durable checkpoint
until the log is executed again. Meanwhile no new-view counts (protocol.md sections 8 and 10): one
whose view-changes a later rejoin made void would look valid."""

from pbft.core.state import Mode
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import NewView, Recall, Recalled, Signed, ViewChange
from tests.harness.core_cluster import SECOND
from tests.harness.core_solo import Solo


def replaying(me: int) -> Solo:
    """The replica has executed eight batches, the last of which is the rejoin of replica 2, and
    starts again with a state from before them. Each step executes one of them again."""
    solo = Solo(4, me=me, limits=LocalLimits(operations_per_step=1))
    solo.node.holds_merges = True
    solo.decide_to(7)
    solo.decide(8, solo.forge.batch(solo.forge.rejoin(2, 77)))
    assert solo.node.core.incarnations == {2: 77}
    solo.node.restart()
    core = solo.node.core
    assert core.is_replaying and not core.incarnations
    return solo


def void_new_view(solo: Solo, view: int) -> Signed:
    """With the view-change that replica 2 signed before it lost its votes."""
    return solo.forge.new_view(view, solo.forge.view_changes(view, (0, 2, 3)))


def test_no_new_view_is_entered_while_the_log_is_executed_again() -> None:
    solo = replaying(me=1)
    new_view = void_new_view(solo, 3)
    solo.cluster.tell(1, new_view)
    assert solo.node.core.entered_view == 0 and solo.rejected(Reason.NOT_NORMAL) == 1
    solo.recall()
    solo.cluster.advance(SECOND)
    core = solo.node.core
    assert not core.is_replaying and core.incarnations == {2: 77}
    solo.cluster.tell(1, new_view)
    assert core.entered_view == 0 and solo.rejected(Reason.BAD_NEW_VIEW) == 1
    # What the others enter it with is taken now.
    valid = [
        *solo.forge.view_changes(3, (0, 3)),
        solo.forge.sign(2, ViewChange(3, 2, 77, 0, (), ())),
    ]
    solo.cluster.tell(1, solo.forge.new_view(3, valid))
    assert core.entered_view == 3 and core.mode is Mode.NORMAL


def test_no_new_view_is_made_while_the_log_is_executed_again() -> None:
    """The primary of the view counts no view-change of which it cannot know that it is void."""
    solo = replaying(me=1)
    (recall,) = solo.node.sent(Recall)[-1:]
    for peer, change in zip((0, 2, 3), solo.forge.view_changes(5, (0, 2, 3)), strict=True):
        solo.node.receive(peer, change)
    for peer in solo.others[: solo.thresholds.recalls]:
        answer = Recalled(1, recall.nonce, 0, 0, (), None, ())
        solo.node.receive(peer, solo.forge.sign(peer, answer))
    core = solo.node.core
    assert core.is_trusted and core.is_replaying and core.view == 5 and core.is_primary
    assert not solo.node.sent(NewView)
    solo.cluster.advance(SECOND // 2)
    assert not core.is_replaying
    (new_view,) = solo.node.sent(NewView)
    assert {signed.signer for signed in new_view.view_changes} == {0, 1, 3}


def test_no_new_view_is_overdue_while_the_log_is_executed_again() -> None:
    """Or a replica that takes longer than T for it would leave the view that the others enter."""
    solo = Solo(4, me=1)
    core = solo.node.core
    # What it cannot execute yet stands for much to execute.
    core.restored_end = 1
    solo.cluster.tell(1, *solo.forge.view_changes(3, (0, 2)))
    assert core.view == 3 and core.mode is Mode.VIEW_CHANGING
    solo.cluster.advance(60 * SECOND)
    assert core.view == 3
    core.restored_end = 0
    solo.cluster.advance(SECOND)
    assert core.view == 3
    solo.cluster.advance(60 * SECOND)
    assert core.view > 3
