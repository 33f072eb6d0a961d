"""Checkpoints, watermarks, garbage collection (OSDI'99 section 4.3; protocol.md section 6)."""

from pbft.core.certificates import CheckpointCertificate, checkpoint_certificate
from pbft.core.effects import (
    Broadcast,
    EventName,
    Merge,
    Persist,
    StableRecord,
    Truncate,
)
from pbft.core.state import Core
from pbft.crypto.digest import NULL_DIGEST
from pbft.errors import Reason
from pbft.messages import Authenticated, Checkpoint, CommittedBatch, VerifiedStable
from pbft.types import Digest, SequenceNumber

UNSEALED_MAX = 1
"""Checkpoints whose digest may be under way while more is executed."""
UNMERGED_WINDOWS_MAX = 4
"""How far, in units of L, what is executed may be ahead of what is durable while a merge is under
way."""


def check(core: Core, checkpoint: Checkpoint) -> Reason | None:
    """Whether a checkpoint message could matter now; no state is changed."""
    sequence = checkpoint.sequence
    if sequence % core.genesis.constants.checkpoint_interval:
        return Reason.BAD_CHECKPOINT
    if sequence <= core.low_water_mark:
        return Reason.SEQUENCE_LOW
    if sequence > core.high_water_mark + core.genesis.constants.window:
        # f replicas far ahead would move nothing; a laggard learns the certificate from a status.
        return Reason.SEQUENCE_HIGH
    return None


def take(core: Core, sequence: SequenceNumber) -> None:
    """Seals the state after n (a multiple of K); `sealed` follows once its digest is known.

    What a vote for it vouches for is on disk first (protocol.md section 6): executing n emitted its
    decided record as one that gates, and with it, in order, go the records of every batch before n.
    """
    core.state.seal(sequence)
    core.unsealed.add(sequence)


def may_execute(core: Core) -> bool:
    """Whether the digests and the durable state are not too far behind.

    One digest may be under way, and one merge for 4 L: what is executed meanwhile grows in memory
    and in the log. A replica that is slower with them than the others are falls behind as a whole,
    and is healed as a whole; where all are, h stands still, and clients wait.
    """
    if len(core.unsealed) > UNSEALED_MAX:
        return False
    ahead = core.executed - core.state.durable_sequence
    return core.merging is None or ahead < UNMERGED_WINDOWS_MAX * core.genesis.constants.window


def sealed(core: Core, sequence: SequenceNumber, digest: Digest) -> None:
    """Votes for the digest of the state after n, or compares it with what the others said."""
    assert sequence <= core.executed
    core.unsealed.discard(sequence)
    certificate = core.certified.pop(sequence, None) or core.tail.certificates.get(sequence)
    if sequence >= core.low_water_mark:
        core.sealed[sequence] = digest
    if sequence > core.low_water_mark:
        vote(core)
    elif sequence == core.low_water_mark:
        _settle(core)
    elif certificate is not None:
        _compare(core, certificate, digest)


def vote(core: Core) -> None:
    """Signs a checkpoint for every sealed state above h that it has not been signed for, if
    trusted."""
    if not core.is_trusted:
        return
    for sequence in sorted(core.sealed):
        known = core.checkpoints.get(sequence, {})
        if sequence > core.low_water_mark and core.me not in known:
            message = Checkpoint(sequence, core.sealed[sequence])
            signed = core.signer.sign(message)
            core.emit(Broadcast(signed))
            accept(core, Authenticated(message, signed))


def on_checkpoint(core: Core, checkpoint: Authenticated[Checkpoint]) -> None:
    """A peer's vote for a state digest."""
    reason = check(core, checkpoint.message)
    if reason is not None:
        core.reject("checkpoint", reason, checkpoint.signer)
        return
    accept(core, checkpoint)


def accept(core: Core, checkpoint: Authenticated[Checkpoint]) -> None:
    """Takes the first vote of each signer for each sequence; stabilises when q match."""
    message = checkpoint.message
    votes = core.checkpoints.setdefault(message.sequence, {})
    known = votes.setdefault(checkpoint.signer, checkpoint)
    if known.message.digest != message.digest:
        core.accuse("checkpoint", message.sequence, 0, known.signed, checkpoint.signed)
        core.reject("checkpoint", Reason.DIGEST_CONFLICT, checkpoint.signer)
        return
    matching = [votes[s] for s in sorted(votes) if votes[s].message.digest == message.digest]
    if len(matching) >= core.thresholds.quorum:
        stabilise(core, checkpoint_certificate(matching, core.genesis))


def on_stable(core: Core, stable: VerifiedStable) -> None:
    """A certificate that a peer sent because it thinks this replica lacks it."""
    certificate = checkpoint_certificate(stable.checkpoints, core.genesis)
    if certificate.sequence > core.low_water_mark:
        stabilise(core, certificate)
    elif is_needed_below(core, certificate.sequence):
        core.certified[certificate.sequence] = certificate


def is_needed_below(core: Core, sequence: SequenceNumber) -> bool:
    """Whether the certificate of a checkpoint that h has passed is of use: this replica comes to it
    yet, or is computing its digest. Without any, nothing that it executes until it is at h could
    become durable, and all of it would stay in memory and in the log."""
    is_to_come = sequence in core.catch_up or sequence in core.unsealed
    is_known = sequence in core.certified or sequence in core.tail.certificates
    return is_to_come and not is_known


def stabilise(core: Core, certificate: CheckpointCertificate) -> None:
    """Moves h to n, for which q replicas signed one digest. Nothing less moves h."""
    sequence = certificate.sequence
    assert sequence > core.low_water_mark
    core.stable = certificate
    core.next_sequence = max(core.next_sequence, sequence + 1)
    core.emit(Persist(StableRecord(sequence, certificate.digest, certificate.checkpoints)))
    core.report(EventName.CHECKPOINT_STABLE, sequence)
    core.tail.note_stable(certificate)
    for known in [known for known in core.checkpoints if known <= sequence]:
        del core.checkpoints[known]
    floor = core.settings.timers.request_timeout_us
    core.timeout_us = max(floor, core.timeout_us // 2)
    discard(core)
    # Slots beyond the old H may be acceptable now.
    core.dirty.update(slot.sequence for slot in core.log if slot.waiting is not None)
    _settle(core)


def discard(core: Core) -> None:
    """Drops old slots. One interval below h is kept, so that a slightly late peer needs no
    transfer, and what this replica itself has still to execute; also the decided batches above the
    states that peers fetch, and above the durable state, which is the next to be fetched: a peer
    that fetched a state which nobody can lead on from would be no further."""
    gone = core.log.discard(core.log_floor, core.to_execute)
    lowest = _needed_by_peers(core)
    for slot in gone:
        decision = slot.decision
        if slot.sequence <= lowest or decision is None:
            continue
        body = slot.bodies.get(decision.digest)
        if body is not None or decision.digest == NULL_DIGEST:
            encoded = b"" if body is None else body.encoded
            core.tail.keep(slot.sequence, CommittedBatch(decision.commits, encoded))
    core.tail.trim(lowest, core.settings.limits.tail_bytes)


def _needed_by_peers(core: Core) -> SequenceNumber:
    """What was decided above it may be needed by a peer that fetches a state, or will."""
    return min([core.state.durable_sequence, *(hold.sequence for hold in core.holds.values())])


def _truncate(core: Core) -> None:
    """Lets go, on disk, of what neither this replica nor a peer needs. What is kept for peers is
    bounded: more than the state weighs would cost more than to fetch it anew."""
    limits = core.settings.limits
    bound = max([limits.tail_disk_bytes, *(hold.size for hold in core.holds.values())])
    core.tail.cut(_needed_by_peers(core), core.state.durable_sequence, bound)
    # Said again though it may be the same: one Truncate deletes so much and no more.
    core.emit(Truncate(core.tail.floor))


def _settle(core: Core) -> None:
    """Compares my state at h with the certified one, and makes it durable if they agree."""
    sequence = core.low_water_mark
    mine = core.sealed.get(sequence)
    for known in [known for known in core.sealed if known < sequence]:
        del core.sealed[known]
    if mine is not None:
        _compare(core, core.stable, mine)


def _compare(core: Core, certificate: CheckpointCertificate, mine: Digest) -> None:
    """My state at a checkpoint and what q replicas say that it is."""
    if mine == certificate.digest:
        core.mergeable = certificate
        merge(core)
    elif not core.diverged:
        core.diverged = True
        if core.transfer is not None and not core.transfer.installing:
            # It compared with leaves that are not believed any more.
            core.transfer = None
        core.report(EventName.STATE_DIVERGED, certificate.sequence)


def merge(core: Core) -> None:
    """Starts making the last state that agrees with a certificate durable (nearly always that at
    h), unless that is under way or done."""
    certificate = core.mergeable
    # A transfer compares with the durable state, which therefore must not move under it.
    idle = core.merging is None and core.transfer is None and not core.diverged
    if idle and certificate is not None and core.state.durable_sequence < certificate.sequence:
        core.merging = certificate.sequence
        core.emit(Merge(certificate.sequence, certificate.digest, certificate.checkpoints))


def merged(core: Core, sequence: SequenceNumber) -> None:
    """The state at `sequence` is durable: only now may the log below it go (protocol.md section
    6)."""
    assert core.merging == sequence
    core.merging = None
    _truncate(core)
    discard(core)
    merge(core)
