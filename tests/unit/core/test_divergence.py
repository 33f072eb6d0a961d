"""The repair of a replica whose state is wrong (protocol.md section 6): nothing that it executed is
a reason not to fetch the right one."""

from pbft.messages import StateRequest
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo


def test_a_replica_that_executed_beyond_the_divergence_asks_for_h() -> None:
    """Nobody has a checkpoint above what it executed."""
    solo = Solo()
    solo.decide_to(INTERVAL + 1)
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, b"a" * 32))
    assert solo.node.core.diverged and solo.node.core.executed == INTERVAL + 1
    solo.cluster.advance(SECOND)
    assert {request.at_least for request in solo.node.sent(StateRequest)} == {INTERVAL}


def test_a_diverged_replica_of_an_idle_cluster_is_repaired() -> None:
    """It executed as far as the state that it fetches, but wrongly: nothing was overtaken."""
    cluster = Cluster(4)
    bad = cluster[3]
    cluster.run(1)
    bad.state.domain(5).put(b"rot", 0, b"rot")
    cluster.oracles.forged.add(3)
    cluster.run(INTERVAL, first=2)
    cluster.advance(5 * SECOND)
    assert not bad.core.diverged
    assert cluster.agree()
    assert cluster.executed() == {INTERVAL + 1}
