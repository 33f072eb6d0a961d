"""The whole client against fake replicas on real gRPC: what a user sees."""

import asyncio
import functools
import math
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from pbft.errors import ConfigurationError
from pbft.messages import Outcome, Reply
from pbft_client.client import Client
from pbft_client.engine import ClientSettings, Engine
from pbft_client.errors import (
    Cancellation,
    ClientClosed,
    InvalidCall,
    OutcomeUnknown,
    RequestRejected,
    ResultForgotten,
    ServiceError,
    TooFewAnswers,
    may_take_effect,
)
from pbft_client.results import KeyValue
from pbft_client.session import REOPENING_SPREAD, SESSION_LOST, Settlement
from tests.unit.client.fake_cluster import FakeCluster, answered, in_loop, let_time_run_out, until
from tests.unit.client.world import World, forgotten


@in_loop
async def test_every_operation_of_the_store(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        put = await client.put(b"a", b"1")
        assert (put.revision, put.previous) == (2, None)
        assert (put.execution.sequence, put.execution.index) == (1, 0)
        again = await client.put(b"a", b"2", return_previous=True)
        assert again.previous == KeyValue(b"a", b"1", 2, 2, 1)
        assert await client.get(b"a") == KeyValue(b"a", b"2", 2, 3, 2)
        assert await client.get(b"b") is None

        assert await client.cas(b"b", expect=None, value=b"new")
        assert not await client.cas(b"b", expect=None, value=b"newer")
        assert await client.cas(b"b", expect=b"new", value=b"newest")
        assert not await client.cas(b"b", expect=b"new", value=b"lost")

        await client.put(b"\xff\xff", b"last")
        found = await client.range(prefix=b"")
        assert [pair.key for pair in found] == [b"a", b"b", b"\xff\xff"]
        assert (found.count, found.more, found.revision, found.execution) == (3, False, None, None)
        assert [pair.key for pair in await client.range(prefix=b"\xff")] == [b"\xff\xff"]
        assert [pair.key for pair in await client.range(b"a", range_end=b"b")] == [b"a"]
        for start, keys in ((b"", 3), (b"a", 3), (b"a\0", 2), (b"c", 1), (b"\xff\xff\0", 0)):
            assert len(await client.range(prefix=b"", start=start)) == keys
        assert [pair.key for pair in await client.range(prefix=b"b", start=b"a")] == [b"b"]
        assert not len(await client.range(prefix=b"b", start=b"c"))
        limited = await client.range(prefix=b"", limit=1, keys_only=True, consistency="ordered")
        assert (len(limited), limited.more, limited.items[0].value) == (1, True, b"")
        assert limited.revision == 6
        assert limited.execution is not None
        assert (await client.range(prefix=b"", with_revision=True)).revision == 6
        assert (await client.range(prefix=b"", count_only=True, consistency="stale")).count == 3

        deleted = await client.delete(prefix=b"a", return_previous=True)
        assert (deleted.deleted, deleted.previous[0].value) == (1, b"2")
        assert (await client.delete(b"a")).deleted == 0
        result = await client.execute(b"")
        assert result.result != b""


@in_loop
async def test_calls_made_together_travel_together_and_cost_two_signature_checks(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        puts = await asyncio.gather(*(client.put(b"k%d" % i, b"v") for i in range(50)))
        assert [put.execution.index for put in puts] == list(range(50))
        assert {put.execution.number for put in puts} == {1}
        assert client.signature_checks == 2
        await asyncio.gather(*(client.get(b"k%d" % i) for i in range(50)))
        assert {len(replica.reads) for replica in cluster.replicas} <= {0, 1}
        assert client.signature_checks == 2 + 3


@in_loop
async def test_2000_puts_in_flight_are_all_answered(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        puts = await asyncio.gather(*(client.put(b"k%d" % i, b"v" * 100) for i in range(2_000)))
        places = {(put.execution.number, put.execution.index) for put in puts}
        assert len(places) == 2_000
        assert len({put.revision for put in puts}) == 2_000
        requests = len(cluster.order.submitted)
        assert 2 <= requests <= 16
        assert client.signature_checks <= 2 * requests


@in_loop
async def test_an_error_of_the_store_is_definite_and_has_etcds_text(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        with pytest.raises(ServiceError, match="key is not provided") as caught:
            await client.put(b"", b"x")
        assert caught.value.code == 3
        assert not may_take_effect(caught.value)


@in_loop
async def test_arguments_that_can_never_be_valid_are_refused_here(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        with pytest.raises(InvalidCall, match="at most 1048576"):
            await client.put(b"k", b"x" * (1024 * 1024 + 1))
        with pytest.raises(InvalidCall, match="consistency must be one of"):
            await client.get(b"k", consistency="eventual")  # type: ignore[arg-type]
        with pytest.raises(InvalidCall, match="either a key"):
            await client.range(b"k", prefix=b"k")
        with pytest.raises(InvalidCall, match="a prefix \\(and start"):
            await client.range(b"k", range_end=b"l", start=b"k")
        with pytest.raises(InvalidCall, match="either a key"):
            await client.delete()
        assert cluster.order.submitted == []


@in_loop
async def test_an_operation_that_fits_in_no_request_is_refused_here() -> None:
    """The replicas would refuse its request, however often it is sent."""
    world = World()
    world.genesis.__dict__["limits"] = replace(world.genesis.limits, request_bytes=2_000)
    engine = Engine(world.genesis, world.signer, (), ClientSettings(), None)
    with pytest.raises(InvalidCall, match="at most 1744 are allowed"):
        await engine.call(bytes(1_745), changes=True)
    await engine.close()


@in_loop
async def test_a_call_not_answered_in_time_is_unknown_and_says_who_is_missing(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster:
        await cluster.replicas[2].stop()
        async with await cluster.connect() as client:
            await cluster.streams(3)
            for replica in (0, 3):
                cluster.replicas[replica].is_silent = True
            # Until the first attempt at replica 2 has ended, the error has nothing to tell of it.
            await until(lambda: client._engine._links[2].attempts > 0)
            put = asyncio.ensure_future(client.put(b"k", b"v"))
            await until(lambda: answered(client) == 1)
            let_time_run_out(client)
            with pytest.raises(OutcomeUnknown) as caught:
                await put
            assert may_take_effect(caught.value)
            assert str(caught.value) == (
                "no answer in time; the operation may have taken effect (1 of 4 answered, "
                "2 matching needed, replica 0 did not answer, replica 2 refused the connection, "
                "replica 3 did not answer)"
            )


@in_loop
async def test_replicas_that_contradict_each_other_are_named_in_the_count(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for index, replica in enumerate(cluster.replicas):
            replica.rewrite_reply = functools.partial(forgotten_at, sequence=index)
        put = asyncio.ensure_future(client.put(b"k", b"v"))
        await until(lambda: answered(client) == 4)
        let_time_run_out(client)
        with pytest.raises(OutcomeUnknown, match="4 of 4 answered, 2 matching needed, 1 matched"):
            await put


def forgotten_at(answer: Reply, sequence: int) -> Reply:
    """A reply that matches no other."""
    return replace(forgotten(answer), sequence=sequence + 100)


@in_loop
async def test_a_read_that_is_not_answered_had_no_effect(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for replica in cluster.replicas[:3]:
            replica.is_silent = True
        for consistency in ("linearizable", "ordered", "stale"):
            get = asyncio.ensure_future(client.get(b"k", consistency=consistency))
            await until(functools.partial(is_answered, client, consistency))
            let_time_run_out(client)
            with pytest.raises(TooFewAnswers, match="1 of 4 answered") as caught:
                await get
            assert not may_take_effect(caught.value)


def is_answered(client: Client, consistency: str) -> bool:
    """Whether a replica answered: of a linearizable read, when it has become an ordered one."""
    is_ordered = client._engine.session.under_way > 0
    return answered(client) == 1 and is_ordered is (consistency != "stale")


@in_loop
async def test_a_call_that_never_left_had_no_effect(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        with pytest.raises(TooFewAnswers) as caught:
            task = asyncio.ensure_future(client.put(b"k", b"v", timeout=0))
            await asyncio.sleep(0)
            for pending in client._engine._deadlines.expire(2**62):
                client._engine._fail(pending, client._engine._unanswered(pending, "too late"))
            await task
        assert not may_take_effect(caught.value)
        assert cluster.order.submitted == []


@in_loop
async def test_cancelling_says_whether_the_operation_may_take_effect(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for replica in cluster.replicas:
            replica.is_silent = True
        sent = asyncio.ensure_future(client.put(b"k", b"v"))
        ordered = asyncio.ensure_future(client.get(b"k", consistency="ordered"))
        read = asyncio.ensure_future(client.get(b"k"))
        await until(lambda: all(it.submits and it.reads for it in cluster.replicas))
        unsent = asyncio.ensure_future(client.put(b"k", b"w"))
        await asyncio.sleep(0)
        ended = []
        for task in (unsent, sent, ordered, read):
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            ended.append(caught.value)
        assert [may_take_effect(error) for error in ended] == [False, True, False, False]
        assert ended[0].args[0] == Cancellation(False)
        assert "not sent" in str(ended[0].args[0])
        assert "may still take effect" in str(ended[1].args[0])
        assert client._engine.session.under_way == 0
        assert client._engine.session.acknowledged == 1


@in_loop
async def test_cancelling_what_was_just_executed_says_that_it_may_have_taken_effect(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        engine = client._engine
        settle = engine._settle_requests

        def settle_and_cancel(settlements: list[Settlement]) -> None:
            settle(settlements)
            if settlements:
                put.cancel()

        with patch.object(engine, "_settle_requests", settle_and_cancel):
            put = asyncio.ensure_future(client.put(b"k", b"v"))
            with pytest.raises(asyncio.CancelledError) as caught:
                await put
        assert caught.value.args[0] == Cancellation(True)
        assert (await client.put(b"k", b"w")).revision == 3


@in_loop
async def test_cancelling_by_asyncio_timeout_stays_a_timeout(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for replica in cluster.replicas:
            replica.is_silent = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.put(b"k", b"v")


@in_loop
async def test_cancelling_after_the_answer_came_is_harmless(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        task = asyncio.ensure_future(client.put(b"k", b"v"))
        while True:
            await asyncio.sleep(0)
            if cluster.order.submitted and not client._engine.session.under_way:
                break
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await client.put(b"k", b"w")).revision == 3


@pytest.mark.parametrize(
    ("outcome", "error", "unknown"),
    [
        (Outcome.SESSION_EXPIRED, OutcomeUnknown, True),
        (Outcome.CONFLICT, RequestRejected, False),
        (Outcome.EXPIRED, RequestRejected, False),
        (Outcome.CLIENT_REFUSED, RequestRejected, False),
        (Outcome.SESSION_CLOSED, OutcomeUnknown, True),
    ],
)
def test_what_a_request_that_was_not_executed_ends_with(
    tmp_path: Path, outcome: Outcome, error: type[Exception], unknown: bool
) -> None:
    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
            cluster.order.outcome = outcome
            first_session = client._engine.session.session
            with pytest.raises(error) as caught:
                await client.put(b"k", b"v")
            assert may_take_effect(caught.value) is unknown
            lost = outcome in SESSION_LOST
            if not lost:
                with pytest.raises(error):
                    await client.get(b"k", consistency="ordered")
            cluster.order.outcome = Outcome.EXECUTED
            assert (await client.put(b"k", b"w")).revision == 2
            assert (client._engine.session.session > first_session) is lost

    scenario()


@in_loop
async def test_an_expired_session_is_reopened_above_the_highest_known(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        cluster.order.outcome = Outcome.SESSION_EXPIRED
        cluster.order.highest_session = 2**62
        with pytest.raises(OutcomeUnknown, match="session expired"):
            await client.put(b"k", b"v")
        cluster.order.outcome, cluster.order.highest_session = Outcome.EXECUTED, 0
        put = await client.put(b"k", b"w")
        assert 0 < put.execution.session - 2**62 <= REOPENING_SPREAD
        assert put.execution.number == 1


@in_loop
async def test_a_forgotten_result_is_told_as_executed(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for replica in cluster.replicas:
            replica.rewrite_reply = forgotten
        with pytest.raises(ResultForgotten, match="executed") as caught:
            await client.put(b"k", b"v")
        assert may_take_effect(caught.value)


@in_loop
async def test_that_it_was_executed_is_told_who_cannot_wait_for_its_result(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for replica in cluster.replicas:
            replica.rewrite_reply = forgotten
        await cluster.streams(4)
        # Designated for the first request, and the only one that may have the results.
        cluster.replicas[1].is_silent = True
        with pytest.raises(ResultForgotten, match="executed"):
            await client.put(b"k", b"v", timeout=0.5)


@in_loop
async def test_a_query_whose_result_is_forgotten_is_asked_again(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await client.put(b"k", b"v")
        before = len(cluster.order.submitted)

        def forgets_once(reply: Reply) -> Reply:
            return forgotten(reply) if reply.sequence == before + 1 else reply

        for replica in cluster.replicas:
            replica.rewrite_reply = forgets_once
        pairs = await client.range(prefix=b"k", consistency="ordered")
        assert [pair.value for pair in pairs.items] == [b"v"]
        assert [request.number for request in cluster.order.submitted[before:]] == [
            before + 1,
            before + 2,
        ]


@in_loop
async def test_closing_ends_the_session_and_calls_under_way(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        client = await cluster.connect(close_seconds=2.0)
        await client.put(b"k", b"v")
        await client.close()
        closing = cluster.order.submitted[-1]
        assert closing.close_session
        assert (closing.number, closing.acknowledged) == (2, 1)
        await client.close()
        with pytest.raises(ClientClosed):
            await client.put(b"k", b"v")
        await cluster.streams(0)


@in_loop
async def test_closing_does_not_wait_long_for_silent_replicas(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        client = await cluster.connect()
        await client.put(b"k", b"v")
        for replica in cluster.replicas:
            replica.is_silent = True
        put = asyncio.ensure_future(client.put(b"k", b"w"))
        await until(lambda: client._engine.session.under_way > 0)
        async with asyncio.timeout(8):  # The put itself would have been given up after 10 s.
            await client.close()
        with pytest.raises(OutcomeUnknown, match="client was closed"):
            await put


def links() -> list[str]:
    """The tasks that dial replicas, or wait to."""
    return [name for task in asyncio.all_tasks() if "link to" in (name := task.get_name())]


@in_loop
async def test_closing_that_is_cancelled_goes_on_and_can_be_waited_for(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        client = await cluster.connect(close_seconds=1.0)
        await client.put(b"k", b"v")
        for replica in cluster.replicas:
            replica.is_silent = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.close()
        with pytest.raises(ClientClosed):
            await client.put(b"k", b"w")
        await client.close()
        assert links() == []


@in_loop
async def test_connecting_that_is_cancelled_leaves_nothing_that_dials(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        for replica in cluster.replicas:
            replica.greets = False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await cluster.connect()
        assert links() == []


@in_loop
async def test_connecting_fails_with_the_reason_of_each_replica(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        await asyncio.gather(*(replica.stop() for replica in cluster.replicas[:3]))
        with pytest.raises(TooFewAnswers) as caught:
            await cluster.connect(within_seconds=2.0)
        assert str(caught.value) == (
            "cannot connect to the cluster (1 of 4 answered, 2 matching needed, "
            "replica 0 refused the connection, replica 1 refused the connection, "
            "replica 2 refused the connection)"
        )


@in_loop
async def test_a_wrong_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        await Client.connect(tmp_path / "nothing.toml")
    async with FakeCluster(tmp_path) as cluster:
        text = cluster.file.read_text()
        cluster.file.write_text(text.replace('key = "clients/0.key"\n', ""))
        with pytest.raises(ConfigurationError, match="names no key"):
            await Client.connect(cluster.file)
        cluster.file.write_text(text + '\n[[replicas]]\nclient = "127.0.0.1:1"\n')
        with pytest.raises(ConfigurationError, match="different clusters"):
            await Client.connect(cluster.file)
        (tmp_path / "genesis.toml").unlink()
        with pytest.raises(ConfigurationError, match="cannot read the genesis"):
            await Client.connect(cluster.file)


@in_loop
async def test_a_timeout_that_is_not_finite_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster:
        for seconds in (math.inf, -math.inf, math.nan, 1e303):
            with pytest.raises(InvalidCall, match=f"finite .* not {re.escape(str(seconds))}"):
                await Client.connect(cluster.file, timeout=seconds)
        async with await cluster.connect() as client:
            for seconds in (math.inf, -math.inf, math.nan, 1e303):
                with pytest.raises(InvalidCall, match=f"finite .* not {re.escape(str(seconds))}"):
                    await client.put(b"k", b"v", timeout=seconds)
                with pytest.raises(InvalidCall, match=f"finite .* not {re.escape(str(seconds))}"):
                    await client.get(b"k", timeout=seconds)
            assert not any(replica.submits or replica.reads for replica in cluster.replicas)
            assert await client.put(b"k", b"v", timeout=1e9)
        async with await cluster.connect(timeout_seconds=math.inf) as client:
            with pytest.raises(InvalidCall, match="finite number of seconds"):
                await client.put(b"k", b"v")


@in_loop
async def test_the_default_timeout_can_be_set(tmp_path: Path) -> None:
    async with (
        FakeCluster(tmp_path) as cluster,
        await cluster.connect(timeout_seconds=0.05) as client,
    ):
        for replica in cluster.replicas:
            replica.is_silent = True
        with pytest.raises(OutcomeUnknown):
            await client.put(b"k", b"v")
    assert ClientSettings().timeout_seconds == 10.0
