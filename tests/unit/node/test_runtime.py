"""One task, bounded turns, everything verified before the core sees it."""

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pbft.codec import encode_client_item
from pbft.core.effects import Effect, Event, EventName, Halt, Rejection
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.messages import (
    Authenticated,
    BatchBytes,
    Consistency,
    Inbound,
    Kind,
    ReadRequest,
    Request,
    Signed,
    Submit,
)
from pbft.node import runtime as runtime_module
from pbft.node.event_log import EventLog
from pbft.node.inbox import (
    CLIENT_SOURCE_BYTES,
    ClientOrigin,
    Inbox,
    LinkChanged,
    Source,
)
from pbft.node.metrics import Metrics
from pbft.node.read_rest import ReadRest
from pbft.node.runtime import ReplicaHalted, Runtime
from pbft.node.sealer import SealFailed, StateSealed
from pbft.node.state_disk import StateDisk
from pbft.storage.api import StorageCorrupt
from pbft.types import Instant
from tests.unit.node.support import CLIENT, MERGE, Bench, bench, send, until
from tests.unit.node.test_state_disk import State

GENESIS = Genesis.create(
    nonce=bytes(32),
    replicas=tuple(bytes([index]) * 32 for index in range(4)),
    clients=frozenset({CLIENT}),
)
REQUEST = Signed(Kind.REQUEST, CLIENT, b"payload", bytes(64))
ANSWERED = ("answer reads",)
"""What follows the reads of a turn, once for all of them."""
READ = ReadRequest(1, (b"query",), Consistency.STALE, True)


@dataclass
class Core:
    """Answers every step with one item that names it."""

    steps: list[str] = field(default_factory=list)
    deadline_us: int | None = None
    extra: Callable[[str], list[Effect]] = lambda _: []

    def _step(self, name: str, now: Instant) -> list[Effect]:
        assert now.monotonic_us > 0
        self.steps.append(name)
        return [send(name), *self.extra(name)]

    def start(self, now: Instant, nonce: bytes) -> list[Effect]:
        assert len(set(nonce)) > 1 and len(nonce) == 32
        return self._step("start", now)

    def receive(self, sender: int, inbound: Inbound, now: Instant) -> list[Effect]:
        assert isinstance(inbound, BatchBytes)
        return self._step(f"receive {sender} {inbound.batch.decode()}", now)

    def submit(
        self, request: Authenticated[Request], full_results: bool, now: Instant
    ) -> list[Effect]:
        return self._step(f"submit {full_results}", now)

    def take_read(self, client: bytes, request: ReadRequest, now: Instant) -> None:
        self.steps.append(f"read {request.nonce}")
        self.extra(f"read {request.nonce}")

    def answer_reads(self, now: Instant) -> list[Effect]:
        return self._step("answer reads", now)

    def link(self, peer: int, up: bool, now: Instant) -> list[Effect]:
        return self._step(f"link {peer} {up}", now)

    def sealed(self, sequence: int, digest: bytes, now: Instant) -> list[Effect]:
        return self._step(f"sealed {sequence}", now)

    def merged(self, sequence: int, now: Instant) -> list[Effect]:
        return self._step(f"merged {sequence}", now)

    def installed(self, sequence: int, now: Instant) -> list[Effect]:
        return self._step(f"installed {sequence}", now)

    def tick(self, now: Instant) -> list[Effect]:
        assert self.deadline_us is not None and now.monotonic_us >= self.deadline_us
        self.deadline_us = None
        return self._step("tick", now)

    def next_deadline_us(self) -> int | None:
        return self.deadline_us


@dataclass
class Gate:
    """Admission by prefix, and complaints."""

    complaints: list[tuple[int, str, Reason]] = field(default_factory=list)

    def admit_peer(self, sender: int, item: bytes) -> Inbound:
        if item.startswith(b"bad"):
            raise Rejected(Reason.BAD_SIGNATURE)
        return BatchBytes(item)  # type: ignore[return-value]

    def admit_request(self, signed: Signed) -> Authenticated[Request]:
        if signed.payload == b"bad":
            raise Rejected(Reason.BAD_SIGNATURE)
        return Authenticated(None, signed)  # type: ignore[arg-type]

    def reject_peer_item(
        self, peer: int, message: str, reason: Reason, seconds: float = 0.0
    ) -> None:
        self.complaints.append((peer, message, reason))

    def reject_client_item(
        self, stream: int, message: str, reason: Reason, seconds: float = 0.0
    ) -> None:
        self.complaints.append((stream, message, reason))


@dataclass
class Rig:
    core: Core
    gate: Gate
    inbox: Inbox
    bench: Bench
    state: State
    metrics: Metrics
    log_text: io.StringIO
    runtime: Runtime
    turns: list[int]


def rig() -> Rig:
    core, gate, inbox, outer, state = Core(), Gate(), Inbox(4), bench(), State()
    metrics, text, turns = Metrics(0, "test"), io.StringIO(), []
    log = EventLog(0, text)
    disk = StateDisk(state, outer.worker, inbox.put_own, outer.failures)
    outer.outbox._perform_on_state = disk.perform
    runtime = Runtime(
        core,
        GENESIS,
        gate,
        inbox,
        outer.outbox,
        disk,
        gate,
        metrics,
        log,
        lambda: turns.append(len(core.steps)),
    )
    return Rig(core, gate, inbox, outer, state, metrics, text, runtime, turns)


async def run_until(it: Rig, condition: Callable[[], bool]) -> None:
    task = asyncio.create_task(it.runtime.run())
    try:
        await until(lambda: condition() or task.done())
    finally:
        it.runtime.stop()
        async with asyncio.timeout(60):
            await task
        await it.bench.worker.close()


def submit(payload: bytes = b"good", signer: bytes = CLIENT) -> bytes:
    return encode_client_item(Submit(Signed(Kind.REQUEST, signer, payload, bytes(64)), True))


def test_each_event_is_one_step_and_its_effects_leave() -> None:
    async def scenario() -> None:
        it = rig()
        it.inbox.put_own(LinkChanged(2, up=True))
        await it.inbox.put_peer_items(1, [b"x"])
        await it.inbox.put_client_items(9, CLIENT, [submit(), encode_client_item(READ)])
        await run_until(it, lambda: len(it.core.steps) == 6)
        expected = ["start", "link 2 True", "receive 1 x", "submit True", "read 1", *ANSWERED]
        assert it.core.steps == expected
        assert it.bench.seen.left == [f"{step}>1" for step in expected if step != "read 1"]
        assert not it.gate.complaints

    asyncio.run(scenario())


def note_for(seconds: float) -> Callable[[ReadRest, bytes, float, float], None]:
    """As if every read took so long."""
    note = ReadRest.note

    def noted(self: ReadRest, client: bytes, _: float, now: float) -> None:
        note(self, client, seconds, now)

    return noted


def test_a_client_whose_read_took_long_rests_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReadRest, "note", note_for(0.2))

    async def scenario() -> None:
        it = rig()
        reads = [
            encode_client_item(ReadRequest(nonce, (b"q",), Consistency.STALE, True))
            for nonce in range(1, 4)
        ]
        await it.inbox.put_client_items(9, CLIENT, [reads[0], reads[1], submit()])
        await it.inbox.put_client_items(10, bytes(32), [reads[2]])
        await run_until(it, lambda: len(it.core.steps) == 7)
        first = ["start", "read 1", "read 3", "submit True", *ANSWERED]
        assert it.core.steps == [*first, "read 2", *ANSWERED]
        assert not it.gate.complaints

    asyncio.run(scenario())


def test_nobody_answers_what_rested_when_its_stream_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReadRest, "note", note_for(0.2))

    async def scenario() -> None:
        it = rig()
        gone, other = (
            [
                encode_client_item(ReadRequest(nonce, (b"q",), Consistency.LINEARIZABLE, True))
                for nonce in nonces
            ]
            for nonces in ((1, 2), (3, 4))
        )
        await it.inbox.put_client_items(9, CLIENT, gone)

        def is_done() -> bool:
            if "read 1" in it.core.steps and it.inbox.forget_client(9) == 0:
                it.inbox.clients.add(source, other)
                other.clear()
                it.inbox.wake()
            return it.core.steps[-2:] == ["read 4", *ANSWERED]

        source = Source(ClientOrigin(10, bytes(32)), CLIENT_SOURCE_BYTES)
        await it.inbox.put_client_items(10, bytes(32), [])
        await run_until(it, is_done)
        assert it.core.steps == [
            "start",
            *(step for number in (1, 3, 4) for step in (f"read {number}", *ANSWERED)),
        ]

    asyncio.run(scenario())


def test_what_is_not_admitted_reaches_complaints_and_not_the_core() -> None:
    async def scenario() -> None:
        it = rig()
        await it.inbox.put_peer_items(1, [b"bad"])
        hello = Signed(Kind.HELLO, CLIENT, b"payload", bytes(64))
        too_many = GENESIS.limits.operations_per_request + 1
        reads = [
            (),
            (b"q",) * too_many,
            (bytes(GENESIS.limits.operation_bytes + 1),),
            (b"",) * 2 * too_many,
        ]
        items = [
            b"\xff",
            submit(b"bad"),
            submit(signer=bytes(32)),
            encode_client_item(hello),
            *(encode_client_item(ReadRequest(1, r, Consistency.STALE, True)) for r in reads),
        ]
        # More than the stream may hold at once: this returns when the runtime has taken it.
        reader = asyncio.create_task(it.inbox.put_client_items(9, CLIENT, items))
        await run_until(it, lambda: len(it.gate.complaints) == 9)
        await reader
        assert it.core.steps == ["start"]
        assert it.gate.complaints == [
            (1, "peer_item", Reason.BAD_SIGNATURE),
            (9, "client_item", Reason.MALFORMED),
            (9, "request", Reason.BAD_SIGNATURE),
            (9, "request", Reason.SENDER_MISMATCH),
            (9, "client_item", Reason.UNWANTED),
            (9, "read_request", Reason.MALFORMED),
            (9, "read_request", Reason.OVERSIZE),
            (9, "read_request", Reason.OVERSIZE),
            (9, "client_item", Reason.OVERSIZE),
        ]

    asyncio.run(scenario())


def test_a_flood_of_peers_neither_blocks_the_loop_nor_starves_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_module, "LANE_SECONDS", 0.0)

    async def scenario() -> None:
        it = rig()
        await it.inbox.put_peer_items(1, [b"x"] * 50)
        await it.inbox.put_client_items(9, CLIENT, [submit()])
        await run_until(it, lambda: len(it.core.steps) == 52)
        assert it.core.steps.index("submit True") == 2
        assert len(it.turns) >= 50, "a turn is bounded"

    asyncio.run(scenario())


def test_the_core_is_ticked_at_its_deadline() -> None:
    async def scenario() -> None:
        it = rig()
        it.core.deadline_us = runtime_module.read_clock().monotonic_us + 30_000
        await run_until(it, lambda: "tick" in it.core.steps)
        assert it.core.steps == ["start", "tick"]

    asyncio.run(scenario())


def test_merges_come_back_as_steps() -> None:
    async def scenario() -> None:
        it = rig()
        it.core.extra = lambda step: [MERGE] if step == "link 1 True" else []
        it.inbox.put_own(LinkChanged(1, up=True))

        def merged() -> bool:
            for plan in it.state.plans:
                plan.gate.set()
            return "merged 64" in it.core.steps

        await run_until(it, merged)
        assert it.state.trace[0] == "begin merge 64"
        assert it.state.trace[-1] == "finish merge 64"

    asyncio.run(scenario())


def test_digests_come_as_steps_and_one_that_cannot_be_computed_ends_the_run() -> None:
    async def scenario() -> None:
        it = rig()
        it.inbox.put_own(StateSealed(64, bytes(32)))
        await run_until(it, lambda: "sealed 64" in it.core.steps)
        it = rig()
        it.inbox.put_own(SealFailed(MemoryError("no room")))
        with pytest.raises(MemoryError, match="no room"):
            await run_until(it, lambda: False)

    asyncio.run(scenario())


def test_a_state_found_corrupt_by_a_merge_ends_the_run_and_says_what_is() -> None:
    async def scenario() -> None:
        it = rig()
        it.state.failure = StorageCorrupt("the record with key 00 fails its checksum")
        it.core.extra = lambda step: [MERGE] if step == "link 1 True" else []
        it.inbox.put_own(LinkChanged(1, up=True))

        def never() -> bool:
            for plan in it.state.plans:
                plan.gate.set()
            return False

        with pytest.raises(StorageCorrupt, match="fails its checksum"):
            await run_until(it, never)
        assert it.state.trace == ["begin merge 64"]
        assert not any(step.startswith("merged") for step in it.core.steps)

    asyncio.run(scenario())


def test_halt_ends_the_run_and_nothing_of_that_turn_leaves() -> None:
    async def scenario() -> None:
        it = rig()
        it.core.extra = lambda step: [Halt("contradiction")] if step.startswith("link") else []
        it.inbox.put_own(LinkChanged(1, up=True))
        with pytest.raises(ReplicaHalted, match="contradiction"):
            await run_until(it, lambda: False)
        assert it.bench.seen.left == ["start>1"]
        assert '"event": "halted"' in it.log_text.getvalue()
        await it.bench.worker.close()

    asyncio.run(scenario())


def test_what_the_core_tells_is_counted_and_logged() -> None:
    async def scenario() -> None:
        it = rig()
        told: list[Effect] = [
            Rejection("status", Reason.BAD_CERTIFICATE, 2),
            Rejection("request", Reason.RATE_LIMIT, None),
            Event(EventName.SUSPECTED, 3, 0, 0, "request"),
        ]
        it.core.extra = lambda step: told if step == "link 1 True" else []
        it.inbox.put_own(LinkChanged(1, up=True))
        await run_until(it, lambda: '"event": "suspected", "view": 3' in it.log_text.getvalue())
        assert "link 1 True" in it.core.steps
        assert it.gate.complaints == [(2, "status", Reason.BAD_CERTIFICATE)]
        assert it.metrics.rejections == {"rate_limit": 1}

    asyncio.run(scenario())


@dataclass
class Mute:
    """A behaviour: says nothing, and wants to be asked again soon."""

    name: str = "mute"
    acted: int = 0
    observed: list[int] = field(default_factory=list)
    deaf_to: int | None = None
    holds_us: int | None = None
    deadline_us: int | None = None
    empty_calls: int = 0

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        self.acted += len(effects)
        self.empty_calls += not effects
        if self.holds_us is not None:
            self.deadline_us = now.monotonic_us + self.holds_us
        return []

    def observe(self, sender: int, inbound: Inbound, now: Instant) -> None:
        self.observed.append(sender)

    def hears(self, sender: int) -> bool:
        return sender != self.deaf_to

    def next_deadline_us(self) -> int | None:
        return self.deadline_us


def test_a_behaviour_stands_between_core_and_outbox() -> None:
    async def scenario() -> None:
        it = rig()
        mute = it.runtime.behaviour = Mute()
        await it.inbox.put_peer_items(3, [b"x"])
        await run_until(it, lambda: len(it.core.steps) == 2)
        assert it.bench.seen.left == []
        assert mute.acted == 2
        assert mute.observed == [3]

    asyncio.run(scenario())


def test_what_a_behaviour_does_not_hear_never_reaches_the_core() -> None:
    async def scenario() -> None:
        it = rig()
        mute = it.runtime.behaviour = Mute(deaf_to=3)
        await it.inbox.put_peer_items(3, [b"x"])
        await it.inbox.put_peer_items(2, [b"x"])
        await run_until(it, lambda: len(it.core.steps) == 2)
        assert mute.observed == [2]

    asyncio.run(scenario())


def test_a_behaviour_is_asked_again_at_its_deadline() -> None:
    async def scenario() -> None:
        it = rig()
        mute = it.runtime.behaviour = Mute(holds_us=20_000)
        # Nothing else happens: only its own deadline can bring about the further calls.
        await run_until(it, lambda: mute.empty_calls >= 3)
        assert it.core.steps == ["start"]

    asyncio.run(scenario())
