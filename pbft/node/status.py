"""What the admin listener tells about a replica, also while its event loop is blocked."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from pbft.quorum import Thresholds

LIVE_SECONDS = 10.0
"""A replica whose event loop has not turned for this long is not alive."""
CATCHING_UP = frozenset({"state_transfer", "recalling", "rejoining"})
"""Modes in which a replica is not yet what it was, or has lost what it was."""
BEAT_SECONDS = 0.1
"""How often the event loop shows that it turns."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A consistent picture of one replica, made in its event loop."""

    replica: int
    view: int
    role: str
    """`primary` or `backup`"""
    mode: str
    """`normal`, `view_changing`, `state_transfer`, `diverged`, `recalling` or `rejoining`"""
    low_water_mark: int
    executed: int
    state_digest: str
    """Digest, in hexadecimal, of the state at `state_digest_sequence`."""
    state_digest_sequence: int
    pending_requests: int = 0
    """Requests that wait to be ordered or executed."""
    tail_memory_bytes: int = 0
    tail_log_bytes: int = 0
    """Decided batches that are kept for peers that are behind, in memory and in the vote log."""
    faults: list[str] = field(default_factory=list)
    """Behaviours in force, by name."""
    rejections: dict[str, int] = field(default_factory=dict)
    """What was not accepted, by reason."""
    peers_connected: list[int] = field(default_factory=list)
    """Peers with streams in both directions."""
    clients_connected: int = 0
    operations: int = 0
    """Operations executed since this process started."""

    def as_json(self) -> dict[str, Any]:
        """The document of /status."""
        return asdict(self)


class StatusBoard:
    """Where the event loop leaves its last status and the admin thread reads it.

    Both sides only exchange references to immutable objects, so there is no lock.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        status: NodeStatus,
        is_disk_responsive: Callable[[], bool],
    ) -> None:
        """`is_disk_responsive` may be called in any thread."""
        self._thresholds = thresholds
        self._status = status
        self._is_disk_responsive = is_disk_responsive
        self._lag_seconds = 0.0
        self._beat_at = time.monotonic()

    @property
    def status(self) -> NodeStatus:
        """The last status."""
        return self._status

    def publish(self, status: NodeStatus) -> None:
        """Replaces the status."""
        self._status = status

    def beat(self, lag_seconds: float) -> None:
        """The event loop turned; `lag_seconds` is how much later than asked."""
        self._beat_at = time.monotonic()
        self._lag_seconds = lag_seconds

    def lag_seconds(self) -> float:
        """How late the event loop is: of its last beat, or of the one that is overdue."""
        overdue = time.monotonic() - self._beat_at - BEAT_SECONDS
        return max(self._lag_seconds, overdue)

    def is_live(self) -> bool:
        """Whether the event loop turns."""
        return self.lag_seconds() < LIVE_SECONDS

    def readiness(self) -> dict[str, bool]:
        """The named checks of /readyz; ready means that all hold."""
        status = self._status
        return {
            "event_loop": self.is_live(),
            "storage": self._is_disk_responsive(),
            "peers": len(status.peers_connected) + 1 >= self._thresholds.quorum,
            "caught_up": status.mode not in CATCHING_UP
            and status.executed >= status.low_water_mark,
            "view_stable": status.mode != "view_changing",
            "state_digest": status.mode != "diverged",
        }
