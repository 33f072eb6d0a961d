"""Writes that are never overwritten: what was acknowledged once must be found for ever."""

import asyncio
from types import TracebackType
from typing import Self

from pbft_client import Client
from pbft_client.errors import ClientError

PREFIX = b"ledger/"
TIMEOUT_SECONDS = 30.0


class Ledger:
    """Writes one new key after the other until the context is left."""

    def __init__(self, client: Client, pause_seconds: float = 0.02) -> None:
        """The client stays the caller's to close."""
        self.acknowledged: dict[bytes, bytes] = {}
        self._client = client
        self._pause_seconds = pause_seconds
        self._written = 0
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        await self._task

    async def _work(self) -> None:
        while not self._stopping:
            self._written += 1
            key, value = PREFIX + b"%08d" % self._written, b"value %d" % self._written
            try:
                await self._client.put(key, value, timeout=TIMEOUT_SECONDS)
            except ClientError:
                # Nobody promised that this one is there, nor that it is not.
                continue
            self.acknowledged[key] = value
            await asyncio.sleep(self._pause_seconds)

    async def missing(self) -> list[bytes]:
        """The acknowledged keys that are not there with their value, as a quorum tells now."""
        expected = dict(self.acknowledged)
        found = {
            pair.key: pair.value
            for pair in await self._client.range(
                prefix=PREFIX, consistency="ordered", timeout=TIMEOUT_SECONDS
            )
        }
        return [key for key, value in expected.items() if found.get(key) != value]
