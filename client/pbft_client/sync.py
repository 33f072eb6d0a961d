"""The client without asyncio: the same calls, blocking, from any number of threads."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pbft_client.client import Client, ReadConsistency
from pbft_client.cluster_file import ClusterFile
from pbft_client.engine import ClientSettings
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
    wait at the same time travel together. Arguments and errors are those of Client."""

    def __init__(self) -> None:
        """Use `connect`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="pbft_client", daemon=True
        )
        self._thread.start()
        self._client: Client | None = None

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
        client = cls()
        try:
            client._client = client._run(
                Client.connect(
                    cluster, key, timeout=timeout, settings=settings, certificate=certificate
                )
            )
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
        """Ends the session and the thread. Calls of other threads end first, as unknown."""
        if self._loop.is_closed():
            return
        if self._client is not None:
            self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

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
        if self._client is None or self._loop.is_closed():
            raise RuntimeError("use SyncClient.connect, and not after close")
        return self._client

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C while waiting: the call must not go on behind the caller's back.
            future.cancel()
            raise
