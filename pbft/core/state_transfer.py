"""State transfer: fetching the state of a stable checkpoint (OSDI'99 section 4.6; protocol.md
section 9).

Target: certificate and leaves from every peer; then the differing buckets, shared out among the
peers that hold exactly that checkpoint; each bucket is verified against its leaf; then one atomic
installation. A replica that diverged first counts its own leaves anew: it compares with those.
"""

from dataclasses import dataclass

from pbft.core import checkpoint, execution, normal_case
from pbft.core.certificates import checkpoint_certificate
from pbft.core.effects import EventName, Install, Send, Truncate
from pbft.core.settings import SECOND
from pbft.core.state import Core, Fetch, Transfer
from pbft.core.state_source import walk_bytes
from pbft.errors import Reason
from pbft.limits import MIB, TRANSFER_FLOOR_RATE
from pbft.messages import (
    StateChunk,
    StateRequest,
    VerifiedLeaves,
)
from pbft.types import Micros, ReplicaId, SequenceNumber

RETRY_US = 1_000_000
"""A source that delivered nothing for so long is passed over for as long; leaves are asked for
again."""
STALLS_MAX = 4
"""Each time it stalled doubles what a source is given, so many times at most."""
SLOWER_FACTOR = 2
"""When nothing is left to ask for, a share may take so many times what one took that is here."""
SPARED_US = 200_000
"""How long the others are left to decide without a replica that fetches state ..."""
NEEDED_FIRST_US = 5_000_000
NEEDED_CAP_US = 60_000_000
"""... and how long it does not leave them to it after they did not: at first, and at most. It
doubles if they do not again within the same time after that."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a replica that is behind h waits for pushed batches before it asks for state, and
    what of them must be executed meanwhile to be left the same time again."""

    wait_us: Micros
    intervals: int
    """So many times K batches, half of what is missing, ..."""
    size: int
    """... or bodies of so many bytes, however few they are."""


PATIENCE = Patience(200_000, 1, MIB)
PATIENCE_AFTER_TRANSFER = Patience(5_000_000, 4, 8 * MIB)
"""Its sources have on disk what came after it, and another would be overtaken as that one was."""

RECOUNT_US = 6_000
"""From one portion of counting the own leaves anew to the next: half of the time is for others."""


def is_needed(core: Core) -> bool:
    """Whether the own state is behind h with the batches in between not here, or is wrong."""
    if core.diverged:
        return True
    return core.executed < core.low_water_mark


def least_useful(core: Core) -> SequenceNumber:
    """The lowest checkpoint that is worth fetching.

    Not h itself: it moves on while the sources are still making their state there durable. What
    they decided above a snapshot that they pin, they push; so one window below h will do, and where
    nobody has that, for its disk is slower than execution, any state above the own one.
    """
    if core.diverged:
        return core.low_water_mark
    if core.transfer is not None and core.transfer.takes_any:
        return core.executed + 1
    return max(core.executed + 1, core.low_water_mark - core.genesis.constants.window)


# Target.


def advance(core: Core) -> None:
    """Begins a transfer that is needed, drops one that is not, and replaces sources that stall."""
    now_us = core.now.monotonic_us
    if not is_needed(core):
        core.behind_since_us = None
        core.follows_transfer = False
        if core.transfer is not None and not core.transfer.installing:
            core.transfer = None
        return
    if core.transfer is not None and _is_overtaken(core, core.transfer):
        core.transfer = None
    if core.transfer is None:
        if core.behind_since_us is None or _has_come_closer(core):
            core.behind_since_us, core.behind_goal = now_us, _patience_goal(core)
            core.behind_bytes = core.tail.executed_bytes + _patience(core).size
        patient = now_us < core.behind_since_us + _patience(core).wait_us and not core.diverged
        if not patient and core.merging is None and _knows_own_leaves(core):
            core.transfer = Transfer()
            core.report(EventName.STATE_TRANSFER_STARTED, core.low_water_mark)
            _ask_for_leaves(core, core.transfer)
        return
    if not core.transfer.installing:
        _replace_stalled(core, core.transfer)


def _patience(core: Core) -> Patience:
    return PATIENCE_AFTER_TRANSFER if core.follows_transfer else PATIENCE


def _has_come_closer(core: Core) -> bool:
    return core.executed >= core.behind_goal or core.tail.executed_bytes >= core.behind_bytes


def _patience_goal(core: Core) -> SequenceNumber:
    """Were any progress enough, a liar that kept the decided batches could push one at a time, for
    as long as there are any, while nobody else has them."""
    half = (core.low_water_mark - core.executed) // 2
    enough = _patience(core).intervals * core.genesis.constants.checkpoint_interval
    return core.executed + max(1, min(half, enough))


def _knows_own_leaves(core: Core) -> bool:
    """Whether a transfer can compare with the own state.

    If that proved wrong, the disk may have lost a write: a record is wrong though its leaf is not,
    and would stay. So the records are counted, a portion at a time.
    """
    if not core.diverged:
        return True
    if core.now.monotonic_us < core.recount_due_us:
        return False
    core.recount_due_us = core.now.monotonic_us + RECOUNT_US
    return core.state.recount()


def _is_overtaken(core: Core, transfer: Transfer) -> bool:
    """Whether pushed batches brought the own state past the one under transfer."""
    certificate = transfer.certificate
    if certificate is None or transfer.installing or core.diverged:
        return False
    return core.executed >= certificate.sequence


def next_deadline_us(core: Core) -> Micros | None:
    """When a transfer has to be begun or looked after."""
    if core.transfer is None:
        if core.behind_since_us is None or core.merging is not None:
            return None
        until_us = core.behind_since_us + _patience(core).wait_us
        return core.recount_due_us if core.diverged else until_us
    if core.transfer.installing:
        return None
    overdue_us = [
        min(fetch.progress_us + fetch.patience_us, fetch.due_us)
        for fetch in core.transfer.fetching.values()
    ]
    return min([core.transfer.asked_us + RETRY_US, *overdue_us, *core.transfer.stalled.values()])


def _ask_for_leaves(core: Core, transfer: Transfer) -> None:
    """Everybody but the sources: asking those again would unpin what they are serving."""
    transfer.asked_us = core.now.monotonic_us
    passed_over = transfer.sources | _passed_over(transfer)
    for peer in range(core.thresholds.replicas):
        if peer != core.me and peer not in passed_over:
            core.emit(Send(peer, StateRequest(least_useful(core), 0)))


def _passed_over(transfer: Transfer) -> set[ReplicaId]:
    """Peers that are no sources as long as there are others."""
    return transfer.demoted | transfer.slow | transfer.stalled.keys()


def check_leaves(core: Core, sender: ReplicaId) -> Reason | None:
    """Whether leaves of this source could be of use."""
    transfer = core.transfer
    if transfer is None or transfer.installing:
        return Reason.UNWANTED
    if sender in transfer.demoted:
        return Reason.BAD_SNAPSHOT
    return Reason.UNWANTED if sender in _passed_over(transfer) else None


def on_leaves(core: Core, sender: ReplicaId, leaves: VerifiedLeaves) -> None:
    """A source's certificate and leaves: the first right ones fix what is transferred."""
    reason = check_leaves(core, sender)
    if reason is not None:
        core.reject("state_leaves", reason, sender)
        return
    transfer = core.transfer
    assert transfer is not None
    certificate = checkpoint_certificate(leaves.checkpoints, core.genesis)
    if certificate.sequence < least_useful(core):
        core.reject("state_leaves", Reason.SEQUENCE_LOW, sender)
        return
    known = transfer.certificate
    if known is not None and known.sequence != certificate.sequence:
        # It answers the last of several requests, and so pins this checkpoint and no other.
        _take_back(core, transfer, sender)
        transfer.others[sender] = certificate.sequence
        holders = {p for p, held in transfer.others.items() if held == certificate.sequence}
        if len(holders) <= len(transfer.sources):
            _assign(core, transfer)
            return
        # More peers hold this one. A liar that answers first, with a checkpoint that nobody else
        # holds, would be the only source of it, and as slow as it dared.
        for peer in sorted(transfer.sources):
            _take_back(core, transfer, peer)
            transfer.slow.add(peer)
        transfer = core.transfer = _another_round(transfer)
        transfer.sources = holders
    if transfer.certificate is None:
        differing = core.state.stage(leaves.leaves, certificate.digest)
        if differing is None:
            transfer.sources.clear()
            transfer.demoted.add(sender)
            core.reject("state_leaves", Reason.BAD_SNAPSHOT, sender)
            return
        transfer.certificate = certificate
        transfer.todo = int.from_bytes(differing, "little")
        transfer.sizes = tuple(leaf.size for leaf in leaves.leaves)
        transfer.walk_bytes = walk_bytes(leaves.leaves)
    transfer.sources.add(sender)
    transfer.others.pop(sender, None)
    told = transfer.sources | _passed_over(transfer)
    _assign(core, transfer, expected=core.thresholds.replicas - 1 - len(told))


def _another_round(transfer: Transfer) -> Transfer:
    """Nobody holds that checkpoint any more: on with whatever is newest, but who lied or was slow
    is known, and whether there is anything young enough."""
    return Transfer(
        demoted=transfer.demoted,
        stalls=transfer.stalls,
        slow=transfer.slow | transfer.stalled.keys(),
        asked_us=transfer.asked_us,
        takes_any=transfer.takes_any,
    )


def _assign(core: Core, transfer: Transfer, expected: int = 0) -> None:
    """Gives idle sources their share of what is left; installs when nothing is. A share each is
    kept for so many that are expected to come; whoever is done earlier takes that, too."""
    certificate = transfer.certificate
    if certificate is None:
        return
    if not transfer.todo and not transfer.fetching:
        transfer.installing = True
        core.emit(Install(certificate.sequence, certificate.digest, certificate.checkpoints))
        return
    idle = [peer for peer in sorted(transfer.sources) if peer not in transfer.fetching]
    for position, peer in enumerate(idle):
        share = _share(transfer.todo, len(idle) - position + expected)
        if not share:
            return
        transfer.todo &= ~share
        size = sum(size for bucket, size in enumerate(transfer.sizes) if share >> bucket & 1)
        size += transfer.walk_bytes
        now_us, patience_us = core.now.monotonic_us, _patience_us(transfer, peer)
        due_us = now_us + patience_us + size * SECOND // TRANSFER_FLOOR_RATE
        transfer.fetching[peer] = Fetch(share, now_us, due_us, patience_us)
        _ask(core, transfer, peer)


def _patience_us(transfer: Transfer, peer: ReplicaId) -> Micros:
    return RETRY_US << min(transfer.stalls[peer], STALLS_MAX)


def _share(todo: int, among: int) -> int:
    """The lowest buckets of the bitmap, one part in `among` of them."""
    count = -(-todo.bit_count() // among)
    share = 0
    for _ in range(count):
        lowest = todo & -todo
        share |= lowest
        todo ^= lowest
    return share


def _ask(core: Core, transfer: Transfer, peer: ReplicaId) -> None:
    assert transfer.certificate is not None
    fetch = transfer.fetching[peer]
    core.chunk_requests += 1
    fetch.number = core.chunk_requests
    fetch.progress_us = core.now.monotonic_us
    sequence = transfer.certificate.sequence
    buckets = _bitmap(core, fetch.buckets)
    core.emit(Send(peer, StateRequest(sequence, sequence, buckets, fetch.cursor, fetch.number)))


def _bitmap(core: Core, buckets: int) -> bytes:
    return buckets.to_bytes((core.genesis.constants.buckets + 7) // 8, "little")


def check_chunk(core: Core, sender: ReplicaId) -> Reason | None:
    """Whether records of this source could be of use."""
    wanted = core.transfer is not None and sender in core.transfer.fetching
    return None if wanted else Reason.UNWANTED


def on_chunk(core: Core, sender: ReplicaId, chunk: StateChunk) -> None:
    """Records of the buckets that this source was asked for.

    Only the answer to the running request is looked at: one that is late, or that the network
    doubled, is no lie.
    """
    transfer = core.transfer
    fetch = None if transfer is None else transfer.fetching.get(sender)
    if transfer is None or fetch is None or chunk.number != fetch.number:
        core.reject("state_chunk", Reason.UNWANTED, sender)
        return
    advances = not chunk.cursor or chunk.cursor > fetch.cursor
    share = _bitmap(core, fetch.buckets)
    if not advances or not core.state.stage_records(chunk.records, share):
        _demote(core, transfer, sender)
        return
    if chunk.cursor:
        fetch.cursor = chunk.cursor
        _ask(core, transfer, sender)
        return
    wrong = int.from_bytes(core.state.staged(share), "little")
    if wrong:
        fetch.buckets = wrong
        _demote(core, transfer, sender)
        return
    del transfer.fetching[sender]
    if not transfer.todo:
        _hurry(core, transfer, fetch)
    _assign(core, transfer)


def _hurry(core: Core, transfer: Transfer, done: Fetch) -> None:
    """Only what others are fetching is left: a source that is much slower than the one whose share
    is here is not waited for, because the others' snapshots do not stay for ever."""
    now_us = core.now.monotonic_us
    took_us = SLOWER_FACTOR * (now_us - done.begun_us)
    for peer, fetch in transfer.fetching.items():
        parts = -(-fetch.buckets.bit_count() // done.buckets.bit_count())
        due_us = fetch.begun_us + took_us * parts
        due_us = max(due_us, now_us) + _patience_us(transfer, peer)
        fetch.due_us = min(fetch.due_us, due_us)


def _demote(core: Core, transfer: Transfer, peer: ReplicaId) -> None:
    """It lied: nothing it says counts while there is anybody else."""
    core.reject("state_chunk", Reason.BAD_SNAPSHOT, peer)
    transfer.demoted.add(peer)
    _take_back(core, transfer, peer)
    _assign(core, transfer)


def _take_back(core: Core, transfer: Transfer, peer: ReplicaId) -> None:
    """It is no source any more: what it was to deliver is for the others."""
    transfer.sources.discard(peer)
    fetch = transfer.fetching.pop(peer, None)
    if fetch is not None:
        # Verifying what is incomplete drops it from the stage.
        wrong = core.state.staged(_bitmap(core, fetch.buckets))
        transfer.todo |= int.from_bytes(wrong, "little")


def _replace_stalled(core: Core, transfer: Transfer) -> None:
    now_us = core.now.monotonic_us
    for peer, fetch in sorted(transfer.fetching.items()):
        if now_us >= fetch.due_us:
            transfer.slow.add(peer)
            _take_back(core, transfer, peer)
        elif now_us >= fetch.progress_us + fetch.patience_us:
            transfer.stalled[peer] = now_us + fetch.patience_us
            transfer.stalls[peer] += 1
            _take_back(core, transfer, peer)
    for peer, until_us in sorted(transfer.stalled.items()):
        if now_us >= until_us and transfer.sources:
            # It holds its snapshot still, or stalls once more.
            del transfer.stalled[peer]
            transfer.sources.add(peer)
    _assign(core, transfer)
    if transfer.installing:
        return
    if not transfer.sources and transfer.certificate is not None:
        core.transfer = _another_round(transfer)
        _ask_for_leaves(core, core.transfer)
    elif now_us < transfer.asked_us + RETRY_US:
        return
    elif transfer.fetching:
        transfer.asked_us = now_us
    else:
        if not transfer.sources:
            _forgive(core, transfer)
        _ask_for_leaves(core, transfer)


def _forgive(core: Core, transfer: Transfer) -> None:
    """The others do not answer, so whoever was slow is asked again, and for less; liars only when
    all lied."""
    transfer.takes_any = True
    transfer.stalled.clear()
    transfer.slow.clear()
    if len(transfer.demoted) == core.thresholds.replicas - 1:
        transfer.demoted.clear()


def installed(core: Core, sequence: SequenceNumber) -> None:
    """The state at `sequence` is installed and durable: go on from there."""
    transfer = core.transfer
    assert transfer is not None and transfer.installing and transfer.certificate is not None
    certificate = transfer.certificate
    core.transfer = None
    core.behind_since_us = None
    core.follows_transfer = True
    core.diverged = False
    core.executed = sequence
    core.tail.restart(sequence)
    core.held_reads.restart()
    execution.reload_replicated(core)
    core.sealed = {sequence: certificate.digest}
    core.unsealed.clear()
    core.certified.clear()
    core.mergeable = None
    for votes in core.checkpoints.values():
        # What I signed above it may have been of a wrong state.
        votes.pop(core.me, None)
    if certificate.sequence > core.low_water_mark:
        checkpoint.stabilise(core, certificate)
    checkpoint.discard(core)
    core.emit(Truncate(sequence))
    core.next_sequence = max(core.next_sequence, sequence + 1)
    normal_case.requeue(core)
    core.dirty.update(slot.sequence for slot in core.log)
    core.report(EventName.STATE_TRANSFER_FINISHED, sequence)


def is_vote_spared(core: Core, waiting_since_us: Micros) -> bool:
    """Whether the others are left to decide a batch that came at that time.

    Where state is under transfer nothing is executed for now, and a vote that q others make
    superfluous costs all of them as much as one that counts. If they do not decide without it
    soon, it is needed, and so are the next ones.
    """
    now_us = core.now.monotonic_us
    if core.transfer is None or now_us < core.votes_needed_until_us:
        return False
    if now_us >= waiting_since_us + SPARED_US:
        is_again = now_us < core.votes_needed_until_us + core.votes_needed_span_us
        span_us = min(2 * core.votes_needed_span_us, NEEDED_CAP_US) if is_again else NEEDED_FIRST_US
        core.votes_needed_span_us = span_us
        core.votes_needed_until_us = now_us + span_us
        return False
    return True
