"""The small parts: deadlines, cluster.toml, errors, key-value encodings, lazy names."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

import pbft_client
from pbft.errors import ConfigurationError, Reason, Rejected
from pbft.grpc_environment import aio, grpc
from pbft.limits import ProtocolLimits
from pbft.messages import Kind, Prepare, Refusal, Replies
from pbft.service.kv.store import KeyValueStore
from pbft.wire import kv_pb2
from pbft_client import kv
from pbft_client.cluster_file import (
    ClusterFile,
    ReplicaAddresses,
    dump_cluster_file,
    load_cluster_file,
)
from pbft_client.deadlines import Deadlines
from pbft_client.errors import (
    Answers,
    Cancellation,
    ClientError,
    DefiniteFailure,
    OutcomeUnknown,
    ServiceError,
    TooFewAnswers,
    UnexpectedResult,
    may_take_effect,
)
from pbft_client.gathering import Carrier
from pbft_client.link import describe_rejection, describe_rpc_error
from pbft_client.results import Execution, PutResult
from tests.harness.records import DictState
from tests.unit.client.world import World

EXECUTION = Execution(1, 2, 3, 4, 5)


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**8), st.booleans()), max_size=50)
)
def test_deadlines_are_never_early_and_at_most_a_64th_late(
    items: list[tuple[int, int, bool]],
) -> None:
    deadlines: Deadlines[int] = Deadlines()
    slots = {}
    for index, (now, timeout, _) in enumerate(items):
        slots[index] = deadlines.add(index, now, timeout)
        assert now + timeout <= slots[index] < now + timeout + max(2**13, timeout / 64)
    kept = set()
    for index, (_, _, is_discarded) in enumerate(items):
        if is_discarded:
            deadlines.discard(index, slots[index])
        else:
            kept.add(index)
    expired = set()
    while (next_us := deadlines.next_us()) is not None:
        assert deadlines.expire(next_us - 1) == []
        now_expired = deadlines.expire(next_us)
        assert now_expired
        assert all(slots[item] == next_us for item in now_expired)
        expired.update(now_expired)
    assert expired == kept


def test_a_timeout_has_a_bounded_number_of_slots() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for index in range(100_000):
        deadlines.add(index, index * 100, 10_000_000)
    assert len(deadlines._slots) <= 130
    deadlines.discard(5, 12_345)
    assert len(deadlines.take_all()) == 100_000
    assert deadlines.next_us() is None


def test_a_cluster_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    cluster = ClusterFile(
        genesis=tmp_path / "genesis.toml",
        replicas=(
            ReplicaAddresses("127.0.0.1:7001", "127.0.0.1:7002"),
            ReplicaAddresses("[::1]:7003"),
            ReplicaAddresses("127.0.0.1:7004"),
            ReplicaAddresses("127.0.0.1:7005"),
        ),
        key=tmp_path / 'clients"' / "0.key",
        certificate=Path("/elsewhere/client.pem"),
        authority=tmp_path / "authority.pem",
        operator=tmp_path / "operator" / "operator.pem",
        insecure=True,
    )
    text = dump_cluster_file(cluster, tmp_path)
    assert 'genesis = "genesis.toml"' in text
    file = tmp_path / "cluster.toml"
    file.write_text(text, encoding="utf-8")
    assert load_cluster_file(file) == cluster


def test_hosts_may_be_names_and_addresses_of_both_kinds(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    hosts = ["a", "replica_0.example.", "127.0.0.1", "[2001:db8:85a3:8d3:1319:8a2e:370:7348]", "ü"]
    tables = [f'[[replicas]]\nclient = "{host}:65535"' for host in hosts]
    file.write_text("\n".join(['genesis = "g"', *tables]), encoding="utf-8")
    addresses = [replica.client for replica in load_cluster_file(file).replicas]
    assert addresses == [f"{host}:65535" for host in hosts]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("not toml", "cannot be read as TOML"),
        ('genesis = "g"', r"needs one \[\[replicas\]\] table per replica"),
        ('[[replicas]]\nclient = "a:1"', "lacks the key: genesis"),
        ('genesis = 5\n[[replicas]]\nclient = "a:1"', "genesis in .* must be a text"),
        ('genesis = "g"\nspeed = 1\n[[replicas]]\nclient = "a:1"', "unknown key in .*: speed"),
        ('genesis = "g"\n[[replicas]]\nclient = "a:1"\nx = 1', "unknown key in replica 0 .*: x"),
        ('genesis = "g"\nreplicas = [1]', "replica 0 of .* must be a table"),
        ('genesis = "g"\ninsecure = 1\n[[replicas]]\nclient = "a:1"', "insecure in .* true or"),
        ('genesis = "g"\n[[replicas]]\nclient = "a"', "must be host:port, not 'a'"),
        ('genesis = "g"\n[[replicas]]\nclient = ":1"', "must be host:port"),
        ('genesis = "g"\n[[replicas]]\nclient = "a:70000"', "must be host:port"),
        ('genesis = "g"\n[[replicas]]\nclient = "my host:1"', "must be host:port, not 'my host:1'"),
        ('genesis = "g"\n[[replicas]]\nclient = "a\\t:1"', "must be host:port"),
        ('genesis = "g"\n[[replicas]]\nclient = "a..example:1"', "must be host:port"),
        ('genesis = "g"\n[[replicas]]\nclient = "a:' + "1" * 5_000 + '"', "must be host:port"),
        ('genesis = "g\\u0000"\n[[replicas]]\nclient = "a:1"', "genesis in .* can be no path"),
        ("genesis = " + "1" * 5_000, "cannot be read as TOML"),
        ("genesis = " + "[" * 5_000, "cannot be read as TOML"),
        ('genesis = "g"\n[[replicas]]\nadmin = "a:1"', "client in replica 0"),
        ('genesis = "g"' + 3 * '\n[[replicas]]\nclient = "a:1"', "names 3 replicas; .* 4 to 31"),
        ('genesis = "g"' + 32 * '\n[[replicas]]\nclient = "a:1"', "names 32 replicas; .* 4 to 31"),
    ],
)
def test_a_wrong_cluster_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=complaint):
        load_cluster_file(file)


def test_what_a_replica_says_does_not_command_the_terminal() -> None:
    carrier = Carrier([])
    carrier.note_refusal(1, Refusal(1, 1, "\x1b[2J\x1b]0;owned\x07no\nmore"))
    told = str(TooFewAnswers("no answer", carrier.answers(4, 2, (0, 2, 3), 1)))
    assert told.isprintable()
    assert told.endswith("replica 1 refused the request: [2J]0;ownednomore)")


def test_may_take_effect_is_careful_about_what_it_does_not_know() -> None:
    assert may_take_effect(OutcomeUnknown("lost"))
    assert not may_take_effect(DefiniteFailure("never"))
    assert may_take_effect(asyncio.CancelledError())
    assert not may_take_effect(asyncio.CancelledError("reason", Cancellation(False)))
    assert may_take_effect(KeyError())


def test_answers_read_like_a_sentence() -> None:
    assert str(Answers(4, 2, (0, 3), 1, {1: "is frozen"})) == (
        "2 of 4 answered, 2 matching needed, 1 matched, replica 1 is frozen, "
        "replica 2 did not answer"
    )


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0"), (b"a\xfe", b"a\xff")],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert kv.prefix_end(prefix) == end


def test_a_compare_and_swap_is_a_transaction_with_one_compare() -> None:
    absent = kv_pb2.RequestOp.FromString(kv.encode_cas(b"k", None, b"v")).request_txn
    assert absent.compare[0].target == kv_pb2.Compare.VERSION
    assert absent.compare[0].version == 0
    assert absent.compare[0].HasField("version")
    empty = kv_pb2.RequestOp.FromString(kv.encode_cas(b"k", b"", b"v")).request_txn
    assert empty.compare[0].target == kv_pb2.Compare.VALUE
    assert empty.compare[0].HasField("value")
    assert [op.request_put.value for op in empty.success] == [b"v"]
    assert not empty.failure


def test_results_of_another_service_are_told_apart_from_errors() -> None:
    error = kv_pb2.Result(error=kv_pb2.Error(code=5, message="no such lease"))
    with pytest.raises(ServiceError, match="no such lease"):
        kv.decode_put(error.SerializeToString(), EXECUTION)
    for result in (b"\xff", b"", kv_pb2.Result(response=kv_pb2.ResponseOp()).SerializeToString()):
        for decode in (kv.decode_put, kv.decode_delete, kv.decode_cas):
            with pytest.raises(UnexpectedResult, match="service") as caught:
                decode(result, EXECUTION)
            assert may_take_effect(caught.value)
        for execution in (EXECUTION, None):
            with pytest.raises(UnexpectedResult, match="service") as caught:
                kv.decode_range(result, execution)
            assert not may_take_effect(caught.value), "a read changes nothing"


def test_every_error_of_a_call_is_exported() -> None:
    """Wherever it is defined: whoever is to catch it must find it."""
    kinds = [ClientError]
    for kind in kinds:
        kinds += [below for below in kind.__subclasses__() if "pbft_client" in below.__module__]
    assert UnexpectedResult in kinds
    assert all(getattr(pbft_client, kind.__name__) is kind for kind in kinds)


def test_the_store_says_what_it_was_not_given_to_execute_as_the_client_expects() -> None:
    store = KeyValueStore(DictState(), ProtocolLimits())
    assert store.exhausted() == kv.EXHAUSTED


@pytest.mark.parametrize(
    ("code", "details", "text"),
    [
        (grpc.StatusCode.UNAVAILABLE, "x: Connection refused (111)", "refused the connection"),
        (
            grpc.StatusCode.UNAVAILABLE,
            "last error: UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed: WRONG_VERSION_NUMBER: OK",
            "does not speak TLS",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            "check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
            "shows the certificate of somebody else",
        ),
        (grpc.StatusCode.UNAVAILABLE, "reset", "broke the stream: unavailable reset"),
        (grpc.StatusCode.INTERNAL, None, "broke the stream: internal"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough", "ended the stream: enough"),
        (grpc.StatusCode.OK, "", "closed the stream"),
        (grpc.StatusCode.UNAUTHENTICATED, "who?", "refuses this client: who?"),
    ],
)
def test_the_end_of_a_stream_in_words(
    code: grpc.StatusCode, details: str | None, text: str
) -> None:
    metadata = aio.Metadata()
    assert describe_rpc_error(aio.AioRpcError(code, metadata, metadata, details)) == text
    assert describe_rpc_error(grpc.RpcError()) == "broke the stream"
    assert "malformed" in describe_rejection(Rejected(Reason.MALFORMED))


def test_an_envelope_is_opened_only_if_it_is_an_answer_to_this_client() -> None:
    world = World()
    prepare = world.replica_signer(0).sign(Prepare(1, 1, b"d" * 32))
    assert prepare.kind is Kind.PREPARE
    with pytest.raises(Rejected) as caught:
        world.opener.open(0, prepare)
    assert caught.value.reason is Reason.WRONG_DOMAIN
    other = world.replica_signer(0).sign(Replies(b"o" * 32, 0, ()))
    with pytest.raises(Rejected) as caught:
        world.opener.open(0, other)
    assert caught.value.reason is Reason.SENDER_MISMATCH
    with pytest.raises(Rejected) as caught:
        world.opener.open(1, world.replies(0, []).signed)
    assert caught.value.reason is Reason.SENDER_MISMATCH


def test_names_are_imported_when_they_are_used() -> None:
    for name in pbft_client.__all__:
        assert getattr(pbft_client, name).__name__ if name != "ReadConsistency" else True
    assert sorted(pbft_client._HOME) == sorted(pbft_client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pbft_client.nothing  # noqa: B018
    check = "import sys, pbft_client; pbft_client.ClientError; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_grpc_is_set_up_before_it_is_imported_and_the_users_choice_stays() -> None:
    check = (
        "import os, sys; os.environ['GRPC_ENABLE_FORK_SUPPORT'] = 'mine';"
        "os.environ.pop('GRPC_EXPERIMENTS', None); import pbft.grpc_environment;"
        "assert 'event_engine_client' in os.environ['GRPC_EXPERIMENTS'];"
        "assert os.environ['GRPC_ENABLE_FORK_SUPPORT'] == 'mine'"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def put_result(revision: int) -> bytes:
    result = kv_pb2.Result()
    result.response.response_put.header.revision = revision
    return result.SerializeToString()


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3), st.data())
def test_results_of_puts_are_read_as_protobuf_reads_them(
    revision: int, noise: bytes, data: st.DataObject
) -> None:
    encoded = put_result(revision)
    assert kv.decode_put(encoded, EXECUTION) == PutResult(revision, None, EXECUTION)
    changed = bytearray(encoded)
    changed[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    for other in (bytes(changed), encoded[:-1], encoded + noise):
        try:
            expected = kv_pb2.Result.FromString(other)
        except DecodeError:
            expected = kv_pb2.Result()
        if expected.response.WhichOneof("response") != "response_put":
            with pytest.raises((UnexpectedResult, ServiceError)):
                kv.decode_put(other, EXECUTION)
            continue
        put = expected.response.response_put
        found = kv.decode_put(other, EXECUTION)
        assert found.revision == put.header.revision
        assert (found.previous is None) == (not put.HasField("prev_kv"))


def test_the_result_of_a_put_with_more_in_it_is_read_whole() -> None:
    result = kv_pb2.Result.FromString(put_result(7))
    result.response.response_put.prev_kv.key = b"k"
    found = kv.decode_put(result.SerializeToString(), EXECUTION)
    assert found.revision == 7 and found.previous is not None and found.previous.key == b"k"


@given(st.binary(max_size=130), st.integers(0, 300), st.booleans())
@example(b"k", 16_383, False)
@example(b"k" * 127, 16_383, False)
@example(b"k", 16_384, False)
def test_puts_are_spelled_as_protobuf_spells_them(key: bytes, size: int, previous: bool) -> None:
    value = bytes(size)
    put = kv_pb2.PutRequest(key=key, value=value, prev_kv=previous)
    expected = kv_pb2.RequestOp(request_put=put).SerializeToString()
    assert kv.encode_put(key, value, return_previous=previous) == expected
