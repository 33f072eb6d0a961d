"""Prometheus metrics of one replica, in a registry of their own (operations.md section 5).

Labels are from fixed sets: names of ours and indices of replicas, never anything a peer chose.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pbft.core.effects import Event, EventName
from pbft.errors import Reason
from pbft.node.status import NodeStatus
from pbft.types import Digest, ReplicaId, SequenceNumber

CLIENT = "client"
"""The `peer` of what came from a client, or from somebody whose Hello was not admitted."""
SLOTS_TIMED = 4_096
"""Slots whose phases are timed at once; more than any window."""
CHECKPOINTS_COMPARED = 16
"""Checkpoints of each replica that are remembered until another replica's can be compared."""
MODES = ("normal", "view_changing", "state_transfer", "diverged", "recalling", "rejoining")
"""Every mode of pbft.node.status."""
CAUSES = ("suspected", "joined", "new_view_overdue")
"""Why the core begins a view change."""

_FAST_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SLOW_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_PHASE_AFTER = {
    EventName.PREPARED: "prepare",
    EventName.COMMITTED: "commit",
    EventName.EXECUTED: "execute",
}
_STAGES = {
    EventName.PRE_PREPARED: "pre_prepared",
    EventName.PREPARED: "prepared",
    EventName.COMMITTED: "committed",
    EventName.EXECUTED: "executed",
}


class Metrics:
    """Everything that one replica counts. Called in the event loop, read by the admin thread."""

    def __init__(self, replica: ReplicaId, version: str) -> None:
        self.registry = CollectorRegistry()
        self.rejections: Tally[str] = Tally()
        """By reason, for the status."""
        self._slots: dict[SequenceNumber, float] = {}
        self._view_change_began: float | None = None
        self._transfer_began: float | None = None
        self._replica = replica
        self._highest: Tally[str] = Tally()
        self.operations = 0
        """Operations executed, for the status."""
        self._operations_untold: dict[tuple[str, bool], int] = {}
        """Executed in this step, by kind and whether it failed: counting each by itself would cost
        as much as a fifth of executing it."""
        self._operations_in_batches = 0
        """Those that a batch was already observed for."""
        self._checkpoints: dict[ReplicaId, dict[SequenceNumber, Digest]] = {}
        self._compared: dict[ReplicaId, SequenceNumber] = {}
        """The last checkpoint of each peer that was compared with the own one."""
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
        gauge("build_info", "Version of this replica", "version", "replica").labels(
            version, str(replica)
        ).set(1)
        self._view = gauge("view", "View v")
        self._is_primary = gauge("is_primary", "1 on the primary of the view")
        self._sequence = gauge("sequence", "Highest sequence that reached a stage", "stage")
        self._low_water_mark = gauge("low_water_mark", "Last stable checkpoint h")
        self._pending_requests = gauge("pending_requests", "Requests not yet executed")
        self._tail_bytes = gauge(
            "tail_bytes", "Decided batches kept for peers that are behind", "where"
        )
        self._peer_connected = gauge("peer_connected", "1 if streams both ways are up", "peer")
        self._peer_queue_bytes = gauge("peer_queue_bytes", "Bytes waiting to leave", "peer")
        self._clients_connected = gauge("clients_connected", "Streams of clients")
        self._view_changes = counter("view_changes", "View changes begun", "cause")
        self._view_change_duration = histogram(
            "view_change_duration_seconds", "From leaving a view to entering one", _FAST_SECONDS
        )
        self._phase_duration = histogram(
            "phase_duration_seconds", "Time from the phase before", _FAST_SECONDS, "phase"
        )
        self._batch_requests = histogram("batch_requests", "Requests per executed batch", _SIZES)
        self._messages = counter("messages", "Messages", "direction", "type")
        self._message_bytes = counter("message_bytes", "Bytes of messages", "direction")
        self._rejected = counter("rejected", "What was not accepted", "message", "reason", "peer")
        self._evidence = counter("evidence", "Proofs of misbehaviour", "kind", "replica")
        self._mode = gauge("mode", "1 for the mode the replica is in", "mode")
        self._faults = gauge("faults_injected", "Misbehaviours in force by `pbft fault`")
        self._agreement = gauge(
            "checkpoint_agreement",
            "1 if the last checkpoint that both took has one digest here and at the peer",
            "peer",
        )
        self._mismatches = counter("state_digest_mismatch", "Own state lost against a quorum")
        self._transfers = counter("state_transfer", "State transfers", "outcome")
        self._sync = histogram("storage_sync_seconds", "Durable transactions", _FAST_SECONDS)
        self._sync_records = counter("storage_records", "Records of the vote log")
        self._messages_of = cache(self._messages.labels)
        self._bytes_of = cache(self._message_bytes.labels)
        self._stage_of = cache(self._sequence.labels)
        self._phase_of = cache(self._phase_duration.labels)
        # A counter that first appears as 1 does not rise for Prometheus: these begin at 0.
        for cause in CAUSES:
            self._view_changes.labels(cause)
        self._declare_work()

    def _declare_work(self) -> None:
        """Metrics of requests, of the service, and of state transfers."""
        counter, histogram = self._counter, self._histogram
        self._request_duration = histogram(
            "request_duration_seconds",
            "From a client's request arriving to its reply, sampled",
            _FAST_SECONDS,
        )
        self._batch_operations = histogram(
            "batch_operations", "Operations per executed batch", _SIZES
        )
        self._transfer_duration = histogram(
            "state_transfer_duration_seconds", "From start to installation", _SLOW_SECONDS
        )
        self._transfer_records = counter("state_transfer_records", "Records received")
        self._transfer_bytes = counter("state_transfer_bytes", "Keys and values received")
        self._kv_operations = counter(
            "kv_operations", "Operations executed", "operation", "outcome"
        )
        self._kv_queries = counter("kv_queries", "Queries answered from the state", "outcome")
        self._kv_operations_of = cache(self._kv_operations.labels)
        self._kv_queries_of = cache(self._kv_queries.labels)

    def watch(self, lag_seconds: Callable[[], float], lines_lost: Callable[[], int]) -> None:
        """Registers what is asked for at each scrape: the event loop's lag, and the lines that the
        log could not take."""
        self._gauge("event_loop_lag_seconds", "How late the event loop is").set_function(
            lag_seconds
        )
        self._gauge("log_lines_lost", "Lines of the log that were not written").set_function(
            lines_lost
        )

    def on_message(self, direction: str, kind: str, count: int = 1) -> None:
        """Messages of one kind received (`in`) or given to the outbox (`out`)."""
        self._messages_of(direction, kind).inc(count)

    def on_bytes(self, direction: str, size: int) -> None:
        """Bytes of messages received or queued for sending."""
        self._bytes_of(direction).inc(size)

    def on_rejection(
        self, message: str, reason: Reason, peer: ReplicaId | None, count: int = 1
    ) -> None:
        """Something was not accepted."""
        self.rejections[reason.value] += count
        label = CLIENT if peer is None else str(peer)
        self._rejected.labels(message, reason.value, label).inc(count)

    def on_sync(self, seconds: float, records: int) -> None:
        """A transaction of the vote log is durable."""
        self._sync.observe(seconds)
        self._sync_records.inc(records)

    def on_reply(self, seconds: float) -> None:
        """A sampled request was answered this long after it came."""
        self._request_duration.observe(seconds)

    def on_operations(self, operation: str, failed: bool, count: int) -> None:
        """The service executed so many operations of one kind."""
        self.operations += count
        key = (operation, failed)
        self._operations_untold[key] = self._operations_untold.get(key, 0) + count

    def on_query(self, failed: bool) -> None:
        """The service answered a query."""
        self._kv_queries_of("error" if failed else "ok").inc()

    def on_executed(self, batches: int) -> None:
        """One step of the core executed batches; several of one step share their operations
        evenly."""
        for (operation, failed), count in self._operations_untold.items():
            self._kv_operations_of(operation, "error" if failed else "ok").inc(count)
        self._operations_untold.clear()
        operations = self.operations - self._operations_in_batches
        for _ in range(batches):
            self._batch_operations.observe(operations / batches)
        self._operations_in_batches = self.operations

    def on_state_chunk(self, records: int, size: int) -> None:
        """Part of a state transfer arrived; `size` in bytes."""
        self._transfer_records.inc(records)
        self._transfer_bytes.inc(size)

    def on_checkpoint(self, signer: ReplicaId, sequence: SequenceNumber, digest: Digest) -> None:
        """A replica, this one included, signed the digest of its state at a checkpoint."""
        theirs = self._checkpoints.setdefault(signer, {})
        theirs[sequence] = digest
        if len(theirs) > CHECKPOINTS_COMPARED:
            del theirs[min(theirs)]
        own = self._checkpoints.get(self._replica, {})
        for peer in [signer] if signer != self._replica else list(self._checkpoints):
            compared = self._checkpoints[peer].get(sequence)
            if peer != self._replica and sequence in own and compared is not None:
                self._agreement.labels(str(peer)).set(compared == own[sequence])
                self._compared[peer] = max(sequence, self._compared.get(peer, 0))
        for peer in [peer for peer, last in self._compared.items() if last < min(own, default=0)]:
            # A late voter is not heard (the checkpoint is stable by then): what it said long ago
            # says nothing about now.
            del self._compared[peer]
            self._agreement.remove(str(peer))

    def on_event(self, event: Event) -> None:
        """The core reports something."""
        now = time.monotonic()
        stage = _STAGES.get(event.name)
        if stage is not None:
            self._on_stage(event, stage, now)
        elif event.name is EventName.VIEW_CHANGE_STARTED:
            self._view_changes.labels(event.detail or "unknown").inc()
            self._view_change_began = self._view_change_began or now
        elif event.name is EventName.VIEW_ENTERED:
            if self._view_change_began is not None:
                self._view_change_duration.observe(now - self._view_change_began)
            self._view_change_began = None
            self._slots.clear()
        elif event.name is EventName.EVIDENCE:
            self._evidence.labels(event.detail, str(event.value)).inc()
        elif event.name is EventName.STATE_DIVERGED:
            self._mismatches.inc()
        elif event.name is EventName.STATE_TRANSFER_STARTED:
            self._transfers.labels("started").inc()
            self._transfer_began = self._transfer_began or now
        elif event.name is EventName.STATE_TRANSFER_FINISHED:
            self._transfers.labels("finished").inc()
            if self._transfer_began is not None:
                self._transfer_duration.observe(now - self._transfer_began)
            self._transfer_began = None

    def on_status(self, status: NodeStatus) -> None:
        """A new status was published."""
        self._view.set(status.view)
        self._is_primary.set(status.role == "primary")
        self._low_water_mark.set(status.low_water_mark)
        self._stage_of("executed").set(status.executed)
        self._pending_requests.set(status.pending_requests)
        self._tail_bytes.labels("memory").set(status.tail_memory_bytes)
        self._tail_bytes.labels("log").set(status.tail_log_bytes)
        self._clients_connected.set(status.clients_connected)
        self._faults.set(len(status.faults))
        for mode in MODES:
            self._mode.labels(mode).set(mode == status.mode)

    def on_peer(self, peer: ReplicaId, connected: bool, queue_bytes: int) -> None:
        """State of the streams to and from a peer."""
        self._peer_connected.labels(str(peer)).set(connected)
        self._peer_queue_bytes.labels(str(peer)).set(queue_bytes)

    def _on_stage(self, event: Event, stage: str, now: float) -> None:
        if stage != "executed":
            self._highest[stage] = max(self._highest[stage], event.sequence)
            self._stage_of(stage).set(self._highest[stage])
        phase = _PHASE_AFTER.get(event.name)
        if phase is not None and (then := self._slots.get(event.sequence)) is not None:
            self._phase_of(phase).observe(now - then)
        if event.name is EventName.EXECUTED:
            self._slots.pop(event.sequence, None)
            self._batch_requests.observe(event.value)
        elif len(self._slots) < SLOTS_TIMED:
            self._slots[event.sequence] = now

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"pbft_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pbft_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"pbft_{name}", text, labels, buckets=buckets, registry=self.registry)
