"""The engine and the event loop that it runs in."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from unittest.mock import patch

import pytest
import uvloop

from pbft.messages import Outcome
from pbft_client.client import Client
from pbft_client.engine import ClientSettings, Engine
from pbft_client.errors import ClientClosed, OutcomeUnknown, TooFewAnswers, may_take_effect
from pbft_client.gathering import GatherSettings
from pbft_client.reads import ReadSettings
from pbft_client.session import SESSION_LOST, SessionSettings
from tests.unit.client.fake_cluster import FakeCluster, in_loop, until
from tests.unit.client.world import World


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_deadline_that_is_over_when_it_is_looked_at_disturbs_nothing(new_loop: object) -> None:
    """On a busy machine: the timer is due at once, and before it runs more happens."""

    async def story() -> None:
        world = World()
        engine = Engine(world.genesis, world.signer, (), ClientSettings(), None)
        call = asyncio.ensure_future(engine.call(b"put", changes=True))
        await asyncio.sleep(0)
        with patch.object(engine._deadlines, "next_us", return_value=0):
            engine._flush()
            engine._flush()
        await engine.close()
        with pytest.raises(OutcomeUnknown):
            await call

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(story())


@in_loop
async def test_closing_ends_what_was_not_sent_as_that(tmp_path: Path) -> None:
    one_at_a_time = GatherSettings(under_way=1)
    patient = ReadSettings(one_at_a_time, linearizable_wait_us=3_600_000_000)
    async with FakeCluster(tmp_path) as cluster:
        client = await cluster.connect(session=SessionSettings(one_at_a_time), reads=patient)
        for replica in cluster.replicas:
            replica.is_silent = True
        session, reads = client._engine.session, client._engine.reads
        sent = [asyncio.ensure_future(call) for call in calls_of(client)]
        await until(lambda: session.under_way == len(reads._under_way) == 1)
        waiting = [asyncio.ensure_future(call) for call in calls_of(client)]
        await asyncio.sleep(0)
        await client.close()
        ends = await asyncio.gather(*sent, *waiting, return_exceptions=True)
        expected = [OutcomeUnknown, TooFewAnswers, ClientClosed, ClientClosed]
        assert [type(end) for end in ends] == expected


@pytest.mark.parametrize(
    "call", [lambda client: client.put(b"k", b"v"), lambda client: client.get(b"k")]
)
def test_what_waits_takes_the_place_of_a_call_that_is_cancelled(
    tmp_path: Path, call: Callable[[Client], Coroutine[None, None, object]]
) -> None:
    """At once: nothing else need happen for hours."""
    one_at_a_time = GatherSettings(under_way=1)
    session = SessionSettings(one_at_a_time, retransmission_first_us=3_600_000_000)
    reads = ReadSettings(one_at_a_time, linearizable_wait_us=3_600_000_000)

    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster:
            client = await cluster.connect(session=session, reads=reads, timeout_seconds=60.0)
            await cluster.streams(4)
            for replica in cluster.replicas:
                replica.is_silent = True
            engine = client._engine
            sent = asyncio.ensure_future(call(client))
            await until(lambda: engine.session.under_way + len(engine.reads._under_way) == 1)
            waiting = asyncio.ensure_future(call(client))
            await asyncio.sleep(0.02)
            for replica in cluster.replicas:
                replica.is_silent = False
            sent.cancel()
            async with asyncio.timeout(20):
                await waiting
            assert sent.cancelled()
            await client.close()

    scenario()


@pytest.mark.parametrize("outcome", SESSION_LOST)
def test_an_ordered_read_is_asked_again_in_the_session_after_the_lost_one(
    tmp_path: Path, outcome: Outcome
) -> None:
    """It changed nothing, so neither that it is unknown nor that it was rejected is worth an
    error."""

    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
            await client.put(b"k", b"v")
            order = cluster.order
            before, order.outcome = len(order.submitted), outcome
            read = asyncio.ensure_future(client.get(b"k", consistency="ordered"))
            await until(lambda: len(order.submitted) > before + 1)
            order.outcome = Outcome.EXECUTED
            pair = await read
            assert pair is not None
            assert pair.value == b"v"
            asked = order.submitted[before:]
            assert len({request.session for request in asked}) == len(asked)
            assert {request.operations for request in asked} == {asked[0].operations}

    scenario()


@pytest.mark.parametrize("outcome", SESSION_LOST)
def test_an_ordered_read_that_finds_no_session_until_its_deadline_changed_nothing(
    tmp_path: Path, outcome: Outcome
) -> None:
    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
            cluster.order.outcome = outcome
            with pytest.raises(TooFewAnswers) as caught:
                await client.get(b"k", consistency="ordered", timeout=0.1)
            assert not may_take_effect(caught.value)
            asked = len(cluster.order.submitted)
            await asyncio.sleep(0.1)
            assert len(cluster.order.submitted) <= asked + 1, "what was on its way"

    scenario()


def calls_of(client: Client) -> list[Coroutine[None, None, object]]:
    return [client.put(b"k", b"v"), client.get(b"k")]
