"""Python's garbage collector in a process that lives long and allocates much."""

import gc

THRESHOLDS = (50_000, 20, 100)
"""Allocations before the young are looked through, and how many times until the older are."""


def collect_rarely() -> None:
    """What was allocated until now is not looked through any more, and the rest not often. Looking
    through all that a replica keeps for whole checkpoint intervals, again and again, took 8 % of
    its time; of a client that makes a call every ten microseconds, as much."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
