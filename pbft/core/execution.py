"""Executing decided batches in sequence order, and the replies (OSDI'99 section 4.2; protocol.md
4, 5)."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from pbft.core import amnesia, checkpoint
from pbft.core.effects import Answer, DecidedRecord, EventName, Persist
from pbft.core.log import Slot
from pbft.core.ports import Room
from pbft.core.state import UNLIMITED_REQUESTS, Core
from pbft.crypto.digest import NULL_DIGEST, results_digest
from pbft.limits import ANSWER_BYTES_MAX, REPLIES_BYTES_MAX, REPLIES_MAX
from pbft.messages import (
    Authenticated,
    Outcome,
    ReadReply,
    Replies,
    Reply,
    Request,
    VerifiedBatch,
)
from pbft.types import ReplicaId, SequenceNumber

CORE_DOMAIN = 0
SESSIONS_DOMAIN = 1
AGREED_TIME_KEY = b"agreed_time"
REPLY_BYTES, RESULT_BYTES = 160, 8
"""What a reply and a result weigh besides the results' own bytes."""
AnyReply = TypeVar("AnyReply", Reply, ReadReply)
_REJOIN = struct.Struct(">QQQ")
"""Incarnation, sequence at which its rejoin was executed, agreed time then."""


def reload_replicated(core: Core) -> None:
    """Takes over what the core itself keeps in the replicated state, after it was replaced."""
    core.sessions.reload()
    known = core.state.domain(CORE_DOMAIN).get(AGREED_TIME_KEY)
    core.agreed_time_us = 0 if known is None else int.from_bytes(known[1], "big")
    core.incarnations.clear()
    core.rejoins.clear()
    for replica in range(core.thresholds.replicas):
        record = core.state.domain(CORE_DOMAIN).get(_rejoin_key(replica))
        if record is not None:
            incarnation, sequence, _ = _REJOIN.unpack(record[1])
            _set_incarnation(core, replica, incarnation, sequence)


def advance(core: Core) -> bool:
    """Executes the decided batches that are next, as many as there is time for. Returns whether
    anything was executed."""
    progressed = False
    before = core.executed
    installing = core.transfer is not None and core.transfer.installing
    while not core.diverged and not installing and checkpoint.may_execute(core):
        slot = core.log.get(core.executed + 1)
        if slot is None or slot.decision is None:
            break
        digest = slot.decision.digest
        if digest != NULL_DIGEST and digest not in slot.bodies:
            break
        if core.work_in_step >= core.settings.limits.operations_per_step:
            core.execution_due = True
            break
        _execute_batch(core, slot, slot.bodies.get(digest))
        progressed = True
    if progressed and before < core.log_floor:
        # Caught up with by commit certificates: nobody else needs them from here.
        checkpoint.discard(core)
    return progressed


def _execute_batch(core: Core, slot: Slot, batch: VerifiedBatch | None) -> None:
    """Batch n = executed + 1. Null batches change nothing but the sequence number."""
    assert slot.sequence == core.executed + 1
    count = 0
    if batch is not None:
        core.proposed_time_us = batch.time_us
        # Agreed time never goes back; a primary with a slow clock cannot turn it.
        if batch.time_us > core.agreed_time_us:
            core.agreed_time_us = batch.time_us
            encoded = batch.time_us.to_bytes(8, "big")
            core.state.domain(CORE_DOMAIN).put(AGREED_TIME_KEY, 0, encoded)
        count = _execute_requests(core, slot.sequence, batch.requests)
    core.executed = slot.sequence
    slot.touched_us = core.now.monotonic_us
    core.report(EventName.EXECUTED, slot.sequence, count)
    at_checkpoint = slot.sequence % core.genesis.constants.checkpoint_interval == 0
    _save_decision(core, slot, batch, gates=at_checkpoint)
    if at_checkpoint:
        checkpoint.take(core, slot.sequence)


def _execute_requests(core: Core, sequence: int, requests: Sequence[Authenticated[Request]]) -> int:
    """Executes those that the batch has room for, at least the first; returns how many. The others
    are as if they did not stand in it: they stay pending, and are due in a later batch."""
    limits = core.genesis.limits
    core.results_room, core.records_room = limits.results_bytes_per_batch, limits.records_per_batch
    for count, request in enumerate(requests):
        if core.results_room <= 0 or core.records_room <= 0:
            core.pool.put_back(requests[count:])
            core.requests_at_once = count
            return count
        before = core.records_room
        _execute_request(core, sequence, request)
        core.work_in_step += max(len(request.message.operations), before - core.records_room)
    core.requests_at_once = min(2 * core.requests_at_once, UNLIMITED_REQUESTS)
    return len(requests)


def _save_decision(core: Core, slot: Slot, batch: VerifiedBatch | None, *, gates: bool) -> None:
    """The commit certificate with its body goes to disk (protocol.md section 10).

    Nothing waits for it if the batch was prepared here, because then body and prepared certificate
    are on disk already; a batch that came by certificate gates, and so does one that a checkpoint
    vouches for.
    """
    decision = slot.decision
    assert decision is not None
    prepared = slot.prepared is not None and slot.prepared.digest == decision.digest
    encoded = b"" if batch is None else batch.encoded
    # Its records: pre-prepare, prepared certificate, commit certificate.
    signed = 2 + 2 * len(decision.commits)
    core.tail.note_executed(slot.sequence, len(encoded), signed)
    record = DecidedRecord(slot.sequence, decision.digest, decision.commits, encoded)
    core.emit(Persist(record, gates=gates or not prepared))


def _execute_request(core: Core, sequence: int, request: Authenticated[Request]) -> None:
    """Decides one request (protocol.md section 4) and queues its reply, if one is due."""
    message = request.message
    time_us = core.agreed_time_us
    execute, reply = core.sessions.admit(request, sequence, time_us)
    if execute and message.close_session:
        core.sessions.close(message)
        reply = _reply(request, sequence, time_us, Outcome.SESSION_CLOSED, ())
    elif execute:
        results = _execute_operations(core, sequence, message)
        reply = core.sessions.record(
            message, _reply(request, sequence, time_us, Outcome.EXECUTED, results)
        )
    is_wanted = core.pool.settle(message, core.timeout_us)
    if reply is not None:
        queue_reply(core, request.message, reply, full=is_wanted)


def _execute_operations(core: Core, sequence: int, message: Request) -> tuple[bytes, ...]:
    replica = core.genesis.replica_with_key(message.client)
    if replica is not None:
        return (_execute_rejoin(core, sequence, replica, message.session),)
    limits = core.genesis.limits
    room = Room(limits.results_bytes_per_request, limits.records_per_request)
    results = core.service.execute_all(
        message.operations, core.agreed_time_us, message.client, room
    )
    records = limits.records_per_request - room.records
    core.results_room -= limits.results_bytes_per_request - room.results_bytes
    core.records_room -= records
    core.pool.note_executed(message, records, core.now.monotonic_us, core.timeout_us)
    return tuple(results)


def _execute_rejoin(core: Core, sequence: int, replica: ReplicaId, incarnation: int) -> bytes:
    """Records a rejoin: strictly growing, one open at a time, at most one per minute of agreed
    time."""
    records = core.state.domain(CORE_DOMAIN)
    known = records.get(_rejoin_key(replica))
    if known is not None:
        last, last_sequence, last_time_us = _REJOIN.unpack(known[1])
        closed = sequence > amnesia.last_of(core, last_sequence)
        # Where clocks went wrong and back, agreed time stands still for as long as they were ahead.
        apart_us = abs(core.proposed_time_us - last_time_us)
        late = apart_us >= amnesia.REJOIN_INTERVAL_US
        if not (incarnation > last and closed and late):
            return b"refused"
    value = _REJOIN.pack(incarnation, sequence, core.agreed_time_us)
    records.put(_rejoin_key(replica), 0, value)
    _set_incarnation(core, replica, incarnation, sequence)
    return b"rejoined"


def _set_incarnation(
    core: Core, replica: ReplicaId, incarnation: int, sequence: SequenceNumber
) -> None:
    core.incarnations[replica], core.rejoins[replica] = incarnation, sequence
    if replica != core.me:
        core.view_change.forget_earlier(replica, incarnation)


def _rejoin_key(replica: ReplicaId) -> bytes:
    return b"rejoin/" + replica.to_bytes(2, "big")


def _reply(
    request: Authenticated[Request],
    sequence: int,
    time_us: int,
    outcome: Outcome,
    results: tuple[bytes, ...],
) -> Reply:
    message = request.message
    digest = results_digest(outcome, 0, results)
    return Reply(
        message.session,
        message.number,
        request.digest,
        sequence,
        time_us,
        outcome,
        digest,
        results,
    )


def queue_reply(core: Core, request: Request, reply: Reply, *, full: bool) -> None:
    """Adds a reply to those due to this client; only the designated replica sends full results
    without being asked."""
    designated = request.number % core.thresholds.replicas == core.me
    if reply.results and not full and not designated:
        reply = Reply(
            reply.session,
            reply.number,
            reply.request_digest,
            reply.sequence,
            reply.agreed_time_us,
            reply.outcome,
            reply.results_digest,
            None,
            reply.highest_session,
        )
    core.replies.setdefault(request.client, []).append(reply)


def flush_replies(core: Core) -> None:
    """Signs what is due to each client, in as few messages as their bound allows. A replica that
    does not know yet what it said before, or whose state is wrong, says nothing."""
    if core.recalling is None and not core.diverged:
        for client, replies in core.replies.items():
            for part in parts(replies):
                message = Replies(client, core.entered_view, part)
                core.emit(Answer(client, core.signer.sign(message)))
    core.replies.clear()


def parts(replies: Iterable[AnyReply]) -> list[tuple[AnyReply, ...]]:
    """Replies in groups of bounded size and number; a group has at least one.

    Results that no message can carry, which only a service with results above `result_bytes`
    makes, are left out: the client learns their digest, and this replica lives.
    """
    groups: list[list[AnyReply]] = []
    size = 0
    for reply in replies:
        results = reply.results or ()
        cost = REPLY_BYTES + sum(map(len, results)) + RESULT_BYTES * len(results)
        fits = cost <= ANSWER_BYTES_MAX
        size += cost
        if not groups or size > REPLIES_BYTES_MAX or len(groups[-1]) == REPLIES_MAX:
            groups.append([])
            size = cost
        groups[-1].append(reply if fits else replace(reply, results=None))
    return [tuple(group) for group in groups]
