"""With more faults than f things go wrong; the simulator must see it (adversary.md, rules)."""

import pytest

from pbft.errors import ConfigurationError
from pbft.genesis import Genesis
from pbft.sim.canaries import one_traitor_of_three, two_traitors_of_four, two_twins_of_four


@pytest.mark.parametrize("seed", range(3))
def test_two_traitors_of_four_break_agreement(seed: int) -> None:
    seen = two_traitors_of_four(seed)
    assert seen.violation is not None and seen.violation.invariant == "I1"
    assert seen.violation.culprits == {0, 1}, "two certificates convict f + 1"


@pytest.mark.parametrize("seed", range(4))
def test_two_twins_of_four_break_agreement(seed: int) -> None:
    """Every line that runs is honest code."""
    seen = two_twins_of_four(seed)
    assert seen.violation is not None and seen.violation.invariant in ("I1", "I4")
    assert seen.violation.culprits <= {0, 1}


def test_three_replicas_with_a_quorum_of_three_stop_for_one_silent_traitor() -> None:
    seen = one_traitor_of_three(quorum=3, silent=True)
    assert seen.violation is None
    assert seen.requests == 0


def test_three_replicas_with_a_quorum_of_two_are_live_with_a_silent_traitor() -> None:
    seen = one_traitor_of_three(quorum=2, silent=True)
    assert seen.violation is None
    assert seen.requests > 50


@pytest.mark.parametrize("seed", range(3))
def test_three_replicas_with_a_quorum_of_two_break_agreement(seed: int) -> None:
    seen = one_traitor_of_three(quorum=2, silent=False, seed=seed)
    assert seen.violation is not None and seen.violation.invariant == "I1"


def test_the_genesis_refuses_three_replicas() -> None:
    keys = tuple(bytes([number]) * 32 for number in range(3))
    with pytest.raises(ConfigurationError, match="4 to 31"):
        Genesis.create(nonce=bytes(32), replicas=keys, clients=frozenset())
