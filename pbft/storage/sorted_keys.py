"""A growing set of keys that can be walked in order, without a pause proportional to its size."""

import heapq
from bisect import bisect_left
from collections.abc import Iterator

RECENT_KEYS_MAX = 512


class SortedKeys:
    """Keys added in any order, each once.

    Kept as sorted runs whose lengths at least double from the last to the first, as in a log-
    structured merge: adding n keys costs O(n log n) in all, and no run is merged with a longer one.
    """

    __slots__ = ("_recent", "_runs")

    def __init__(self) -> None:
        self._runs: list[list[bytes]] = []
        self._recent: list[bytes] = []

    def add(self, key: bytes) -> None:
        """Adds a key that is not among them."""
        self._recent.append(key)
        if len(self._recent) >= RECENT_KEYS_MAX:
            self._make_run()

    def _make_run(self) -> None:
        run, self._recent = sorted(self._recent), []
        while self._runs and len(self._runs[-1]) <= len(run):
            # The sort recognises the two ascending halves and merges them in linear time.
            run = self._runs.pop() + run
            run.sort()
        self._runs.append(run)

    def between(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """The keys now in start <= key < end (None: to the end), ascending; keys added later are
        not seen."""
        self._recent.sort()
        runs = [_part(run, start, end) for run in (*self._runs, self._recent.copy())]
        return heapq.merge(*runs)

    def ascending(self) -> Iterator[bytes]:
        """All keys, ascending; nobody may add keys meanwhile."""
        return heapq.merge(*self._runs, sorted(self._recent))


def _part(run: list[bytes], start: bytes, end: bytes | None) -> Iterator[bytes]:
    stop = len(run) if end is None else bisect_left(run, end)
    return (run[index] for index in range(bisect_left(run, start), stop))
