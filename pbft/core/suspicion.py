"""When a replica suspects its primary (OSDI'99 section 4.4, liveness; protocol.md section 7,
timers).

A request timer that fires makes this replica *suspect* its view, which it tells at once. Only f +
1 that suspect the same view start the view change: one slow or cut-off replica does not exile
itself.
"""

from pbft.core import amnesia
from pbft.core.effects import EventName, Send
from pbft.core.requests import PendingRequest
from pbft.core.state import Core, Mode, Suspicion
from pbft.types import Micros, ReplicaId

BACKOFF_VIEWS_MAX = 8
"""The unreachable-primary timer doubles at most this often."""


def on_link(core: Core, peer: ReplicaId, *, up: bool) -> None:
    """The streams to and from a peer both stand, or one does not."""
    if up:
        core.links_down.pop(peer, None)
        # What was on its way when they broke is lost.
        core.pushes.pop(peer, None)
    else:
        core.links_down.setdefault(peer, core.now.monotonic_us)


def is_primary_unreachable(core: Core) -> bool:
    """Whether my stream to or from the primary has been down for longer than the grace."""
    since_us = core.links_down.get(core.primary)
    grace_us = core.settings.timers.link_grace_us
    return since_us is not None and core.now.monotonic_us >= since_us + grace_us


def _left(core: Core, peer: ReplicaId) -> bool:
    """Whether this peer signed a view-change for a view above mine: it holds what it held
    before."""
    change = core.view_change.received.get(peer)
    return change is not None and change.message.view > core.view


def suspecting(core: Core) -> int:
    """How many replicas, I included, suspect my view by what they last told or signed."""
    peers = sum(
        _left(core, peer) or (status.suspects and status.view == core.view and status.normal)
        for peer, status in core.peers.items()
    )
    return peers + core.suspicion.mine


def finding_unreachable(core: Core) -> int:
    """How many replicas, I included, find the primary of my view unreachable."""
    peers = sum(
        _left(core, peer) or (status.primary_unreachable and status.view == core.view)
        for peer, status in core.peers.items()
    )
    return peers + is_primary_unreachable(core)


def enter_view(core: Core) -> None:
    """Entering a view settles all suspicion and is the only thing that resets deadlines."""
    core.suspicion = Suspicion(told=core.suspicion.told)
    core.pool.enter_view(core.now.monotonic_us, core.timeout_us)


def _is_moot(core: Core, pending: PendingRequest) -> bool:
    """Whether nobody waits for this request any more: decided, acknowledged, or its session
    closed."""
    message = pending.request.message
    return core.sessions.is_settled(message) or core.sessions.is_expired(message)


def advance(core: Core) -> None:
    """Brings my suspicion up to date with the timers, the links and what was settled."""
    suspicion = core.suspicion
    if core.mode is not Mode.NORMAL or not core.is_trusted:
        suspicion.mine = False
        return
    now_us = core.now.monotonic_us
    _advance_unreachable(core, now_us)
    # What was settled meanwhile, by a batch or by a state transfer, is no reason to suspect
    # anybody; forgetting it starts the timer of the client's next request, which may be settled as
    # well.
    while settled := [item for item in core.pool.overdue(now_us) if _is_moot(core, item)]:
        for pending in settled:
            core.pool.settle(pending.request.message, core.timeout_us)
    # What is decided and not yet executed here is no fault of the primary, but for T only: it may
    # have put all that before a request that it keeps back.
    overdue = core.pool.overdue(now_us - core.timeout_us if core.execution_due else now_us)
    rejoin_overdue = amnesia.is_overdue(core)
    suspects = bool(overdue) or suspicion.unreachable_fired or rejoin_overdue
    if suspects and not suspicion.mine:
        core.report(EventName.SUSPECTED, detail="request" if overdue else "unreachable")
    suspicion.mine = suspects


def _advance_unreachable(core: Core, now_us: Micros) -> None:
    """The short timer: runs while a quorum cannot reach the primary, even when idle."""
    suspicion = core.suspicion
    if finding_unreachable(core) < core.thresholds.quorum:
        suspicion.unreachable_deadline_us = None
        suspicion.unreachable_fired = False
    elif suspicion.unreachable_deadline_us is None:
        change = core.view_change
        # What was executed in this view ends the row of those that failed.
        failed = change.failed_views if core.executed == change.executed_at_entry else 0
        backoff = min(failed, BACKOFF_VIEWS_MAX)
        wait_us = core.settings.timers.primary_unreachable_us << backoff
        suspicion.unreachable_deadline_us = now_us + wait_us
    elif now_us >= suspicion.unreachable_deadline_us:
        suspicion.unreachable_fired = True


def relay_pending(core: Core) -> None:
    """At T/2 a timed request goes to all, so that every honest replica times it.

    What else this replica holds of the client goes to the primary again, which may have had no
    place for it, but has by now: each is due when the one before is executed, and to hand them over
    one by one then would be too late for most.
    """
    if core.mode is not Mode.NORMAL:
        return
    for pending in core.pool.take_relays(core.now.monotonic_us):
        pending.is_repeated = True
        for peer in range(core.thresholds.replicas):
            if peer != core.me:
                core.emit(Send(peer, pending.request.signed))
        if not core.is_primary:
            client = pending.request.message.client
            budget = core.settings.limits.healing_bytes_per_status
            for other in core.pool.take_repeats(client, budget):
                core.emit(Send(core.primary, other.request.signed))


def next_deadline_us(core: Core) -> Micros | None:
    """The earliest moment at which `advance` or `relay_pending` has something to do."""
    if core.mode is not Mode.NORMAL:
        return None
    candidates = [core.pool.next_relay_us()]
    if not core.is_trusted:
        return candidates[0]
    if not core.suspicion.mine:
        candidates += [core.pool.next_deadline_us(), core.rejoin_deadline_us]
    if not core.suspicion.unreachable_fired:
        candidates.append(core.suspicion.unreachable_deadline_us)
    down_us = core.links_down.get(core.primary)
    if down_us is not None and not is_primary_unreachable(core):
        candidates.append(down_us + core.settings.timers.link_grace_us)
    known = [candidate for candidate in candidates if candidate is not None]
    return min(known, default=None)
