"""P1 to P15: crimes of a primary with its pre-prepares (adversary.md 2.2)."""

from dataclasses import replace

import pytest

from pbft.core.effects import EventName
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.messages import BatchBytes, Prepare, Proposal, Signed, Status
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW, Forge
from tests.harness.core_solo import Solo

T_US = 2 * SECOND


def without_primary(n: int) -> Cluster:
    """The backups of view 0; the test is its primary."""
    return Cluster(n, live=range(1, n))


def pending(cluster: Cluster, *requests: Signed) -> None:
    """Backups know these requests, so that somebody waits."""
    for request in requests:
        cluster.submit(request, to=[node.id for node in cluster.up])


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("share", ["half", "f + 1", "all but one"])
def test_p1_equivocation_never_commits_two_batches(n: int, share: str) -> None:
    """Different digests for one (v, n) to disjoint subsets: at most one commits, a view change
    follows, and both requests are served in it."""
    cluster = without_primary(n)
    forge = cluster.forge
    requests = [forge.request(1, b"A", client=0), forge.request(1, b"B", client=1)]
    pending(cluster, *requests)
    first = {"half": (n - 1) // 2, "f + 1": cluster.thresholds.weak, "all but one": n - 2}[share]
    for position, node in enumerate(cluster.up):
        batch = forge.batch(requests[0] if position < first else requests[1])
        cluster.tell(node.id, forge.proposal(1, batch))
    cluster.advance(4 * T_US)
    assert cluster.agree()
    assert sorted(cluster[1].journal) == [b"A", b"B"]


def test_p1_who_sees_both_has_evidence() -> None:
    cluster = without_primary(4)
    forge = cluster.forge
    for client in (0, 1):
        cluster.tell(1, forge.proposal(1, forge.batch(forge.request(1, client=client))))
    (evidence,) = cluster[1].core.evidence.values()
    assert (evidence.kind, evidence.accused) == ("pre_prepare", 0)


def test_p2_a_body_that_does_not_hash_to_the_digest() -> None:
    solo = Solo()
    good = solo.forge.proposal(1, solo.batch(1))
    solo.cluster.tell(1, Proposal(good.pre_prepare, solo.batch(2)))
    assert not solo.prepared_for()
    assert solo.rejected(Reason.BAD_BODY) == 1


@pytest.mark.parametrize("position", [0, 50, 99])
def test_p3_one_bad_signature_condemns_the_batch_everywhere(position: int) -> None:
    """All honest backups decide alike, the primary is replaced, the good requests are served."""
    cluster = without_primary(4)
    forge = cluster.forge
    good = [forge.request(number, acknowledged=0) for number in range(1, 100)]
    bad = replace(forge.request(200, client=1, acknowledged=150), signature=bytes(64))
    pending(cluster, good[0])
    batch = forge.batch(*good[:position], bad, *good[position:])
    for node in cluster.up:
        cluster.tell(node.id, forge.proposal(1, batch))
    assert [node.rejections["verifier", Reason.BAD_BODY] for node in cluster.up] == [1, 1, 1]
    assert not any(node.sent(Prepare) for node in cluster.up)
    cluster.advance(2 * T_US)
    assert cluster.views() == {1}
    assert [node.journal for node in cluster.up] == [[b"0.1.1"]] * 3


@pytest.mark.parametrize("shift", [-1, 1])
def test_p4_another_sequence_to_one_replica(shift: int) -> None:
    """ByzzBench's agreement bug: the same batch under a number that is off by one for one."""
    cluster = without_primary(4)
    forge = cluster.forge
    pending(cluster, forge.request(1), forge.request(2, acknowledged=0))
    for sequence, number in ((2, 1), (3, 2)):
        batch = forge.batch(forge.request(number, acknowledged=0))
        for node in cluster.up:
            moved = sequence + shift if node.id == 3 else sequence
            cluster.tell(node.id, forge.proposal(moved, batch))
    cluster.advance(4 * T_US)
    assert cluster.agree()
    assert sorted(cluster[1].journal) == [b"0.1.1", b"0.1.2"]


def test_p5_nothing_is_executed_past_a_gap_and_the_next_view_fills_it() -> None:
    cluster = without_primary(4)
    forge = cluster.forge
    request = forge.request(1)
    pending(cluster, request)
    for node in cluster.up:
        cluster.tell(node.id, forge.proposal(3, forge.batch(request)))
    for node in cluster.up:
        for replica in (0,):
            digest = batch_digest(forge.batch(request))
            cluster.tell(node.id, forge.commit(replica, 3, digest))
    assert {len(node.events(EventName.COMMITTED)) for node in cluster.up} == {1}
    assert cluster.executed() == {0}
    cluster.advance(3 * T_US)
    assert cluster.views() == {1}
    assert cluster.executed() == {3}
    assert cluster[1].journal == [b"0.1.1"]


@pytest.mark.parametrize("sequence", [2 * WINDOW + 1, 2**63, 2**64 - 1])
def test_p6_numbers_far_ahead_allocate_nothing(sequence: int) -> None:
    solo = Solo()
    solo.propose(sequence, solo.batch(1))
    assert solo.rejected(Reason.SEQUENCE_HIGH) == 1
    assert len(solo.node.core.log) == 0


def test_p6_numbers_at_or_below_h() -> None:
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    known = len(solo.prepared_for())
    for sequence in range(1, INTERVAL + 1):
        solo.propose(sequence, solo.batch(40 + sequence))
    assert len(solo.prepared_for()) == known
    assert solo.rejected(Reason.SEQUENCE_LOW) == INTERVAL


@pytest.mark.parametrize("view", [4, 4 * 10**6, 2**63, 2**64 - 4])
def test_p7_a_view_is_never_adopted_from_a_pre_prepare(view: int) -> None:
    solo = Solo()
    solo.propose(1, view=view)
    assert solo.rejected(Reason.VIEW_FUTURE) == 1
    assert solo.node.core.view == 0
    assert len(solo.node.core.log) == 0


def test_p7_views_left_behind_are_stale() -> None:
    solo = Solo(me=2)
    solo.enter(5)
    solo.propose(1, view=4)
    assert solo.rejected(Reason.VIEW_STALE) == 1
    assert not solo.prepared_for()


@pytest.mark.parametrize("signer", [2, 3])
def test_p8_only_the_primary_proposes(signer: int) -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.proposal(1, solo.batch(), signer=signer))
    assert solo.rejected(Reason.NOT_PRIMARY) == 1
    assert not solo.prepared_for()


def test_p9_bodies_for_two_only_reach_the_third() -> None:
    """The digest to all, the body to as few as it takes: the others fetch it by digest."""
    cluster = without_primary(4)
    forge = cluster.forge
    batch = forge.batch(forge.request(1))
    bare = forge.pre_prepare(1, batch_digest(batch))
    cluster.tell(1, forge.proposal(1, batch))
    cluster.tell(2, forge.proposal(1, batch))
    cluster.tell(3, bare, BatchBytes(forge.batch(forge.request(9))))
    cluster.advance(SECOND)
    assert {len(node.events(EventName.COMMITTED)) for node in cluster.up} == {1}
    assert [node.journal for node in cluster.up] == [[b"0.1.1"]] * 3


def test_p9_without_any_body_nothing_is_prepared_and_the_view_changes() -> None:
    cluster = without_primary(4)
    forge = cluster.forge
    pending(cluster, forge.request(1))
    digest = batch_digest(forge.batch(forge.request(2, client=1, acknowledged=0)))
    for node in cluster.up:
        cluster.tell(node.id, forge.pre_prepare(1, digest))
    cluster.advance(2 * T_US)
    assert not any(vote.digest == digest for node in cluster.up for vote in node.sent(Prepare))
    assert cluster.views() == {1}
    assert cluster[3].journal == [b"0.1.1"]


def test_p9_a_pre_prepare_without_a_body_again_and_again_calls_for_one_status() -> None:
    """A status is signed and goes to all: repeating a hundred bytes must not make more of them."""
    solo = Solo()
    solo.cluster.advance(SECOND)
    before = len(solo.node.sent(Status))
    pre_prepare = solo.forge.pre_prepare(1, batch_digest(solo.batch(1)))
    for _ in range(500):
        solo.cluster.advance(100)
        solo.cluster.tell(1, pre_prepare)
    assert len(solo.node.sent(Status)) == before + 1
    assert solo.node.sent(Status)[-1].missing == (batch_digest(solo.batch(1)),)


def test_p10_empty_batches_end_at_the_window_and_starve_no_timer() -> None:
    cluster = without_primary(4)
    forge = cluster.forge
    pending(cluster, forge.request(1))
    for sequence in range(1, 3 * WINDOW):
        for node in cluster.up:
            cluster.tell(node.id, forge.proposal(sequence, forge.batch(time_us=sequence)))
    assert all(len(node.core.log) <= 2 * WINDOW + INTERVAL for node in cluster.up)
    cluster.advance(2 * T_US)
    assert cluster.views() == {1}
    assert cluster.agree()


def test_p10_a_batch_beyond_the_limits_is_refused() -> None:
    small = Forge(limits=replace(Forge().genesis.limits, batch_requests=2))
    solo = Solo(forge=small)
    requests = [small.request(number, acknowledged=0) for number in (1, 2, 3)]
    solo.propose(1, small.batch(*requests))
    assert solo.rejected(Reason.OVERSIZE) == 1
    solo.propose(1, small.batch(*requests[:2]))
    assert len(solo.prepared_for()) == 1


def test_p11_a_censored_client_is_served_in_the_next_view() -> None:
    """Everybody else's requests go on all the time."""
    cluster = without_primary(4)
    forge = cluster.forge
    pending(cluster, forge.request(1, b"victim", client=2))
    for sequence in range(1, 6):
        batch = forge.batch(forge.request(sequence))
        for node in cluster.up:
            cluster.tell(node.id, forge.proposal(sequence, batch))
        cluster.advance(T_US // 4)
    cluster.advance(T_US)
    assert cluster.views() == {1}
    assert all(b"victim" in node.journal for node in cluster.up)


def test_p13_a_time_ahead_is_held_and_a_time_behind_turns_nothing_back() -> None:
    solo = Solo()
    wall_us = solo.node.now().wall_us
    solo.decide(1, solo.forge.batch(solo.forge.request(1), time_us=wall_us))
    solo.decide(2, solo.forge.batch(solo.forge.request(2), time_us=0))
    assert solo.node.core.agreed_time_us == wall_us
    solo.propose(3, solo.forge.batch(solo.forge.request(3), time_us=2**63))
    assert [vote.sequence for vote in solo.prepared_for()] == [1, 2]


@pytest.mark.parametrize("replay", ["after executing", "earlier view", "another cluster"])
def test_p14_replays(replay: str) -> None:
    solo = Solo(me=2)
    solo.decide(1)
    votes = len(solo.prepared_for())
    if replay == "after executing":
        solo.propose(1)
        assert solo.rejected(Reason.DUPLICATE) == 1
    elif replay == "earlier view":
        solo.enter(1)
        solo.propose(2)
        assert solo.rejected(Reason.VIEW_STALE) == 1
    else:
        foreign = Forge(4, interval=8, window=16)
        assert foreign.genesis.cluster_id != solo.forge.genesis.cluster_id
        solo.cluster.tell(2, foreign.proposal(2, foreign.batch()))
        assert solo.rejected(Reason.BAD_SIGNATURE) == 1
    assert len(solo.prepared_for()) == votes
    assert solo.node.journal == [b"0.1.1"]


def test_p15_a_request_ordered_again_is_a_no_op_with_the_same_reply() -> None:
    solo = Solo()
    request = solo.forge.request(1, b"once")
    solo.decide(1, solo.forge.batch(request))
    solo.decide(2, solo.forge.batch(request, solo.forge.request(2, b"twice", acknowledged=0)))
    assert solo.node.journal == [b"once", b"twice"]
    first, again, _ = solo.node.replies()
    assert first == again


def test_conflicting_proposals_cost_a_backup_one_verification() -> None:
    """Once convicted for (v, n), the primary makes no more work with it."""
    solo = Solo()
    for number in range(1, 30):
        solo.propose(1, solo.batch(number))
    assert solo.node.rejections["verifier", Reason.DIGEST_CONFLICT] == 27
    assert len(solo.node.core.evidence) == 1
