"""What one request, and one batch, may answer and look at is bounded, alike on every replica
(protocol.md 13)."""

from dataclasses import replace

import pytest

from pbft.limits import ProtocolLimits
from pbft.messages import Request
from pbft.service.kv.store import KeyValueStore
from tests.harness.core_cluster import Cluster
from tests.harness.core_solo import Solo
from tests.unit.service.kv_harness import get, plenty, put


@pytest.mark.parametrize("bound", ["results_bytes_per_request", "results_bytes_per_batch"])
def test_operations_beyond_the_bound_are_not_executed(bound: str) -> None:
    cluster = Cluster()
    signer = cluster.forge.clients[0]
    operations = (b"first" * 4, b"second", b"third")
    request = signer.sign(Request(signer.client, 1, 1, 0, 0, operations))
    for node in cluster.up:
        limits = replace(ProtocolLimits(), **{bound: 20})
        node.core.genesis = replace(node.core.genesis, limits=limits)
        node.submit(request)
    cluster.settle()
    for node in cluster.up:
        assert node.journal == [b"first" * 4]
    full = [reply.results for node in cluster.up for reply in node.replies() if reply.results]
    assert full
    assert all(results[1:] == (b"exhausted", b"exhausted") for results in full)


@pytest.mark.parametrize(
    ("bounds", "executed"),
    [
        ({"records_per_request": 2}, 4),
        ({"records_per_batch": 2}, 2),
        ({"records_per_request": 2, "records_per_batch": 3}, 3),
    ],
)
def test_operations_beyond_the_records_are_not_executed(
    bounds: dict[str, int], executed: int
) -> None:
    """Two requests of three operations each in one batch; every operation costs one record."""
    solo = Solo()
    limits = replace(ProtocolLimits(), **bounds)
    solo.node.core.genesis = replace(solo.node.core.genesis, limits=limits)
    clients = solo.forge.clients[:2]
    requests = [c.sign(Request(c.client, 1, 1, 0, 0, (b"a", b"b", b"c"))) for c in clients]
    solo.decide(1, solo.forge.batch(*requests))
    assert solo.node.journal == [b"a", b"b", b"a", b"b"][:executed]
    # What is left does not pass into the next batch, and what was used up does not either.
    again = [c.sign(Request(c.client, 1, 2, 1, 0, (b"d", b"e", b"f"))) for c in clients]
    solo.decide(2, solo.forge.batch(*again))
    assert solo.node.journal[executed:] == [b"d", b"e", b"d", b"e"][:executed]


def test_the_results_of_all_requests_of_a_batch_count_together() -> None:
    solo = Solo()
    limits = replace(ProtocolLimits(), results_bytes_per_batch=5)
    solo.node.core.genesis = replace(solo.node.core.genesis, limits=limits)
    clients = solo.forge.clients[:2]
    requests = [c.sign(Request(c.client, 1, 1, 0, 0, (b"a", b"b"))) for c in clients]
    solo.decide(1, solo.forge.batch(*requests))
    assert solo.node.journal == [b"a", b"b"], "results of three bytes each"


def test_counts_of_a_whole_store_do_not_add_up() -> None:
    """Ten bytes each, they would walk every record as often as a request has operations."""
    solo = Solo()
    core = solo.node.core
    core.service = service = KeyValueStore(solo.node.state, ProtocolLimits())
    limits = replace(ProtocolLimits(), records_per_request=50)
    core.genesis = replace(core.genesis, limits=limits)
    for number in range(10):
        service.execute_all((put(b"%d" % number).SerializeToString(),), 0, b"", plenty())
    count = get(b"0", b"\0", count_only=True).SerializeToString()
    client, before = solo.forge.clients[0], service.touched
    request = client.sign(Request(client.client, 1, 1, 0, 0, (count,) * 1024))
    solo.decide(1, solo.forge.batch(request))
    (reply,) = solo.node.replies()
    assert reply.results is not None
    assert reply.results[5:] == (service.exhausted(),) * 1019
    assert service.exhausted() not in reply.results[:5]
    assert service.touched == before + 5 * 12


def test_the_default_limits_let_every_batch_of_single_puts_pass() -> None:
    limits = ProtocolLimits()
    assert limits.records_per_batch >= limits.batch_requests * 128
    assert limits.records_per_request >= limits.operations_per_request
    # Of puts with a key of 8 bytes and a value of 4, whatever the requests are.
    assert limits.records_per_batch * (6 + 8 + 4 + 3) >= limits.batch_bytes
