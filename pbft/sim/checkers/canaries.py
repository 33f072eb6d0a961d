"""Histories with a known verdict: what a checker that accepts everything, or nothing, fails on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from pbft.errors import PbftError
from pbft.sim.checkers.black_box import check_black_box
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
    Violation,
)
from pbft.sim.checkers.witness import check_witness

Checker: TypeAlias = Callable[[Iterable[Operation]], Violation | None]

BOTH: tuple[Checker, ...] = (check_witness, check_black_box)
K, L = b"k", b"l"
A, B, C = b"a", b"b", b"c"


class CheckerIsBlind(PbftError):
    """A checker accepted a broken history or rejected a sound one: its verdicts mean nothing."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A history and the checkers that must reject it (or accept it, if it is a sound one)."""

    name: str
    history: tuple[Operation, ...]
    checkers: tuple[Checker, ...] = BOTH


def _done(
    interval: tuple[int, int],
    action: Action,
    result: Result = None,
    position: int | None = None,
    client: str = "alice",
    outcome: Outcome = Outcome.OK,
) -> Operation:
    place = None if position is None else (position, 0)
    return Operation(client, action, *interval, outcome, result, place)


CANARIES = (
    Canary(
        "stale read",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 30), Put(K, B), None, 2),
            _done((40, 50), Get(K), A, 3, "bob"),
        ),
    ),
    Canary(
        "stale fast read",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 30), Put(K, B), None, 2),
            _done((40, 50), Get(K), A, None, "bob"),
        ),
    ),
    Canary(
        "lost update",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((5, 15), Put(K, B), None, 2, "bob"),
            _done((20, 30), Get(K), None, 3),
        ),
    ),
    Canary(
        "lost update among two that read, then write",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 30), Get(K), A, 2),
            _done((20, 30), Get(K), A, 3, "bob"),
            _done((40, 50), Cas(K, A, B), True, 4),
            _done((60, 70), Cas(K, A, C), True, 5, "bob"),
        ),
    ),
    Canary(
        "cas succeeding twice",
        (
            _done((0, 10), Cas(K, None, A), True, 1),
            _done((0, 10), Cas(K, None, B), True, 2, "bob"),
        ),
    ),
    Canary(
        "delete executed twice",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 60), Delete(K), True, 2),
            _done((20, 60), Delete(K), True, 3, "bob"),
        ),
    ),
    Canary(
        "read of a value never written",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 30), Get(K), C, 2, "bob"),
        ),
    ),
    Canary(
        "read of a write that was reported as failed",
        (
            _done((0, 10), Put(K, A), None, None, "alice", Outcome.FAILED),
            _done((20, 30), Get(K), A, 1, "bob"),
        ),
    ),
    Canary(
        "reordered writes",
        (
            _done((0, 10), Put(K, A), None, 2),
            _done((20, 30), Put(K, B), None, 1),
            _done((40, 50), Get(K), A, 3, "bob"),
        ),
    ),
    Canary(
        "write visible before its invocation",
        (
            _done((0, 10), Get(K), A, 2, "bob"),
            _done((20, 30), Put(K, A), None, 1),
        ),
    ),
    Canary(
        "non-monotonic reads",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 90), Put(K, B), None, 2),
            _done((30, 40), Get(K), B, 3, "bob"),
            _done((50, 60), Get(K), A, 4, "carol"),
        ),
    ),
    Canary(
        "non-monotonic fast reads",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 90), Put(K, B), None, 2),
            _done((30, 40), Get(K), B, None, "bob"),
            _done((50, 60), Get(K), A, None, "carol"),
        ),
    ),
    Canary(
        "write of unknown outcome seen, then unseen",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 20), Put(K, B), None, 2, "bob", Outcome.UNKNOWN),
            _done((30, 40), Get(K), B, 3),
            _done((50, 60), Get(K), A, 4),
        ),
    ),
    Canary(
        "two keys that a range saw change in either order",
        (
            _done((0, 90), Put(K, A), None, 1),
            _done((0, 90), Put(L, A), None, 2, "bob"),
            _done((10, 20), Range(K, None), ((L, A),), None, "carol"),
            _done((10, 20), Range(K, None), ((K, A),), None, "dave"),
        ),
        (check_witness,),
    ),
    Canary(
        "two writes at one position",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((0, 10), Put(L, A), None, 1, "bob"),
        ),
        (check_witness,),
    ),
)
"""Broken histories, each with the checkers that must reject it."""

SOUND = (
    Canary(
        "one after the other",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 30), Cas(K, A, B), True, 2),
            _done((40, 50), Cas(K, A, C), False, 3, "bob"),
            _done((60, 70), Get(K), B, None, "bob"),
            _done((80, 90), Delete(K), True, 4),
            _done((95, 99), Get(K), None, 5),
        ),
    ),
    Canary(
        "a write of unknown outcome takes effect late",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 20), Put(K, B), None, 4, "bob", Outcome.UNKNOWN),
            _done((30, 40), Get(K), A, 2),
            _done((50, 60), Get(K), A, 3),
            _done((70, 80), Get(K), B, 5),
        ),
    ),
    Canary(
        "reads beside a write see it in the order of real time",
        (
            _done((0, 10), Put(K, A), None, 1),
            _done((20, 90), Put(K, B), None, 2),
            _done((30, 40), Get(K), A, None, "bob"),
            _done((30, 60), Get(K), B, None, "carol"),
            _done((70, 80), Get(K), B, None, "bob"),
        ),
    ),
)
"""Histories that both checkers must accept."""


def check_the_checkers() -> None:
    """Judges every canary. Raises CheckerIsBlind, naming it, if one gets the wrong verdict."""
    for canaries, is_broken in ((CANARIES, True), (SOUND, False)):
        for canary in canaries:
            for checker in canary.checkers:
                if (checker(canary.history) is not None) != is_broken:
                    verdict = "accepted" if is_broken else "rejected"
                    raise CheckerIsBlind(f"{checker.__name__} {verdict}: {canary.name}")
