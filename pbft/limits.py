"""Every limit on what a peer or a client can make a replica hold, in one place (protocol.md
section 14).

`ProtocolLimits` are part of the genesis: acceptance and execution depend on them, so they are the
same
everywhere. `LocalLimits` only protect one replica's memory and may differ between replicas.
"""

from dataclasses import astuple, dataclass

from pbft.errors import ConfigurationError

KIB = 1024
MIB = 1024 * KIB

RECORD_KEY_BYTES_MAX = 500
"""Key of a record, zero bytes counted twice: what the state on disk can index."""
BATCH_OVERHEAD_BYTES = 512
"""Time, envelope and framing of a batch beside the payloads of its requests, rounded up."""
MESSAGE_BYTES_MAX = 16 * MIB
"""One decoded message; the codec refuses more (OVERSIZE)."""
VOTE_BYTES = 140
"""One vote in a prepared certificate, with its envelope and framing, at most."""
ANSWER_BYTES_MAX = MESSAGE_BYTES_MAX - KIB
"""The replies in one message to a client: the rest is for its own fields."""
EXHAUSTED_BYTES_MAX = 64
"""What a service answers for an operation that is not executed; a result's framing is in it."""
TRANSPORT_BYTES_MAX = 32 * MIB
"""gRPC's receive limit: between the two, OVERSIZE can still be counted."""
MESSAGE_ELEMENTS_MAX = 20_000
"""Elements of lists in one message, all levels together: what a parser allocates for empty ones is
many times their encoding, and what is built of them takes microseconds for each. The largest list
that all messages but those below have is that of a state's leaves."""
CERTIFICATES_ELEMENTS_MAX = 131_072
"""The same for messages that hold certificates: the window decides how many votes those have, and
the verifier how many bytes (pbft.crypto.sizes)."""
FRAME_ITEMS_MAX = 8_192
"""Items that a sender gathers in one frame."""
REPLIES_MAX = 4_096
"""Replies in one message to a client, which looks at all of them in one go: each takes it some
microseconds however small it is."""
REPLIES_BYTES_MAX = 2 * MIB
"""What several replies in one message weigh together; a single one may be larger."""
REPLIES_ELEMENTS_MAX = MESSAGE_ELEMENTS_MAX + KIB
"""Elements of a larger one: a result for each operation that a request can hold, and its own
fields."""
STATUS_BITMAP_BYTES_MAX = 8 * KIB
"""One bitmap of a Status: windows up to 65,536 sequence numbers."""
VERIFIED_ENVELOPES = 65_536
"""Signatures of replicas known to be good, remembered by a 32-byte digest each."""
VERIFIED_REQUESTS = 16_384
VERIFIED_REQUEST_BYTES = 8 * MIB
"""Verified requests remembered, in number and in bytes of their payloads."""
VERIFIED_BATCHES = 256
VERIFIED_BATCH_BYTES = 16 * MIB
"""Verified batches remembered, in number and in bytes of their encoding."""
TRANSFER_CHUNK_BYTES = 512 * KIB
"""Records in one chunk of a state transfer (at least one record travels whatever its size): what a
source reads, and its peer stages, between two turns of everything else."""

CHUNK_SCAN_RECORDS = 2_048
"""Records that a source looks at for one chunk: a chunk of a thinly spread request may be empty,
and its cursor says that there is more. Also the most that one chunk carries, which bounds what its
receiver does at once."""
CHUNK_SCAN_BYTES = 8 * MIB
"""Their values, wanted or not, for one chunk (at least one is looked at whatever its size). What is
not wanted is neither copied nor checked, but it may have to come from disk."""
STATEMENT_BYTES = 256
"""What a signed statement takes in memory or on disk, rounded up."""
CHUNK_COST_BYTES = 32 * KIB
"""What a chunk is taken to weigh at least: finding that there is little to send takes time too."""
TRANSFER_FLOOR_RATE = 512 * KIB
"""Bytes per second that a source of a state transfer must deliver on the whole. A snapshot stays
pinned for no longer than its whole state takes at this rate, and a little."""


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """Limits that decide what is valid. Changing one changes the cluster id."""

    operation_bytes: int = 1 * MIB
    operations_per_request: int = 1024
    request_bytes: int = 2 * MIB
    batch_requests: int = 1000
    batch_bytes: int = 4 * MIB
    requests_in_flight: int = 1024
    """W: a request is well-formed only if acknowledged < number <= acknowledged + W."""
    sessions_per_client: int = 8
    """S: live sessions of one client."""
    session_numbers_kept: int = 65_536
    """Closed sessions above the floor before the floor rises."""
    cached_result_bytes: int = 1 * MIB
    """Cached results per client; beyond, only their digest is kept (RESULT_FORGOTTEN)."""
    clients: int = 100_000
    """Clients admitted in an open cluster; one more is answered CLIENT_REFUSED."""
    records_per_operation: int = 100_000
    """Records that one operation of the service may read and write."""
    record_bytes_per_operation: int = 64 * MIB
    """Bytes of the records that one operation reads and writes: bounds its time and its memory."""
    records_per_request: int = 50_000
    """Once a request's operations have looked at so many, its further ones are not executed. Each
    operation counts, and a large record counts as several (Service.touched). For the queries of
    one fast read it is the same."""
    records_per_batch: int = 50_000
    """Once the requests of a batch have looked at so many, the others of it are left for a later
    one: bounds the time that executing one batch takes, to about a second. A batch is proposed with
    so many operations at most."""
    results_bytes_per_request: int = 4 * MIB
    """Once a request's results reach it, its further operations are not executed. For the queries
    of one fast read it is the same."""
    results_bytes_per_batch: int = 8 * MIB
    """Once the results of a batch reach it, its other requests are left for a later one: bounds
    what executing one batch can allocate."""
    result_bytes: int = 4 * MIB
    """One result; more than twice operation_bytes, so that whatever could be put can be read."""

    def __post_init__(self) -> None:
        if any(value < 1 for value in astuple(self)):
            raise ConfigurationError("every limit in the genesis must be at least 1")
        for name in ("batch_requests", "operations_per_request"):
            if getattr(self, name) >= MESSAGE_ELEMENTS_MAX:
                raise ConfigurationError(f"{name} must be below {MESSAGE_ELEMENTS_MAX}")
        if self.batch_bytes < self.request_bytes + BATCH_OVERHEAD_BYTES:
            raise ConfigurationError("batch_bytes must leave room for one request of request_bytes")
        if self.batch_bytes + BATCH_OVERHEAD_BYTES > MESSAGE_BYTES_MAX:
            raise ConfigurationError("batch_bytes must fit into one message")
        unexecuted_bytes = self.operations_per_request * EXHAUSTED_BYTES_MAX
        largest = self.results_bytes_per_request + self.result_bytes + unexecuted_bytes
        if largest > ANSWER_BYTES_MAX - KIB:
            raise ConfigurationError(
                "results_bytes_per_request, result_bytes and 64 bytes for each of "
                "operations_per_request must fit into one message together"
            )
        if self.session_numbers_kept > 2**32 - 1:
            raise ConfigurationError("session_numbers_kept is out of range")


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """Limits of one replica's memory."""

    pending_requests_per_client: int = 2048
    pending_bytes_per_client: int = 8 * MIB
    pending_requests: int = 65_536
    pending_bytes: int = 64 * MIB
    reserved_bytes_per_peer: int = 4 * MIB
    """Of requests that a peer passes on and that have no other place, beside these."""
    held_reads: int = 8_192
    held_reads_per_client: int = 1_024
    held_read_bytes: int = 16 * MIB
    read_results_bytes_per_step: int = 2 * MIB
    """Once the held reads answered in one step reach it, the others wait for the next step ..."""
    read_records_per_step: int = 20_000
    """... and so they do once they have looked at so many records."""
    heavy_request_records: int = 5_000
    """The client of a request that has looked at so many rests after it."""
    record_us: int = 10
    """What looking at a record is reckoned to take."""
    operations_per_step: int = 1_000
    """With so many executed in one step, or so many records looked at, what else is decided waits
    for the next, which is due at once: a restart has hundreds of batches to execute, and is to be
    seen to live meanwhile."""
    evidence: int = 256
    bodies_per_slot: int = 8
    """Batches kept for one slot over several views; all that were accepted stay until the slot is
    decided."""
    status_interval_us: int = 20_000
    """Statuses of one peer looked at: at most one per interval."""
    healing_bytes_per_status: int = 4 * MIB
    view_change_interval_us: int = 50_000
    """View-changes of one signer looked at: at most one per interval."""
    recall_interval_us: int = 100_000
    """Recalls of one peer answered: at most one per interval in the long run."""
    expired_interval_us: int = 10_000
    """Requests of closed sessions that one peer forwards: at most one per interval in the long
    run."""
    leaves_interval_us: int = 500_000
    """Leaves served to one peer: at most once per interval in the long run."""
    chunk_interval_us: int = 500
    """Chunks of a state transfer served to one peer: at most one per interval in the long run."""
    chunk_bytes_per_second: int = 256 * MIB
    """Records of state transfers served to all peers together while nothing else is to do ..."""
    chunk_bytes_per_second_busy: int = 2 * MIB
    """... and while there are requests to order, or up to eight times as much for a peer that had
    to ask again (core.state_transfer): reading, sending and verifying a megabyte takes about 16 ms
    of the processors, which the others lack where replicas share a machine. There, at 16 MiB/s the
    others kept 65 % of the throughput of four replicas, at 4 MiB/s 81 %, at 2 MiB/s 99 %."""
    transfer_idle_us: int = 30_000_000
    """A snapshot pinned for a peer that asks for nothing is released after this."""
    transfer_grace_us: int = 60_000_000
    """A snapshot is released after this and its bytes at TRANSFER_FLOOR_RATE, however often its
    peer asks: the disk cannot reuse what a pinned snapshot reads."""
    tail_bytes: int = 32 * MIB
    """Decided batches, with their certificates, kept in memory above the durable state and the
    states that peers are fetching ..."""
    tail_disk_bytes: int = 1024 * MIB
    """... and in the vote log with all that is signed for them, or as much as the state weighs if
    that is more. The pages of the file can take twice that where batches are small."""
    fetch_digests: int = 256
    """Bodies asked for in one status."""
