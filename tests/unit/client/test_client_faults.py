"""Replicas and networks that misbehave, against the whole client (adversary.md Y1 to Y8)."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pbft.codec import encode_gateway_frame, encode_gateway_item
from pbft.crypto.digest import results_digest
from pbft.errors import Reason, Rejected
from pbft.grpc_environment import grpc
from pbft.messages import GatewayChallenge, Outcome, ReadReply, Refusal, Reply, Signed
from pbft_client.errors import ClientError, OutcomeUnknown, TooFewAnswers, may_take_effect
from pbft_client.reads import ReadSettings
from pbft_client.session import SessionSettings
from tests.unit.client.fake_cluster import (
    FakeCluster,
    answered,
    in_loop,
    let_time_run_out,
    until,
)
from tests.unit.client.world import digest_only

FAST_RESEND = SessionSettings(retransmission_first_us=50_000)
HOUR_US = 3_600_000_000
NO_RESEND = SessionSettings(
    retransmission_first_us=HOUR_US, retransmission_cap_us=HOUR_US, full_results_wait_us=HOUR_US
)
"""However slow the machine, nothing is sent again only because time has passed."""


def lie(answer: Reply) -> Reply:
    """Another result, as a replica would sign it that wants it believed."""
    results = (b"a lie",) * len(answer.results or (b"",))
    return replace(
        answer, results=results, results_digest=results_digest(answer.outcome, 0, results)
    )


@pytest.mark.parametrize("liar", range(4))
def test_y1_f_wrong_replies_change_nothing(tmp_path: Path, liar: int) -> None:
    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
            cluster.replicas[liar].rewrite_reply = lie
            for revision in range(2, 7):
                assert (await client.put(b"k", b"v")).revision == revision

    scenario()


@in_loop
async def test_y2_a_replica_cannot_answer_as_another(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for replica in cluster.replicas[:2]:
            replica.is_silent = True
        cluster.replicas[3].signs_as = 2
        put = asyncio.ensure_future(client.put(b"k", b"v"))
        await until(lambda: client._engine._links[3].attempts > 0 and answered(client) == 1)
        let_time_run_out(client)
        with pytest.raises(OutcomeUnknown, match="1 of 4 answered, 2 matching needed"):
            await put
        cluster.replicas[1].is_silent = False
        assert (await client.put(b"k", b"w")).revision == 3


@in_loop
async def test_y4_a_wrong_body_is_replaced_by_asking_all_in_full(tmp_path: Path) -> None:
    def wrong_body(answer: Reply) -> Reply:
        return answer if answer.results is None else replace(answer, results=(b"wrong",))

    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        cluster.replicas[1].rewrite_reply = wrong_body
        assert (await client.put(b"k", b"v")).revision == 2
        assert any(submit.full_results for submit in cluster.replicas[0].submits)


@in_loop
async def test_y6_a_silent_primary_is_got_round_by_sending_to_all(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        client = await cluster.connect(session=FAST_RESEND)
        async with client:
            await cluster.streams(4)
            await client.put(b"k", b"v")
            assert client._engine.session.hints.primary == 0
            cluster.replicas[0].is_silent = True
            assert (await client.put(b"k", b"w")).revision == 3
            request = cluster.replicas[0].submits[-1].request
            for replica, full_results in ((0, False), (3, True)):
                submits = cluster.replicas[replica].submits
                ways = [it.full_results for it in submits if it.request == request]
                # A request is first sent with False, and with True when time has passed.
                assert ways[0] is full_results
                assert all(ways[1:])


@in_loop
async def test_y6_retransmissions_execute_once(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        client = await cluster.connect(session=FAST_RESEND)
        async with client:
            for replica in cluster.replicas:
                replica.is_silent = True
            put = asyncio.ensure_future(client.put(b"k", b"v"))
            await until(lambda: all(len(replica.submits) > 1 for replica in cluster.replicas))
            for replica in cluster.replicas:
                replica.is_silent = False
            assert (await put).revision == 2
            sent = [submit.request for replica in cluster.replicas for submit in replica.submits]
            assert len(sent) >= 6
            assert len(set(sent)) == 1
            assert len(cluster.order.submitted) == 1


GARBAGE = [
    b"",
    b"\x00",
    b"garbage that is no frame",
    os.urandom(10_000),
    encode_gateway_frame([b"\xff\xff"]),
    encode_gateway_frame(
        [encode_gateway_item(GatewayChallenge(b"n" * 32, b"c" * 32))],
    ),
    b"\x0a" + b"\x80" * 20,
    bytes(17 * 1024 * 1024),
    bytes(40 * 1024 * 1024),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: f"{len(garbage)} bytes")
def test_y7_garbage_ends_only_the_stream_it_came_through(tmp_path: Path, garbage: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
            await cluster.streams(4)
            link = client._engine._links[3]
            cluster.replicas[3].send_frame(garbage)
            put = asyncio.ensure_future(client.put(b"k", b"v"))
            await until(lambda: link.attempts > 0)
            assert link.trouble is not None
            assert "stream" in link.trouble or "honest" in link.trouble
            assert (await put).revision == 2
            assert (await client.get(b"k")) is not None
            # It is dialled again, and its answers count again.
            await cluster.streams(4)
            for replica in cluster.replicas[:2]:
                replica.is_silent = True
            assert (await client.put(b"k", b"w")).revision == 3

    scenario()


@in_loop
async def test_y7_a_forged_signature_ends_the_stream(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for replica in cluster.replicas[:2]:
            replica.is_silent = True
        cluster.replicas[3].signs_as = 2
        put = asyncio.ensure_future(client.put(b"k", b"v"))
        link = client._engine._links[3]
        await until(lambda: link.attempts > 0)
        assert link.trouble == "sent a wrong signature"
        assert not put.done()
        cluster.replicas[3].signs_as = 3
        assert (await put).revision == 2
        assert (await client.put(b"k", b"w")).revision == 3
        assert link.attempts == 1, "the forgery ended one stream only"


@in_loop
async def test_y7_a_forgery_that_comes_to_light_during_the_next_handshake_ends_only_that(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        link, replica = client._engine._links[3], cluster.replicas[3]
        replica.greets = False
        replica.break_streams()
        await until(lambda: link.attempts == 1 and link._call is not None)
        link.drop(Rejected(Reason.BAD_SIGNATURE, "of the stream before"))
        await until(lambda: link.attempts == 2)
        assert link.trouble == "sent a wrong signature"
        replica.greets = True
        await cluster.streams(4)


@in_loop
async def test_y7_answers_for_another_client_or_of_another_kind_end_the_stream(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        replica = cluster.replicas[1]
        signed = replica._signer().sign(
            cluster.world.replies(1, [], view=0).message,
        )
        replica.send(Signed(signed.kind, 2, signed.payload, signed.signature))
        link = client._engine._links[1]
        await until(lambda: link.attempts > 0)
        assert link.trouble == "sent what no honest replica sends (sender_mismatch)"


@in_loop
async def test_y7_a_replica_that_never_greets_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pbft_client.link.HANDSHAKE_SECONDS", 1.0)
    async with FakeCluster(tmp_path) as cluster:
        cluster.replicas[2].greets = False
        async with await cluster.connect() as client:
            assert (await client.put(b"k", b"v")).revision == 2
            await until(lambda: client._engine._links[2].attempts > 0)
            assert client._engine._links[2].trouble == "did not greet in time"


@in_loop
async def test_a_replica_of_another_cluster_is_not_greeted(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        for replica in cluster.replicas[1:]:
            replica.cluster_id = b"x" * 32
        with pytest.raises(TooFewAnswers, match="replica 1 belongs to another cluster"):
            await cluster.connect(within_seconds=20)


@in_loop
async def test_a_replica_that_passes_on_the_challenge_of_another_is_not_greeted(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster:
        cluster.replicas[2].challenges_as = 3
        async with await cluster.connect() as client:
            await cluster.streams(3)
            link = client._engine._links[2]
            await until(lambda: link.attempts > 0)
            assert not cluster.replicas[2].streams
            assert link.trouble == "is another replica than cluster.toml says"


@in_loop
async def test_a_client_that_is_not_admitted_is_told_at_once(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        for replica in cluster.replicas:
            replica.refuses = (grpc.StatusCode.UNAUTHENTICATED, "client_unauthorized")
        client = None
        reason = "replica . refuses this client: client_unauthorized"
        # Long before its time is over.
        async with asyncio.timeout(30):
            with pytest.raises(ClientError, match=reason):
                client = await cluster.connect(within_seconds=300)
                await client.put(b"k", b"v", timeout=300)
        if client is not None:
            await client.close()


@in_loop
async def test_a_client_that_is_admitted_no_longer_is_told_at_once(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for replica in cluster.replicas:
            replica.is_silent = True
            replica.refuses = (grpc.StatusCode.UNAUTHENTICATED, "client_unauthorized")
        put = asyncio.ensure_future(client.put(b"k", b"v", timeout=300))
        await until(lambda: all(replica.submits for replica in cluster.replicas))
        for replica in cluster.replicas:
            replica.break_streams()
        async with asyncio.timeout(30):
            with pytest.raises(OutcomeUnknown, match="the cluster refuses this client"):
                await put


@in_loop
async def test_streams_come_back_after_replicas_restart(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await client.put(b"k", b"v")
        ports = [int(replica.address.rpartition(":")[2]) for replica in cluster.replicas]
        await asyncio.gather(*(replica.stop() for replica in cluster.replicas))
        put = asyncio.ensure_future(client.put(b"k", b"w"))
        await asyncio.sleep(0.1)
        assert not put.done()
        for replica, port in zip(cluster.replicas, ports, strict=True):
            await replica.start(port)
        assert (await put).revision == 3


@in_loop
async def test_a_broken_stream_to_the_primary_sends_to_all_at_once(tmp_path: Path) -> None:
    async with (
        FakeCluster(tmp_path) as cluster,
        await cluster.connect(session=NO_RESEND) as client,
    ):
        await cluster.streams(4)
        await client.put(b"k", b"v")
        await until(lambda: all(replica.submits for replica in cluster.replicas))
        primary, others = cluster.replicas[0], cluster.replicas[1:]
        primary.is_silent = True
        put = asyncio.ensure_future(client.put(b"k", b"w"))
        await until(lambda: len(primary.submits) == 2)
        assert [len(replica.submits) for replica in others] == [1, 1, 1]
        assert not put.done()
        await primary.stop()
        assert (await put).revision == 3


@in_loop
async def test_reads_that_do_not_match_are_ordered(tmp_path: Path) -> None:
    def differ(answer: ReadReply) -> ReadReply:
        return replace(answer, results=None, results_digest=os.urandom(32))

    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        await client.put(b"k", b"v")
        for replica in cluster.replicas[:2]:
            replica.rewrite_read = differ
        found = await client.range(b"k")
        assert found.items[0].value == b"v"
        assert found.execution is not None
        assert found.revision == 2


@in_loop
async def test_reads_are_ordered_when_too_few_replicas_for_fast_ones_can_be_reached(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster:
        await asyncio.gather(*(replica.stop() for replica in cluster.replicas[2:]))
        async with await cluster.connect() as client:
            await client.put(b"k", b"v")
            for _ in range(2):
                found = await client.range(b"k")
                assert found.items[0].value == b"v"
                assert found.execution is not None
            assert not any(replica.reads for replica in cluster.replicas)


@in_loop
async def test_f_wrong_read_answers_are_not_believed(tmp_path: Path) -> None:
    def wrong(answer: ReadReply) -> ReadReply:
        results = (b"a lie",)
        digest = results_digest(Outcome.EXECUTED, 0, results)
        return replace(answer, results=results, results_digest=digest)

    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        await client.put(b"k", b"v")
        for liar in range(4):
            cluster.replicas[liar].rewrite_read = wrong
            for consistency in ("linearizable", "stale"):
                pair = await client.get(b"k", consistency=consistency)
                assert pair is not None
                assert pair.value == b"v"
            cluster.replicas[liar].rewrite_read = lambda answer: answer


@in_loop
async def test_a_read_with_a_silent_replica_still_takes_one_round(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        slow = ReadSettings(linearizable_wait_us=1_000_000)
        async with await cluster.connect(reads=slow) as client:
            await cluster.streams(4)
            await client.put(b"k", b"v")
            cluster.replicas[client._engine.reads._full_from].is_silent = True
            assert (await client.range(b"k")).execution is not None
            assert (await client.range(b"k")).execution is None, "another one is asked now"


@in_loop
async def test_refusals_are_told_when_the_call_fails(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for replica in cluster.replicas:
            replica.is_silent = True
        put = asyncio.ensure_future(client.put(b"k", b"v"))
        session = client._engine.session
        await until(lambda: bool(cluster.replicas[1].submits))
        cluster.replicas[1].send(Refusal(session.session, 1, "queue_full"))
        submission = session._under_way[session.session, 1]
        await until(lambda: bool(submission.refusals))
        let_time_run_out(client)
        with pytest.raises(OutcomeUnknown, match="replica 1 refused the request: queue_full"):
            await put


@in_loop
async def test_designated_replicas_that_send_digests_only_cost_one_more_round(
    tmp_path: Path,
) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        await cluster.streams(4)
        for replica in cluster.replicas[:3]:
            replica.rewrite_reply = digest_only
        assert (await client.put(b"k", b"v")).revision == 2


@in_loop
async def test_y8_a_restarted_client_goes_on_in_a_session_above(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        sessions = []
        for _ in range(3):
            async with await cluster.connect() as client:
                sessions.append((await client.put(b"k", b"v")).execution.session)
        assert sessions == sorted(set(sessions))


@in_loop
async def test_a_late_loser_of_many_calls_leaves_nothing_behind(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, await cluster.connect() as client:
        for replica in cluster.replicas:
            replica.is_silent = True
        puts = [client.put(b"%d" % index, b"v", timeout=0.1) for index in range(3_000)]
        errors = await asyncio.gather(*puts, return_exceptions=True)
        unknown = [error for error in errors if may_take_effect(error)]  # type: ignore[arg-type]
        assert all(isinstance(error, OutcomeUnknown) for error in unknown)
        assert client._engine.session.under_way == 0
        assert client._engine._deadlines.next_us() is None
        for replica in cluster.replicas:
            replica.is_silent = False
        assert (await client.put(b"k", b"w")).execution.number > 1
