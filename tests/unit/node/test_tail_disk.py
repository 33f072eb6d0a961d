"""Reading decided batches back for peers that are behind."""

import asyncio
from collections.abc import Sequence

import pytest

from pbft.core.effects import DecidedRecord, ReadBack
from pbft.node.event_log import EventLog
from pbft.node.tail_disk import TailDisk, TailRead
from pbft.node.worker import WorkerThread
from pbft.storage.api import StorageCorrupt
from tests.unit.node.support import DIGEST, until

RECORD = DecidedRecord(7, DIGEST, (), b"batch")


def read_back(error: Exception | None) -> tuple[list[TailRead], list[tuple[object, ...]]]:
    """What is told, and what was asked of the log, when reading ends so."""
    told: list[TailRead] = []
    asked: list[tuple[object, ...]] = []

    def read(sequences: Sequence[int], size: int) -> Sequence[DecidedRecord]:
        asked.append((tuple(sequences), size))
        if error is not None:
            raise error
        return [RECORD]

    async def scenario() -> None:
        worker = WorkerThread("test log")
        TailDisk(read, worker, told.append, EventLog(0)).perform(ReadBack(2, (7, 9), 100))
        await until(lambda: bool(told))
        await worker.close()

    asyncio.run(scenario())
    return told, asked


def test_what_is_there_is_told() -> None:
    told, asked = read_back(None)
    assert told == [TailRead(2, [RECORD])]
    assert asked == [((7, 9), 100)]


def test_what_is_rotten_is_logged_and_told_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told, _ = read_back(StorageCorrupt("commit certificate of sequence 7: rotten"))
    assert told == [TailRead(2, [])]
    assert "rotten" in capsys.readouterr().err
