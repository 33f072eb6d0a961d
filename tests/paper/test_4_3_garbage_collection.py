"""Section 4.3, garbage collection: checkpoints, proofs of stability, watermarks. Departure: slots
of one interval below h stay in memory, so that a slightly late peer needs no state transfer."""

import pytest

from pbft.core.checkpoint import UNMERGED_WINDOWS_MAX
from pbft.core.effects import DecidedRecord, EventName, Merge, Persist, StableRecord, Truncate
from pbft.errors import Reason
from pbft.messages import Checkpoint, PrePrepare, Proposal
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo


def test_checkpoints_are_taken_when_the_sequence_is_divisible_by_k(n: int) -> None:
    """The states produced at multiples of K are checkpoints; each replica multicasts
    <CHECKPOINT, n, d, i>."""
    cluster = Cluster(n)
    cluster.run(2 * INTERVAL + 1)
    for node in cluster.up:
        votes = node.sent(Checkpoint)
        assert [vote.sequence for vote in votes] == [INTERVAL, 2 * INTERVAL]
    assert len({vote for node in cluster.up for vote in node.sent(Checkpoint)}) == 2


def test_the_digest_speaks_of_the_whole_state(n: int) -> None:
    """d is the digest of the state: other operations, another digest; the same ones, the same."""
    digests = []
    for operation in (b"a", b"a", b"b"):
        solo = Solo(n)
        solo.decide_to(INTERVAL - 1)
        solo.decide(INTERVAL, solo.forge.batch(solo.forge.request(INTERVAL, operation)))
        (vote,) = solo.node.sent(Checkpoint)
        digests.append(vote.digest)
    assert digests[0] == digests[1] != digests[2]


def test_the_vote_follows_when_the_digest_is_known(n: int) -> None:
    """Computing d takes time, in which the replica goes on: what it executes meanwhile is not in
    it, and a certificate that comes first is compared then."""
    solo = Solo(n)
    solo.node.holds_seals = True
    solo.decide_to(INTERVAL + 1)
    assert solo.node.core.executed == INTERVAL + 1
    assert not solo.node.sent(Checkpoint) and not solo.node.core.sealed
    prompt = Solo(n)
    prompt.decide_to(INTERVAL)
    digest = prompt.node.core.sealed[INTERVAL]
    solo.stabilise(INTERVAL, digest)
    assert solo.node.core.low_water_mark == INTERVAL
    assert not _merges(solo)
    solo.node.finish_seals()
    assert _merges(solo) == [INTERVAL]
    assert not solo.node.core.diverged and not solo.node.sent(Checkpoint)


def test_a_wrong_state_is_noticed_when_the_digest_is_known(n: int) -> None:
    """q replicas agree on another digest than mine: found at once or late, it is divergence."""
    solo = Solo(n)
    solo.node.holds_seals = True
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL, bytes(32))
    assert not solo.node.core.diverged
    solo.node.finish_seals()
    assert solo.node.core.diverged
    assert not _merges(solo)


def test_a_digest_that_comes_after_the_next_stable_checkpoint_is_compared_with_its_own(
    n: int,
) -> None:
    """A replica that is slow with its digests makes its state durable all the same."""
    prompt = Solo(n)
    prompt.decide_to(2 * INTERVAL)
    digests = prompt.node.core.sealed
    solo = Solo(n)
    solo.node.holds_seals = True
    solo.decide_to(2 * INTERVAL)
    for sequence in (INTERVAL, 2 * INTERVAL):
        solo.stabilise(sequence, digests[sequence])
    assert solo.node.core.low_water_mark == 2 * INTERVAL
    sealed = solo.node.state.advance_seal()
    while sealed is None:
        sealed = solo.node.state.advance_seal()
    solo.node.step(lambda now: solo.node.replica.sealed(*sealed, now))
    assert _merges(solo) == [INTERVAL]
    assert solo.node.core.state.durable_sequence == INTERVAL
    solo.node.finish_seals()
    assert _merges(solo) == [INTERVAL, 2 * INTERVAL]


def test_a_wrong_state_is_noticed_though_the_next_checkpoint_is_stable(n: int) -> None:
    solo = Solo(n)
    solo.node.holds_seals = True
    solo.decide_to(2 * INTERVAL)
    for sequence in (INTERVAL, 2 * INTERVAL):
        solo.stabilise(sequence, bytes([sequence]) * 32)
    sealed = solo.node.state.advance_seal()
    while sealed is None:
        sealed = solo.node.state.advance_seal()
    solo.node.step(lambda now: solo.node.replica.sealed(*sealed, now))
    assert solo.node.core.diverged and not _merges(solo)


def test_nothing_is_executed_while_two_digests_are_to_be_computed(n: int) -> None:
    """Or they would be ever later, and what is in memory ever more."""
    prompt = Solo(n)
    prompt.decide_to(INTERVAL)
    solo = Solo(n)
    solo.node.holds_seals = True
    solo.decide_to(2 * INTERVAL)
    solo.stabilise(INTERVAL, prompt.node.core.sealed[INTERVAL])
    solo.decide(2 * INTERVAL + 1)
    assert solo.decided()[-1] == 2 * INTERVAL + 1
    assert solo.node.core.executed == 2 * INTERVAL
    solo.node.finish_seals()
    assert solo.node.core.executed == 2 * INTERVAL + 1


def test_a_checkpoint_is_stable_with_q_matching_votes(n: int) -> None:
    """2f + 1 checkpoint messages for n with the same d from different replicas (its own possibly)
    prove it. Not one fewer."""
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    digest = solo.node.core.sealed[INTERVAL]
    for replica in solo.others[: solo.thresholds.quorum - 2]:
        solo.cluster.tell(1, solo.forge.checkpoint(replica, INTERVAL, digest))
    assert solo.node.core.low_water_mark == 0
    solo.cluster.tell(1, solo.forge.checkpoint(solo.others[-1], INTERVAL, digest))
    assert solo.node.core.low_water_mark == INTERVAL
    assert len(solo.node.core.stable.checkpoints) == solo.thresholds.quorum


def test_votes_of_one_replica_or_for_other_digests_prove_nothing(n: int) -> None:
    """Same n, same d, different replicas."""
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    digest = solo.node.core.sealed[INTERVAL]
    for _ in range(n):
        solo.cluster.tell(1, solo.forge.checkpoint(0, INTERVAL, digest))
    for index, replica in enumerate(solo.others[1:]):
        solo.cluster.tell(1, solo.forge.checkpoint(replica, INTERVAL, bytes([index]) * 32))
    assert solo.node.core.low_water_mark == 0


def test_the_proof_advances_both_watermarks(n: int) -> None:
    """h is the sequence of the last stable checkpoint and H = h + L."""
    solo = Solo(n)
    assert (solo.node.core.low_water_mark, solo.node.core.high_water_mark) == (0, WINDOW)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    marks = solo.node.core.low_water_mark, solo.node.core.high_water_mark
    assert marks == (INTERVAL, INTERVAL + WINDOW)


def test_the_primary_does_not_propose_beyond_the_high_water_mark(n: int) -> None:
    """A faulty or fast primary cannot exhaust the space of sequence numbers: it stops at H until
    the checkpoint is stable."""
    cluster = Cluster(n, pipeline_depth=100)
    cluster.drop(lambda m: m.says(Checkpoint))
    cluster.run(WINDOW + 3)
    assert cluster.executed() == {WINDOW}
    cluster.drop(None)
    cluster.advance(2 * SECOND)
    assert cluster.executed() == {WINDOW + 1}
    assert cluster.agree()
    assert len(cluster[0].journal) == WINDOW + 3


def test_a_stable_checkpoint_discards_what_lies_below(n: int) -> None:
    """It discards all pre-prepare, prepare and commit messages with sequence numbers at or below
    n, and earlier checkpoints; on disk once the own state is durable."""
    solo = Solo(n)
    solo.decide_to(2 * INTERVAL)
    solo.stabilise(INTERVAL)
    solo.stabilise(2 * INTERVAL)
    assert [slot.sequence for slot in solo.node.core.log] == list(range(5, 9))
    assert not solo.node.core.checkpoints
    saved = solo.node.log.load()
    assert not saved.accepted and not saved.prepared and not saved.decided
    assert saved.stable is not None and saved.stable.sequence == 2 * INTERVAL


def test_the_log_leaves_the_disk_only_after_the_state_is_durable(n: int) -> None:
    """Truncation waits for the durable state, or a power loss would leave a state that exists
    nowhere."""
    solo = Solo(n)
    solo.node.holds_merges = True
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    assert [type(job) for job in solo.node.jobs] == [Merge]
    assert not any(isinstance(effect, Truncate) for effect in solo.node.effects)
    assert len(solo.node.log.load().decided) == INTERVAL
    solo.node.finish_jobs()
    assert solo.node.effects[-1] == Truncate(INTERVAL)
    assert not solo.node.log.load().decided


def test_execution_waits_when_the_durable_state_is_too_far_behind(n: int) -> None:
    """What is executed and not durable is in memory and in the log, so a slow disk must slow the
    replica down: it waits at 4 L, and goes on where the merge leaves it."""
    solo = Solo(n)
    solo.node.holds_merges = True
    far = UNMERGED_WINDOWS_MAX * WINDOW
    for sequence in range(INTERVAL, far + 1, INTERVAL):
        solo.decide_to(sequence, first=sequence - INTERVAL + 1)
        solo.stabilise(sequence)
    assert solo.node.core.low_water_mark == far
    solo.decide_to(far + 2, first=far + 1)
    assert solo.node.core.executed == far
    solo.node.holds_merges = False
    solo.node.finish_jobs()
    assert solo.node.core.executed == far + 2
    assert solo.node.core.state.durable_sequence == far


def test_what_a_checkpoint_vouches_for_is_on_disk_before_it_leaves(n: int) -> None:
    """Every batch up to n with its commit certificate goes to disk first, and that one gates."""
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    effects = solo.node.effects
    decided = [e for e in effects if isinstance(e, Persist) and isinstance(e.record, DecidedRecord)]
    assert [e.record.sequence for e in decided] == list(range(1, INTERVAL + 1))
    assert decided[-1].gates
    votes = [i for i, e in enumerate(effects) if solo.node.sent(Checkpoint) and _is_checkpoint(e)]
    assert effects.index(decided[-1]) < votes[0]


def _merges(solo: Solo) -> list[int]:
    return [effect.sequence for effect in solo.node.effects if isinstance(effect, Merge)]


def _is_checkpoint(effect: object) -> bool:
    item = getattr(effect, "item", None)
    return getattr(getattr(item, "kind", None), "name", "") == "CHECKPOINT"


def test_the_certificate_is_kept_on_disk(n: int) -> None:
    """The proof of the last stable checkpoint is part of what a view-change carries."""
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    records = [e.record for e in solo.node.effects if isinstance(e, Persist)]
    (stable,) = [record for record in records if isinstance(record, StableRecord)]
    assert stable.certificate == solo.node.core.stable.checkpoints


def test_a_late_replica_learns_the_stable_checkpoint(n: int) -> None:
    """A replica that missed the checkpoint messages is shown the proof."""
    cluster = Cluster(n)
    cluster.drop(lambda m: m.to == n - 1 and m.says(Checkpoint))
    cluster.run(INTERVAL)
    assert cluster[n - 1].core.low_water_mark == 0
    cluster.drop(None)
    cluster.advance(2 * SECOND)
    assert cluster[n - 1].core.low_water_mark == INTERVAL


@pytest.mark.parametrize("sequence", [INTERVAL + 1, 0])
def test_votes_that_are_no_checkpoints_are_refused(n: int, sequence: int) -> None:
    """Only multiples of K above h are checkpoints."""
    solo = Solo(n)
    for replica in solo.others:
        solo.cluster.tell(1, solo.forge.checkpoint(replica, sequence, bytes(32)))
    assert not solo.node.core.checkpoints
    why = Reason.BAD_CHECKPOINT if sequence else Reason.MALFORMED
    assert solo.rejected(why) == len(solo.others)


def test_proposals_between_h_and_the_new_high_mark_wait_for_the_checkpoint(n: int) -> None:
    """A primary may stabilise first: what it proposes beyond my H is taken up when I do."""
    solo = Solo(n)
    solo.decide_to(INTERVAL)
    beyond = solo.propose(WINDOW + 1)
    votes = [vote.sequence for vote in solo.prepared_for()]
    assert votes == list(range(1, INTERVAL + 1))
    solo.stabilise(INTERVAL)
    solo.cluster.tell(
        1, Proposal(solo.forge.pre_prepare(WINDOW + 1, beyond), solo.batch(WINDOW + 1))
    )
    assert solo.prepared_for()[-1].sequence == WINDOW + 1


def test_a_checkpoint_that_becomes_stable_is_reported_once(n: int) -> None:
    """Nothing less than q moves h, and more than q changes nothing."""
    cluster = Cluster(n)
    cluster.run(INTERVAL)
    for node in cluster.up:
        assert [event.sequence for event in node.events(EventName.CHECKPOINT_STABLE)] == [INTERVAL]
    assert not cluster[1].sent(PrePrepare)
