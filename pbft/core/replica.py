"""The replica: dispatch only. Each handler lives in the file of its section of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from pbft.core import (
    amnesia,
    checkpoint,
    execution,
    normal_case,
    reads,
    recovery,
    request,
    state_source,
    state_transfer,
    status,
    suspicion,
    view_change,
)
from pbft.core.effects import DecidedRecord, Effect, SavedLog
from pbft.core.held_reads import HeldReads
from pbft.core.ports import CertificateVerifier, Service, Signer, State
from pbft.core.relevance import Candidate, relevance
from pbft.core.requests import RequestPool
from pbft.core.sessions import SessionTable
from pbft.core.settings import Settings
from pbft.core.state import Core
from pbft.core.tail import Tail
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Commit,
    Inbound,
    NewView,
    Prepare,
    PrePrepare,
    ReadRequest,
    Recall,
    Recalled,
    Request,
    StateChunk,
    StateRequest,
    Status,
    VerifiedBatch,
    VerifiedCommitted,
    VerifiedLeaves,
    VerifiedProposal,
    VerifiedStable,
    ViewChange,
)
from pbft.types import ClientKey, Digest, Instant, Micros, ReplicaId, SequenceNumber, View

CHUNK_NUMBER_BYTES = 6
"""Of the first number of a request for a chunk: leaves room to count in 64 bits for ever."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What an operator wants to know about a replica."""

    replica: ReplicaId
    view: View
    mode: str
    is_primary: bool
    low_water_mark: SequenceNumber
    executed: SequenceNumber
    stable_digest: Digest
    """Certified state digest at the low water mark; empty before the first checkpoint."""
    pending_requests: int
    evidence: int
    transferring: bool
    diverged: bool
    tail_memory_bytes: int
    tail_log_bytes: int
    """What is kept for peers that are behind: in memory, and in the vote log."""


class Replica:
    """One replica's protocol. Every method takes the time and returns effects in their order."""

    def __init__(
        self,
        settings: Settings,
        genesis: Genesis,
        signer: Signer,
        verifier: CertificateVerifier,
        state: State,
        service: Service,
        saved: SavedLog,
    ) -> None:
        """Restores what `saved` and the durable state say; `start` then asks the others."""
        self.core = Core(
            settings,
            genesis,
            signer,
            verifier,
            state,
            service,
            RequestPool(settings.limits),
            SessionTable(
                state.domain(execution.SESSIONS_DOMAIN),
                genesis.limits,
                genesis.open_admission,
                genesis.replicas,
            ),
            Tail(genesis.constants.checkpoint_interval),
            HeldReads(settings.limits),
            timeout_us=settings.timers.request_timeout_us,
        )
        self._saved: SavedLog | None = saved
        recovery.restore(self.core, saved)
        self._expected_us: Micros | None = None
        self._busy_us: Micros = 0
        """RequestPool.busy_us at the beginning of the step."""
        self._attention_us: Micros = 0
        """From when on a routine step is finished like any other."""
        self._is_postponed = False
        """A routine step left something for later."""

    # Events.

    def start(self, now: Instant, nonce: bytes) -> list[Effect]:
        """Asks the peers what this replica told them before; `nonce` is 32 random bytes. Once q - 1
        answered, what was decided before the restart is executed. Call it once, first."""
        self._begin(now)
        assert self._saved is not None, "started twice"
        amnesia.begin(self.core, self._saved, nonce)
        self.core.chunk_requests = int.from_bytes(nonce[:CHUNK_NUMBER_BYTES])
        self._saved = None
        self.core.status_due_us = now.monotonic_us
        effects = self._finish()
        checkpoint.discard(self.core)
        return effects

    def receive(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> list[Effect]:
        """Something a peer sent, as the verifier admitted it."""
        self._begin(now)
        try:
            self._dispatch(sender, inbound)
        except Rejected as error:
            self.core.reject(_kind_of(inbound), error.reason, sender)
        return self._finish(routine=_is_routine(inbound))

    def submit(
        self, authenticated: Authenticated[Request], full_results: bool, now: Instant
    ) -> list[Effect]:
        """A request from the client itself."""
        self._begin(now)
        request.on_submit(self.core, authenticated, full_results)
        return self._finish(routine=True)

    def read(self, client: ClientKey, read: ReadRequest, now: Instant) -> list[Effect]:
        """A fast or stale read."""
        self.take_read(client, read, now)
        return self.answer_reads(now)

    def take_read(self, client: ClientKey, read: ReadRequest, now: Instant) -> None:
        """One of several reads that came together: `answer_reads` is to follow at once."""
        self._begin(now)
        reads.on_read(self.core, client, read)

    def answer_reads(self, now: Instant) -> list[Effect]:
        """Answers the reads that were taken, each client's with one signature."""
        self._begin(now)
        return self._finish(routine=True)

    def link(self, peer: ReplicaId, up: bool, now: Instant) -> list[Effect]:
        """The streams to and from a peer both stand (`up`), or one of them broke."""
        self._begin(now)
        suspicion.on_link(self.core, peer, up=up)
        return self._finish()

    def sealed(self, sequence: SequenceNumber, digest: Digest, now: Instant) -> list[Effect]:
        """The digest of the state that was sealed at `sequence` is known."""
        self._begin(now)
        checkpoint.sealed(self.core, sequence, digest)
        return self._finish()

    def merged(self, sequence: SequenceNumber, now: Instant) -> list[Effect]:
        """A Merge effect is done."""
        self._begin(now)
        checkpoint.merged(self.core, sequence)
        return self._finish()

    def installed(self, sequence: SequenceNumber, now: Instant) -> list[Effect]:
        """An Install effect is done."""
        self._begin(now)
        state_transfer.installed(self.core, sequence)
        return self._finish()

    def read_back(
        self, peer: ReplicaId, records: Sequence[DecidedRecord], now: Instant
    ) -> list[Effect]:
        """A ReadBack effect is done."""
        self._begin(now)
        status.on_read_back(self.core, peer, records)
        return self._finish()

    def tick(self, now: Instant) -> list[Effect]:
        """A deadline passed."""
        self._begin(now)
        return self._finish()

    def next_deadline_us(self) -> Micros | None:
        """When to call `tick` if nothing else happens before (monotonic clock)."""
        core = self.core
        candidates = [
            status.next_deadline_us(core),
            suspicion.next_deadline_us(core),
            core.view_change.deadline_us if core.is_trusted else None,
            state_transfer.next_deadline_us(core),
            state_source.next_chunk_due_us(core),
            amnesia.next_deadline_us(core),
            reads.next_deadline_us(core),
            normal_case.next_deadline_us(core),
        ]
        if core.held:
            candidates.append(core.held_due_us)
        if core.execution_due:
            candidates.append(core.now.monotonic_us)
        if self._is_postponed:
            candidates.append(self._attention_us)
        self._expected_us = min(known for known in candidates if known is not None)
        return self._expected_us

    def relevance(self, sender: ReplicaId, message: Candidate) -> Reason | None:
        """Why a decoded, unverified message is not worth verifying; None if it may matter. Pure."""
        return relevance(self.core, sender, message)

    def summary(self) -> Summary:
        """For status pages."""
        core = self.core
        return Summary(
            core.me,
            core.view,
            _mode(core),
            core.is_primary,
            core.low_water_mark,
            core.executed,
            core.stable.digest,
            core.pool.count,
            len(core.evidence),
            core.transfer is not None,
            core.diverged,
            core.tail.memory_bytes,
            core.tail.disk_bytes,
        )

    # Inside.

    def _begin(self, now: Instant) -> None:
        """Before each step: the time; and after a stall of our own, timers start afresh."""
        core = self.core
        assert now.monotonic_us >= core.now.monotonic_us, "time went back"
        core.now = now
        core.work_in_step, core.execution_due = 0, False
        executing_us = core.pool.busy_us - self._busy_us
        self._busy_us = core.pool.busy_us
        if self._expected_us is None:
            return
        late_us = now.monotonic_us - self._expected_us - executing_us
        if late_us > core.timeout_us // 2:
            # This process was stopped: what looks overdue is our own doing (protocol.md section 7).
            core.pool.rearm(now.monotonic_us, core.timeout_us)
            if core.view_change.deadline_us is not None:
                core.view_change.deadline_us = now.monotonic_us + core.timeout_us
            core.suspicion.unreachable_deadline_us = None
            core.status_due_us = now.monotonic_us
        self._expected_us = None

    def _dispatch(self, sender: ReplicaId, inbound: Inbound) -> None:
        core = self.core
        match inbound:
            case Authenticated(message=Prepare()):
                normal_case.on_prepare(core, inbound)  # type: ignore[arg-type]
            case Authenticated(message=Commit()):
                normal_case.on_commit(core, inbound)  # type: ignore[arg-type]
            case VerifiedProposal():
                normal_case.on_proposal(core, inbound)
            case Authenticated(message=PrePrepare()):
                normal_case.on_pre_prepare(core, inbound)  # type: ignore[arg-type]
            case Authenticated(message=Request()):
                request.on_forwarded(core, inbound, sender)  # type: ignore[arg-type]
            case VerifiedBatch():
                normal_case.on_batch(core, inbound)
            case VerifiedCommitted():
                normal_case.on_committed(core, inbound, sender)
            case Authenticated(message=Checkpoint()):
                checkpoint.on_checkpoint(core, inbound)  # type: ignore[arg-type]
            case VerifiedStable():
                checkpoint.on_stable(core, inbound)
            case Authenticated(message=ViewChange()):
                view_change.on_view_change(core, inbound)  # type: ignore[arg-type]
            case Authenticated(message=NewView()):
                view_change.on_new_view(core, inbound)  # type: ignore[arg-type]
            case Authenticated(message=Status()):
                status.on_status(core, sender, inbound)  # type: ignore[arg-type]
            case Authenticated(message=Recall()):
                amnesia.on_recall(core, inbound)  # type: ignore[arg-type]
            case Authenticated(message=Recalled()):
                amnesia.on_recalled(core, inbound)  # type: ignore[arg-type]
            case StateRequest():
                state_source.on_state_request(core, sender, inbound)
            case VerifiedLeaves():
                state_transfer.on_leaves(core, sender, inbound)
            case StateChunk():
                state_transfer.on_chunk(core, sender, inbound)
            case _:
                raise AssertionError(f"the verifier admitted a {type(inbound).__name__}")

    def _finish(self, *, routine: bool = False) -> list[Effect]:
        """After each step: everything that became possible, until nothing more does.

        After a routine step of a healthy replica (a vote, a proposal, a request) what only time,
        links and statuses move is left for a little later: that is most of the work of most steps.
        """
        core = self.core
        now_us = core.now.monotonic_us
        healthy = core.is_voting and not core.suspicion.mine and core.transfer is None
        self._is_postponed = routine and healthy and now_us < self._attention_us
        if not self._is_postponed:
            self._attention_us = now_us + core.settings.timers.status_fast_us
            self._attend()
        progressed = True
        while progressed:
            progressed = normal_case.advance_slots(core)
            progressed |= execution.advance(core)
            if not self._is_postponed:
                suspicion.advance(core)
                progressed |= view_change.advance(core)
            # Last, when all else is at rest: a new view's O comes before what is proposed above it.
            progressed = progressed or normal_case.advance_proposals(core)
        if not self._is_postponed:
            state_transfer.advance(core)
            checkpoint.merge(core)
            status.advance(core)
        reads.advance(core)
        execution.flush_replies(core)
        reads.flush(core)
        effects, core.effects = core.effects, []
        return effects

    def _attend(self) -> None:
        """What the time that passed makes due."""
        core = self.core
        normal_case.recheck_held(core)
        suspicion.relay_pending(core)
        state_source.release_idle(core)
        state_source.serve_chunks(core)
        amnesia.advance(core)
        checkpoint.vote(core)


def _is_routine(inbound: Inbound) -> bool:
    """Whether it is one of the messages that make up the normal case."""
    if isinstance(inbound, Authenticated):
        return isinstance(inbound.message, Prepare | Commit | Request)
    return isinstance(inbound, VerifiedProposal)


def _mode(core: Core) -> str:
    """One word for what the replica is doing."""
    if core.recalling is not None:
        return "recalling"
    if core.rejoining is not None:
        return "rejoining"
    return "diverged" if core.diverged else core.mode.value


def _kind_of(inbound: Inbound) -> str:
    """The name of a message for its rejection."""
    if isinstance(inbound, Authenticated):
        return inbound.signed.kind.name.lower()
    return type(inbound).__name__.lower()
