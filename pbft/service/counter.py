"""A replicated counter: the worked example of a service of one's own (service.md section 1)."""

from pbft.limits import ProtocolLimits
from pbft.service.api import FIRST_SERVICE_DOMAIN, OperationByOperation, State
from pbft.types import ClientKey, Micros

COUNT = b"count"
DIGITS_MAX = 18


class Counter(OperationByOperation):
    """`add <number>` is an operation, `read` an operation or a query; results are decimal text."""

    def __init__(self, state: State, limits: ProtocolLimits) -> None:
        del limits  # Neither its work nor its results can grow.
        self.touched = 0
        """See Service.touched: each call looks at one record."""
        self._records = state.domain(FIRST_SERVICE_DOMAIN)

    def execute(self, operation: bytes, agreed_time_us: Micros, client: ClientKey) -> bytes:
        """Adds and returns the new count; `error` and no change for anything else."""
        verb, _, number = operation.partition(b" ")
        if verb != b"add" or not number.isdigit() or len(number) > DIGITS_MAX:
            return self.query(operation, agreed_time_us)
        count = int(self.query(b"read", agreed_time_us)) + int(number)
        self._records.put(COUNT, 0, b"%d" % count)
        return b"%d" % count

    def exhausted(self) -> bytes:
        """What is not executed says so."""
        return b"error"

    def query(self, query: bytes, agreed_time_us: Micros) -> bytes:
        """The count; `error` for anything but `read`."""
        self.touched += 1
        if query != b"read":
            return b"error"
        record = self._records.get(COUNT)
        return b"0" if record is None else record[1]
