"""What one request, and one batch, may answer is bounded, alike on every replica (protocol.md
13)."""

from dataclasses import replace

import pytest

from pbft.limits import ProtocolLimits
from pbft.messages import Request
from tests.harness.core_cluster import Cluster


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
