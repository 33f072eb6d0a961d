"""The checkers see what they must see, and `check_the_checkers` sees when they do not."""

import pytest

from pbft.sim.checkers import (
    CANARIES,
    Canary,
    CheckerIsBlind,
    Violation,
    canaries,
    check_the_checkers,
)


def test_every_canary_gets_its_verdict() -> None:
    check_the_checkers()


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_a_violation_names_an_operation_of_the_history(canary: Canary) -> None:
    for checker in canary.checkers:
        violation = checker(canary.history)
        assert violation is not None
        assert violation.operation in canary.history
        assert str(violation.operation) in str(violation)


def test_a_checker_that_accepts_everything_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = Canary("unseen", CANARIES[0].history, (lambda history: None,))
    monkeypatch.setattr(canaries, "CANARIES", (*CANARIES, blind))
    with pytest.raises(CheckerIsBlind, match="accepted: unseen"):
        check_the_checkers()


def test_a_checker_that_rejects_everything_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = canaries.SOUND[0]
    violation = Violation("all", sound.history[0], "nothing is right")
    strict = Canary("sound", sound.history, (lambda history: violation,))
    monkeypatch.setattr(canaries, "SOUND", (strict,))
    with pytest.raises(CheckerIsBlind, match="rejected: sound"):
        check_the_checkers()


def test_each_crime_that_the_design_names_has_a_canary() -> None:
    names = " / ".join(canary.name for canary in CANARIES)
    for crime in (
        "stale read",
        "lost update",
        "cas succeeding twice",
        "read of a value never written",
        "reordered writes",
        "write visible before its invocation",
        "non-monotonic reads",
    ):
        assert crime in names
