"""All keys with a prefix, however many: in pages, each small enough for one answer.

A page asks for as many pairs as fit by experience: half as many when they were too large for one
answer, twice as many after each page that was not. Where there are more keys than one operation may
look at (it counts them whatever its limit), each next byte after the prefix is asked for by itself.
"""

from collections.abc import AsyncIterator, Sequence

from pbft.service.kv.errors import result_too_large, too_many_records
from pbft_client import Client, KeyValue, RangeResult, ReadConsistency, ServiceError

PAIRS_MAX = 8_192
"""In one page."""
_TOO_LARGE = result_too_large().text
_TOO_MANY = too_many_records().text


class Pages:
    """Reads of one client, one after the other. Each page is the state at a moment of its own: the
    service keeps the latest version of a key only, so no later page can be asked for as of the
    moment of the first."""

    def __init__(self, client: Client, consistency: ReadConsistency) -> None:
        self._client = client
        self._consistency = consistency
        self._limit = PAIRS_MAX

    async def of(self, prefix: bytes, start: bytes = b"") -> AsyncIterator[Sequence[KeyValue]]:
        """The pairs whose keys begin with `prefix`, from `start` on, ascending. Raises a
        ClientError."""
        while (page := await self._next(prefix, start)) is not None:
            yield page.items
            if not page.more:
                return
            start = page.items[-1].key + b"\x00"
        if prefix and prefix >= start:
            yield (await self._client.range(prefix, consistency=self._consistency)).items
        for byte in range(256):
            async for items in self.of(prefix + bytes((byte,)), start):
                yield items

    async def _next(self, prefix: bytes, start: bytes) -> RangeResult | None:
        """One page; None if there are too many keys to be looked at."""
        while True:
            try:
                page = await self._client.range(
                    prefix=prefix, start=start, limit=self._limit, consistency=self._consistency
                )
            except ServiceError as error:
                if error.message == _TOO_MANY:
                    return None
                if error.message != _TOO_LARGE or self._limit == 1:
                    raise
                self._limit //= 2
            else:
                self._limit = min(2 * self._limit, PAIRS_MAX)
                return page
