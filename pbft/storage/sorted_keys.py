"""A growing set of keys that can be walked in order, without a pause proportional to its size."""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator

RECENT_KEYS_MAX = 512
RUN_KEYS_MAX = 16_384
"""Runs are not merged beyond. Whoever adds a key waits for that: here for some milliseconds, with a
million keys for a second."""


class SortedKeys:
    """Keys added in any order, each once.

    Kept as sorted runs, as in a log-structured merge: first those of RUN_KEYS_MAX keys, then ones
    whose lengths at least double from the last to the first. So a key is merged a few times only,
    and no run is merged with a longer one. Whoever begins a walk looks into each of them.
    """

    __slots__ = ("_recent", "_recent_sorted", "_runs")

    def __init__(self) -> None:
        self._runs: list[list[bytes]] = []
        self._recent: list[bytes] = []
        self._recent_sorted: list[bytes] = []
        """What `_recent` held when last asked for, for those who walk; replaced, never changed."""

    def add(self, key: bytes) -> None:
        """Adds a key that is not among them."""
        self._recent.append(key)
        if len(self._recent) >= RECENT_KEYS_MAX:
            self._make_run()

    def _make_run(self) -> None:
        run, self._recent, self._recent_sorted = sorted(self._recent), [], []
        while self._runs and len(self._runs[-1]) <= len(run) <= RUN_KEYS_MAX // 2:
            # The sort recognises the two ascending halves and merges them in linear time.
            run = self._runs.pop() + run
            run.sort()
        self._runs.append(run)

    def runs(self) -> list[list[bytes]]:
        """Ascending lists that hold all keys now, each once. They are never changed again."""
        if len(self._recent_sorted) != len(self._recent):
            self._recent.sort()
            self._recent_sorted = self._recent.copy()
        return [*self._runs, self._recent_sorted]

    def ascending(self) -> Iterator[bytes]:
        """All keys, ascending."""
        return heapq.merge(*self.runs())


class KeyWalk:
    """A walk through several sets at once that can pass over many keys in one step. A key that is
    in more than one of them comes once; keys added after the beginning are not seen."""

    __slots__ = ("_heads",)

    def __init__(self, sets: Iterable[SortedKeys], start: bytes, end: bytes | None) -> None:
        """Over the keys start <= key < end (None: to the end)."""
        self._heads: list[tuple[bytes, int, int, int, list[bytes]]] = []
        """A heap, with an entry for every run that has more keys to come: the next one, a number
        that is the entry's own (runs are not to be compared), the position of the key in the run,
        the position where the range ends, the run."""
        for keys in sets:
            for run in keys.runs():
                at = bisect_left(run, start)
                if at < len(run) and (end is None or run[at] < end):
                    stop = len(run) if end is None else bisect_left(run, end, at)
                    self._heads.append((run[at], len(self._heads), at, stop, run))
        heapq.heapify(self._heads)

    def go_to(self, bound: bytes) -> bytes | None:
        """Passes all keys below the bound; returns the next one, None at the end. Runs without keys
        to pass cost nothing."""
        heads = self._heads
        while heads and heads[0][0] < bound:
            _, number, at, stop, run = heads[0]
            at += 1
            # The next key is the usual one.
            if at < stop and run[at] < bound:
                at = bisect_left(run, bound, at + 1, stop)
            if at < stop:
                heapq.heapreplace(heads, (run[at], number, at, stop, run))
            else:
                heapq.heappop(heads)
        return heads[0][0] if heads else None
