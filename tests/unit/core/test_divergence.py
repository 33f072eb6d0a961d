"""A replica whose state is not what q replicas certified, and its repair: nothing that it executed
is a reason not to fetch the right one (protocol.md sections 6 and 9)."""

import pytest

from pbft.core.effects import EventName
from pbft.core.state_transfer import RECOUNT_US
from pbft.messages import Commit, Prepare, StateLeaves, StateRequest
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL
from tests.harness.core_solo import Solo
from tests.harness.core_transfer import FAR
from tests.unit.storage.builders import lose_write


def test_a_replica_whose_state_is_wrong_stops_and_repairs_itself() -> None:
    """K1: q replicas certify another digest than mine: no votes and no answers until the state is
    theirs."""
    cluster = Cluster(4)
    cluster.run(2)
    cluster[3].state.domain(2).put(b"rot", 0, b"rot")
    cluster.oracles.forged.add(3)
    cluster.drop(lambda m: m.to == 3 and m.says(StateLeaves))
    cluster.run(INTERVAL, first=3)
    bad = cluster[3]
    assert bad.core.diverged
    assert bad.replica.summary().mode == "diverged"
    assert [event.sequence for event in bad.events(EventName.STATE_DIVERGED)] == [INTERVAL]
    known = len(bad.answers), len(bad.sent(Prepare, Commit))
    cluster.run(3, first=INTERVAL + 3)
    assert (len(bad.answers), len(bad.sent(Prepare, Commit))) == known
    cluster.drop(None)
    cluster.advance(5 * SECOND)
    assert not bad.core.diverged
    assert cluster.agree()
    cluster.run(3, first=INTERVAL + 6)
    assert cluster.agree()
    assert len(bad.answers) > known[0]


def test_a_write_that_the_disk_lost_is_repaired_with_the_rest() -> None:
    """The leaves on disk are right, and a record is not the one that they were computed from."""
    cluster = Cluster(4)
    cluster.run(INTERVAL)
    bad, key = cluster[3], b"%08d" % 2
    lose_write(bad.base, (2, key, 0), (2, key, 0, b"older"))
    bad.restart()
    cluster.advance(SECOND)
    assert not cluster.agree()
    bad.state.domain(2).put(b"rot", 0, b"rot")
    cluster.oracles.forged.add(3)
    cluster.run(INTERVAL, first=INTERVAL + 1)
    cluster.advance(5 * SECOND)
    assert bad.events(EventName.STATE_DIVERGED)
    assert not bad.core.diverged
    assert cluster.agree()


def test_counting_the_own_state_leaves_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    solo = Solo(4, me=3)
    solo.decide_to(INTERVAL)
    times: list[int] = []

    def recount() -> bool:
        times.append(solo.cluster.now_us)
        return len(times) == 4

    monkeypatch.setattr(solo.node.state, "recount", recount)
    solo.stabilise(INTERVAL, bytes(32))
    assert solo.node.core.diverged
    for _ in range(3):
        assert not solo.node.sent(StateRequest)
        solo.cluster.tell(3, solo.forge.stable(INTERVAL, bytes(32)))
        solo.cluster.advance(RECOUNT_US)
    assert solo.node.core.transfer is not None
    assert times == [times[0] + turn * RECOUNT_US for turn in range(4)]
    solo.cluster.advance(5 * SECOND)
    assert len(times) == 4


def test_a_transfer_under_way_begins_anew_when_the_state_proves_wrong() -> None:
    solo = Solo(4, me=3)
    solo.node.holds_seals = True
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL, bytes(32))
    solo.cluster.tell(3, solo.forge.stable(FAR, bytes(32)))
    solo.cluster.advance(SECOND)
    former = solo.node.core.transfer
    assert former is not None
    solo.node.finish_seals()
    assert solo.node.core.diverged
    solo.cluster.advance(SECOND)
    assert solo.node.core.transfer is not None
    assert solo.node.core.transfer is not former
    assert solo.node.state._recount is not None


def test_a_diverged_replica_in_a_view_change_asks_for_no_ticks_without_end() -> None:
    solo = Solo(4, me=2)
    solo.decide_to(INTERVAL)
    for replica in (0, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 5))
    solo.stabilise(INTERVAL, bytes(32))
    assert solo.node.core.diverged
    solo.cluster.advance(60 * SECOND)
    assert solo.node.core.view == 5


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
