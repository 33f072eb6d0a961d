"""No merge moves the durable state under a transfer (protocol.md sections 9 and 10): the differing
buckets were found by comparing with it."""

from pbft.core.effects import Merge
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo
from tests.harness.core_transfer import FAR


def test_a_transfer_begins_after_a_running_merge() -> None:
    solo = Solo(4, me=3)
    solo.node.holds_merges = True
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    assert isinstance(solo.node.jobs[0], Merge)
    solo.cluster.tell(3, solo.forge.stable(FAR, bytes(32)))
    solo.cluster.advance(5 * SECOND)
    assert solo.node.core.transfer is None
    solo.node.finish_jobs()
    assert solo.node.core.transfer is not None


def test_no_merge_begins_while_a_transfer_runs() -> None:
    """Here that of a checkpoint whose digest came only after the transfer had begun."""
    solo, like = Solo(4, me=3), Solo(4, me=3)
    solo.node.holds_seals = True
    for one in (solo, like):
        one.decide_to(INTERVAL)
    digest = like.node.core.sealed[INTERVAL]
    solo.cluster.tell(3, solo.forge.stable(INTERVAL, digest), solo.forge.stable(FAR, bytes(32)))
    solo.cluster.advance(SECOND)
    core = solo.node.core
    assert core.transfer is not None
    solo.node.finish_seals()
    assert core.mergeable is not None and core.mergeable.sequence == INTERVAL
    assert core.state.durable_sequence == 0
