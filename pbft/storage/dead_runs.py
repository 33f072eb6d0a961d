"""Where a scan has found nothing but keys that were removed, so that the next one passes it at
once.

A removed key is a change in memory until its layer is merged, and a scan has to look at it without
yielding anything. No budget can count that: how many there are depends on what this replica has
merged so far, and a request must come to the same result on all. So runs of them are remembered
from the first scan on. That they hold no record is a fact about the state, whichever layers it
lies in; only a key that gets a record ends it.
"""

from bisect import bisect_right

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.storage.ordered import KEY_BYTES_MAX

RUN_KEYS_MIN = 64
"""Fewer are passed one by one: to begin a scan anew costs about as much."""
AFTER_ALL_KEYS = b"\xff" * (KEY_BYTES_MAX + 1)


def within_keys(bound: bytes) -> bytes:
    """The bound of a range that has the same storable keys on either side and is hardly longer than
    the longest of them: runs keep bounds, and clients choose those of any length."""
    longest = bound[:RECORD_KEY_BYTES_MAX]
    return bound if bound == longest else longest + b"\x00"


class DeadRuns:
    """Disjoint ranges start <= key < end without a record, ascending; there are at most as many as
    there are removed keys / RUN_KEYS_MIN, plus one for every key that was added within one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def __len__(self) -> int:
        return len(self._starts)

    def past(self, key: bytes) -> bytes:
        """The end of the run that the key lies in; the key itself if it lies in none."""
        index = bisect_right(self._starts, key) - 1
        return self._ends[index] if index >= 0 and key < self._ends[index] else key

    def add(self, start: bytes, end: bytes) -> None:
        """Notes that no key from start on, and before end, has a record. Runs that it overlaps or
        touches become one with it."""
        first = bisect_right(self._starts, start)
        if first > 0 and self._ends[first - 1] >= start:
            first -= 1
        after = bisect_right(self._starts, end)
        if first < after:
            start = min(start, self._starts[first])
            end = max(end, self._ends[after - 1])
        self._starts[first:after] = [start]
        self._ends[first:after] = [end]

    def on_birth(self, key: bytes) -> None:
        """The key gets a record: a run that it lies in falls in two."""
        index = bisect_right(self._starts, key) - 1
        if index < 0 or key >= self._ends[index]:
            return
        start, end, after = self._starts[index], self._ends[index], key + b"\x00"
        parts = [part for part in ((start, key), (after, end)) if part[0] < part[1]]
        self._starts[index : index + 1] = [part[0] for part in parts]
        self._ends[index : index + 1] = [part[1] for part in parts]

    def clear(self) -> None:
        """Forgets all runs: removed keys have left memory, or the state is another one."""
        self._starts.clear()
        self._ends.clear()
