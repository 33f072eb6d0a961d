"""Which replicas are not to be relied on alone (protocol.md section 4).

Of n requests in turn each replica is designated for one: it alone sends the results, the others
their digest. One that is behind, dead or malicious would hold up every n-th request. And a new
request goes to the primary alone: one that keeps it to itself until a backup passes it on fails the
callers who do not wait so long. So a replica that came too late is passed over for a while, which
doubles each time it happens again: the requests ask others from the start.
"""

from pbft.types import Micros, ReplicaId

PASSED_OVER_FIRST_US: Micros = 1_000_000
PASSED_OVER_CAP_US: Micros = 60_000_000
RESULTS_LATE_US: Micros = 10_000


def came_late(asked_us: Micros, agreed_us: Micros | None, now_us: Micros) -> bool:
    """Whether results that came now, to what was asked at `asked_us`, came long after enough others
    had agreed on them (None: they had not): by more than that took, and RESULTS_LATE_US, so that a
    slow network alone makes nobody late."""
    return agreed_us is not None and now_us - agreed_us > agreed_us - asked_us + RESULTS_LATE_US


class Reliance:
    """What one client has seen of replicas that it relied on alone, for one purpose. Advice only;
    performs no IO."""

    def __init__(self) -> None:
        self._until_us: dict[ReplicaId, Micros] = {}
        self._span_us: dict[ReplicaId, Micros] = {}
        """How long a replica is or was passed over; absent for those in time last time."""

    def may_rely_on(self, replica: ReplicaId, now_us: Micros) -> bool:
        """Whether it is to be waited for."""
        return now_us >= self._until_us.get(replica, 0)

    def delivered(self, replica: ReplicaId) -> None:
        """What it was waited for came in time."""
        self._span_us.pop(replica, None)

    def failed(self, replica: ReplicaId, now_us: Micros) -> None:
        """It came too late, if at all."""
        if not self.may_rely_on(replica, now_us):
            return
        span_us = min(2 * self._span_us.get(replica, 0), PASSED_OVER_CAP_US)
        self._span_us[replica] = span_us = span_us or PASSED_OVER_FIRST_US
        self._until_us[replica] = now_us + span_us
