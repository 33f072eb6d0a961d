"""Every limit on what a peer or a client can make a replica hold, in one place (protocol.md
section 14).

`ProtocolLimits` are part of the genesis: acceptance and execution depend on them, so they are the
same
everywhere. `LocalLimits` only protect one replica's memory and may differ between replicas.
"""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

MESSAGE_BYTES_MAX = 16 * MIB
"""One decoded message; the codec refuses more (OVERSIZE)."""
TRANSPORT_BYTES_MAX = 32 * MIB
"""gRPC's receive limit: between the two, OVERSIZE can still be counted."""
TRANSFER_CHUNK_BYTES = 1 * MIB
"""Records in one chunk of a state transfer (at least one record travels whatever its size)."""


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


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """Limits of one replica's memory."""

    pending_requests_per_client: int = 2048
    pending_bytes_per_client: int = 8 * MIB
    pending_requests: int = 65_536
    pending_bytes: int = 64 * MIB
    held_reads: int = 8_192
    evidence: int = 256
    bodies_per_slot: int = 8
    """Batches kept for one slot over several views; the accepted and the prepared one always
    stay."""
    status_interval_us: int = 20_000
    """Statuses of one peer looked at: at most one per interval."""
    healing_bytes_per_status: int = 4 * MIB
    fetch_digests: int = 256
    """Bodies asked for in one status."""
