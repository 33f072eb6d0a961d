"""Normal-case operation: pre-prepare, prepare, commit (OSDI'99 section 4.2; protocol.md section
5)."""

from statistics import median_low

from pbft.codec import encode_batch
from pbft.core import amnesia, state_transfer
from pbft.core.certificates import CommitCertificate, PreparedCertificate, commit_certificate
from pbft.core.effects import (
    AcceptedRecord,
    Broadcast,
    EventName,
    Persist,
    PreparedRecord,
)
from pbft.core.log import Slot, VoteSet
from pbft.core.settings import MILLISECOND
from pbft.core.state import Core, Mode
from pbft.crypto.digest import NULL_DIGEST
from pbft.errors import Reason
from pbft.limits import BATCH_OVERHEAD_BYTES
from pbft.messages import (
    Authenticated,
    Batch,
    Commit,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    VerifiedBatch,
    VerifiedCommitted,
    VerifiedProposal,
    Vote,
)
from pbft.types import Micros, ReplicaId, SequenceNumber

# Pre-prepare.


def check_pre_prepare(core: Core, vote: Vote, signer: ReplicaId) -> Reason | None:
    """The clauses of accepting a pre-prepare that need no body; pure, no state is changed."""
    if vote.view < core.view:
        return Reason.VIEW_STALE
    if vote.view > core.view:
        # Never adopted from a pre-prepare; it is sent again once the new-view is here.
        return Reason.VIEW_FUTURE
    if core.mode is not Mode.NORMAL:
        return Reason.NOT_NORMAL
    if signer != core.primary:
        return Reason.NOT_PRIMARY
    if vote.digest == NULL_DIGEST:
        # The null batch exists only in a new-view's O.
        return Reason.BAD_BODY
    if vote.sequence <= core.low_water_mark:
        return Reason.SEQUENCE_LOW
    if vote.sequence > core.high_water_mark + core.genesis.constants.window:
        return Reason.SEQUENCE_HIGH
    slot = core.log.get(vote.sequence)
    known = None if slot is None else slot.pre_prepare or slot.waiting
    if known is not None and known.message.digest == vote.digest:
        bodies = () if slot is None else slot.bodies
        has_body = slot is not None and (slot.pre_prepare is not None or vote.digest in bodies)
        return Reason.DUPLICATE if has_body else None
    if core.is_accused("pre_prepare", signer, vote):
        return Reason.DIGEST_CONFLICT
    return None


def on_proposal(core: Core, proposal: VerifiedProposal) -> None:
    """A pre-prepare with its body."""
    _consider(core, proposal.pre_prepare, proposal.batch)


def on_pre_prepare(core: Core, pre_prepare: Authenticated[PrePrepare]) -> None:
    """A pre-prepare alone: it waits until its body was fetched."""
    _consider(core, pre_prepare, None)


def _consider(
    core: Core, pre_prepare: Authenticated[PrePrepare], batch: VerifiedBatch | None
) -> None:
    vote = pre_prepare.message
    reason = check_pre_prepare(core, vote, pre_prepare.signer)
    if reason is not None:
        core.reject("pre_prepare", reason, pre_prepare.signer)
        return
    slot = core.log.slot(vote.sequence)
    known = slot.pre_prepare or slot.waiting
    if known is not None and known.message.digest != vote.digest:
        # At most one digest is accepted for one (v, n); two signed ones convict the primary.
        core.accuse("pre_prepare", vote.sequence, vote.view, known.signed, pre_prepare.signed)
        core.reject("pre_prepare", Reason.DIGEST_CONFLICT, pre_prepare.signer)
        return
    if known is None and pre_prepare.signer == core.me:
        # I signed it and do not know it: what else I signed I may not know either.
        amnesia.note_loss(core)
        core.reject("pre_prepare", Reason.UNWANTED, pre_prepare.signer)
        return
    is_first = slot.waiting is None
    if is_first:
        slot.waiting_since_us = core.now.monotonic_us
    slot.waiting = pre_prepare
    if batch is not None and vote.sequence <= core.high_water_mark:
        slot.add_body(batch, core.settings.limits.bodies_per_slot)
    elif batch is None and is_first:
        # Its body is asked for at once, and from then on as often as anything that is missing: a
        # status goes to all, so a primary that repeats itself must not be able to order more.
        core.status_due_us = core.now.monotonic_us
    core.dirty.add(slot.sequence)


def on_batch(core: Core, batch: VerifiedBatch) -> None:
    """A body that was missing: kept wherever a waiting pre-prepare or a decision asks for it."""
    wanted = False
    for slot in core.log:
        if batch.digest in digests_wanted(core, slot):
            slot.add_body(batch, core.settings.limits.bodies_per_slot)
            core.dirty.add(slot.sequence)
            wanted = True
    if not wanted:
        core.reject("batch", Reason.UNWANTED, None)


def digests_wanted(core: Core, slot: Slot) -> list[bytes]:
    """Digests whose bodies this slot lacks; beyond H messages are kept, but no bodies."""
    wanted = []
    if slot.waiting is not None and slot.sequence <= core.high_water_mark:
        wanted.append(slot.waiting.message.digest)
    if slot.decision is not None:
        wanted.append(slot.decision.digest)
    return [digest for digest in wanted if digest != NULL_DIGEST and digest not in slot.bodies]


def corrected_clock_us(core: Core) -> int:
    """My clock moved to the median of the clocks that my peers told in their statuses, and mine.

    Who told nothing yet counts as agreeing with me: the first f to speak may be liars, and are no
    majority of those who will.
    """
    offsets = core.clock_offsets_us
    return core.now.wall_us + median_low(
        [offsets.get(replica, 0) for replica in range(core.thresholds.replicas)]
    )


def is_ahead(core: Core, batch: VerifiedBatch) -> bool:
    """Whether the batch's time is further ahead of my clock than the genesis allows: it is held."""
    return batch.time_us > corrected_clock_us(core) + core.genesis.constants.clock_drift_us


HELD_RECHECK_US = 10 * MILLISECOND


def recheck_held(core: Core) -> None:
    """Looks again, a little later, at the batches that were ahead of my clock, or for which my vote
    was spared."""
    if core.held and core.now.monotonic_us >= core.held_due_us:
        core.dirty.update(core.held)
        core.held.clear()


def _hold(core: Core, slot: Slot) -> None:
    if not core.held:
        core.held_due_us = core.now.monotonic_us + HELD_RECHECK_US
    core.held.add(slot.sequence)


def _accept_waiting(core: Core, slot: Slot) -> bool:
    """Accepts the waiting pre-prepare if nothing stands against it any more."""
    pre_prepare = slot.waiting
    if pre_prepare is None or not core.is_voting:
        return False
    if not core.low_water_mark < slot.sequence <= core.high_water_mark:
        return False
    digest = pre_prepare.message.digest
    batch = slot.bodies.get(digest)
    if digest != NULL_DIGEST and batch is None:
        return False
    # Batches re-proposed by a new-view are accepted whatever the time, and voted for though they
    # are decided here: others may need to decide them again.
    if slot.sequence > core.new_view_max_sequence:
        if slot.decision is not None:
            return False
        early = batch is not None and is_ahead(core, batch)
        if early or state_transfer.is_vote_spared(core, slot.waiting_since_us):
            _hold(core, slot)
            return False
    slot.waiting = None
    accept_pre_prepare(core, slot, pre_prepare, batch)
    return True


def accept_pre_prepare(
    core: Core,
    slot: Slot,
    pre_prepare: Authenticated[PrePrepare],
    batch: VerifiedBatch | None,
) -> None:
    """Accepts: on disk first, then (as a backup) the prepare to all."""
    vote = pre_prepare.message
    assert vote.view == core.view and slot.pre_prepare is None
    slot.pre_prepare = pre_prepare
    slot.touched_us = core.now.monotonic_us
    if batch is not None:
        slot.accepted.add(batch.digest)
        slot.add_body(batch, core.settings.limits.bodies_per_slot)
        # What was executed here already has left some of its requests for a later batch.
        if core.is_primary and vote.sequence > core.executed:
            for request in batch.requests:
                core.pool.mark_proposed(request.message)
    encoded = b"" if batch is None else batch.encoded
    core.emit(
        Persist(AcceptedRecord(vote.view, vote.sequence, vote.digest, pre_prepare.signed, encoded))
    )
    core.report(EventName.PRE_PREPARED, vote.sequence, 0 if batch is None else len(batch.requests))
    if not core.is_primary:
        prepare = Prepare(vote.view, vote.sequence, vote.digest)
        signed = core.signer.sign(prepare)
        slot.prepares.add(Authenticated(prepare, signed), core.view)
        core.emit(Broadcast(signed))
    core.dirty.add(slot.sequence)


# Prepare and commit.


def check_vote(core: Core, vote: Vote, signer: ReplicaId) -> Reason | None:
    """The clauses of counting a prepare or a commit; pure. Redundant votes are not worth
    verifying."""
    if vote.view < core.view:
        return Reason.VIEW_STALE
    if vote.sequence <= max(min(core.low_water_mark, core.executed), core.log_floor):
        return Reason.SEQUENCE_LOW
    if vote.sequence > core.high_water_mark + core.genesis.constants.window:
        return Reason.SEQUENCE_HIGH
    is_prepare = isinstance(vote, Prepare)
    if is_prepare and signer == core.thresholds.primary_of(vote.view):
        # The primary's pre-prepare is its prepare: it must not be counted twice.
        return Reason.NOT_PRIMARY
    slot = core.log.get(vote.sequence)
    if slot is None:
        return None
    votes: VoteSet[Prepare] | VoteSet[Commit] = slot.prepares if is_prepare else slot.commits
    known = votes.find(vote.view, core.view, signer)
    if known is not None and known.message.view == vote.view:
        if known.message.digest == vote.digest:
            return Reason.DUPLICATE
        kind = "prepare" if is_prepare else "commit"
        return Reason.DIGEST_CONFLICT if core.is_accused(kind, signer, vote) else None
    if known is not None and known.message.view > vote.view:
        return Reason.VIEW_FUTURE
    if vote.view == core.view and _is_redundant(slot, vote, is_prepare):
        return Reason.UNWANTED
    return None


def _is_redundant(slot: Slot, vote: Vote, is_prepare: bool) -> bool:
    if is_prepare:
        return slot.is_prepared(vote.view, vote.sequence, vote.digest)
    return slot.decision is not None and slot.decision.digest == vote.digest


def on_prepare(core: Core, prepare: Authenticated[Prepare]) -> None:
    """Counts a prepare of a backup."""
    reason = check_vote(core, prepare.message, prepare.signer)
    if reason is not None:
        core.reject("prepare", reason, prepare.signer)
        return
    slot = core.log.slot(prepare.message.sequence)
    known = slot.prepares.find(prepare.message.view, core.view, prepare.signer)
    if _conflicts(core, "prepare", known, prepare):
        return
    if slot.prepares.add(prepare, core.view):
        core.dirty.add(slot.sequence)


def on_commit(core: Core, commit: Authenticated[Commit]) -> None:
    """Counts a commit."""
    reason = check_vote(core, commit.message, commit.signer)
    if reason is not None:
        core.reject("commit", reason, commit.signer)
        return
    slot = core.log.slot(commit.message.sequence)
    known = slot.commits.find(commit.message.view, core.view, commit.signer)
    if _conflicts(core, "commit", known, commit):
        return
    if slot.commits.add(commit, core.view):
        core.dirty.add(slot.sequence)


def _conflicts(
    core: Core,
    kind: str,
    known: Authenticated[Prepare] | Authenticated[Commit] | None,
    vote: Authenticated[Prepare] | Authenticated[Commit],
) -> bool:
    """Whether this signer voted otherwise for the same (v, n): the first counts, both are
    evidence."""
    message = vote.message
    if known is None or known.message.view != message.view:
        return False
    core.accuse(kind, message.sequence, message.view, known.signed, vote.signed)
    core.reject(kind, Reason.DIGEST_CONFLICT, vote.signer)
    return True


# Deciding.


def advance_slots(core: Core) -> bool:
    """Looks at every slot that changed. Returns whether any made a step."""
    progressed = False
    while core.dirty:
        sequence = min(core.dirty)
        core.dirty.discard(sequence)
        slot = core.log.get(sequence)
        if slot is not None:
            progressed |= _accept_waiting(core, slot)
            progressed |= _advance_prepared(core, slot)
            progressed |= _advance_committed(core, slot)
    return progressed


def _advance_prepared(core: Core, slot: Slot) -> bool:
    """prepared(m, v, n, i): pre-prepare and q - 1 prepares of distinct backups match it. Then
    commit."""
    pre_prepare = slot.pre_prepare
    if pre_prepare is None or not core.is_voting:
        return False
    vote = pre_prepare.message
    if slot.is_prepared(vote.view, vote.sequence, vote.digest):
        return False
    prepares = slot.prepares.matching(vote.view, vote.digest)
    if len(prepares) < core.thresholds.prepares:
        return False
    chosen = tuple(prepare.signed for prepare in prepares[: core.thresholds.prepares])
    proof = PreparedProof(pre_prepare.signed, chosen)
    slot.prepared = PreparedCertificate(vote.view, vote.sequence, vote.digest, proof)
    core.highest_prepared = max(core.highest_prepared, slot.sequence)
    slot.touched_us = core.now.monotonic_us
    core.emit(Persist(PreparedRecord(vote.view, vote.sequence, vote.digest, proof)))
    core.report(EventName.PREPARED, vote.sequence)
    commit = Commit(vote.view, vote.sequence, vote.digest)
    signed = core.signer.sign(commit)
    slot.commits.add(Authenticated(commit, signed), core.view)
    core.emit(Broadcast(signed))
    return True


def _advance_committed(core: Core, slot: Slot) -> bool:
    """q commits of one view for one digest decide n, prepared here or not, once the body is
    here."""
    if slot.decision is not None:
        return False
    for digest in sorted({vote.message.digest for vote in slot.commits.current.values()}):
        commits = slot.commits.matching(core.view, digest)
        if len(commits) >= core.thresholds.quorum:
            decide(core, slot, commit_certificate(commits, core.genesis))
            return True
    return False


def decide(core: Core, slot: Slot, certificate: CommitCertificate) -> None:
    """n is decided; executing it, in its turn, puts the certificate on disk."""
    assert slot.decision is None and certificate.sequence == slot.sequence
    slot.decision = certificate
    core.highest_prepared = max(core.highest_prepared, slot.sequence)
    slot.touched_us = core.now.monotonic_us
    core.report(EventName.COMMITTED, slot.sequence)
    core.dirty.add(slot.sequence)


def check_committed(core: Core, sequence: SequenceNumber) -> Reason | None:
    """Whether a commit certificate for n could be of use."""
    if sequence <= core.executed:
        return Reason.SEQUENCE_LOW
    if sequence <= core.log_floor and sequence not in core.catch_up:
        return Reason.SEQUENCE_LOW
    if sequence > core.high_water_mark + core.genesis.constants.window:
        return Reason.SEQUENCE_HIGH
    slot = core.log.get(sequence)
    if slot is not None and slot.decision is not None and not digests_wanted(core, slot):
        return Reason.DUPLICATE
    return None


def on_committed(core: Core, committed: VerifiedCommitted, sender: ReplicaId) -> None:
    """A commit certificate with its body: accepted in every mode, without local prepared."""
    certificate = commit_certificate(committed.commits, core.genesis)
    reason = check_committed(core, certificate.sequence)
    if reason is not None:
        core.reject("committed", reason, sender)
        return
    slot = core.log.slot(certificate.sequence)
    if committed.batch is not None:
        slot.add_body(committed.batch, core.settings.limits.bodies_per_slot)
    if slot.decision is None:
        decide(core, slot, certificate)
    core.dirty.add(slot.sequence)


def requeue(core: Core) -> None:
    """After a state was installed, which tells nobody what its batches left for later ones: only
    what stands in a batch above it counts as proposed."""
    core.pool.propose_again()
    for slot in core.log:
        if slot.sequence > core.executed and slot.pre_prepare is not None:
            batch = slot.bodies.get(slot.pre_prepare.message.digest)
            for request in () if batch is None else batch.requests:
                core.pool.mark_proposed(request.message)


# Proposing.


def can_propose(core: Core) -> bool:
    """Fewer than P batches un-executed, inside the window, primary of a running view."""
    return (
        core.is_voting
        and core.is_primary
        and core.next_sequence <= core.high_water_mark
        and core.next_sequence - 1 - core.executed < core.settings.pipeline_depth
    )


def advance_proposals(core: Core) -> bool:
    """Self-clocked batching: propose as soon as there is something and the pipeline has room."""
    progressed = False
    limits = core.genesis.limits
    core.pool.wake(core.now.monotonic_us)
    while can_propose(core) and core.pool.has_unproposed():
        pending = core.pool.take(
            min(core.requests_at_once, limits.batch_requests),
            limits.batch_bytes - BATCH_OVERHEAD_BYTES,
            limits.records_per_batch,
        )
        fresh = []
        for item in pending:
            if core.sessions.is_settled(item.request.message):
                core.pool.settle(item.request.message, core.timeout_us)
            else:
                fresh.append(item.encoded)
        if fresh:
            propose(core, tuple(fresh))
            progressed = True
    if not core.pool.has_unproposed():
        core.pool.note_all_proposed()
    while can_propose(core) and amnesia.is_open(core):
        # Nothing else comes, and somebody waits for s + L.
        propose(core, ())
        progressed = True
    return progressed


def next_deadline_us(core: Core) -> Micros | None:
    """When a client has rested whose requests may be proposed then."""
    return core.pool.next_turn_us() if can_propose(core) else None


def propose(core: Core, items: tuple[bytes, ...]) -> None:
    """<PRE-PREPARE, v, n, d> with its body to all."""
    encoded = encode_batch(Batch(corrected_clock_us(core), items))
    batch = core.verifier.verified_batch(encoded)
    sequence = core.next_sequence
    core.next_sequence += 1
    vote = PrePrepare(core.view, sequence, batch.digest)
    signed = core.signer.sign(vote)
    slot = core.log.slot(sequence)
    accept_pre_prepare(core, slot, Authenticated(vote, signed), batch)
    core.emit(Broadcast(Proposal(signed, encoded)))
