"""Healing: one mechanism for loss, reconnects, restarts and lag (protocol.md section 8).

Each replica tells its peers what it has and lacks; who has it pushes exactly that. What a status
says is advice: it decides what is sent, never what is believed.
"""

from collections.abc import Iterator, Sequence

from pbft.core import state_source, suspicion
from pbft.core.effects import Broadcast, DecidedRecord, ReadBack, Send
from pbft.core.log import Slot
from pbft.core.normal_case import digests_wanted
from pbft.core.pushes import SMALL_BYTES, PushKey
from pbft.core.shares import UNDER_WAY_BYTES
from pbft.core.state import Core, Mode
from pbft.core.tail import weight
from pbft.crypto.digest import NULL_DIGEST
from pbft.errors import Reason
from pbft.messages import (
    Authenticated,
    BatchBytes,
    CommittedBatch,
    PeerItem,
    Proposal,
    Signed,
    StableCertificate,
    Status,
)
from pbft.types import Micros, ReplicaId, SequenceNumber

CLOCK_OFFSET_MAX_US = 3_600_000_000
"""A peer whose clock is further off than an hour does not vote on what time it is."""

# Telling.


def make_status(core: Core) -> Status:
    """What I have and lack now."""
    prepared = committed = accepted = 0
    low = core.low_water_mark
    missing = []
    for slot in core.log:
        missing += digests_wanted(core, slot)
        if not low < slot.sequence <= core.high_water_mark:
            continue
        bit = 1 << (slot.sequence - low - 1)
        if slot.decision is not None:
            committed |= bit
        if slot.pre_prepare is not None:
            accepted |= bit
            vote = slot.pre_prepare.message
            if slot.is_prepared(vote.view, vote.sequence, vote.digest):
                prepared |= bit
    held = sum(
        1 << signer
        for signer, change in core.view_change.received.items()
        if change.message.view == core.view
    )
    return Status(
        core.view,
        core.mode is Mode.NORMAL,
        low,
        core.executed,
        max(core.now.wall_us, 0),
        core.suspicion.mine,
        suspicion.is_primary_unreachable(core),
        prepared,
        committed,
        accepted,
        held,
        tuple(missing[: core.settings.limits.fetch_digests]),
    )


def advance(core: Core) -> None:
    """Tells the status when it is due, at once when my suspicion changed."""
    told = (core.view, core.suspicion.mine, suspicion.is_primary_unreachable(core))
    now_us = core.now.monotonic_us
    timers = core.settings.timers
    missing = is_something_missing(core)
    interval_us = timers.status_fast_us if missing else timers.status_slow_us
    core.status_due_us = min(core.status_due_us, now_us + interval_us)
    if now_us < core.status_due_us and told == core.suspicion.told:
        return
    core.suspicion.told = told
    core.status_due_us = now_us + interval_us
    core.emit(Broadcast(core.signer.sign(make_status(core))))


def is_something_missing(core: Core) -> bool:
    """Whether peers could push something that this replica waits for."""
    if core.mode is Mode.VIEW_CHANGING or core.transfer is not None or not core.is_trusted:
        return True
    if core.executed < core.low_water_mark or core.suspicion.mine:
        return True
    # One liar that claims to be ahead makes nobody ask more often.
    ahead = sum(status.executed > core.executed for status in core.peers.values())
    behind = ahead >= core.thresholds.weak
    slot = core.log.get(core.executed + 1)
    waiting = slot is not None or behind
    if not waiting:
        core.stalled_since_us = None
        return False
    # A slot in the middle of its three phases is no gap: only one that stays is.
    if core.stalled_at != core.executed or core.stalled_since_us is None:
        core.stalled_at, core.stalled_since_us = core.executed, core.now.monotonic_us
    return core.now.monotonic_us >= core.stalled_since_us + core.settings.timers.status_fast_us


# Pushing.


def check_status(core: Core, sender: ReplicaId) -> Reason | None:
    """Each peer's statuses are looked at at a bounded rate; pure."""
    interval_us = core.settings.limits.status_interval_us
    allowed = core.status_pace.allows(sender, core.now.monotonic_us, interval_us)
    return None if allowed else Reason.RATE_LIMIT


def on_status(core: Core, sender: ReplicaId, authenticated: Authenticated[Status]) -> None:
    """Notes what the peer says of itself and pushes what it lacks, within a budget of bytes."""
    status = authenticated.message
    reason = check_status(core, sender)
    if reason is not None:
        core.reject("status", reason, sender)
        return
    interval_us = core.settings.limits.status_interval_us
    core.status_pace.count(sender, core.now.monotonic_us, interval_us)
    core.peers[sender] = status
    state_source.note_executed(core, sender, status.executed)
    offset_us = status.clock_us - core.now.wall_us
    if abs(offset_us) <= CLOCK_OFFSET_MAX_US:
        core.clock_offsets_us[sender] = offset_us
    else:
        core.clock_offsets_us.pop(sender, None)
    if core.diverged:
        return
    core.pushes[sender].forget_old(core.now.monotonic_us, core.settings.timers.status_fast_us)
    _read_back(core, sender, status.executed)
    _push(core, sender, status)


def _push(core: Core, sender: ReplicaId, status: Status) -> None:
    """Within a budget, and what is under way already counted, a bound."""
    now_us, pushes = core.now.monotonic_us, core.pushes[sender]
    budget, room = core.settings.limits.healing_bytes_per_status, UNDER_WAY_BYTES
    is_first, large = True, set[type[PeerItem]]()
    for key, item in _pushes(core, sender, status):
        size, is_due = _size(item), pushes.allows(key, now_us)
        is_large = size > SMALL_BYTES
        room -= size
        budget -= size if is_due else 0
        # An item may be larger than the budget: the first goes, and the first large one of each
        # kind, whatever is before it: a new-view may be of no use without a decided batch.
        if min(budget, room) < 0 and not is_first and not (is_large and type(item) not in large):
            continue
        is_first = False
        if is_large:
            large.add(type(item))
        if is_due:
            core.emit(Send(sender, item))
            _note_pushed(core, sender, key, item)


def _read_back(core: Core, peer: ReplicaId, executed: SequenceNumber) -> None:
    """Asks the vote log for what the peer can execute next, if only that has it still: a portion at
    a time, and now and then, because the thread that reads is the one that writes votes."""
    hold, now_us = core.holds.get(peer), core.now.monotonic_us
    if hold is None or peer in core.reading_back:
        return
    size = min(core.settings.limits.healing_bytes_per_status, hold.share.room())
    is_early = now_us < hold.read_us + core.settings.timers.status_fast_us // 2
    cold = tuple(n for n in _due_of_tail(core, peer, executed) if core.tail.get(n) is None)
    if cold and size > 0 and not is_early:
        hold.read_us = now_us
        core.reading_back.add(peer)
        core.emit(ReadBack(peer, cold, size))


def _due_of_tail(core: Core, peer: ReplicaId, executed: SequenceNumber) -> Iterator[SequenceNumber]:
    """What this replica is to push now of what has left the log and the peer can take: nothing if
    there is a gap before it."""
    end = min(core.log_floor, core.executed, executed + core.genesis.constants.window)
    hold, now_us = core.holds.get(peer), core.now.monotonic_us
    if executed < core.tail.floor:
        return
    for sequence in range(executed + 1, end + 1):
        # What is under way to a peer without a hold counts in `_push`.
        if hold is None or hold.share.is_due(sequence, now_us):
            yield sequence


def _note_pushed(core: Core, peer: ReplicaId, key: PushKey, item: PeerItem) -> None:
    now_us = core.now.monotonic_us
    core.pushes[peer].note(key, _size(item), now_us, core.settings.timers.status_fast_us)
    hold = core.holds.get(peer)
    # What is in the log is not executed soon, and would take the place of what is next.
    if hold is not None and isinstance(item, CommittedBatch) and int(key[1]) <= core.log_floor:
        hold.share.note_pushed(int(key[1]), weight(item), now_us)


def on_read_back(core: Core, peer: ReplicaId, records: Sequence[DecidedRecord]) -> None:
    """Pushes what the vote log had."""
    core.reading_back.discard(peer)
    if core.diverged:
        return
    for record in records:
        item = CommittedBatch(record.commits, record.batch)
        core.emit(Send(peer, item))
        _note_pushed(core, peer, ("decided", record.sequence), item)


def _pushes(core: Core, sender: ReplicaId, status: Status) -> Iterator[tuple[PushKey, PeerItem]]:
    """What the peer lacks, the most useful first."""
    yield from _view_items(core, sender, status)
    if status.stable_sequence < core.low_water_mark:
        yield ("stable", core.low_water_mark), StableCertificate(core.stable.checkpoints)
    # My own checkpoint votes above both marks: the certificate speaks for those below mine.
    low = max(status.stable_sequence, core.low_water_mark)
    for sequence in sorted(core.checkpoints):
        mine = core.checkpoints[sequence].get(core.me)
        if sequence > low and mine is not None:
            yield ("checkpoint", sequence), mine.signed
    missing = status.missing[: core.settings.limits.fetch_digests]
    if missing:
        bodies = {digest: body for slot in core.log for digest, body in slot.bodies.items()}
        for digest in missing:
            if digest in bodies:
                yield ("body", digest), BatchBytes(bodies[digest].encoded)
    yield from _of_tail(core, sender, status)
    # What is not above its h is of use to it only in order, from the next that it can execute.
    after = core.log.get(max(status.executed, min(core.log_floor, core.executed)) + 1)
    continues = after is not None and after.decision is not None and _is_log_next(core, status)
    above = status.executed if continues else max(status.executed, status.stable_sequence)
    for slot in core.log:
        if slot.sequence > above:
            yield from _slot_items(core, slot, status)


def _of_tail(core: Core, sender: ReplicaId, status: Status) -> Iterator[tuple[PushKey, PeerItem]]:
    hold = core.holds.get(sender)
    if hold is not None:
        interval = core.genesis.constants.checkpoint_interval
        first = (status.executed // interval + 1) * interval
        for end in (first, first + interval):
            known = core.tail.certificates.get(end)
            if known is not None and end < core.low_water_mark:
                yield ("stable", end), StableCertificate(known.checkpoints)
    for sequence in _due_of_tail(core, sender, status.executed):
        if hold is not None and hold.share.room() <= 0:
            return
        if (item := core.tail.get(sequence)) is not None:
            yield ("decided", sequence), item


def _is_log_next(core: Core, status: Status) -> bool:
    """Whether what is in the log is what the peer executes next, or soon."""
    is_near = status.executed + core.genesis.constants.window > core.log_floor
    return is_near and status.executed >= min(core.tail.floor, core.log_floor)


def _view_items(
    core: Core, sender: ReplicaId, status: Status
) -> Iterator[tuple[PushKey, PeerItem]]:
    if core.mode is Mode.NORMAL:
        lacks_view = status.view < core.view or (status.view == core.view and not status.normal)
        if lacks_view and core.new_view is not None:
            yield ("new_view", core.view), core.new_view
    elif status.view <= core.view:
        for signer in sorted(core.view_change.received):
            change = core.view_change.received[signer]
            held = status.view == core.view and status.view_changes >> signer & 1
            if not held and signer != sender and change.message.view >= core.view:
                yield (f"view_change {change.message.view}", signer), change.signed


def _slot_items(core: Core, slot: Slot, status: Status) -> Iterator[tuple[PushKey, PeerItem]]:
    """What the peer lacks of one slot. Fresh slots are left alone: the normal case is under way."""
    if core.now.monotonic_us < slot.touched_us + core.settings.timers.status_fast_us:
        return
    n = slot.sequence
    index = n - status.stable_sequence - 1
    decided = index >= 0 and status.committed >> index & 1
    if slot.decision is not None and not decided:
        body = slot.bodies.get(slot.decision.digest)
        if body is not None or slot.decision.digest == NULL_DIGEST:
            encoded = b"" if body is None else body.encoded
            yield ("decided", n), CommittedBatch(slot.decision.commits, encoded)
            return
    if decided or status.view != core.view or core.mode is not Mode.NORMAL or index < 0:
        return
    pre_prepare = slot.pre_prepare
    if pre_prepare is not None and not status.accepted >> index & 1:
        body = slot.bodies.get(pre_prepare.message.digest)
        if body is not None:
            yield (f"proposal {core.view}", n), Proposal(pre_prepare.signed, body.encoded)
    if not core.is_trusted:
        # The restart made votes of mine anew from the log, which may be another's.
        return
    prepare = slot.prepares.current.get(core.me)
    if prepare is not None and not status.prepared >> index & 1:
        yield ("prepare", n), prepare.signed
    commit = slot.commits.current.get(core.me)
    if commit is not None:
        yield ("commit", n), commit.signed


def _size(item: PeerItem) -> int:
    """About how many bytes an item that healing pushes has."""
    match item:
        case Proposal(batch=batch) | CommittedBatch(batch=batch) | BatchBytes(batch=batch):
            return len(batch) + 1024
        case Signed(payload=payload):
            return len(payload) + 128
        case _:
            return 4096


def next_deadline_us(core: Core) -> Micros:
    """When the next status is due, or when a slot that waits is to be noticed."""
    if core.stalled_since_us is None:
        return core.status_due_us
    noticed_us = core.stalled_since_us + core.settings.timers.status_fast_us
    due_us = core.status_due_us
    return min(due_us, noticed_us) if noticed_us > core.now.monotonic_us else due_us
