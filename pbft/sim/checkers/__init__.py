"""Is a history linearizable? Two checkers, and histories that prove they can see (adversary.md 6).

`check_witness` replays the order in which operations were executed, in O(n log n); it judges that
order too. `check_black_box` uses what the clients saw and nothing else. Both return None or the
first `Violation`. Every run that relies on them calls `check_the_checkers` first.
"""

from pbft.sim.checkers.black_box import CheckUndecided, check_black_box
from pbft.sim.checkers.canaries import CANARIES, Canary, CheckerIsBlind, check_the_checkers
from pbft.sim.checkers.history import (
    Action,
    Cas,
    Delete,
    Get,
    Operation,
    Outcome,
    Put,
    Range,
    Result,
    Value,
    Violation,
)
from pbft.sim.checkers.witness import check_witness

__all__ = [
    "CANARIES",
    "Action",
    "Canary",
    "Cas",
    "CheckUndecided",
    "CheckerIsBlind",
    "Delete",
    "Get",
    "Operation",
    "Outcome",
    "Put",
    "Range",
    "Result",
    "Value",
    "Violation",
    "check_black_box",
    "check_the_checkers",
    "check_witness",
]
