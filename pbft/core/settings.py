"""What one replica may set for itself without the others: timers and pipeline depth (protocol.md
15)."""

from dataclasses import dataclass, field

from pbft.limits import LocalLimits
from pbft.types import Micros, ReplicaId

MILLISECOND = 1_000
SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Timers:
    """Durations in microseconds of the monotonic clock."""

    request_timeout_us: Micros = 2 * SECOND
    """T: doubles per failed view, decays with progress, never below this."""
    request_timeout_cap_us: Micros = 60 * SECOND
    link_grace_us: Micros = 100 * MILLISECOND
    """A link down for longer is reported as primary_unreachable."""
    primary_unreachable_us: Micros = 200 * MILLISECOND
    """After q replicas said so; doubles per failed view."""
    status_fast_us: Micros = 100 * MILLISECOND
    """Between two statuses while something is missing."""
    status_slow_us: Micros = 1 * SECOND


@dataclass(frozen=True, slots=True)
class Settings:
    """Identity and local choices of one replica."""

    replica: ReplicaId
    pipeline_depth: int = 3
    """P: batches proposed and not yet executed. 1 is the textbook's sequential primary."""
    timers: Timers = field(default_factory=Timers)
    limits: LocalLimits = field(default_factory=LocalLimits)
    rejoin: bool = False
    """The operator suspects that the vote log was rolled back: start as one that lost it."""
