"""Reads decided batches back from the vote log for peers that are behind (protocol.md sections 8
and 9)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pbft.core.effects import DecidedRecord, ReadBack
from pbft.node.event_log import EventLog
from pbft.node.worker import WorkerThread
from pbft.storage.api import StorageCorrupt
from pbft.types import ReplicaId, SequenceNumber


@dataclass(frozen=True, slots=True)
class TailRead:
    """What a ReadBack found."""

    peer: ReplicaId
    records: Sequence[DecidedRecord]


class TailDisk:
    """Performs ReadBack effects in the vote log's thread, between its transactions."""

    def __init__(
        self,
        read: Callable[[Sequence[SequenceNumber], int], Sequence[DecidedRecord]],
        worker: WorkerThread,
        tell: Callable[[TailRead], None],
        log: EventLog,
    ) -> None:
        """`read` is VoteLog.read_decided."""
        self._read = read
        self._worker = worker
        self._tell = tell
        self._log = log
        self._unreadable: SequenceNumber = 0
        """What was logged last."""

    def perform(self, effect: ReadBack) -> None:
        """Queues an effect; it is told in any case. What cannot be read is only logged: other
        peers have it, and this replica needs it no more."""
        found: list[DecidedRecord] = []
        self._worker.submit(
            lambda: found.extend(self._read(effect.sequences, effect.size)),
            partial(self._on_read, effect, found),
        )

    def _on_read(
        self, effect: ReadBack, found: Sequence[DecidedRecord], error: BaseException | None
    ) -> None:
        self._tell(TailRead(effect.peer, found))
        if isinstance(error, StorageCorrupt):
            if effect.sequences[0] != self._unreadable:
                self._unreadable = effect.sequences[0]
                self._log.warning("tail_unreadable", sequence=self._unreadable, error=str(error))
        elif error is not None:
            raise error
