"""The source side of a state transfer (protocol.md section 9): a snapshot is pinned for each peer
that asks for leaves, and its records are served at a bounded rate.
"""

from collections.abc import Sequence
from dataclasses import replace

from pbft.core.effects import Send
from pbft.core.ports import Snapshot
from pbft.core.settings import SECOND
from pbft.core.shares import share_of
from pbft.core.state import Core, Pin
from pbft.core.tail import Hold
from pbft.errors import Reason
from pbft.limits import (
    CHUNK_COST_BYTES,
    CHUNK_SCAN_BYTES,
    CHUNK_SCAN_RECORDS,
    TRANSFER_FLOOR_RATE,
)
from pbft.messages import Leaf, StableCertificate, StateLeaves, StateRequest
from pbft.types import Micros, ReplicaId, SequenceNumber

HASTE_US = 60_000_000
"""A target that asks for leaves so soon after it was served records did not get what it needs,"""
HASTE_MAX = 3
"""and is served twice as fast under load, so often at most."""
WAIT_FACTOR = 2
"""So many times what a peer took to fetch its share, a snapshot stays for it while it waits for
other sources."""


def walk_bytes(leaves: Sequence[Leaf]) -> int:
    """What looking for the records of some buckets is taken to weigh: a source walks through all of
    the state for any share of it, as buckets are scattered over the keys, and each chunk ends when
    it has seen so many records or so many bytes."""
    by_count = -(-sum(leaf.count for leaf in leaves) // CHUNK_SCAN_RECORDS)
    by_size = sum(leaf.size for leaf in leaves) // CHUNK_SCAN_BYTES
    return (by_count + by_size) * CHUNK_COST_BYTES


def check_state_request(core: Core, sender: ReplicaId, request: StateRequest) -> Reason | None:
    """Leaves and chunks are served to each peer at a bounded rate; pure."""
    now_us = core.now.monotonic_us
    if request.sequence == 0:
        allowed = core.leaves_pace.allows(sender, now_us, core.settings.limits.leaves_interval_us)
    else:
        allowed = core.chunk_pace.allows(sender, now_us, core.settings.limits.chunk_interval_us)
    return None if allowed else Reason.RATE_LIMIT


def on_state_request(core: Core, sender: ReplicaId, request: StateRequest) -> None:
    """Serves leaves and chunks of a snapshot that stays pinned for this peer."""
    now_us = core.now.monotonic_us
    reason = check_state_request(core, sender, request)
    if reason is not None:
        core.reject("state_request", reason, sender)
        return
    if request.sequence == 0:
        _note_haste(core, sender)
        core.leaves_pace.count(sender, now_us, core.settings.limits.leaves_interval_us)
        release(core, sender)
        installing = core.transfer is not None and core.transfer.installing
        if core.diverged or installing or core.state.durable_sequence < max(request.at_least, 1):
            core.reject("state_request", Reason.SEQUENCE_HIGH, sender)
            return
        _pin(core, sender)
        return
    pin = core.snapshots.get(sender)
    if pin is None or pin.snapshot.sequence != request.sequence:
        core.reject("state_request", Reason.SEQUENCE_LOW, sender)
        return
    core.chunk_pace.count(sender, now_us, core.settings.limits.chunk_interval_us)
    pin.used_us = core.holds[sender].used_us = now_us
    core.chunks_asked[sender] = request
    serve_chunks(core)


def _note_haste(core: Core, peer: ReplicaId) -> None:
    """A peer that comes again was served too slowly: what was decided meanwhile outgrew what is
    kept, or it took its sources for dead. Each time it is served twice as fast."""
    served_us = core.served_us.get(peer)
    is_again = served_us is not None and core.now.monotonic_us < served_us + HASTE_US
    core.haste[peer] = min(core.haste.get(peer, 0) + 1, HASTE_MAX) if is_again else 0
    core.served_us.pop(peer, None)


def _pin(core: Core, peer: ReplicaId) -> None:
    """Pins the durable state for a peer and tells it the leaves.

    The pin has an end that no request moves, because a peer that asks now and then would keep the
    disk from reusing anything for ever. It is late enough for every honest target, which gives a
    source time for its share of the state S at TRANSFER_FLOOR_RATE and then shares out again what
    others left. If only one of k sources delivers, it waits for the time of S / k and is then
    asked for the rest, which is the time of S in all, and RETRY_US per round, which the grace
    covers; with more that deliver it is less. A target that comes later finds the pin gone, asks
    for leaves again, and keeps every bucket that did not change meanwhile.
    """
    now_us, limits = core.now.monotonic_us, core.settings.limits
    snapshot = core.state.pin()
    leaves = snapshot.leaves()
    size = sum(leaf.size for leaf in leaves) + walk_bytes(leaves)
    ends_us = now_us + limits.transfer_grace_us + size * SECOND // TRANSFER_FLOOR_RATE
    core.snapshots[peer] = Pin(snapshot, now_us, now_us, ends_us)
    share = share_of(core.me, peer, core.thresholds.replicas)
    core.holds[peer] = Hold(_leads_on_from(core, peer, snapshot), size, share, now_us, now_us)
    core.emit(Send(peer, StateLeaves(StableCertificate(snapshot.certificate), leaves)))


def _leads_on_from(core: Core, peer: ReplicaId, snapshot: Snapshot) -> SequenceNumber:
    """What comes after this has to be kept: the snapshot, or the peer's own state if that can be
    led on from, which may turn out to be the shorter way."""
    told = core.peers.get(peer)
    if told is None or told.executed < core.tail.floor:
        return snapshot.sequence
    return min(told.executed, snapshot.sequence)


def serve_chunks(core: Core) -> None:
    """Sends records for which it is time, to whoever has waited longest first."""
    limits = core.settings.limits
    while core.chunks_asked and core.now.monotonic_us >= core.chunks_due_us:
        peer = next(iter(core.chunks_asked))
        request = core.chunks_asked.pop(peer)
        chunk = core.snapshots[peer].snapshot.chunk(request.buckets, request.cursor)
        size = sum(len(record.key) + len(record.value) for record in chunk.records)
        is_busy = core.pool.count > 0 or core.log.get(core.executed + 1) is not None
        rate = limits.chunk_bytes_per_second
        if is_busy:
            rate = min(rate, limits.chunk_bytes_per_second_busy << core.haste.get(peer, 0))
        core.served_us[peer] = core.now.monotonic_us
        core.chunks_due_us = core.now.monotonic_us + max(size, CHUNK_COST_BYTES) * SECOND // rate
        core.emit(Send(peer, replace(chunk, number=request.number)))


def next_chunk_due_us(core: Core) -> Micros | None:
    """When somebody's records may be sent."""
    return core.chunks_due_us if core.chunks_asked else None


def release(core: Core, peer: ReplicaId) -> None:
    """Unpins what this peer was fetching."""
    core.chunks_asked.pop(peer, None)
    pin = core.snapshots.pop(peer, None)
    if pin is not None:
        pin.snapshot.release()


def release_idle(core: Core) -> None:
    """Unpins snapshots that nobody has asked about for a while, or that were pinned for long
    enough, and later lets go of what was decided after them."""
    now_us = core.now.monotonic_us
    for peer in sorted(core.snapshots):
        pin = core.snapshots[peer]
        if now_us >= min(_idle_at_us(core, pin), pin.ends_us):
            release(core, peer)
            # What the peer executed until now was of its own state: its time begins here.
            core.holds[peer].used_us = now_us
    for peer in sorted(core.holds.keys() - core.snapshots.keys()):
        hold = core.holds[peer]
        if hold.sequence >= core.log_floor or now_us >= _idle_at_us(core, hold):
            del core.holds[peer]


def _idle_at_us(core: Core, used: Pin | Hold) -> Micros:
    """Who took long to fetch its share may wait as long for others to deliver theirs, and take as
    long to install it."""
    span_us = WAIT_FACTOR * (used.used_us - used.begun_us)
    return used.used_us + max(core.settings.limits.transfer_idle_us, span_us)


def note_executed(core: Core, peer: ReplicaId, executed: SequenceNumber) -> None:
    """What a peer says that it has executed. While a snapshot is pinned for it, that is still of
    its own state, which may be wrong."""
    hold = core.holds.get(peer)
    if hold is None:
        return
    hold.share.note(executed, core.now.monotonic_us)
    if peer not in core.snapshots and executed > hold.sequence:
        hold.sequence, hold.used_us = executed, core.now.monotonic_us
