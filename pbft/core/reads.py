"""Fast linearizable reads and stale reads (protocol.md section 11).

A linearizable read is answered once its barrier, taken on arrival, is executed. Why that is
enough: a commit at any honest replica means that q - f honest ones were prepared; any q answers
include one of them, whose barrier is therefore at least as high as anything executed anywhere when
the read began.
"""

from pbft.core.effects import Answer
from pbft.core.execution import parts
from pbft.core.held_reads import HeldRead
from pbft.core.state import Core
from pbft.crypto.digest import query_digest, results_digest
from pbft.messages import Consistency, Outcome, ReadReplies, ReadReply, ReadRequest
from pbft.types import ClientKey, Micros, SequenceNumber


def barrier(core: Core) -> SequenceNumber:
    """The highest sequence that may have been executed anywhere, as far as this replica can know.

    Any slot with a prepared certificate of any view, the max-s of the entered new-view, the stable
    checkpoint. A certificate of an older view above that max-s is void: V showed that it cannot
    commit.
    """
    return max(core.new_view_max_sequence, core.low_water_mark, core.highest_prepared)


def on_read(core: Core, client: ClientKey, request: ReadRequest) -> None:
    """Answers at once if it may, else holds the read; refuses beyond the bound."""
    if core.rejoining is not None:
        _refuse(core, client, request)
        return
    at = barrier(core) if request.consistency is Consistency.LINEARIZABLE else 0
    now_us, held = core.now.monotonic_us, core.held_reads
    is_its_turn = held.allows(client, now_us) and not held.waits(client)
    if core.is_trusted and core.executed >= at and is_its_turn:
        _answer(core, client, request)
        return
    size = sum(map(len, request.queries))
    if held.has_room(client, size):
        held.add(HeldRead(client, request, at, now_us, size))
        held.release(core.executed)
    else:
        _refuse(core, client, request)


def _refuse(core: Core, client: ClientKey, request: ReadRequest) -> None:
    refusal = ReadReply(
        request.nonce, query_digest(request.queries), b"", None, core.executed, True
    )
    core.read_replies.setdefault(client, []).append(refusal)


def advance(core: Core) -> None:
    """Answers the held reads whose barrier was executed, and refuses those that waited for too
    long. One commit may release thousands: a step answers as many as its bound allows."""
    held, now_us = core.held_reads, core.now.monotonic_us
    if not held:
        return
    for late in held.expired(now_us - core.settings.timers.request_timeout_us):
        _refuse(core, late.client, late.request)
    if not core.is_trusted:
        return
    held.release(core.executed)
    room = core.settings.limits.read_results_bytes_per_step
    end = core.service.touched + core.settings.limits.read_records_per_step
    while room > 0 and core.service.touched < end and (read := held.take(now_us)) is not None:
        room -= _answer(core, read.client, read.request)


def next_deadline_us(core: Core) -> Micros | None:
    """When held reads are left that can be answered then."""
    return core.held_reads.next_us(core.now.monotonic_us) if core.is_trusted else None


def _answer(core: Core, client: ClientKey, request: ReadRequest) -> int:
    """Queues the answer; returns the bytes of its results, whether they are sent or not.

    Queries beyond the budget of a request are not looked at. A linearizable read is then refused,
    so that the client asks for less at once or orders it; for a stale one there is no other way, so
    it is told.
    """
    service = core.service
    results: list[bytes] = []
    begin = service.touched
    end = begin + core.genesis.limits.records_per_request
    room = limit = core.genesis.limits.results_bytes_per_request
    for query in request.queries:
        if room > 0 and service.touched < end:
            result = service.query(query, core.agreed_time_us)
        elif request.consistency is Consistency.LINEARIZABLE:
            _note_looked_at(core, client, service.touched - begin)
            _refuse(core, client, request)
            return limit - room
        else:
            result = service.exhausted()
        room -= len(result)
        results.append(result)
    _note_looked_at(core, client, service.touched - begin)
    designated = request.nonce % core.thresholds.replicas == core.me
    reply = ReadReply(
        request.nonce,
        query_digest(request.queries),
        results_digest(Outcome.EXECUTED, 0, results),
        tuple(results) if designated or request.full_results else None,
        core.executed,
    )
    core.read_replies.setdefault(client, []).append(reply)
    return limit - room


def _note_looked_at(core: Core, client: ClientKey, records: int) -> None:
    core.pool.note_busy(records)
    core.held_reads.charge(client, records, core.now.monotonic_us)


def flush(core: Core) -> None:
    """Signs what is due to each client, in as few messages as their bound allows; a diverged
    replica says nothing."""
    if not core.diverged:
        for client, replies in core.read_replies.items():
            for part in parts(replies):
                message = ReadReplies(client, core.entered_view, part)
                core.emit(Answer(client, core.signer.sign(message)))
    core.read_replies.clear()
