"""What one request, and one batch, may answer and look at is bounded, alike on every replica
(protocol.md 13)."""

from dataclasses import replace

import pytest

from pbft.codec import decode_batch
from pbft.limits import ProtocolLimits
from pbft.messages import Proposal, Request
from pbft.service.kv.store import KeyValueStore
from tests.harness.core_cluster import SECOND, Cluster, Node
from tests.harness.core_solo import Solo
from tests.harness.journal import Journal
from tests.unit.service.kv_harness import get, plenty, put


def bind(node: Node, **bounds: int) -> None:
    """Gives the replica these limits."""
    limits = replace(ProtocolLimits(), **bounds)
    node.core.genesis = replace(node.core.genesis, limits=limits)


def test_operations_beyond_the_results_are_not_executed() -> None:
    cluster = Cluster()
    signer = cluster.forge.clients[0]
    operations = (b"first" * 4, b"second", b"third")
    request = signer.sign(Request(signer.client, 1, 1, 0, 0, operations))
    for node in cluster.up:
        bind(node, results_bytes_per_request=20)
        node.submit(request)
    cluster.settle()
    for node in cluster.up:
        assert node.journal == [b"first" * 4]
    full = [reply.results for node in cluster.up for reply in node.replies() if reply.results]
    assert full
    assert all(results[1:] == (b"exhausted", b"exhausted") for results in full)


def test_operations_beyond_the_records_are_not_executed() -> None:
    """Two requests of three operations each in one batch; every operation costs one record."""
    solo = Solo()
    bind(solo.node, records_per_request=2)
    clients = solo.forge.clients[:2]
    requests = [c.sign(Request(c.client, 1, 1, 0, 0, (b"a", b"b", b"c"))) for c in clients]
    solo.decide(1, solo.forge.batch(*requests))
    assert solo.node.journal == [b"a", b"b", b"a", b"b"]


@pytest.mark.parametrize(
    ("bounds", "executed"),
    [
        ({"records_per_batch": 1}, 1),
        ({"records_per_batch": 2}, 1),
        ({"records_per_batch": 3}, 2),
        ({"results_bytes_per_batch": 5}, 1),
        ({"results_bytes_per_batch": 7}, 2),
    ],
)
def test_requests_that_a_batch_has_no_room_for_are_left_for_a_later_one(
    bounds: dict[str, int], executed: int
) -> None:
    """Three requests of two operations each, with results of three bytes each. Nobody is told of
    those that are left, and none is cut short for what the others did."""
    solo = Solo()
    bind(solo.node, **bounds)
    clients = solo.forge.clients[:3]
    requests = [c.sign(Request(c.client, 1, 1, 0, 0, (b"a", b"b"))) for c in clients]
    solo.decide(1, solo.forge.batch(*requests))
    assert solo.node.journal == [b"a", b"b"] * executed
    assert len(solo.node.replies()) == executed
    # What was used up does not pass into the next batch, and what was executed is not again.
    solo.decide(2, solo.forge.batch(*requests))
    again = [reply.sequence for reply in solo.node.replies()]
    assert again.count(2) == min(executed, 3 - executed)
    assert len(solo.node.journal) == 2 * min(2 * executed, 3)


def test_the_primary_proposes_again_what_a_batch_had_no_room_for() -> None:
    """Batches of three are proposed, and there is room for two: after that no more are proposed at
    once, and then twice as many."""
    cluster = Cluster(pipeline_depth=1)
    for node in cluster.up:
        bind(node, records_per_batch=9)
        assert isinstance(node.core.service, Journal)
        node.core.service.weight = 2
    signer = cluster.forge.clients[0]
    for number in range(1, 11):
        operations = tuple(b"%d" % number for _ in range(3))
        cluster[0].submit(signer.sign(Request(signer.client, 1, number, 0, 0, operations)))
    cluster.settle()
    for node in cluster.up:
        assert node.journal == [b"%d" % number for number in range(1, 11) for _ in range(3)]
        assert [reply.number for reply in node.replies()] == list(range(1, 11))
    proposals = cluster[0].sent(Proposal)
    sizes = [len(decode_batch(proposal.batch).items) for proposal in proposals]
    assert sizes == [1, 3, 2, 3, 2, 1]


def test_a_new_primary_proposes_what_a_batch_had_no_room_for_in_the_view_before() -> None:
    """It has executed that batch already, which the new view proposes once more."""
    cluster = Cluster(pipeline_depth=1)
    for node in cluster.up:
        bind(node, records_per_batch=2)
        assert isinstance(node.core.service, Journal)
        node.core.service.weight = 2
    requests = [cluster.forge.request(1, client=client) for client in range(3)]
    for node in cluster.up:
        for request in requests:
            node.submit(request)
    # The first one alone, then two of which one has room; the third batch never comes.
    cluster.drop(lambda message: isinstance(message.item, Proposal) and len(cluster[0].journal) > 1)
    cluster.settle()
    assert [len(node.journal) for node in cluster.up] == [2] * 4
    cluster.drop(None)
    cluster.fail_primary()
    cluster.advance(SECOND)
    assert [node.core.view for node in cluster.up] == [1] * 3
    assert [len(node.journal) for node in cluster.up] == [3] * 3


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
    assert limits.records_per_batch >= limits.batch_requests
    assert limits.records_per_request >= limits.operations_per_request
