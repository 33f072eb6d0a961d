"""Executing decided batches in sequence order, and the replies (OSDI'99 section 4.2; protocol.md
4, 5)."""

from pbft.core import checkpoint
from pbft.core.effects import Answer, DecidedRecord, EventName, Persist
from pbft.core.log import Slot
from pbft.core.state import Core
from pbft.crypto.digest import NULL_DIGEST, results_digest
from pbft.messages import Authenticated, Outcome, Replies, Reply, Request, VerifiedBatch

CORE_DOMAIN = 0
SESSIONS_DOMAIN = 1
AGREED_TIME_KEY = b"agreed_time"


def reload_replicated(core: Core) -> None:
    """Takes over what the core itself keeps in the replicated state, after it was replaced."""
    core.sessions.reload()
    known = core.state.domain(CORE_DOMAIN).get(AGREED_TIME_KEY)
    core.agreed_time_us = 0 if known is None else int.from_bytes(known[1], "big")


def advance(core: Core) -> bool:
    """Executes every decided batch that is next. Returns whether anything was executed."""
    progressed = False
    while not core.diverged and not (core.transfer is not None and core.transfer.installing):
        slot = core.log.get(core.executed + 1)
        if slot is None or slot.decision is None:
            break
        digest = slot.decision.digest
        if digest != NULL_DIGEST and digest not in slot.bodies:
            break
        _execute_batch(core, slot, slot.bodies.get(digest))
        progressed = True
    return progressed


def _execute_batch(core: Core, slot: Slot, batch: VerifiedBatch | None) -> None:
    """Batch n = executed + 1. Null batches change nothing but the sequence number."""
    assert slot.sequence == core.executed + 1
    count = 0
    if batch is not None:
        # Agreed time never goes back; a primary with a slow clock cannot turn it.
        if batch.time_us > core.agreed_time_us:
            core.agreed_time_us = batch.time_us
            encoded = batch.time_us.to_bytes(8, "big")
            core.state.domain(CORE_DOMAIN).put(AGREED_TIME_KEY, 0, encoded)
        for request in batch.requests:
            _execute_request(core, slot.sequence, request)
        count = len(batch.requests)
    core.executed = slot.sequence
    slot.touched_us = core.now.monotonic_us
    core.report(EventName.EXECUTED, slot.sequence, count)
    at_checkpoint = slot.sequence % core.genesis.constants.checkpoint_interval == 0
    _save_decision(core, slot, batch, gates=at_checkpoint)
    if at_checkpoint:
        checkpoint.take(core, slot.sequence)


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
        results = tuple(
            core.service.execute(operation, time_us, message.client)
            for operation in message.operations
        )
        reply = core.sessions.record(
            message, _reply(request, sequence, time_us, Outcome.EXECUTED, results)
        )
    core.pool.settle(message, core.now.monotonic_us, core.timeout_us)
    if reply is not None:
        queue_reply(core, request.message, reply, full=False)


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
    """Adds a reply to those due to this client; only the designated replica sends full results."""
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
    """Signs what is due to each client, once per client; a diverged replica says nothing."""
    if not core.diverged:
        for client, replies in core.replies.items():
            message = Replies(client, core.entered_view, tuple(replies))
            core.emit(Answer(client, core.signer.sign(message)))
    core.replies.clear()
