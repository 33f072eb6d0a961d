"""Calls that travel with greedy ones get their own results all the same (service.md section 5)."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from pbft.codec import decode_message
from pbft.messages import ReadReply, Request, Submit
from pbft.wire import kv_pb2
from pbft_client import kv
from pbft_client.client import Client
from pbft_client.errors import OutcomeUnknown, ServiceError, TooFewAnswers
from pbft_client.reads import ReadSettings
from tests.unit.client.fake_cluster import (
    FakeCluster,
    FakeReplica,
    in_loop,
    let_time_run_out,
    until,
)

KEYS = [b"key/%02d" % index for index in range(16)]
VALUE = b"v" * 1_000
ROOM = 2_500
"""Of the results of one request or read: three of VALUE, because the last may exceed it."""


async def fill(client: Client) -> None:
    await asyncio.gather(*(client.put(key, VALUE) for key in KEYS))


def values_put(request: Request) -> list[bytes]:
    puts = [kv_pb2.RequestOp.FromString(operation) for operation in request.operations]
    return [put.request_put.value for put in puts if put.HasField("request_put")]


@in_loop
async def test_fast_reads_beyond_the_budget_together_stay_fast(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        await fill(client)
        cluster.order.results_bytes = ROOM
        requests = len(cluster.order.submitted)
        found = await asyncio.gather(*(client.range(key) for key in KEYS))
        assert [pairs.items[0].key for pairs in found] == KEYS
        assert [pairs.items[0].value for pairs in found] == [VALUE] * len(KEYS)
        assert len(cluster.order.submitted) == requests
        sizes = [len(read.queries) for read in cluster.replicas[0].reads]
        assert sorted(sizes, reverse=True) == [16, 8, 8, 4, 4, 4, 4, *[2] * 8]


@in_loop
async def test_stale_reads_beyond_the_budget_together_have_their_results(tmp_path: Path) -> None:
    """They are not refused: those that are too much have a result that says so."""
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        await fill(client)
        cluster.order.results_bytes = ROOM
        requests = len(cluster.order.submitted)
        found = await asyncio.gather(*(client.range(key, consistency="stale") for key in KEYS))
        assert [pairs.items[0].key for pairs in found] == KEYS
        assert len(cluster.order.submitted) == requests
        assert client._engine.reads._wanted == {}
        assert client._engine._deadlines.next_us() is None
        cluster.order.results_bytes = 0
        with pytest.raises(ServiceError):
            await client.range(KEYS[0], consistency="stale")


@in_loop
async def test_a_stale_read_that_is_asked_again_ends_with_its_deadline(tmp_path: Path) -> None:
    patient = ReadSettings(stale_wait_us=3_600_000_000)
    async with FakeCluster(tmp_path) as cluster, await cluster.connect(reads=patient) as client:
        await cluster.streams(4)
        await fill(client)
        cluster.order.results_bytes = 1
        for replica in cluster.replicas:
            replica.rewrite_read = partial(answer_once, replica)
        first, second = [
            asyncio.ensure_future(client.range(key, consistency="stale")) for key in KEYS[:2]
        ]
        await first
        let_time_run_out(client)
        with pytest.raises(TooFewAnswers):
            await second
        assert client._engine.reads._wanted == {}


def answer_once(replica: FakeReplica, reply: ReadReply) -> ReadReply:
    replica.is_silent = True
    return reply


@in_loop
async def test_ordered_operations_behind_greedy_ones_are_executed_once(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        await fill(client)
        before = len(cluster.order.submitted)
        cluster.order.results_bytes = ROOM
        gets = [client.range(key, consistency="ordered") for key in KEYS]
        puts = [client.put(b"new/" + key, key) for key in KEYS]
        found, made = await asyncio.gather(asyncio.gather(*gets), asyncio.gather(*puts))
        assert [pairs.items[0].value for pairs in found] == [VALUE] * len(KEYS)
        assert len({put.revision for put in made}) == len(KEYS)
        places = {(it.execution.number, it.execution.index) for it in made}
        assert len(places) == len(KEYS), "each is told the place where it was executed"
        new = await client.range(prefix=b"new/")
        assert [(pair.version, pair.value) for pair in new] == [(1, key) for key in KEYS]
        requests = cluster.order.submitted[before:]
        for key in KEYS:
            assert sum(key in values_put(request) for request in requests) <= 1 + 5


@in_loop
async def test_an_operation_of_another_service_is_not_sent_again(tmp_path: Path) -> None:
    """What its results mean is unknown here."""
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        await fill(client)
        cluster.order.results_bytes = 1
        operations = [kv.encode_range(key, b"") for key in KEYS[:2]]
        first, second = await asyncio.gather(*map(client.execute, operations))
        assert first.result != kv.EXHAUSTED
        assert second.result == kv.EXHAUSTED
        assert [len(request.operations) for request in cluster.order.submitted] == [16, 2]


@in_loop
async def test_nothing_is_sent_again_when_others_used_up_the_batch(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        cluster.order.results_bytes = 0
        puts = (client.put(key, VALUE) for key in KEYS)
        errors = await asyncio.gather(*puts, return_exceptions=True)
        assert all(isinstance(error, ServiceError) and error.code == 8 for error in errors)
        assert len(cluster.order.submitted) == 1


@pytest.mark.parametrize("goes_again", [True, False])
def test_what_is_sent_again_ends_with_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_again: bool
) -> None:
    """Unknown once it is under way again; without effect as long as it waits."""

    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
            await cluster.streams(4)
            cluster.order.results_bytes = 1
            session, submit = client._engine.session, cluster.submit

            def submit_the_first(by: FakeReplica, submitted: Submit) -> None:
                session._window = int(goes_again)
                request = decode_message(submitted.request.kind, submitted.request.payload)
                if isinstance(request, Request) and request.number == 1:
                    submit(by, submitted)

            monkeypatch.setattr(cluster, "submit", submit_the_first)
            first, second = [asyncio.ensure_future(client.put(key, VALUE)) for key in KEYS[:2]]
            await first
            await until(lambda: session.under_way == int(goes_again))
            let_time_run_out(client)
            with pytest.raises(OutcomeUnknown if goes_again else TooFewAnswers):
                await second

    scenario()
