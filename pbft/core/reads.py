"""Fast linearizable reads and stale reads (protocol.md section 11).

A linearizable read is answered once its barrier, taken on arrival, is executed. Why that is
enough: a commit at any honest replica means that q - f honest ones were prepared; any q answers
include one of them, whose barrier is therefore at least as high as anything executed anywhere when
the read began.
"""

from pbft.core.effects import Answer
from pbft.core.execution import parts
from pbft.core.state import Core, HeldRead
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
    if _may_answer(core, at):
        _answer(core, client, request)
        return
    size = sum(map(len, request.queries))
    if _is_full(core, client, size):
        _refuse(core, client, request)
    else:
        core.held_reads.append(HeldRead(client, request, at, core.now.monotonic_us, size))


def _is_full(core: Core, client: ClientKey, size: int) -> bool:
    """Whether holding one more read would pass a bound, in all or of this client."""
    limits, held = core.settings.limits, core.held_reads
    of_client = sum(item.client == client for item in held)
    too_many = len(held) >= limits.held_reads or of_client >= limits.held_reads_per_client
    return too_many or sum(item.size_bytes for item in held) + size > limits.held_read_bytes


def _refuse(core: Core, client: ClientKey, request: ReadRequest) -> None:
    refusal = ReadReply(
        request.nonce, query_digest(request.queries), b"", None, core.executed, True
    )
    core.read_replies.setdefault(client, []).append(refusal)


def _may_answer(core: Core, at: SequenceNumber) -> bool:
    return core.is_trusted and core.executed >= at


def advance(core: Core) -> None:
    """Answers the held reads whose barrier was executed, and refuses those that waited for too
    long. One commit may release thousands: a step answers as many as its bound allows."""
    core.are_reads_due = False
    if not core.held_reads:
        return
    room = core.settings.limits.read_results_bytes_per_step
    end = core.service.touched + core.settings.limits.read_records_per_step
    waiting = []
    for held in core.held_reads:
        may = _may_answer(core, held.barrier)
        if may and room > 0 and core.service.touched < end:
            room -= _answer(core, held.client, held.request)
        elif core.now.monotonic_us >= held.since_us + core.settings.timers.request_timeout_us:
            _refuse(core, held.client, held.request)
        else:
            waiting.append(held)
            core.are_reads_due |= may
    core.held_reads = waiting


def next_deadline_us(core: Core) -> Micros | None:
    """At once, if held reads are left that can be answered."""
    return core.now.monotonic_us if core.are_reads_due else None


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
            core.pool.note_busy(service.touched - begin)
            _refuse(core, client, request)
            return limit - room
        else:
            result = service.exhausted()
        room -= len(result)
        results.append(result)
    core.pool.note_busy(service.touched - begin)
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


def flush(core: Core) -> None:
    """Signs what is due to each client, in as few messages as their bound allows; a diverged
    replica says nothing."""
    if not core.diverged:
        for client, replies in core.read_replies.items():
            for part in parts(replies):
                message = ReadReplies(client, core.entered_view, part)
                core.emit(Answer(client, core.signer.sign(message)))
    core.read_replies.clear()
