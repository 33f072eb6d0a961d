"""Restart (protocol.md section 10): the votes come back byte for byte, no second one is ever made,
and what was acknowledged survives the power loss of all."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pbft.core.checkpoint import UNMERGED_WINDOWS_MAX
from pbft.core.effects import (
    AcceptedRecord,
    Broadcast,
    DecidedRecord,
    Persist,
    PreparedRecord,
    Send,
    ViewChangeRecord,
)
from pbft.core.state import Mode
from pbft.crypto.digest import batch_digest
from pbft.errors import Rejected
from pbft.limits import LocalLimits
from pbft.messages import (
    Checkpoint,
    Commit,
    CommittedBatch,
    Kind,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    Signed,
    ViewChange,
)
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

VOTES = (Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT, Kind.VIEW_CHANGE, Kind.NEW_VIEW)


def signed_by(solo: Solo) -> list[Signed]:
    """Envelopes of its own votes that left since its last start."""
    items = [e.item for e in solo.node.effects if isinstance(e, Send | Broadcast)]
    envelopes = [i.pre_prepare if isinstance(i, Proposal) else i for i in items]
    return [
        e for e in envelopes if isinstance(e, Signed) and e.kind in VOTES and e.signer == solo.me
    ]


def test_prepare_and_commit_are_sent_again_byte_for_byte() -> None:
    solo = Solo(me=2)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    before = signed_by(solo)
    solo.restart()
    solo.cluster.advance(SECOND)
    solo.node.receive(3, solo.forge.status(3, accepted=1))
    assert signed_by(solo) == before
    assert {signed.kind for signed in before} == {Kind.PREPARE, Kind.COMMIT}


def test_a_restarted_replica_votes_for_no_other_digest() -> None:
    solo = Solo(me=2)
    first = solo.propose(1, solo.batch(1))
    solo.restart()
    solo.propose(1, solo.batch(2))
    solo.cluster.advance(SECOND)
    solo.prepare(1, first)
    assert {vote.digest for vote in solo.node.sent(Prepare)} <= {first}
    assert solo.node.sent(Commit) == [Commit(0, 1, first)]


def test_a_restarted_primary_proposes_no_other_batch_for_a_number() -> None:
    solo = Solo(me=0)
    solo.node.submit(solo.forge.request(1))
    (before,) = solo.node.sent(Proposal)
    solo.restart()
    solo.node.submit(solo.forge.request(2, acknowledged=0))
    (after,) = solo.node.sent(Proposal)
    assert solo.forge.vote(after.pre_prepare).sequence == 2
    solo.cluster.advance(SECOND)
    solo.node.receive(3, solo.forge.status(3))
    pushed = [item for item in solo.node.sent(Proposal) if item != after]
    assert pushed == [before]


def test_prepared_certificates_survive_into_the_view_change() -> None:
    """P forgotten at a restart would let the new view drop a committed batch."""
    solo = Solo(me=2)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.restart()
    for replica in (1, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 1))
    (change,) = solo.node.sent(ViewChange)
    valid = solo.forge.valid(solo.forge.sign(2, change))
    assert [(c.view, c.sequence, c.digest) for c in valid.prepared] == [(0, 1, digest)]


def test_the_certificate_of_the_highest_view_survives() -> None:
    solo = Solo(me=2)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    changes = [solo.forge.view_change(i, 1, [solo.forge.proof(1, digest)]) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    solo.prepare(1, digest, view=1)
    solo.restart()
    assert solo.node.core.view == 1
    certificate = solo.slot(1).prepared
    assert certificate is not None and certificate.view == 1


def test_a_view_change_is_sent_again_byte_for_byte_and_no_other_for_its_view() -> None:
    solo = Solo(me=2)
    for replica in (1, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 4))
    (before,) = [s for s in signed_by(solo) if s.kind is Kind.VIEW_CHANGE]
    digest = batch_digest(solo.batch())
    solo.restart()
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    assert (solo.node.core.view, solo.node.core.entered_view) == (4, 0)
    solo.cluster.tell(2, solo.forge.committed(1, solo.batch()))
    solo.cluster.advance(SECOND)
    solo.node.receive(3, solo.forge.status(3, view=4, normal=False))
    after = [s for s in signed_by(solo) if s.kind is Kind.VIEW_CHANGE]
    assert after == [before]
    solo.cluster.tell(2, solo.forge.pre_prepare(1, digest))
    assert not solo.node.sent(Prepare)


def test_a_view_below_the_signed_view_change_is_not_entered_after_a_restart() -> None:
    solo = Solo(me=2)
    for replica in (1, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 4))
    solo.restart()
    solo.cluster.tell(2, solo.forge.new_view(3, solo.forge.view_changes(3)))
    assert solo.node.core.entered_view == 0


def test_a_replica_comes_back_into_the_view_that_it_entered() -> None:
    solo = Solo(me=2)
    batch = solo.batch()
    digest = solo.propose(1, batch)
    changes = [solo.forge.view_change(i, 5, [solo.forge.proof(1, digest)]) for i in (0, 1, 3)]
    solo.cluster.tell(2, solo.forge.new_view(5, changes))
    solo.restart()
    core = solo.node.core
    assert (core.view, core.mode, core.new_view_max_sequence) == (5, Mode.NORMAL, 1)
    solo.prepare(1, digest, view=5)
    assert solo.node.sent(Commit) == [Commit(5, 1, digest)]


def test_a_new_primary_that_crashed_tells_its_new_view_again() -> None:
    solo = Solo(me=1)
    for replica in (0, 2):
        solo.cluster.tell(1, solo.forge.view_change(replica, 1, [solo.forge.proof(1, bytes(32))]))
    (before,) = [s for s in signed_by(solo) if s.kind is Kind.NEW_VIEW]
    solo.restart()
    solo.cluster.advance(SECOND)
    solo.node.receive(3, solo.forge.status(3, view=1, normal=False))
    assert before in signed_by(solo)
    solo.node.submit(solo.forge.request())
    (proposal,) = solo.node.sent(Proposal)
    assert solo.forge.vote(proposal.pre_prepare).sequence == 2


def test_o_that_was_not_accepted_yet_is_no_sign_of_amnesia() -> None:
    """A primary crashes between its new-view and the acceptance of O, whose body it lacks: what it
    signed there is in its log."""
    solo = Solo(me=1)
    for replica in (0, 2):
        solo.cluster.tell(1, solo.forge.view_change(replica, 1, [solo.forge.proof(1, bytes(32))]))
    (new_view,) = solo.node.sent(NewView)
    assert not solo.accepted_records()
    solo.node.restart()
    solo.recall(*new_view.pre_prepares)
    assert solo.node.core.rejoining is None


@pytest.mark.parametrize("what", ["prepare", "commit", "pre_prepare"])
def test_a_vote_that_the_log_lacks_is_amnesia(what: str) -> None:
    """A replica whose log was lost must not vote as if it had never voted."""
    solo = Solo(me=2)
    solo.propose(1)
    votes = {
        "prepare": solo.forge.prepare(2, 1, bytes(32)),
        "commit": solo.forge.commit(2, 1, batch_digest(solo.batch())),
        "pre_prepare": solo.forge.pre_prepare(3, bytes(32), view=2),
    }
    solo.node.restart()
    solo.recall(votes[what])
    assert solo.node.core.rejoining is not None
    solo.propose(2)
    assert not solo.node.sent(Prepare)


def test_the_votes_that_peers_return_are_recognised() -> None:
    solo = Solo(me=2)
    digest = solo.propose(1)
    solo.prepare(1, digest)
    solo.node.restart()
    solo.recall(solo.forge.prepare(2, 1, digest), solo.forge.commit(2, 1, digest))
    assert solo.node.core.rejoining is None


def test_nothing_is_signed_before_the_peers_answered() -> None:
    solo = Solo(me=2)
    digest = solo.propose(1)
    solo.node.restart()
    solo.prepare(1, digest)
    solo.propose(2)
    solo.node.submit(solo.forge.request(1))
    solo.cluster.advance(10 * SECOND)
    assert not signed_by(solo)
    solo.recall()
    assert {vote.sequence for vote in solo.node.sent(Prepare)} == {2}


def test_no_reply_is_signed_before_the_peers_answered() -> None:
    """Not even one from the cache: it may rest on a state that was rolled back."""
    solo = Solo(me=2)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    solo.node.restart()
    solo.node.answers.clear()
    solo.node.submit(solo.forge.request(INTERVAL))
    assert not solo.node.answers
    solo.recall()
    solo.node.submit(solo.forge.request(INTERVAL))
    assert len(solo.node.replies()) == 1


def test_what_was_decided_is_executed_again_from_the_durable_state() -> None:
    solo = Solo(me=2)
    solo.decide_to(INTERVAL + 2)
    solo.stabilise(INTERVAL)
    solo.restart()
    core = solo.node.core
    assert (core.low_water_mark, core.executed) == (INTERVAL, INTERVAL + 2)
    assert len(solo.node.journal) == INTERVAL + 2
    assert core.agreed_time_us > 0
    solo.decide(INTERVAL + 3)
    assert solo.node.journal[-1] == b"0.1.%d" % (INTERVAL + 3)


def test_a_checkpoint_vote_is_made_again_and_is_the_same() -> None:
    solo = Solo(me=2)
    solo.decide_to(INTERVAL)
    before = solo.node.sent(Checkpoint)
    solo.restart()
    assert solo.node.sent(Checkpoint) == before


def test_replies_come_from_the_cache_after_a_restart() -> None:
    solo = Solo(me=2)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    (before,) = [reply for reply in solo.node.replies() if reply.number == INTERVAL]
    solo.restart()
    solo.node.answers.clear()
    solo.node.submit(solo.forge.request(INTERVAL))
    (after,) = solo.node.replies()
    assert after == before


# Power.


def test_the_power_loss_of_all_loses_nothing_that_was_acknowledged() -> None:
    cluster = Cluster(4)
    cluster.run(INTERVAL + 3)
    restart_all(cluster)
    assert cluster.executed() == {INTERVAL + 3}
    assert cluster.agree()
    cluster.run(5, first=INTERVAL + 4)
    assert len(cluster[0].journal) == INTERVAL + 8


def test_a_power_loss_while_the_state_is_far_behind_h_loses_nothing() -> None:
    """Merging is slower than the checkpoints: everything above the durable state is on disk and is
    executed again, however far h has moved."""
    cluster = Cluster(4)
    for node in cluster.up:
        node.holds_merges = True
    count = 4 * INTERVAL + 1
    cluster.run(count)
    assert {node.core.low_water_mark for node in cluster.up} == {4 * INTERVAL}
    assert {node.core.state.durable_sequence for node in cluster.up} == {0}
    for node in cluster.up:
        node.holds_merges = False
    restart_all(cluster)
    assert cluster.executed() == {count}
    assert len(cluster[2].journal) == count
    assert {node.core.state.durable_sequence for node in cluster.up} == {4 * INTERVAL}
    assert len(cluster[0].core.log) <= 2 * WINDOW + INTERVAL


def test_a_power_loss_in_the_middle_of_a_view_change() -> None:
    cluster = Cluster(4)
    cluster.run(3)
    cluster.drop(lambda m: m.says(NewView))
    cluster.fail_primary()
    cluster.advance(SECOND)
    assert {node.core.mode for node in cluster.up if node.id != 1} == {Mode.VIEW_CHANGING}
    cluster.drop(None)
    restart_all(cluster)
    cluster.advance(5 * SECOND)
    cluster.submit(cluster.forge.request(4), to=range(4))
    cluster.advance(10 * SECOND)
    assert cluster.agree()
    assert len(cluster[0].journal) == 4


def restart_all(cluster: Cluster) -> None:
    """Takes the power from everybody and gives it back."""
    for node in cluster.nodes.values():
        node.crash()
    cluster.network.queue.clear()
    for node in cluster.nodes.values():
        node.start()
    cluster.settle()
    cluster.advance(SECOND)


def play(cluster: Cluster) -> Iterator[None]:
    """A history with a checkpoint, a view change and requests on both sides of it."""
    for number in range(1, INTERVAL + 2):
        cluster.submit(cluster.forge.request(number, acknowledged=0), to=live(cluster))
        yield
    if cluster[0].is_up:
        cluster[0].crash()
        for node in cluster.up:
            node.link(0, False)
        cluster.settle()
    for number in range(INTERVAL + 2, INTERVAL + 4):
        cluster.advance(SECOND // 2)
        cluster.submit(cluster.forge.request(number, acknowledged=0), to=live(cluster))
        yield


def live(cluster: Cluster) -> list[int]:
    """Who can be sent something."""
    return [node.id for node in cluster.up]


STRIDE = 4


@pytest.mark.parametrize("victim", [1, 2])
@pytest.mark.parametrize("offset", range(STRIDE))
def test_a_crash_at_every_boundary(victim: int, offset: int) -> None:
    """The power fails after every single effect of the history in turn; the oracles see to it that
    no vote left before its record and that no two votes differ, and the cluster goes on."""
    dry = Cluster(4)
    before = len(dry[victim].effects)
    for _ in play(dry):
        pass
    total = len(dry[victim].effects) - before
    assert total > 60
    for crashes_after in range(offset, total, STRIDE):
        cluster = Cluster(4)
        cluster[victim].crashes_after = crashes_after
        for _ in play(cluster):
            if not cluster[victim].is_up:
                cluster[victim].start()
                cluster.settle()
        if not cluster[victim].is_up:
            cluster[victim].start()
        cluster.bring_back(0)
        cluster.advance(SECOND // 2)
        cluster.submit(cluster.forge.request(INTERVAL + 4, acknowledged=0), to=range(4))
        for _ in range(20):
            if {len(node.journal) for node in cluster.up} == {INTERVAL + 4}:
                break
            cluster.advance(SECOND)
        assert len(cluster[3].journal) == INTERVAL + 4, crashes_after
        assert cluster.agree(), crashes_after
        assert {node.core.rejoining for node in cluster.up} == {None}, crashes_after


def test_what_is_written_before_what() -> None:
    """Each record stands before the first thing that depends on it, and gates it."""
    solo = Solo(me=1)
    solo.decide(1)
    order = [
        (type(e.record), e.gates) if isinstance(e, Persist) else None for e in solo.node.effects
    ]
    records = [item for item in order if item is not None]
    assert (AcceptedRecord, True) in records
    assert (PreparedRecord, True) in records
    assert records[-1] == (DecidedRecord, False)


def test_a_batch_that_came_by_certificate_gates_what_follows() -> None:
    """Not prepared here, it is on disk nowhere else here: the reply waits for it."""
    solo = Solo(me=1)
    solo.cluster.tell(1, solo.forge.committed(1, solo.batch()))
    (record,) = [e for e in solo.node.effects if isinstance(e, Persist)
                 and isinstance(e.record, DecidedRecord)]  # fmt: skip
    assert record.gates
    assert solo.node.effects.index(record) < len(solo.node.effects) - 1
    assert not [v for v in solo.node.sent(PrePrepare, CommittedBatch)]
    assert not [e for e in solo.node.effects if isinstance(e, Persist)
                and isinstance(e.record, ViewChangeRecord)]  # fmt: skip


def test_another_batch_than_the_prepared_one_gates_what_follows() -> None:
    """On disk are the body and the certificate of the one that was prepared here."""
    solo = Solo(me=1)
    solo.prepare(1, solo.propose(1, solo.batch(1)))
    solo.cluster.tell(1, solo.forge.committed(1, solo.batch(2), view=3))
    persisted = [e for e in solo.node.effects if isinstance(e, Persist)]
    assert [e.gates for e in persisted if isinstance(e.record, DecidedRecord)] == [True]


def test_a_body_that_is_not_the_records_is_not_restored() -> None:
    """A rotten log is found out before anything is executed from it."""
    solo = Solo(me=2)
    solo.decide(1)
    (record,) = solo.node.log.load().decided
    solo.node.log.write([Persist(replace(record, batch=solo.batch(2)))])
    with pytest.raises(Rejected, match="sequence 1"):
        solo.node.restart()


def test_all_come_back_after_a_power_loss_while_merges_were_slow() -> None:
    """However far h is above what is durable, all that was decided in between is in the logs, and
    perhaps nowhere else: what is kept for peers beside them is bounded."""
    cluster = Cluster(4, limits=LocalLimits(tail_bytes=0))
    for node in cluster.up:
        node.holds_merges = True
    count = UNMERGED_WINDOWS_MAX * WINDOW
    assert count > 2 * (WINDOW + INTERVAL)
    cluster.run(count)
    assert {node.core.low_water_mark for node in cluster.up} == {count}
    assert {node.state.durable_sequence for node in cluster.up} == {0}
    for node in cluster.up:
        node.crash()
    for node in cluster.nodes.values():
        node.holds_merges = False
        node.start()
    cluster.settle()
    cluster.run(1, first=count + 1)
    assert cluster.executed() == {count + 1}
    assert {node.state.durable_sequence for node in cluster.up} == {count}


def test_a_replica_that_cannot_execute_keeps_no_more_than_its_windows() -> None:
    """Only what the log held at the start is kept for however long: that does not grow."""
    solo = Solo()
    node, forge = solo.node, solo.forge
    node.holds_seals = True
    for sequence in range(1, 8 * WINDOW + 1):
        solo.cluster.tell(1, forge.committed(sequence, solo.batch(sequence)), sender=0)
        if sequence % INTERVAL == 0:
            solo.cluster.tell(1, forge.stable(sequence, b"s" * 32), sender=0)
    assert node.core.low_water_mark == 8 * WINDOW
    assert node.core.executed < 2 * WINDOW
    assert len(node.core.log) <= 3 * WINDOW + INTERVAL
