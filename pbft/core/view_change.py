"""View changes (OSDI'99 section 4.4; protocol.md section 7)."""

from pbft.core import checkpoint, normal_case, suspicion
from pbft.core.certificates import verify_view_change
from pbft.core.effects import (
    Broadcast,
    EventName,
    Halt,
    NewViewRecord,
    Persist,
    Send,
    ViewChangeRecord,
)
from pbft.core.new_view import NewViewPlan, compute_new_view, verify_new_view
from pbft.core.state import Core, Mode
from pbft.crypto.digest import NULL_DIGEST
from pbft.errors import Reason, Rejected
from pbft.messages import Authenticated, NewView, PrePrepare, Signed, ViewChange
from pbft.types import ReplicaId, SequenceNumber, View

# Leaving a view.


def start(core: Core, view: View, cause: str) -> None:
    """Signs the view-change for `view`: the only one this replica ever signs for it."""
    assert view > core.view
    change = core.view_change
    idle = core.executed == change.executed_at_entry and core.pool.count > 0
    if core.mode is Mode.VIEW_CHANGING or idle:
        # A view that failed: never entered, or nothing of what was pending was executed in it.
        change.failed_views += 1
        core.timeout_us = min(core.timeout_us * 2, core.settings.timers.request_timeout_cap_us)
    else:
        change.failed_views = 0
    leave_view(core, view)
    change.deadline_us = None
    change.valid.clear()
    message = ViewChange(
        view,
        core.me,
        core.incarnation,
        core.low_water_mark,
        core.stable.checkpoints,
        tuple(
            slot.prepared.proof
            for slot in core.log
            if slot.prepared is not None
            and core.low_water_mark < slot.sequence <= core.high_water_mark
        ),
    )
    signed = core.signer.sign(message)
    core.emit(Persist(ViewChangeRecord(view, signed)))
    change.received[core.me] = Authenticated(message, signed)
    change.highest[core.me] = signed
    core.emit(Broadcast(signed))
    core.report(EventName.VIEW_CHANGE_STARTED, detail=cause)


def leave_view(core: Core, view: View) -> None:
    """Moves to `view` without being in it yet: nothing accepted or counted in earlier ones
    counts."""
    core.view = view
    core.mode = Mode.VIEW_CHANGING
    for slot in core.log:
        slot.enter_view(view)


def check_view_change(core: Core, message: ViewChange, signer: ReplicaId) -> Reason | None:
    """Whether a view-change could matter now; pure."""
    if message.view < core.view or (message.view == core.view and core.mode is Mode.NORMAL):
        return Reason.VIEW_STALE
    if message.incarnation < core.incarnations.get(signer, 0):
        # Signed before the replica lost its votes: what it promises there it may not know any more.
        return Reason.BAD_VIEW_CHANGE
    if signer == core.me:
        # Mine is noted when it is signed. One that comes back was signed by an earlier incarnation.
        return Reason.UNWANTED
    known = core.view_change.received.get(signer)
    if known is not None and known.message.view == message.view:
        return Reason.DUPLICATE
    if known is not None and known.message.view > message.view:
        return Reason.VIEW_STALE
    interval_us = core.settings.limits.view_change_interval_us
    if not core.view_change.pace.allows(signer, core.now.monotonic_us, interval_us):
        # Only the highest of each signer is kept, and a signer cannot make work at any rate it
        # likes.
        return Reason.RATE_LIMIT
    return None


def on_view_change(core: Core, change: Authenticated[ViewChange]) -> None:
    """Keeps the view-change of the highest view per signer; its certificates are verified when the
    view becomes mine."""
    reason = check_view_change(core, change.message, change.signer)
    if reason is not None:
        core.reject("view_change", reason, change.signer)
        return
    _accuse_of_omission(core, change)
    core.view_change.received[change.signer] = change
    core.view_change.highest[change.signer] = change.signed
    interval_us = core.settings.limits.view_change_interval_us
    core.view_change.pace.count(change.signer, core.now.monotonic_us, interval_us)
    core.view_change.valid.pop(change.signer, None)


def _accuse_of_omission(core: Core, change: Authenticated[ViewChange]) -> None:
    """A commit for (v, n) and a later view-change with h < n and no certificate for n of a view >=
    v: who commits has persisted the certificate, so no honest replica signs both, crashed or
    not."""
    message = change.message
    certified: dict[SequenceNumber, View] = {}
    for proof in message.prepared:
        vote = core.verifier.decode(proof.pre_prepare)
        if isinstance(vote, PrePrepare):
            certified[vote.sequence] = vote.view
    for slot in core.log:
        commit = slot.commits.current.get(change.signer)
        if commit is None or slot.sequence <= message.stable_sequence:
            continue
        view = commit.message.view
        if view < message.view and certified.get(slot.sequence, -1) < view:
            core.accuse("omission", slot.sequence, view, commit.signed, change.signed)


def advance(core: Core) -> bool:
    """Joins, starts, or completes a view change where the rules say so. Returns whether it did."""
    if not core.is_trusted:
        return False
    joined = _join_view(core)
    if joined is not None:
        start(core, joined, "joined")
        return True
    if core.mode is Mode.NORMAL:
        if core.suspicion.mine and suspicion.suspecting(core) >= core.thresholds.weak:
            start(core, core.view + 1, "suspected")
            return True
        return False
    if core.is_primary and _advance_new_view(core):
        return True
    return _advance_deadline(core)


def _join_view(core: Core) -> View | None:
    """w, the (f + 1)-th highest among the highest views that distinct replicas signed for, if above
    mine: at least one honest replica is at w or above, and f alone never move anybody."""
    views = sorted((c.message.view for c in core.view_change.received.values()), reverse=True)
    position = core.thresholds.weak - 1
    if len(views) <= position or views[position] <= core.view:
        return None
    return views[position]


def _advance_deadline(core: Core) -> bool:
    """The timer for the new-view starts when q replicas are at or above my view; then on to the
    next."""
    change = core.view_change
    if core.is_replaying:
        # No new-view counts meanwhile, so none is overdue.
        change.deadline_us = None
        return False
    if _at_or_above(core) < core.thresholds.quorum:
        change.deadline_us = None
        return False
    if change.deadline_us is None:
        change.deadline_us = core.now.monotonic_us + core.timeout_us
    elif core.now.monotonic_us >= change.deadline_us:
        start(core, core.view + 1, "new_view_overdue")
        return True
    return False


def _at_or_above(core: Core) -> int:
    """How many replicas, I included, are at my view or above by what they last told or signed. Who
    entered it counts: its view-change for it may never come to me, and if I had to refuse its
    new-view, which holds one that a rejoin made void, I would wait for ever."""
    signers = {s for s, c in core.view_change.received.items() if c.message.view >= core.view}
    tellers = {peer for peer, status in core.peers.items() if status.view >= core.view}
    return len({core.me} | signers | tellers)


# Entering a view.


def _advance_new_view(core: Core) -> bool:
    """As primary of the view: with q valid view-changes, compute O, persist, tell all, enter."""
    if core.is_replaying:
        return False
    change = core.view_change
    for signer in sorted(change.received):
        received = change.received[signer]
        if received.message.view != core.view or signer in change.valid:
            continue
        if received.message.incarnation < core.incarnations.get(signer, 0):
            continue
        if change.void.get(signer) == core.view:
            continue
        try:
            change.valid[signer] = verify_view_change(
                received.message, received.signed, core.genesis, core.verifier
            )
        except Rejected as error:
            change.void[signer] = core.view
            core.reject("view_change", error.reason, signer)
    if len(change.valid) < core.thresholds.quorum:
        return False
    others = [signer for signer in sorted(change.valid) if signer != core.me]
    chosen = [change.valid[core.me]] if core.me in change.valid else []
    chosen += [change.valid[signer] for signer in others]
    chosen = chosen[: core.thresholds.quorum]
    plan = compute_new_view(chosen)
    if _is_refuted(core, core.view, plan):
        # The others left this view, and one of a later view decided something else.
        return False
    first = plan.min_sequence + 1
    pre_prepares = tuple(
        core.signer.sign(PrePrepare(core.view, first + offset, digest))
        for offset, digest in enumerate(plan.digests)
    )
    message = NewView(core.view, tuple(item.signed for item in chosen), pre_prepares)
    signed = core.signer.sign(message)
    core.emit(Persist(NewViewRecord(core.view, signed)))
    core.emit(Broadcast(signed))
    enter(core, core.view, signed, plan, pre_prepares)
    return True


def check_new_view(core: Core, message: NewView, signer: ReplicaId) -> Reason | None:
    """Whether a new-view could be entered; pure."""
    if message.view < max(core.view, core.view_floor):
        # Also: never below the highest view I signed a view-change for.
        return Reason.VIEW_STALE
    if message.view == 0 or signer != core.thresholds.primary_of(message.view):
        return Reason.NOT_PRIMARY
    if core.is_replaying:
        # A rejoin that makes one of its view-changes void may be among what is executed again.
        return Reason.NOT_NORMAL
    if message.view == core.view and core.mode is Mode.NORMAL:
        accused = ("new_view", signer, message.view, 0) in core.evidence
        known = core.new_view
        same = known is None or core.verifier.decode(known) == message
        return Reason.DUPLICATE if same or accused else None
    return None


def on_new_view(core: Core, new_view: Authenticated[NewView]) -> None:
    """Verifies all of it, recomputing O, persists it, and enters."""
    message = new_view.message
    reason = check_new_view(core, message, new_view.signer)
    if reason is not None:
        core.reject("new_view", reason, new_view.signer)
        return
    if message.view == core.view and core.mode is Mode.NORMAL:
        # Another new-view than the one entered: its author signed two for one view.
        assert core.new_view is not None
        core.accuse("new_view", 0, message.view, core.new_view, new_view.signed)
        core.reject("new_view", Reason.DIGEST_CONFLICT, new_view.signer)
        return
    # Of a view in which something was decided, q - f honest replicas entered without the exception.
    decided = any(
        slot.decision is not None and slot.decision.view == message.view for slot in core.log
    )
    plan = verify_new_view(
        message, core.genesis, core.verifier, {} if decided else core.incarnations
    )
    if _is_refuted(core, 0 if decided else message.view, plan):
        core.reject("new_view", Reason.DIGEST_CONFLICT, new_view.signer)
        return
    for signed in message.view_changes:
        remember_highest(core, message.view, signed)
    core.emit(Persist(NewViewRecord(message.view, new_view.signed)))
    enter(core, message.view, new_view.signed, plan, message.pre_prepares)


def remember_highest(core: Core, view: View, signed: Signed) -> None:
    """A view-change for `view` was in V: its signer may have to be told of it at a recall."""
    assert isinstance(signed.signer, int)
    highest = core.view_change.highest
    known = highest.get(signed.signer)
    before = None if known is None else core.verifier.decode(known)
    if not isinstance(before, ViewChange) or before.view < view:
        highest[signed.signer] = signed


def _is_refuted(core: Core, view: View, plan: NewViewPlan) -> bool:
    """Whether O says something else than what was decided in this view, or in a later one. Such a
    new-view is not the one that q replicas entered, though it may be valid: its author signed two,
    or the view was left. What was decided in an earlier view, O cannot contradict (`repropose`),
    unless void view-changes were let in, which may lack it: then no decision may be contradicted.
    Who has not executed a decision may not know yet which view-changes are void.
    """
    for slot in core.log:
        offset = slot.sequence - plan.min_sequence - 1
        decision = slot.decision
        if decision is None or not 0 <= offset < len(plan.digests):
            continue
        counts = decision.view >= view or slot.sequence > core.executed
        if counts and decision.digest != plan.digests[offset]:
            return True
    return False


def enter(
    core: Core,
    view: View,
    signed: Signed,
    plan: NewViewPlan,
    pre_prepares: tuple[Signed, ...],
) -> None:
    """Adopts min-s, takes O's pre-prepares as those of the view, and votes for them at once."""
    adopt_view(core, view, signed, plan)
    if plan.min_sequence > core.low_water_mark:
        checkpoint.stabilise(core, plan.stable)
    for slot in core.log:
        slot.enter_view(view)
        core.dirty.add(slot.sequence)
    nulls = 0
    for offset, digest in enumerate(plan.digests):
        sequence = plan.min_sequence + 1 + offset
        nulls += digest == NULL_DIGEST
        if sequence > core.low_water_mark:
            repropose(core, view, sequence, digest, pre_prepares[offset])
    detail = _describe(plan, nulls, core.view_change.received)
    core.report(EventName.VIEW_ENTERED, plan.min_sequence, len(plan.digests), detail)
    change = core.view_change
    change.received = {s: c for s, c in change.received.items() if c.message.view > view}
    change.valid.clear()
    change.deadline_us = None
    suspicion.enter_view(core)
    core.status_due_us = core.now.monotonic_us
    forward_pending(core)


def adopt_view(core: Core, view: View, signed: Signed, plan: NewViewPlan) -> None:
    """The view's own numbers; also at a restart."""
    core.view = core.entered_view = view
    core.mode = Mode.NORMAL
    core.new_view = signed
    core.new_view_max_sequence = plan.max_sequence
    core.next_sequence = max(plan.max_sequence, core.low_water_mark) + 1
    core.view_change.executed_at_entry = core.executed
    # Certificates of older views above max-s are void: V showed that they cannot commit.
    core.highest_prepared = plan.max_sequence


def repropose(
    core: Core, view: View, sequence: SequenceNumber, digest: bytes, signed: Signed
) -> None:
    """One entry of O. Executed slots are voted for, not executed again; a contradiction halts."""
    slot = core.log.slot(sequence)
    if slot.decision is not None and slot.decision.digest != digest:
        core.emit(Halt(f"new view {view} puts another batch at the decided sequence {sequence}"))
        return
    slot.waiting = Authenticated(PrePrepare(view, sequence, digest), signed)
    core.dirty.add(sequence)
    if normal_case.digests_wanted(core, slot):
        core.status_due_us = core.now.monotonic_us


def _describe(
    plan: NewViewPlan, nulls: int, received: dict[ReplicaId, Authenticated[ViewChange]]
) -> str:
    """What a view change had to reconcile, for traces and for the simulator's coverage."""
    heights = {change.message.stable_sequence for change in received.values()}
    words = [f"null={nulls}"] if nulls else []
    if plan.digests:
        words.append("reproposed")
    if len(heights) > 1:
        words.append("unequal_h")
    return " ".join(words)


def forward_pending(core: Core) -> None:
    """Requests still pending at a backup go to the new primary."""
    if core.is_primary:
        return
    budget = core.settings.limits.healing_bytes_per_status
    for pending in core.pool.pending():
        budget -= len(pending.encoded)
        if budget < 0:
            return
        core.emit(Send(core.primary, pending.request.signed))
