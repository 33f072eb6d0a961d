"""Recall and amnesia: a replica that lost its vote log must not vote as if it had never voted
(protocol.md section 10).

After every start a replica asks its peers what it told them before, and signs nothing until q - 1
of them answered: with itself they are a quorum, so every vote of its own that mattered has an
honest witness among them. If it is shown a vote that its log lacks, it has amnesia. Then it asks,
as a request under its own key whose session is its new incarnation, to rejoin; executed at s, that
is replicated state. At a stable checkpoint at or above s + L every slot it might have voted for is
settled, and it votes again.
"""

from pbft.core import checkpoint
from pbft.core.certificates import verify_checkpoints
from pbft.core.effects import (
    Broadcast,
    EventName,
    Persist,
    RejoinRecord,
    SavedLog,
    Send,
)
from pbft.core.settings import SECOND
from pbft.core.state import Core, Recalling, Rejoining
from pbft.errors import Reason, Rejected
from pbft.messages import (
    REJOIN_OPERATION,
    Authenticated,
    Commit,
    Kind,
    NewView,
    Prepare,
    PrePrepare,
    Recall,
    Recalled,
    Request,
    Signed,
    ViewChange,
)
from pbft.types import Micros, ReplicaId, SequenceNumber, View

REJOIN_INTERVAL_US = 60 * SECOND
"""Of agreed time between two rejoins of one replica."""
ASK_INTERVAL_US = 1 * SECOND

# Recalling: the asker.


def begin(core: Core, saved: SavedLog, nonce: bytes) -> None:
    """At a start: recall; a rejoin that a crash interrupted goes on once that is answered. What the
    operator declares begins one at once."""
    core.own_votes = {
        (Kind.COMMIT, record.view, record.sequence): record.digest for record in saved.prepared
    }
    for record in saved.accepted:
        is_mine = core.thresholds.primary_of(record.view) == core.me
        kind = Kind.PRE_PREPARE if is_mine else Kind.PREPARE
        core.own_votes[kind, record.view, record.sequence] = record.digest
    if saved.new_view is not None and core.thresholds.primary_of(saved.new_view.view) == core.me:
        message = core.verifier.decode(saved.new_view.new_view)
        assert isinstance(message, NewView)
        for signed in message.pre_prepares:
            vote = core.verifier.decode(signed)
            assert isinstance(vote, PrePrepare)
            core.own_votes[Kind.PRE_PREPARE, vote.view, vote.sequence] = vote.digest
    rejoin = saved.rejoin
    core.incarnation = 0 if rejoin is None else rejoin.incarnation
    if core.incarnation:
        core.view_floor = _highest_decided_view(core)
    if core.settings.rejoin:
        _lose(core)
        return
    # The first recall leaves a record when it is answered. Whatever else may be here by then was
    # sent by peers, which heal a replica that does not know yet whether it lost something.
    core.recalling = Recalling(nonce, core.view, is_empty=rejoin is None)
    if rejoin is not None and not rejoin.done:
        core.rejoining = Rejoining(core.incarnation)


def on_recalled(core: Core, answer: Authenticated[Recalled]) -> None:
    """One peer's memory of me. Every statement in it carries a signature: mine, or a
    certificate's."""
    recalling, message = core.recalling, answer.message
    if recalling is None or message.nonce != recalling.nonce or message.replica != core.me:
        core.reject("recalled", Reason.UNWANTED, answer.signer)
        return
    if len(message.votes) > 4 * core.genesis.constants.window * len(Kind):
        raise Rejected(Reason.OVERSIZE, "more votes than there are slots")
    stable = verify_checkpoints(
        message.stable_sequence, message.checkpoints, core.genesis, core.verifier
    )
    lacking = recalling.is_empty and stable.sequence > 0
    if message.view_change is not None:
        _require_mine(core, message.view_change)
        change = core.verifier.decode(message.view_change)
        assert isinstance(change, ViewChange)
        # One of an earlier incarnation was signed before a loss that is settled since.
        current = change.incarnation >= core.incarnation
        lacking |= current and change.view > recalling.persisted_view
    shown_to = 0
    for vote in message.votes:
        _require_mine(core, vote)
        if core.rejoining is None:
            lacking |= _is_lacking(core, vote)
        else:
            shown_to = max(shown_to, _sequence(core, vote))
    if core.rejoining is not None:
        core.rejoining.shown_to = max(core.rejoining.shown_to, shown_to)
    if stable.sequence > core.low_water_mark:
        # The peers hold no votes below it any more, and nobody needs one of mine there.
        checkpoint.stabilise(core, stable)
    recalling.lacking |= lacking
    recalling.answered.add(answer.signer)


def _require_mine(core: Core, signed: Signed) -> None:
    if signed.signer != core.me or not core.verifier.is_authentic(signed):
        raise Rejected(Reason.BAD_CERTIFICATE, "a statement that this replica did not sign")


def _sequence(core: Core, signed: Signed) -> SequenceNumber:
    vote = core.verifier.decode(signed)
    assert isinstance(vote, PrePrepare | Prepare | Commit)
    return vote.sequence


def _is_lacking(core: Core, signed: Signed) -> bool:
    """Whether I signed this and do not know it. What the durable checkpoint settled was truncated,
    and what was signed before a rejoin is settled by it."""
    assert core.recalling is not None
    vote = core.verifier.decode(signed)
    assert isinstance(vote, PrePrepare | Prepare | Commit)
    rejoined = core.rejoins.get(core.me)
    settled = 0 if rejoined is None else rejoined + core.genesis.constants.window
    if vote.sequence <= max(core.state.durable_sequence, settled):
        return False
    if vote.view > core.recalling.persisted_view:
        return True
    if _is_bygone(vote, core.recalling.persisted_view):
        return False
    return core.own_votes.get((signed.kind, vote.view, vote.sequence)) != vote.digest


def _is_bygone(vote: PrePrepare | Prepare | Commit, persisted_view: View) -> bool:
    """A pre-prepare of a view below the persisted one says nothing about a loss: an honest log may
    lack it. O is on disk in the new-view by which this replica entered its view, which the next
    one replaces, and an entry of O whose body never came has no other record.

    Nothing is missed by it. Take a directory rolled back to a log R. This replica signs in the
    view it is in only, which never falls, and persists a view (its new-view or view-change) before
    it signs anything there. So a pre-prepare below the view of R was signed before R was written
    and does not show that anything came after R. One that does is of R's view or a later one:
    those are compared, and R still holds the new-view of R's own view, with O.

    If a record is lost without a rollback, a pre-prepare of a past view does no harm either: it
    binds its author within its own view, where this replica never signs again. What later views
    are owed are prepared certificates. Commits bear witness of those, and are compared in every
    view; so are prepares, whose records stay until the durable checkpoint passes them.
    """
    return isinstance(vote, PrePrepare) and vote.view < persisted_view


def note_loss(core: Core) -> None:
    """A statement of mine came back that is not on record. Nobody else can have signed it, and
    nothing leaves before its record is durable."""
    if core.recalling is not None:
        core.recalling.lacking = True
    elif core.rejoining is None:
        _lose(core)


def _lose(core: Core) -> None:
    """From now on, until rejoined, this replica signs no vote. The incarnation grows with the
    clock."""
    known = core.incarnations.get(core.me, 0)
    core.incarnation = max(core.now.wall_us, known + 1, core.incarnation + 1)
    core.rejoining = Rejoining(core.incarnation)
    core.emit(Persist(RejoinRecord(core.incarnation, done=False)))
    core.report(EventName.AMNESIA, value=core.me)


# Recalling: the peer.


def on_recall(core: Core, recall: Authenticated[Recall]) -> None:
    """Tells a peer everything it signed that is held here above h. Allowed at any time: after a
    power loss all ask at once."""
    peer = recall.signer
    interval_us = core.settings.limits.recall_interval_us
    if not core.recall_pace.allows(peer, core.now.monotonic_us, interval_us):
        core.reject("recall", Reason.RATE_LIMIT, peer)
        return
    core.recall_pace.count(peer, core.now.monotonic_us, interval_us)
    answer = Recalled(
        peer,
        recall.message.nonce,
        core.view,
        core.low_water_mark,
        core.stable.checkpoints,
        core.view_change.highest.get(peer),
        _votes_of(core, peer),
    )
    core.emit(Send(peer, core.signer.sign(answer)))


def _votes_of(core: Core, peer: ReplicaId) -> tuple[Signed, ...]:
    """The peer's pre-prepares, prepares and commits above h, each once."""
    held: dict[bytes, Signed] = {}
    for slot in core.log:
        if slot.sequence <= core.low_water_mark:
            continue
        found: list[Signed] = []
        for pre_prepare in (slot.pre_prepare, slot.waiting):
            found += [] if pre_prepare is None else [pre_prepare.signed]
        for votes in (slot.prepares, slot.commits):
            for known in (votes.current.get(peer), votes.later.get(peer)):
                found += [] if known is None else [known.signed]
        if slot.prepared is not None:
            found += [slot.prepared.proof.pre_prepare, *slot.prepared.proof.prepares]
        if slot.decision is not None:
            found += slot.decision.commits
        held.update((vote.signature, vote) for vote in found if vote.signer == peer)
    return tuple(held.values())


# Rejoining.


def advance(core: Core) -> None:
    """Asks again where no answer came, and ends recall and rejoin when they are complete."""
    if core.recalling is not None:
        _advance_recall(core, core.recalling)
    if core.recalling is not None:
        return
    if core.incarnations.get(core.me, 0) > core.incarnation:
        # The log knows of an incarnation before anybody else: one that does not was rolled back.
        _lose(core)
    if core.rejoining is not None:
        _advance_rejoin(core, core.rejoining)


def _advance_recall(core: Core, recalling: Recalling) -> None:
    now_us = core.now.monotonic_us
    if len(recalling.answered) >= core.thresholds.recalls:
        core.recalling = None
        if recalling.lacking:
            _lose(core)
        elif recalling.is_empty:
            # From now on the directory is not empty: an idle start is not mistaken for a loss.
            core.emit(Persist(RejoinRecord(core.incarnation, done=True)))
        core.own_votes.clear()
        core.pool.rearm(now_us, core.timeout_us)
        core.dirty.update(slot.sequence for slot in core.log)
        return
    if recalling.ask_us <= now_us:
        recalling.ask_us = now_us + core.settings.timers.status_fast_us
        core.emit(Broadcast(core.signer.sign(Recall(core.me, recalling.nonce))))


def _advance_rejoin(core: Core, rejoining: Rejoining) -> None:
    now_us = core.now.monotonic_us
    executed_at = rejoined_at(core, core.me, rejoining.incarnation)
    if executed_at is not None:
        rejoining.ask_us = now_us + ASK_INTERVAL_US
        settled = executed_at + core.genesis.constants.window
        # Only the durable state tells a later start that the rejoin was executed.
        is_durable = core.state.durable_sequence >= executed_at
        if core.executed >= core.low_water_mark >= settled and is_durable:
            if rejoining.shown_to > settled:
                # Voted for after this very rejoin: the log is a copy from before its end.
                _lose(core)
                return
            core.rejoining = None
            core.view_floor = _highest_decided_view(core)
            core.emit(Persist(RejoinRecord(rejoining.incarnation, done=True)))
            core.report(EventName.REJOINED, executed_at)
            core.dirty.update(slot.sequence for slot in core.log)
        return
    if now_us < rejoining.ask_us:
        return
    if core.transfer is not None or core.executed < core.low_water_mark:
        # What became of it is not to be seen in a state from before.
        rejoining.asked_us = None
    if rejoining.asked_us is not None and now_us >= rejoining.asked_us + REJOIN_INTERVAL_US:
        # Refused: too soon after another one. A new incarnation, because this one was decided.
        _lose(core)
        return
    rejoining.ask_us = now_us + ASK_INTERVAL_US
    if rejoining.asked_us is None:
        rejoining.asked_us = now_us
    key = core.genesis.replicas[core.me]
    request = Request(key, rejoining.incarnation, 1, 0, 0, (REJOIN_OPERATION,))
    core.emit(Broadcast(core.signer.sign(request)))


def _highest_decided_view(core: Core) -> View:
    """Of the commit certificates here: a replica that lost its votes enters no lower view."""
    return max((slot.decision.view for slot in core.log if slot.decision), default=0)


def next_deadline_us(core: Core) -> Micros | None:
    """When to ask again."""
    candidates: list[Micros] = []
    if core.recalling is not None:
        candidates.append(core.recalling.ask_us)
    elif core.rejoining is not None:
        candidates.append(core.rejoining.ask_us)
    return min(candidates, default=None)


# Rejoins of others.


def rejoined_at(core: Core, replica: ReplicaId, incarnation: int) -> int | None:
    """The sequence at which this incarnation's rejoin was executed, as far as my state goes."""
    if core.incarnations.get(replica) != incarnation:
        return None
    return core.rejoins.get(replica)


def last_of(core: Core, sequence: SequenceNumber) -> SequenceNumber:
    """The last sequence at which a rejoin that was executed at s bars the next one of its replica.
    The first checkpoint at or above s + L is below it."""
    constants = core.genesis.constants
    return sequence + constants.window + constants.checkpoint_interval


def is_open(core: Core) -> bool:
    """Whether somebody waits for a stable checkpoint at or above s + L: it counts as pending. It
    does until it bars no other one: in an idle cluster, a replica that loses its votes again would
    come no nearer to that than by one sequence with every rejoin that is refused."""
    window = core.genesis.constants.window
    return any(
        core.low_water_mark < sequence + window or core.executed < last_of(core, sequence)
        for sequence in core.rejoins.values()
    )


def is_overdue(core: Core) -> bool:
    """Whether an open rejoin waits although nothing was executed for T: the primary must propose
    empty batches when nothing else comes."""
    now_us = core.now.monotonic_us
    if not is_open(core):
        core.rejoin_deadline_us = None
        return False
    mark = (core.executed, core.view)
    if core.rejoin_deadline_us is None or core.rejoin_mark != mark:
        core.rejoin_mark = mark
        core.rejoin_deadline_us = now_us + core.timeout_us
    return now_us >= core.rejoin_deadline_us
