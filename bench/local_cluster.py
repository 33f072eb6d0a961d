"""A cluster for one measurement: made in a temporary directory, removed afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pbft.cli.local import open_or_create, wait_until_serving


@contextmanager
def fresh_cluster(replicas: int = 4) -> Iterator[Path]:
    """Starts an empty, durable cluster and yields its cluster.toml; stops and removes it at the
    end, also after an error."""
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as directory:
        cluster = open_or_create(Path(directory) / "cluster", replicas)
        try:
            for replica in cluster.replicas:
                cluster.start(replica, options=())
            wait_until_serving(cluster)
            yield cluster.layout.cluster_file
        finally:
            cluster.stop(cluster.running())
