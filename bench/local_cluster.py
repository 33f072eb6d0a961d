"""A cluster for one measurement: made in a temporary directory, removed afterwards."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

from pbft.cli.local import open_or_create, until_serving
from pbft.cli.supervisor import LocalCluster
from pbft.cli.testnet import create_testnet


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is done within as an error does: what it started is stopped."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def fresh_cluster(
    replicas: int = 4,
    *,
    insecure: bool = False,
    run: Callable[[Coroutine[None, None, None]], None],
) -> Iterator[Path]:
    """Starts an empty, durable cluster and yields its cluster.toml; stops and removes it at the
    end, also after an error. `insecure` means plain text in place of TLS. `run` runs on
    the caller's event loop: gRPC complains when a process has one after another."""
    with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="pbft-bench-") as parent:
        directory = Path(parent) / "cluster"
        create_testnet(directory, replicas, initialise_storage=True, insecure=insecure)
        cluster = open_or_create(directory, replicas)
        try:
            for replica in cluster.replicas:
                cluster.start(replica, options=())
            run(until_serving(cluster))
            yield cluster.layout.cluster_file
        finally:
            cluster.stop(cluster.running())


def in_cluster(story: Callable[[LocalCluster], Awaitable[None]], replicas: int = 4) -> None:
    """Runs a story on a fresh cluster that serves and is gone at the end; its logs are shown on
    failure."""
    with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="pbft-bench-") as directory:
        cluster = open_or_create(Path(directory) / "cluster", replicas)
        try:
            for replica in cluster.replicas:
                cluster.start(replica)
            asyncio.run(_run(story, cluster))
        except BaseException:
            for replica in cluster.replicas:
                print(f"--- replica {replica}:\n{cluster.log_tail(replica)}", file=sys.stderr)
            raise
        finally:
            cluster.stop(cluster.running())


async def _run(story: Callable[[LocalCluster], Awaitable[None]], cluster: LocalCluster) -> None:
    await until_serving(cluster)
    await story(cluster)
