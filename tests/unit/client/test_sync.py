"""The blocking client."""

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pbft.errors import ConfigurationError
from pbft_client.engine import ClientSettings
from pbft_client.errors import ClientClosed, ClientError, OutcomeUnknown, TooFewAnswers
from pbft_client.sync import SyncClient
from tests.unit.client.fake_cluster import FakeCluster

WATCHED = "watched"
"""The thread of a call that a test interrupts."""


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
        assert [pair.value for pair in client.range(prefix=b"a", start=b"a")] == [b"2"]
        assert not client.range(prefix=b"a", start=b"aa").items
        assert client.delete(b"a").deleted == 1
        assert client.execute(b"").result
    client.close()
    with pytest.raises(ClientClosed):
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


def test_a_connect_that_is_interrupted_leaves_nothing_behind(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("concurrent.futures.Future.result", interrupt)
        SyncClient.connect(cluster.file)
    assert threading.active_count() == before
    # What asyncio says of tasks whose loop was closed before they had ended. (gRPC may complain of
    # the closed loop when it hears of the attempts; it shares a queue among all loops.)
    gc.collect()
    assert "Task was destroyed" not in caplog.text


def test_a_process_that_was_forked_is_told_to_connect_for_itself(cluster: FakeCluster) -> None:
    client = SyncClient.connect(cluster.file)
    with warnings.catch_warnings():
        # What Python says of forks in general; this one does next to nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        refused = 0
        try:
            signal.alarm(10)
            for use in (lambda: client.put(b"k", b"v"), lambda: client.get(b"k"), client.close):
                try:
                    use()
                except ClientClosed as error:
                    refused += "connect after" in str(error)
        finally:
            os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert client.put(b"k", b"v").revision == 2
    client.close()


def test_a_call_made_while_another_thread_ends_the_loop_is_refused(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SyncClient.connect(cluster.file)
    stopping, refused = threading.Event(), threading.Event()
    in_time: list[bool] = []
    stop = client._loop.stop

    def stop_late() -> None:
        stopping.set()
        # The loop can do nothing for the caller meanwhile. (It is stopped once more at its end.)
        in_time.append(refused.wait(2))
        stop()

    def call() -> None:
        assert stopping.wait(60)
        with pytest.raises(ClientClosed):
            client.put(b"k", b"v")
        refused.set()

    monkeypatch.setattr(client._loop, "stop", stop_late)
    # A daemon: one that hangs must not keep the tests from ending.
    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    client.close()
    caller.join(30)
    assert in_time[0]


def test_no_call_hangs_however_closing_meets_it(cluster: FakeCluster) -> None:
    ends: list[type[BaseException]] = []

    def call(client: SyncClient) -> None:
        while True:
            try:
                client.put(b"k", b"v")
            except ClientError as error:
                ends.append(type(error))
                if isinstance(error, ClientClosed):
                    return

    for _ in range(10):
        client = SyncClient.connect(cluster.file)
        callers = [threading.Thread(target=call, args=(client,), daemon=True) for _ in range(4)]
        closers = [threading.Thread(target=client.close, daemon=True) for _ in range(2)]
        for thread in (*callers, *closers):
            thread.start()
        for thread in (*callers, *closers):
            thread.join(30)
            assert not thread.is_alive()
        assert not client._thread.is_alive()
    assert set(ends) <= {ClientClosed, OutcomeUnknown, TooFewAnswers}
    assert ends.count(ClientClosed) == 40


def interrupt(
    client: SyncClient, monkeypatch: pytest.MonkeyPatch, handler: Callable[[], None], late: bool
) -> None:
    """Runs `handler` as a signal would be handled: in the thread that gives the loop something to
    do, before it finds that the loop is not closed, or after."""
    handlers = [handler]
    check = client._loop._check_closed  # type: ignore[attr-defined]

    def checked() -> None:
        if late:
            check()
        # gRPC has a thread of its own that tells the loop something.
        if handlers and threading.current_thread().name == WATCHED:
            handlers.pop()()
        if not late:
            check()

    monkeypatch.setattr(client._loop, "_check_closed", checked)


def run_watched(call: Callable[[], object]) -> list[object]:
    """What a call returned or raised; fails if it hangs."""
    ends: list[object] = []

    def run() -> None:
        try:
            ends.append(call())
        except ClientError as error:
            ends.append(type(error))

    # A daemon: one that hangs must not keep the tests from ending.
    thread = threading.Thread(target=run, name=WATCHED, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return ends


@pytest.mark.parametrize("late", [False, True])
def test_a_signal_handler_may_use_it_in_the_midst_of_a_call(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    client = SyncClient.connect(cluster.file)
    revisions: list[int] = []

    def handler() -> None:
        revisions.append(client.put(b"handler", b"v").revision)

    interrupt(client, monkeypatch, handler, late)
    assert run_watched(lambda: client.put(b"k", b"v").revision) == [3]
    assert revisions == [2]
    client.close()


@pytest.mark.parametrize("late", [False, True])
def test_a_call_that_a_signal_handler_closes_the_client_under_is_refused(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    client = SyncClient.connect(cluster.file)
    interrupt(client, monkeypatch, client.close, late)
    assert run_watched(lambda: client.put(b"k", b"v")) == [ClientClosed]
    assert not client._thread.is_alive()


@pytest.mark.parametrize("late", [False, True])
def test_closing_may_be_interrupted_by_closing(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    client = SyncClient.connect(cluster.file)
    interrupt(client, monkeypatch, client.close, late)
    assert run_watched(client.close) == [None]
    assert not client._thread.is_alive()
