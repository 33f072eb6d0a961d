"""Stand-ins for the disk, the network and the core, driven step by step."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pbft.codec import decode_gateway_item, decode_peer_item
from pbft.core.effects import (
    AcceptedRecord,
    Answer,
    Broadcast,
    Install,
    Merge,
    Persist,
    ReadBack,
    Send,
    StableRecord,
    Truncate,
)
from pbft.messages import BatchBytes, Kind, Signed
from pbft.node.outbox import Outbox
from pbft.node.worker import WorkerThread

CLIENT = bytes([7]) * 32
DIGEST = bytes(32)
SIGNED = Signed(Kind.PREPARE, 1, b"payload", bytes(64))
REPLIES = Signed(Kind.REPLIES, 1, b"payload", bytes(64))


def persist(sequence: int, gates: bool = True, body: int = 0) -> Persist:
    return Persist(AcceptedRecord(0, sequence, DIGEST, SIGNED, bytes(body)), gates)


def send(text: str, to: int = 1) -> Send:
    return Send(to, BatchBytes(text.encode()))


def broadcast(text: str) -> Broadcast:
    return Broadcast(BatchBytes(text.encode()))


ANSWER = Answer(CLIENT, REPLIES)
MERGE = Merge(64, DIGEST, ())
INSTALL = Install(128, DIGEST, ())


def sequences(records: Sequence[Persist | Truncate]) -> list[int]:
    """What a transaction wrote, by sequence; a truncation as a negative number."""
    written = []
    for record in records:
        if isinstance(record, Truncate):
            written.append(-record.sequence)
        else:
            assert isinstance(record.record, AcceptedRecord | StableRecord)
            written.append(record.record.sequence)
    return written


class SlowLog:
    """A vote log whose transactions end when the test says so."""

    def __init__(self) -> None:
        self.transactions: list[list[int]] = []
        self.threads: set[int] = set()
        self.failure: Exception | None = None
        self._may_end = threading.Semaphore(0)

    def write(self, effects: Sequence[Persist | Truncate]) -> None:
        self.threads.add(threading.get_ident())
        self.transactions.append(sequences(effects))
        assert self._may_end.acquire(timeout=60)
        if self.failure is not None:
            raise self.failure

    def end_one(self, count: int = 1) -> None:
        self._may_end.release(count)


@dataclass
class Seen:
    """A courier that remembers in one list, as readable texts."""

    left: list[str] = field(default_factory=list)
    encodings: list[bytes] = field(default_factory=list)
    read_back: list[ReadBack] = field(default_factory=list)

    def send(self, peer: int, item: bytes) -> None:
        decoded = decode_peer_item(item)
        text = decoded.batch.decode() if isinstance(decoded, BatchBytes) else "signed"
        self.left.append(f"{text}>{peer}")

    def broadcast(self, item: bytes) -> None:
        decoded = decode_peer_item(item)
        assert isinstance(decoded, BatchBytes)
        self.left.append(f"{decoded.batch.decode()}>all")
        self.encodings.append(item)

    def answer(self, client: bytes, item: bytes) -> None:
        assert client == CLIENT
        self.left.append(type(decode_gateway_item(item)).__name__.lower())

    def on_state(self, effect: Merge | Install) -> None:
        self.left.append(type(effect).__name__.lower())


@dataclass
class Failures:
    """What was reported as fatal."""

    texts: list[str] = field(default_factory=list)

    def __call__(self, text: str, error: BaseException) -> None:
        self.texts.append(f"{text}: {error}")


@dataclass
class Bench:
    """An outbox over a slow log."""

    log: SlowLog
    seen: Seen
    failures: Failures
    worker: WorkerThread
    outbox: Outbox
    syncs: list[int]


def bench() -> Bench:
    log, seen, failures, worker = SlowLog(), Seen(), Failures(), WorkerThread("test log")
    syncs: list[int] = []
    outbox = Outbox(
        log.write,
        worker,
        seen,
        seen.on_state,
        seen.read_back.append,
        failures,
        lambda _, records: syncs.append(records),
    )
    return Bench(log, seen, failures, worker, outbox, syncs)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for something that must come soon; fails the test if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


async def breathe() -> None:
    """Long enough for anything that could wrongly leave to do so."""
    await asyncio.sleep(0.02)
