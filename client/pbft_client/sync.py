"""The client without asyncio: the same calls, blocking, from any number of threads."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pbft_client.client import Client, ReadConsistency
from pbft_client.cluster_file import ClusterFile
from pbft_client.engine import ClientSettings
from pbft_client.errors import ClientClosed
from pbft_client.results import (
    CasResult,
    DeleteResult,
    Executed,
    KeyValue,
    PutResult,
    RangeResult,
)

Result = TypeVar("Result")


class SyncClient:
    """A Client on an event loop of its own, in a background thread. Calls of several threads that
    wait at the same time travel together. Arguments and errors are those of Client.

    A process that is forked has neither the thread nor the connections: there every call, and
    `close`, raises ClientClosed. Connect after the fork.
    """

    def __init__(self) -> None:
        """Use `connect`."""
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._client: Client | None = None
        self._lock = threading.RLock()
        """Held while the loop is given something to do, so that its end comes after all of it. A
        signal handler, or `__del__`, may use the client while its thread holds it."""
        self._closed = False
        """The loop is told to end, and given nothing more to do."""
        self._stopping = False
        """The loop has heard of it."""
        self._thread = threading.Thread(target=self._serve, name="pbft_client", daemon=True)
        self._thread.start()

    @classmethod
    def connect(
        cls,
        cluster: str | Path | ClusterFile,
        key: str | Path | None = None,
        *,
        timeout: float = 10.0,
        settings: ClientSettings | None = None,
        certificate: str | Path | None = None,
    ) -> Self:
        """Connects; see Client.connect."""
        connect = partial(
            Client.connect,
            cluster,
            key,
            timeout=timeout,
            settings=settings,
            certificate=certificate,
        )
        client = cls()
        try:
            client._run(client._keep(connect))
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session and the thread. Calls of other threads end first, as unknown if they
        were sent; the others, and those that come later, raise ClientClosed."""
        self._require_own_process()
        with self._lock:
            self._closed = True
            # Told each time: a signal handler may come between these lines, and waits for the end.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        return_previous: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """See Client.put."""
        put = self._connected.put(key, value, return_previous=return_previous, timeout=timeout)
        return self._run(put)

    def delete(
        self,
        key: bytes | None = None,
        *,
        prefix: bytes | None = None,
        range_end: bytes | None = None,
        return_previous: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """See Client.delete."""
        return self._run(
            self._connected.delete(
                key,
                prefix=prefix,
                range_end=range_end,
                return_previous=return_previous,
                timeout=timeout,
            )
        )

    def cas(
        self, key: bytes, *, expect: bytes | None, value: bytes, timeout: float | None = None
    ) -> CasResult:
        """See Client.cas."""
        return self._run(self._connected.cas(key, expect=expect, value=value, timeout=timeout))

    def get(
        self,
        key: bytes,
        *,
        consistency: ReadConsistency = "linearizable",
        timeout: float | None = None,
    ) -> KeyValue | None:
        """See Client.get."""
        return self._run(self._connected.get(key, consistency=consistency, timeout=timeout))

    def range(
        self,
        key: bytes | None = None,
        *,
        prefix: bytes | None = None,
        range_end: bytes | None = None,
        start: bytes | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        with_revision: bool = False,
        consistency: ReadConsistency = "linearizable",
        timeout: float | None = None,
    ) -> RangeResult:
        """See Client.range."""
        return self._run(
            self._connected.range(
                key,
                prefix=prefix,
                range_end=range_end,
                start=start,
                limit=limit,
                revision=revision,
                keys_only=keys_only,
                count_only=count_only,
                with_revision=with_revision,
                consistency=consistency,
                timeout=timeout,
            )
        )

    def execute(self, operation: bytes, *, timeout: float | None = None) -> Executed:
        """See Client.execute."""
        return self._run(self._connected.execute(operation, timeout=timeout))

    @property
    def _connected(self) -> Client:
        self._require_own_process()
        if self._client is None:
            raise RuntimeError("use SyncClient.connect")
        return self._client

    def _require_own_process(self) -> None:
        # Before the lock: another thread may have held it at the fork, and holds it here for ever.
        if os.getpid() != self._process:
            raise ClientClosed("this client is of the process before the fork: connect after it")

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        with self._lock:
            future = None if self._closed else self._begin(coroutine)
        if future is None:
            coroutine.close()
            raise ClientClosed("the client is closed")
        try:
            return future.result()
        except BaseException:
            # Ctrl-C while waiting: the call must not go on behind the caller's back.
            future.cancel()
            raise

    def _begin(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result] | None:
        """Gives it to the loop; None if a signal handler closed the client meanwhile."""
        future: Future[Result] | None = None
        with suppress(RuntimeError):
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if self._loop.is_closed() and future is not None and not future.done():
            # It came too late for the end of the loop, which waits for all that was begun.
            return None
        return future

    # In the background thread.

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._loop.stop()

    def _serve(self) -> None:
        """Runs the loop until `close`, and then until everything that was begun has ended."""
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _keep(self, connect: Callable[[], Coroutine[Any, Any, Client]]) -> None:
        # Done here, because Ctrl-C may come between the caller and a client that is connected.
        self._client = await connect()

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
        # Every call has its outcome by now, but its thread waits until its task has ended.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
