"""Which replicas are no help as the designated one (protocol.md section 4).

Of n requests in turn each replica is designated for one: it alone sends the results, the others
their digest. One that is behind, dead or malicious would hold up every n-th request. So a replica
that came too late is passed over for a while, which doubles each time it happens again: its
requests ask somebody else in full from the start.
"""

from pbft.types import Micros, ReplicaId

PASSED_OVER_FIRST_US: Micros = 1_000_000
PASSED_OVER_CAP_US: Micros = 60_000_000


class Designation:
    """What one client has seen of designated replicas. Advice only; performs no IO."""

    def __init__(self) -> None:
        self._until_us: dict[ReplicaId, Micros] = {}
        self._span_us: dict[ReplicaId, Micros] = {}
        """How long a replica is or was passed over; absent for those that delivered last time."""

    def may_rely_on(self, replica: ReplicaId, now_us: Micros) -> bool:
        """Whether it is to be waited for."""
        return now_us >= self._until_us.get(replica, 0)

    def delivered(self, replica: ReplicaId) -> None:
        """It sent the results for which it was waited, in time."""
        self._span_us.pop(replica, None)

    def failed(self, replica: ReplicaId, now_us: Micros) -> None:
        """Others agreed on the results long before it sent them, if it did."""
        if not self.may_rely_on(replica, now_us):
            return
        span_us = min(2 * self._span_us.get(replica, 0), PASSED_OVER_CAP_US)
        self._span_us[replica] = span_us = span_us or PASSED_OVER_FIRST_US
        self._until_us[replica] = now_us + span_us
