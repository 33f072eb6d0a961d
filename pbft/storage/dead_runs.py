"""Where a scan has found nothing but keys that were removed, so that the next one passes it at
once.

A removed key is a change in memory until its layer is merged, and a scan has to look at it without
yielding anything. No budget can count that: how many there are depends on what this replica has
merged so far, and a request must come to the same result on all. So runs of them are remembered
from the first scan on. That they hold no record is a fact about the state, whichever layers it
lies in; only a key that gets a record ends it.
"""

from sortedcontainers import SortedDict

from pbft.limits import RECORD_KEY_BYTES_MAX
from pbft.storage.ordered import KEY_BYTES_MAX

RUN_KEYS_MIN = 2
"""Fewer are passed one by one each time: to look at a single one costs as much as to find the run
that it would be."""
AFTER_ALL_KEYS = b"\xff" * (KEY_BYTES_MAX + 1)


def within_keys(bound: bytes) -> bytes:
    """The bound of a range that has the same storable keys on either side and is hardly longer than
    the longest of them: runs keep bounds, and clients choose those of any length."""
    longest = bound[:RECORD_KEY_BYTES_MAX]
    return bound if bound == longest else longest + b"\x00"


class DeadRuns:
    """Disjoint ranges start <= key < end without a record, that do not touch; there are at most as
    many as there are removed keys / RUN_KEYS_MIN, plus one for every key that was added within one.

    In an ordered map: keys may be added within one run as often as clients like, and to find their
    place and to make room there must stay cheap.
    """

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs = SortedDict()
        """start -> end"""

    def __len__(self) -> int:
        return len(self._runs)

    def past(self, key: bytes) -> bytes:
        """The end of the run that the key lies in; the key itself if it lies in none."""
        if not self._runs:
            return key
        run = self._run_before(key)
        return key if run is None else max(key, run[1])

    def add(self, start: bytes, end: bytes) -> None:
        """Notes that no key from start on, and before end, has a record. Runs that it overlaps or
        touches become one with it."""
        before = self._run_before(start)
        if before is not None and before[1] >= start:
            start = before[0]
        for other in list(self._runs.irange(start, end)):
            end = max(end, self._runs.pop(other))
        self._runs[start] = end

    def on_birth(self, key: bytes) -> None:
        """The key gets a record: a run that it lies in falls in two."""
        run = self._run_before(key) if self._runs else None
        if run is None or key >= run[1]:
            return
        (start, end), after = run, key + b"\x00"
        if start < key:
            self._runs[start] = key
        else:
            del self._runs[start]
        if after < end:
            self._runs[after] = end

    def clear(self) -> None:
        """Forgets all runs: removed keys have left memory, or the state is another one."""
        self._runs.clear()

    def _run_before(self, key: bytes) -> tuple[bytes, bytes] | None:
        """(start, end) of the last run that starts at the key or before."""
        for start in self._runs.irange(maximum=key, reverse=True):
            return start, self._runs[start]
        return None
