"""Clusters of real processes for tests: each in a directory of its own, on ports of its own, and
gone at the end whatever happened.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pbft.cli.local import wait_until_serving
from pbft.cli.process_table import ProcessState
from pbft.cli.supervisor import LocalCluster
from pbft.cli.testnet import create_testnet

CLIENTS = 32
StartCluster = Callable[..., LocalCluster]


@pytest.fixture
def new_cluster(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[], LocalCluster]]:
    """Makes clusters whose processes the test starts itself. All are killed at the end; what they
    wrote is shown if the test failed."""
    clusters: list[LocalCluster] = []

    def make(replicas: int = 4, *, insecure: bool = False) -> LocalCluster:
        directory = tmp_path / f"cluster{len(clusters)}"
        create_testnet(directory, replicas, CLIENTS, initialise_storage=True, insecure=insecure)
        clusters.append(LocalCluster(directory))
        return clusters[-1]

    failed_before = request.session.testsfailed
    yield make
    for cluster in clusters:
        for replica in cluster.replicas:
            cluster.kill(replica)
            if request.session.testsfailed > failed_before:
                print(f"--- replica {replica}:\n{cluster.log_tail(replica)}")
        assert all(cluster.state(one) is ProcessState.DOWN for one in cluster.replicas)


@pytest.fixture
def cluster(new_cluster: Callable[[], LocalCluster]) -> LocalCluster:
    """Four replicas that serve."""
    made = new_cluster()
    for replica in made.replicas:
        made.start(replica)
    wait_until_serving(made)
    return made
