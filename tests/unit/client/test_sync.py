"""The blocking client."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pbft.errors import ConfigurationError
from pbft_client.engine import ClientSettings
from pbft_client.errors import OutcomeUnknown
from pbft_client.sync import SyncClient
from tests.unit.client.fake_cluster import FakeCluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    """A fake cluster on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = FakeCluster(tmp_path)

    def run(coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)  # type: ignore[arg-type]

    run(fake.__aenter__())
    yield fake
    run(fake.__aexit__())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


def test_the_same_calls_without_asyncio(cluster: FakeCluster) -> None:
    with SyncClient.connect(cluster.file) as client:
        assert client.put(b"a", b"1").revision == 2
        pair = client.get(b"a", consistency="stale")
        assert pair is not None
        assert pair.value == b"1"
        assert client.cas(b"a", expect=b"1", value=b"2")
        assert [pair.value for pair in client.range(prefix=b"a")] == [b"2"]
        assert client.delete(b"a").deleted == 1
        assert client.execute(b"").result
    client.close()
    with pytest.raises(RuntimeError, match="not after close"):
        client.put(b"a", b"1")


def test_threads_share_one_client(cluster: FakeCluster) -> None:
    with SyncClient.connect(cluster.file) as client, ThreadPoolExecutor(8) as pool:
        puts = list(pool.map(lambda index: client.put(b"k%d" % index, b"v"), range(100)))
    assert sorted(put.revision for put in puts) == list(range(2, 102))


def test_errors_reach_the_caller(cluster: FakeCluster, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigurationError, match="does not exist"):
        SyncClient.connect(tmp_path / "none.toml")
    assert threading.active_count() == before
    settings = ClientSettings(close_seconds=0.1)
    with SyncClient.connect(cluster.file, settings=settings) as client:
        for replica in cluster.replicas:
            replica.is_silent = True
        with pytest.raises(OutcomeUnknown):
            client.put(b"k", b"v", timeout=0.1)
