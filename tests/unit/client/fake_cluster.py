"""Fake replicas on real gRPC: they agree by sharing one order in memory, and can be told to lie."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pbft.codec import (
    decode_client_frame,
    decode_client_item,
    decode_message,
    encode_gateway_frame,
    encode_gateway_item,
)
from pbft.crypto.digest import query_digest, request_digest, results_digest
from pbft.crypto.handshake import make_nonce
from pbft.crypto.keys import save_key_pair
from pbft.crypto.signing import ReplicaSigner
from pbft.genesis import dump_genesis
from pbft.grpc_environment import aio, grpc
from pbft.limits import TRANSPORT_BYTES_MAX
from pbft.messages import (
    Consistency,
    GatewayChallenge,
    GatewayItem,
    Hello,
    Outcome,
    ReadReplies,
    ReadReply,
    ReadRequest,
    Replies,
    Reply,
    Request,
    Signed,
    Submit,
)
from pbft.service.api import Room
from pbft.service.kv.store import KeyValueStore
from pbft.transport.grpc_options import server_options
from pbft_client.client import Client
from pbft_client.cluster_file import ClusterFile, ReplicaAddresses, dump_cluster_file
from pbft_client.engine import ClientSettings
from tests.harness.records import DictState
from tests.unit.client.world import real_world

Scenario = Callable[..., Coroutine[None, None, None]]
Stream = asyncio.Queue[bytes | None]


def in_loop(test: Scenario) -> Callable[..., None]:
    """Runs an async test in an event loop of its own, and requires that it leaves no task
    behind."""

    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        async def checked() -> None:
            before = asyncio.all_tasks()
            async with asyncio.timeout(120):
                await test(*arguments, **fixtures)
            # gRPC's server ends the tasks of cancelled calls a little later.
            if leftovers := asyncio.all_tasks() - before:
                await asyncio.wait(leftovers, timeout=20)
            assert not asyncio.all_tasks() - before

        asyncio.run(checked())

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what happens in the same event loop."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is waited for does not know of the test)
            await asyncio.sleep(0.002)


def answered(client: Client) -> int:
    """How many replicas have answered the calls under way, at most."""
    calls = [call for slot in client._engine._deadlines._slots.values() for call in slot]
    answers = [call.owner.answers(call) for call in calls if call.owner is not None]
    return max((len(it.answered) for it in answers), default=0)


def let_time_run_out(client: Client) -> None:
    """Every call under way ends as if its time were up, so that no test need guess how long the
    rest of it takes."""
    with patch("pbft_client.engine.time.monotonic_ns", lambda: 2**62):
        client._engine._on_timer()


@dataclass
class Order:
    """What the honest replicas agree on: one executed request after the other."""

    store: KeyValueStore
    decided: dict[tuple[int, int], Reply] = field(default_factory=dict)
    submitted: list[Request] = field(default_factory=list)
    outcome: Outcome = Outcome.EXECUTED
    """Given to every request that is not yet decided."""
    highest_session: int = 0
    results_bytes: int = 2**32
    """Of one request or read; operations after those that answer so much are not executed."""

    def answer(self, queries: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The results of one read."""
        results: list[bytes] = []
        room = self.results_bytes
        for query in queries:
            results.append(self.store.query(query, 0) if room > 0 else self.store.exhausted())
            room -= len(results[-1])
        return tuple(results)

    def decide(self, request: Request, digest: bytes) -> Reply:
        key = (request.session, request.number)
        if key in self.decided:
            return self.decided[key]
        outcome = Outcome.SESSION_CLOSED if request.close_session else self.outcome
        self.submitted.append(request)
        results: tuple[bytes, ...] = ()
        if outcome is Outcome.EXECUTED:
            room = Room(self.results_bytes, 1 << 40)
            results = tuple(self.store.execute_all(request.operations, 0, request.client, room))
        self.decided[key] = Reply(
            request.session,
            request.number,
            digest,
            len(self.decided) + 1,
            1_000,
            outcome,
            results_digest(outcome, self.highest_session, results),
            results,
            self.highest_session,
        )
        return self.decided[key]


class FakeReplica:
    """One replica. The attributes say how it misbehaves; by default it does not."""

    def __init__(self, cluster: "FakeCluster", index: int) -> None:
        self.cluster = cluster
        self.index = index
        self.view = 0
        self.is_silent = False
        self.rewrite_reply: Callable[[Reply], Reply] = lambda reply: reply
        self.rewrite_read: Callable[[ReadReply], ReadReply] = lambda reply: reply
        self.signs_as = index
        self.challenges_as = index
        self.cluster_id = cluster.world.genesis.cluster_id
        self.refuses: tuple[grpc.StatusCode, str] | None = None
        self.greets = True
        self.submits: list[Submit] = []
        self.reads: list[ReadRequest] = []
        self.streams: list[Stream] = []
        self.address = ""
        self._server: aio.Server | None = None

    async def start(self, port: int = 0) -> None:
        # A real replica's: else gRPC ends a stream that is pinged while nothing is said on it.
        options = dict(
            server_options(connections=256, streams=256, message_bytes=TRANSPORT_BYTES_MAX)
        )
        options["grpc.max_send_message_length"] = -1
        server = aio.server(options=list(options.items()))
        handler: Any = grpc.stream_stream_rpc_method_handler(self._connect)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("pbft.wire.Gateway", {"Connect": handler}),)
        )
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{bound}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            self.break_streams()
            await self._server.stop(0.05)
            self._server = None

    def break_streams(self) -> None:
        for stream in self.streams:
            stream.put_nowait(None)

    def send(self, item: GatewayItem) -> None:
        self.send_frame(encode_gateway_frame([encode_gateway_item(item)]))

    def send_frame(self, frame: bytes) -> None:
        for stream in self.streams:
            stream.put_nowait(frame)

    def reply(self, reply: Reply, full: bool) -> None:
        if self.is_silent:
            return
        if not full:
            reply = replace(reply, results=None)
        message = Replies(self.cluster.world.client, self.view, (self.rewrite_reply(reply),))
        self.send(self._signer().sign(message))

    def _signer(self) -> ReplicaSigner:
        return self.cluster.world.replica_signer(self.index, self.cluster.world.keys[self.signs_as])

    async def _connect(self, _: object, context: "aio.ServicerContext[bytes, bytes]") -> None:
        if not self.greets:
            await context.read()
            return
        challenge = GatewayChallenge(
            make_nonce(self.cluster.world.genesis.replicas[self.challenges_as]), self.cluster_id
        )
        await context.write(encode_gateway_frame([encode_gateway_item(challenge)]))
        first = await context.read()
        if not isinstance(first, bytes):
            return
        signed = decode_client_item(decode_client_frame(first)[0])
        assert isinstance(signed, Signed)
        hello = decode_message(signed.kind, signed.payload)
        assert isinstance(hello, Hello)
        assert hello.nonce == challenge.nonce
        if self.refuses is not None:
            await context.abort(*self.refuses)
        stream: Stream = asyncio.Queue()
        self.streams.append(stream)
        reader = asyncio.ensure_future(self._read(context))
        try:
            while (frame := await stream.get()) is not None:
                await context.write(frame)
        finally:
            self.streams.remove(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, context: "aio.ServicerContext[bytes, bytes]") -> None:
        while isinstance(frame := await context.read(), bytes):
            for item in decode_client_frame(frame):
                self._take(decode_client_item(item))

    def _take(self, item: object) -> None:
        if isinstance(item, Submit):
            self.submits.append(item)
            if not self.is_silent:
                self.cluster.submit(self, item)
        elif isinstance(item, ReadRequest):
            self.reads.append(item)
            if not self.is_silent:
                self._answer_read(item)

    def _answer_read(self, read: ReadRequest) -> None:
        store = self.cluster.order.store
        results = self.cluster.order.answer(read.queries)
        is_fast = read.consistency is Consistency.LINEARIZABLE
        reply = ReadReply(
            read.nonce,
            query_digest(read.queries),
            results_digest(Outcome.EXECUTED, 0, results),
            results if read.full_results else None,
            len(self.cluster.order.decided),
        )
        if is_fast and store.exhausted() in results:
            reply = replace(reply, results_digest=b"", results=None, refused=True)
        message = ReadReplies(self.cluster.world.client, self.view, (self.rewrite_read(reply),))
        self.send(self._signer().sign(message))


class FakeCluster:
    """Four fake replicas, and the files a client needs in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.world = real_world()
        genesis = self.world.genesis
        self.order = Order(KeyValueStore(DictState(), genesis.limits))
        self.replicas = [FakeReplica(self, index) for index in range(len(genesis.replicas))]
        self.directory = directory
        self.file = directory / "cluster.toml"
        self.clients: list[Client] = []

    async def __aenter__(self) -> "FakeCluster":
        for replica in self.replicas:
            await replica.start()
        keys = self.directory / "clients"
        save_key_pair(keys / "0.key", self.world.client_keys)
        (self.directory / "genesis.toml").write_bytes(dump_genesis(self.world.genesis))
        cluster = ClusterFile(
            genesis=self.directory / "genesis.toml",
            replicas=tuple(ReplicaAddresses(replica.address) for replica in self.replicas),
            key=keys / "0.key",
            insecure=True,
        )
        self.file.write_text(dump_cluster_file(cluster, self.directory), encoding="utf-8")
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(replica.stop() for replica in self.replicas))

    async def connect(self, within_seconds: float = 30.0, **settings: object) -> Client:
        chosen = replace(ClientSettings(close_seconds=0.2), **settings)  # type: ignore[arg-type]
        client = await Client.connect(self.file, timeout=within_seconds, settings=chosen)
        self.clients.append(client)
        return client

    async def streams(self, count: int) -> None:
        """Waits until so many replicas have a stream of the client, and the client knows it.

        A client sends what is under way through every stream that is new to it, so a test that
        minds who is asked must not begin while a stream is open at the replica's end only.
        """
        await until(lambda: self._open_streams() == {count})

    def _open_streams(self) -> set[int]:
        """How many streams are open, as each end counts them."""
        known = {sum(bool(replica.streams) for replica in self.replicas)}
        for client in self.clients:
            if not client._engine._stopped:
                known.add(sum(link.is_up for link in client._engine._links))
        return known

    def submit(self, by: FakeReplica, submit: Submit) -> None:
        """Any replica that is sent a request passes it on; all answer the client."""
        request = decode_message(submit.request.kind, submit.request.payload)
        assert isinstance(request, Request)
        is_new = (request.session, request.number) not in self.order.decided
        reply = self.order.decide(request, request_digest(submit.request.payload))
        designated = request.number % len(self.replicas)
        for replica in self.replicas if is_new else [by]:
            wants_full = submit.full_results and replica is by
            replica.reply(reply, full=wants_full or replica.index == designated)
