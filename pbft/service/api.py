"""What a user's own replicated state machine is made of (service.md section 1).

A service gets the replicated `State` and the genesis's limits, keeps everything it remembers in
the records of its own domains, and implements `Service`, most easily as an `OperationByOperation`:

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pbft.core.ports import Records, Room, Service, State
from pbft.limits import ProtocolLimits
from pbft.types import ClientKey, Micros

__all__ = [
    "FIRST_SERVICE_DOMAIN",
    "OperationByOperation",
    "Records",
    "Room",
    "Service",
    "ServiceFactory",
    "State",
]

FIRST_SERVICE_DOMAIN = 2
"""Domains below are the protocol's own (clients, sessions, agreed time); 2..255 the service's."""

ServiceFactory: TypeAlias = Callable[[State, ProtocolLimits], Service]
"""Makes the service of one replica; what a node and the simulator are given to run it."""


class OperationByOperation(ABC):
    """A Service that executes each operation by itself."""

    touched: int
    """See Service.touched."""

    @abstractmethod
    def execute(self, operation: bytes, agreed_time_us: Micros, client: ClientKey) -> bytes:
        """Applies one operation and returns its result. Never raises for any bytes."""

    @abstractmethod
    def exhausted(self) -> bytes:
        """See Service.exhausted."""

    def execute_all(
        self, operations: Sequence[bytes], agreed_time_us: Micros, client: ClientKey, room: Room
    ) -> list[bytes]:
        """See Service.execute_all."""
        results = []
        for operation in operations:
            if not room.is_left:
                results.append(self.exhausted())
                continue
            begin = self.touched
            result = self.execute(operation, agreed_time_us, client)
            room.records -= self.touched - begin
            room.results_bytes -= len(result)
            results.append(result)
        return results
