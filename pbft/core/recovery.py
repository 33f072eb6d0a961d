"""Restart: the durable state and the vote log become a replica again (protocol.md section 10)."""

from typing import Final

from pbft.core import execution, view_change
from pbft.core.certificates import (
    CheckpointCertificate,
    CommitCertificate,
    PreparedCertificate,
    commit_certificate,
    decode_authentic,
    verify_checkpoints,
)
from pbft.core.effects import AcceptedRecord, DecidedRecord, SavedLog
from pbft.core.log import Slot
from pbft.core.new_view import verify_new_view
from pbft.core.state import Core
from pbft.errors import Reason, Rejected
from pbft.messages import (
    Authenticated,
    Commit,
    Kind,
    NewView,
    Prepare,
    PrePrepare,
    Signed,
    VerifiedBatch,
    ViewChange,
)
from pbft.types import Digest, SequenceNumber

_FOREIGN: Final = Reason.BAD_CERTIFICATE
"""What the disk holds is not signed as this cluster signs it, or says something else."""


def restore(core: Core, saved: SavedLog) -> None:
    """Rebuilds the core; recall (pbft.core.amnesia) then decides whether it may be trusted. What
    was voted for is voted for again, byte for byte; nothing else is.

    Raises Rejected if what the disk holds does not verify: the caller must not go on with it.
    """
    core.executed = core.state.durable_sequence
    core.tail.restart(core.executed)
    execution.reload_replicated(core)
    _restore_stable(core, saved)
    _restore_view(core, saved)
    _restore_slots(core, saved)
    if saved.view_change is not None and saved.view_change.view > core.view:
        signed = saved.view_change.view_change
        message = decode_authentic(signed, Kind.VIEW_CHANGE, _FOREIGN, core.verifier)
        assert isinstance(message, ViewChange)
        if message.replica != core.me:
            raise Rejected(_FOREIGN, "the vote log's view-change is of another replica")
        view_change.leave_view(core, message.view)
        own = Authenticated(message, signed)
        core.view_change.received[core.me] = own
        core.view_change.highest[core.me] = own.signed
    core.view_change.executed_at_entry = core.executed
    core.restored_end = _end_of_decided(core)


def _restore_stable(core: Core, saved: SavedLog) -> None:
    """The higher of the checkpoint in the log and the one that the durable state is of."""
    if core.executed > 0:
        snapshot = core.state.pin()
        digest = core.state.durable_digest
        certificate = snapshot.certificate
        snapshot.release()
        core.stable = _verified_checkpoint(core, core.executed, digest, certificate)
        core.sealed[core.executed] = digest
    stable = saved.stable
    if stable is not None and stable.sequence > core.stable.sequence:
        core.stable = _verified_checkpoint(core, stable.sequence, stable.digest, stable.certificate)


def _verified_checkpoint(
    core: Core, sequence: SequenceNumber, digest: Digest, certificate: tuple[Signed, ...]
) -> CheckpointCertificate:
    """The checkpoint that the disk says is stable, if q replicas of this cluster said so."""
    stable = verify_checkpoints(sequence, certificate, core.genesis, core.verifier)
    if stable.digest != digest:
        raise Rejected(_FOREIGN, f"the certificate on disk is of another state at {sequence}")
    return stable


def _restore_view(core: Core, saved: SavedLog) -> None:
    """Back into the view entered last, with everything its new-view demanded."""
    if saved.new_view is None:
        core.next_sequence = core.low_water_mark + 1
        return
    message = core.verifier.decode(saved.new_view.new_view)
    assert isinstance(message, NewView)
    plan = verify_new_view(message, core.genesis, core.verifier, {})
    for signed in message.view_changes:
        view_change.remember_highest(core, message.view, signed)
    view_change.adopt_view(core, message.view, saved.new_view.new_view, plan)
    if plan.min_sequence > core.low_water_mark:
        core.stable = plan.stable
    for offset, digest in enumerate(plan.digests):
        sequence = plan.min_sequence + 1 + offset
        if sequence > core.low_water_mark:
            view_change.repropose(
                core, message.view, sequence, digest, message.pre_prepares[offset]
            )


def _restore_slots(core: Core, saved: SavedLog) -> None:
    # Everything above the durable state: after a power loss of all it may exist nowhere else.
    kept = min(core.log_floor, core.executed)
    for record in saved.decided:
        if record.sequence > kept:
            slot = core.log.slot(record.sequence)
            if record.batch:
                slot.bodies[record.digest] = _restore_body(core, record)
            slot.decision = _restore_decision(core, record)
            core.dirty.add(slot.sequence)
    for accepted in saved.accepted:
        if accepted.sequence > kept:
            _restore_accepted(core, core.log.slot(accepted.sequence), accepted)
    for prepared in saved.prepared:
        if prepared.sequence > kept:
            slot = core.log.slot(prepared.sequence)
            if slot.prepared is None or prepared.view > slot.prepared.view:
                slot.prepared = PreparedCertificate(
                    prepared.view, prepared.sequence, prepared.digest, prepared.proof
                )
    for slot in core.log:
        _restore_commit(core, slot)
        certificate = slot.prepared
        valid = certificate is not None and certificate.view >= core.entered_view
        if valid or slot.decision is not None:
            core.highest_prepared = max(core.highest_prepared, slot.sequence)


def _restore_decision(core: Core, record: DecidedRecord) -> CommitCertificate:
    """The certificate of a record. Raises Rejected if it does not say what the record says: the
    log may be that of another cluster."""
    commits: list[Authenticated[Commit]] = []
    for signed in record.commits:
        message = decode_authentic(signed, Kind.COMMIT, _FOREIGN, core.verifier)
        assert isinstance(message, Commit)
        commits.append(Authenticated(message, signed))
    decision = commit_certificate(commits, core.genesis)
    if (decision.sequence, decision.digest) != (record.sequence, record.digest):
        raise Rejected(_FOREIGN, f"the vote log's commits for sequence {record.sequence}")
    return decision


def _end_of_decided(core: Core) -> SequenceNumber:
    """The last of the decided slots that follow each other from the durable state on."""
    end = core.executed
    while (slot := core.log.get(end + 1)) is not None and slot.decision is not None:
        end += 1
    return end


def _restore_body(core: Core, record: AcceptedRecord | DecidedRecord) -> VerifiedBatch:
    """The body of a record, which must be the one that its digest names."""
    batch = core.verifier.restored_batch(record.batch)
    if batch.digest != record.digest:
        raise Rejected(Reason.BAD_BODY, f"the vote log's body of sequence {record.sequence}")
    return batch


def _restore_accepted(core: Core, slot: Slot, record: AcceptedRecord) -> None:
    """A pre-prepare of the present view stands accepted, with my prepare; of an earlier one only
    its body matters."""
    if record.batch:
        slot.bodies[record.digest] = _restore_body(core, record)
        slot.accepted.add(record.digest)
    if record.view != core.view:
        return
    if not core.verifier.is_authentic(record.pre_prepare):
        raise Rejected(_FOREIGN, f"the vote log's pre-prepare for sequence {record.sequence}")
    slot.waiting = None
    vote = PrePrepare(record.view, record.sequence, record.digest)
    slot.pre_prepare = Authenticated(vote, record.pre_prepare)
    core.next_sequence = max(core.next_sequence, record.sequence + 1)
    if not core.is_primary:
        prepare = Prepare(record.view, record.sequence, record.digest)
        slot.prepares.add(Authenticated(prepare, core.signer.sign(prepare)), core.view)
    core.dirty.add(slot.sequence)


def _restore_commit(core: Core, slot: Slot) -> None:
    """The commit I sent follows from the prepared certificate of the present view."""
    certificate = slot.prepared
    if certificate is None or certificate.view != core.view:
        return
    commit = Commit(core.view, slot.sequence, certificate.digest)
    slot.commits.add(Authenticated(commit, core.signer.sign(commit)), core.view)
    for prepare in certificate.proof.prepares:
        message = core.verifier.decode(prepare)
        assert isinstance(message, Prepare)
        slot.prepares.add(Authenticated(message, prepare), core.view)
    core.dirty.add(slot.sequence)
