"""Decided batches below the log that peers may still need: those above the durable state, and above
each state that a peer is fetching (protocol.md sections 6, 8 and 9).

All of them are in the vote log, above `floor`. The newest are in memory as well; what is older is
read back for the peer that lacks it.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from pbft.core.certificates import CheckpointCertificate
from pbft.core.shares import Share
from pbft.limits import STATEMENT_BYTES
from pbft.messages import CommittedBatch
from pbft.types import Micros, SequenceNumber

CERTIFICATES_MAX = 4_096
"""Checkpoint certificates in memory."""


@dataclass(slots=True)
class Span:
    """The executed batches of one checkpoint interval, or its beginning."""

    end: SequenceNumber
    """A multiple of K."""
    size: int
    """Bytes of all of them."""


@dataclass(slots=True)
class Hold:
    """What was decided above a state stays for a peer that fetches it (protocol.md section 9)."""

    sequence: SequenceNumber
    """That of the state; later, what the peer has executed."""
    size: int
    """Bytes of the state: no more than that is kept above it, as fetching it anew would be
    cheaper."""
    share: Share
    """What this replica pushes of it."""
    begun_us: Micros
    used_us: Micros
    """When the peer last came closer to the others."""
    read_us: Micros = 0
    """When some of it was read back from the vote log last."""


class Tail:
    """Where the decided batches are that left the log."""

    def __init__(self, interval: int) -> None:
        """`interval` is K."""
        self._interval = interval
        self._items: OrderedDict[SequenceNumber, CommittedBatch] = OrderedDict()
        self._spans: deque[Span] = deque()
        self.memory_bytes = 0
        """What those in memory take, about."""
        self.disk_bytes = 0
        """The executed batches above `floor`."""
        self.executed_bytes = 0
        """Of all batches executed since the start, those executed twice counted twice."""
        self.floor: SequenceNumber = 0
        """What is executed and above it is in the vote log, or on its way there."""
        self.certificates: dict[SequenceNumber, CheckpointCertificate] = {}
        """Those of the newest stable checkpoints above `floor`: who executes what is kept needs
        them to make it durable."""

    def __len__(self) -> int:
        """How many batches are in memory."""
        return len(self._items)

    def get(self, sequence: SequenceNumber) -> CommittedBatch | None:
        """A batch that is in memory."""
        return self._items.get(sequence)

    def keep(self, sequence: SequenceNumber, item: CommittedBatch) -> None:
        """Takes a batch that left the log, above all others that are in memory unless it was
        executed again (after a state that was wrong was replaced)."""
        self._forget(sequence)
        self._items[sequence] = item
        self.memory_bytes += weight(item)

    def trim(self, lowest: SequenceNumber, limit_bytes: int) -> None:
        """Forgets in memory what is at or below `lowest`, and the oldest beyond the limit."""
        for sequence in [known for known in self._items if known <= lowest]:
            self._forget(sequence)
        while self.memory_bytes > limit_bytes:
            self._forget(next(iter(self._items)))

    def note_executed(self, sequence: SequenceNumber, size: int, signed: int) -> None:
        """Batch `sequence`, the next, with so many bytes of body was executed, and its records go
        to the vote log, with so many signed statements."""
        end = -(-sequence // self._interval) * self._interval
        if not self._spans or self._spans[-1].end != end:
            self._spans.append(Span(end, 0))
        self.executed_bytes += size
        weighs = size + STATEMENT_BYTES * signed
        self._spans[-1].size += weighs
        self.disk_bytes += weighs

    def cut(self, wanted: SequenceNumber, durable: SequenceNumber, limit_bytes: int) -> None:
        """Gives up on disk what is not above `wanted`, and the oldest beyond the limit, but
        nothing above the durable state."""
        while self._spans:
            span = self._spans[0]
            is_needed = span.end > wanted and self.disk_bytes <= limit_bytes
            if is_needed or span.end > durable:
                break
            self._spans.popleft()
            self.disk_bytes -= span.size
            self.floor = span.end
        self._trim_certificates()

    def note_stable(self, certificate: CheckpointCertificate) -> None:
        """A checkpoint became stable; each comes after those below it."""
        self.certificates[certificate.sequence] = certificate
        self._trim_certificates()

    def _trim_certificates(self) -> None:
        while self.certificates:
            lowest = next(iter(self.certificates))
            if lowest > self.floor and len(self.certificates) <= CERTIFICATES_MAX:
                break
            del self.certificates[lowest]

    def restart(self, sequence: SequenceNumber) -> None:
        """Execution goes on after this state; what the vote log holds from before is not counted
        on."""
        self._spans.clear()
        self.disk_bytes = 0
        self.floor = sequence
        self._trim_certificates()

    def _forget(self, sequence: SequenceNumber) -> None:
        item = self._items.pop(sequence, None)
        if item is not None:
            self.memory_bytes -= weight(item)


def weight(item: CommittedBatch) -> int:
    """About how much memory it takes: of a small batch the certificate is the most."""
    return len(item.batch) + STATEMENT_BYTES * (1 + len(item.commits))
