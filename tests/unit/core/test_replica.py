"""The replica as a whole: pipelining, dispatch, summary, and what one peer can make it hold."""

import pytest

from pbft.core.certificates import CommitCertificate
from pbft.core.effects import EventName, Refuse
from pbft.core.log import Slot
from pbft.core.settings import Settings
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.limits import LocalLimits, ProtocolLimits
from pbft.messages import Checkpoint, Commit, Outcome, Prepare, Proposal
from tests.harness.core_cluster import Cluster
from tests.harness.core_forge import INTERVAL, WINDOW, Forge
from tests.harness.core_solo import Solo

SMALL = Forge(
    limits=ProtocolLimits(
        batch_requests=3, request_bytes=400, batch_bytes=1000, operation_bytes=300
    )
)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_p_batches_are_under_way(depth: int) -> None:
    """P = 1 is the strictly sequential primary of the textbook; what waits becomes one batch."""
    solo = Solo(me=0, pipeline_depth=depth)
    for number in range(1, 8):
        solo.node.submit(solo.forge.request(number, acknowledged=0))
    proposals = solo.node.sent(Proposal)
    assert len(proposals) == depth
    digest = batch_digest(proposals[0].batch)
    solo.prepare(1, digest)
    solo.commit(1, digest)
    assert len(solo.node.sent(Proposal)) == depth + 1
    last = solo.node.verifier.verified_batch(solo.node.sent(Proposal)[-1].batch)
    assert len(last.requests) == 7 - depth


@pytest.mark.parametrize("depth", [1, 8])
def test_a_sequential_cluster_works_like_a_pipelined_one(depth: int) -> None:
    cluster = Cluster(4, pipeline_depth=depth)
    for client in range(3):
        for number in range(1, 6):
            cluster[0].submit(cluster.forge.request(number, client=client, acknowledged=0))
    cluster.settle()
    assert cluster.agree()
    assert len(cluster[3].journal) == 15


def test_batches_keep_the_limits_of_the_genesis() -> None:
    solo = Solo(me=0, forge=SMALL, pipeline_depth=1)
    for number in range(1, 8):
        solo.node.submit(SMALL.request(number, b"x" * 100, acknowledged=0))
    solo.node.submit(SMALL.request(1, b"y" * 290, client=1))
    for sequence in range(1, WINDOW + 1):
        proposals = solo.node.sent(Proposal)
        if len(proposals) < sequence:
            break
        digest = batch_digest(proposals[-1].batch)
        solo.prepare(sequence, digest)
        solo.commit(sequence, digest)
    batches = [solo.node.verifier.verified_batch(p.batch) for p in solo.node.sent(Proposal)]
    assert all(len(batch.requests) <= 3 and len(batch.encoded) <= 1000 for batch in batches)
    assert sum(len(batch.requests) for batch in batches) == 8


def test_a_full_queue_refuses_and_says_so() -> None:
    solo = Solo(limits=LocalLimits(pending_requests_per_client=1))
    solo.node.submit(solo.forge.request(1, acknowledged=0))
    solo.node.submit(solo.forge.request(2, acknowledged=0))
    (refusal,) = [e for e in solo.node.effects if isinstance(e, Refuse)]
    assert (refusal.session, refusal.number, refusal.reason) == (1, 2, "queue_full")
    assert solo.node.rejections["request", Reason.QUEUE_FULL] == 1
    solo.cluster.tell(1, solo.forge.request(3, acknowledged=0), sender=2)
    assert solo.node.core.pool.count == 2


def test_requests_that_were_settled_are_not_taken_again() -> None:
    solo = Solo()
    solo.decide(1)
    solo.decide(2)
    solo.node.answers.clear()
    solo.node.submit(solo.forge.request(1))
    assert solo.node.rejections["request", Reason.SETTLED] == 1
    assert solo.node.core.pool.count == 0
    assert not solo.node.answers


def test_a_closed_session_is_told_so_and_another_number_conflicts() -> None:
    solo = Solo()
    solo.decide(1, solo.forge.batch(solo.forge.request(1), solo.forge.request(2, close=True)))
    solo.decide(2, solo.forge.batch(solo.forge.request(3)))
    solo.decide(3, solo.forge.batch(solo.forge.request(1, session=2)))
    solo.decide(4, solo.forge.batch(solo.forge.request(1, b"other", session=2)))
    outcomes = [reply.outcome for reply in solo.node.replies()]
    assert outcomes == [
        Outcome.EXECUTED,
        Outcome.SESSION_CLOSED,
        Outcome.SESSION_EXPIRED,
        Outcome.EXECUTED,
        Outcome.CONFLICT,
    ]


def test_the_summary() -> None:
    solo = Solo()
    summary = solo.node.replica.summary()
    assert (summary.replica, summary.view, summary.mode, summary.is_primary) == (
        1,
        0,
        "normal",
        False,
    )
    solo.node.submit(solo.forge.request(9, client=1))
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    for replica in (2, 3):
        solo.cluster.tell(1, solo.forge.view_change(replica, 6))
    summary = solo.node.replica.summary()
    assert (summary.view, summary.mode, summary.is_primary) == (6, "view_changing", False)
    assert (summary.low_water_mark, summary.executed) == (INTERVAL, INTERVAL)
    assert summary.stable_digest == solo.node.core.stable.digest
    assert summary.pending_requests == 1
    # Replica 2 committed to batches of which its view-change says nothing.
    assert summary.evidence == len(solo.node.core.evidence) == INTERVAL
    assert not summary.transferring and not summary.diverged
    tail = solo.node.core.tail
    tail.memory_bytes, tail.disk_bytes = 7, 9
    summary = solo.node.replica.summary()
    assert (summary.tail_memory_bytes, summary.tail_log_bytes) == (7, 9)
    solo.node.restart()
    assert solo.node.replica.summary().mode == "recalling"


def test_a_rejection_names_the_message_and_its_sender() -> None:
    solo = Solo(me=2)
    bad = solo.forge.new_view(1, solo.forge.view_changes(1), [bytes(32)])
    effects = solo.node.receive(1, bad)
    assert solo.node.rejections["new_view", Reason.BAD_NEW_VIEW] == 1
    assert effects[0].peer == 1  # type: ignore[union-attr]


def test_settings_have_defaults_of_the_design() -> None:
    settings = Settings(0)
    timers = settings.timers
    assert settings.pipeline_depth == 3
    assert (timers.request_timeout_us, timers.request_timeout_cap_us) == (2_000_000, 60_000_000)
    assert (timers.primary_unreachable_us, timers.link_grace_us) == (200_000, 100_000)
    assert (timers.status_fast_us, timers.status_slow_us) == (100_000, 1_000_000)


# What one peer can make it hold: the invariants are checked after every step by the harness.


def test_votes_for_every_sequence_and_view_stay_bounded() -> None:
    solo = Solo()
    for sequence in range(1, 4 * WINDOW):
        for view in (0, 1, 7, 2**40):
            solo.cluster.tell(
                1,
                solo.forge.prepare(2, sequence, bytes(32), view=view),
                solo.forge.commit(3, sequence, bytes(32), view=view),
            )
    core = solo.node.core
    assert len(core.log) <= 2 * WINDOW
    for slot in core.log:
        assert len(slot.prepares.current) + len(slot.prepares.later) <= 2
        assert len(slot.commits.current) + len(slot.commits.later) <= 2


def test_a_replica_far_behind_h_keeps_no_slots_that_nothing_discards() -> None:
    solo = Solo()
    solo.cluster.tell(1, solo.forge.stable(25 * INTERVAL, bytes(32)))
    for sequence in range(1, 25 * INTERVAL + 1):
        solo.cluster.tell(
            1,
            solo.forge.prepare(2, sequence, bytes(32)),
            solo.forge.commit(2, sequence, bytes(32)),
            solo.forge.committed(sequence, solo.batch(sequence)),
        )
    assert len(solo.node.core.log) <= 2 * WINDOW + INTERVAL


def test_certificates_beyond_the_next_window_of_a_replica_far_behind_are_not_kept() -> None:
    """It will execute them only after a state transfer, and so never."""
    solo = Solo()
    solo.cluster.tell(1, solo.forge.stable(8 * WINDOW, bytes(32)))
    for sequence in (WINDOW, WINDOW + 1):
        solo.cluster.tell(1, solo.forge.committed(sequence, solo.batch(sequence)))
    assert [slot.sequence for slot in solo.node.core.log] == [WINDOW]


def test_checkpoint_votes_stay_bounded() -> None:
    solo = Solo()
    for sequence in range(INTERVAL, 100 * INTERVAL, INTERVAL):
        for replica in solo.others:
            digest = bytes([replica]) * 32
            solo.cluster.tell(1, solo.forge.checkpoint(replica, sequence, digest))
    assert len(solo.node.core.checkpoints) == 2 * WINDOW // INTERVAL
    assert solo.rejected(Reason.SEQUENCE_HIGH) > 200


def test_view_changes_stay_bounded_and_limited_in_rate() -> None:
    solo = Solo()
    for view in range(1, 200):
        solo.cluster.tell(1, solo.forge.view_change(3, view))
    assert len(solo.node.core.view_change.received) == 1
    assert solo.rejected(Reason.RATE_LIMIT) > 150


def test_bodies_of_one_slot_stay_bounded_over_many_views() -> None:
    """Each primary proposes another batch for the same number, far ahead of the clock."""
    solo = Solo(me=3, limits=LocalLimits(bodies_per_slot=3))
    for view in range(1, 30):
        if solo.forge.primary(view) == 3:
            continue
        solo.enter(view)
        body = solo.forge.batch(solo.forge.request(view), time_us=2**62)
        solo.propose(1, body, view=view)
        assert len(solo.slot(1).bodies) <= 4
    assert not solo.node.sent(Prepare)


def test_what_is_in_use_is_never_trimmed() -> None:
    solo = Solo(me=3, limits=LocalLimits(bodies_per_slot=1))
    digest = solo.propose(1, solo.batch(1))
    solo.prepare(1, digest)
    for view in (1, 2, 4, 5, 6):
        solo.enter(view)
        solo.propose(1, solo.forge.batch(solo.forge.request(view)), view=view)
    assert digest in solo.slot(1).bodies
    assert [vote.view for vote in solo.node.sent(Commit)] == [0]


def test_the_body_of_a_decision_is_never_trimmed() -> None:
    """Though nothing was prepared or accepted here for it."""
    verifier = SMALL.verifier
    bodies = [verifier.verified_batch(SMALL.batch(SMALL.request(k))) for k in range(1, 8)]
    slot = Slot(1)
    slot.decision = CommitCertificate(0, 1, bodies[0].digest, ())
    for body in bodies:
        slot.add_body(body, 3)
    assert len(slot.bodies) == 3
    assert bodies[0].digest in slot.bodies


def test_a_body_accepted_in_any_view_is_kept_until_the_slot_is_decided() -> None:
    """A later new-view may propose it again, and nobody else need have it any more."""
    solo = Solo(me=3, limits=LocalLimits(bodies_per_slot=2))
    digests = [solo.propose(1, solo.batch(1))]
    for view in (1, 2, 4, 5, 6):
        solo.enter(view)
        body = solo.forge.batch(solo.forge.request(view + 1))
        digests.append(solo.propose(1, body, view=view))
    assert set(digests) == set(solo.slot(1).bodies)
    solo.restart()
    assert set(digests) == set(solo.slot(1).bodies)
    proof = solo.forge.proof(1, digests[0])
    changes = [solo.forge.view_change(peer, 8, [proof]) for peer in (0, 1, 2)]
    solo.cluster.tell(3, solo.forge.new_view(8, changes))
    assert solo.node.sent(Prepare)[-1] == Prepare(8, 1, digests[0])


def test_a_checkpoint_is_taken_though_the_proof_came_first() -> None:
    """A replica that executes what others have certified compares its state with theirs."""
    digest = Solo()
    digest.decide_to(INTERVAL)
    solo = Solo()
    solo.cluster.tell(1, solo.forge.stable(INTERVAL, digest.node.core.sealed[INTERVAL]))
    for sequence in range(1, INTERVAL + 1):
        solo.cluster.tell(1, solo.forge.committed(sequence, solo.batch(sequence)))
    assert solo.node.core.executed == INTERVAL
    assert not solo.node.core.diverged
    assert solo.node.core.state.durable_sequence == INTERVAL
    assert not solo.node.sent(Checkpoint)
    wrong = Solo()
    wrong.cluster.tell(1, wrong.forge.stable(INTERVAL, bytes(32)))
    for sequence in range(1, INTERVAL + 1):
        wrong.cluster.tell(1, wrong.forge.committed(sequence, wrong.batch(sequence)))
    assert wrong.node.core.diverged
    assert len(wrong.node.events(EventName.STATE_DIVERGED)) == 1


def test_what_takes_long_to_execute_takes_several_steps() -> None:
    """Otherwise a replica with much to catch up with does nothing else meanwhile, not even say that
    it lives. Nobody is suspected for it."""
    solo = Solo(me=2, limits=LocalLimits(operations_per_step=1))
    core, replica, last = solo.node.core, solo.node.replica, INTERVAL - 1
    solo.node.submit(solo.forge.request(last))
    solo.decide_to(last, first=2)
    solo.cluster.now_us += core.timeout_us
    solo.decide(1)
    for executed in range(1, last):
        assert core.executed == executed and core.execution_due
        assert replica.next_deadline_us() == solo.node.now().monotonic_us
        assert not core.suspicion.mine
        solo.node.step(replica.tick)
    assert core.executed == last and not core.execution_due and not core.suspicion.mine
    assert len(solo.node.journal) == last


def test_what_takes_long_to_execute_excuses_a_primary_for_a_while_only() -> None:
    """It could put ever more before a request that it keeps back."""
    solo = Solo(me=2, limits=LocalLimits(operations_per_step=1))
    core, replica, last = solo.node.core, solo.node.replica, INTERVAL - 1
    solo.node.submit(solo.forge.request(last + 1))
    solo.decide_to(last, first=2)
    solo.cluster.now_us += 2 * core.timeout_us - 1
    solo.decide(1)
    assert core.execution_due and not core.suspicion.mine
    # The deadline is later by what executing took.
    solo.cluster.now_us += 1 + 2 * core.settings.limits.record_us * last
    solo.node.step(replica.tick)
    assert core.execution_due and core.suspicion.mine
