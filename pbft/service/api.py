"""What a user's own replicated state machine is made of (service.md section 1).

A service gets the replicated `State` and the genesis's limits, keeps everything it remembers in
the records of its own domains, and implements `Service`:

    execute(operation, agreed_time_us, client) -> result   changes records, in the agreed order
    query(query, agreed_time_us) -> result                 reads records, changes nothing
    exhausted() -> result                                  of what a limit keeps from being executed
    touched                                                a meter of the records looked at

It must be total (any bytes are answered, nothing is raised), deterministic (no clock, randomness,
IO, hash order, or memory besides the records: they are replaced by a state transfer behind the
service's back), and its work per call must be bounded, and metered by `touched`. Digests,
checkpoints, snapshots and state transfer then work without the service knowing about them.
`pbft.service.counter` is an example.
"""

from collections.abc import Callable
from typing import TypeAlias

from pbft.core.ports import Records, Service, State
from pbft.limits import ProtocolLimits

__all__ = ["FIRST_SERVICE_DOMAIN", "Records", "Service", "ServiceFactory", "State"]

FIRST_SERVICE_DOMAIN = 2
"""Domains below are the protocol's own (clients, sessions, agreed time); 2..255 the service's."""

ServiceFactory: TypeAlias = Callable[[State, ProtocolLimits], Service]
"""Makes the service of one replica; what a node and the simulator are given to run it."""
