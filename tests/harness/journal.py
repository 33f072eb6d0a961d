"""The replicated service of the tests of the core."""

from pbft.service.api import OperationByOperation, State
from pbft.types import ClientKey, Micros


class Journal(OperationByOperation):
    """A service that shows the order of execution: every operation is written behind the last."""

    def __init__(self, state: State) -> None:
        self._records = state.domain(2)
        self.touched = 0
        self.weight = 1
        """So many records an operation is said to look at."""

    def execute(self, operation: bytes, agreed_time_us: Micros, client: ClientKey) -> bytes:
        """Appends; the result is the position and what was appended."""
        self.touched += self.weight
        position = len(self.entries())
        self._records.put(b"%08d" % position, 0, operation)
        return b"%d:%s" % (position, operation)

    def exhausted(self) -> bytes:
        """What is not executed."""
        return b"exhausted"

    def query(self, query: bytes, agreed_time_us: Micros) -> bytes:
        """Everything so far."""
        self.touched += 1
        return b"|".join(self.entries())

    def entries(self) -> list[bytes]:
        """What was appended, in order."""
        return [value for _, _, value in self._records.scan(b"", None)]
