"""A replica that is cut off: deaf and mute towards some, and nothing else."""

import pytest

from pbft.cli.demos.generals import ATTACK, Field
from pbft.core.effects import Answer, Broadcast, Send
from pbft.core.settings import SECOND
from pbft.errors import ConfigurationError
from pbft.faults.delivery import Partition
from pbft.faults.registry import BEHAVIOURS, Several
from pbft.messages import Prepare
from tests.unit.faults.test_behaviours import NOW, SIGNERS, make

PREPARE = SIGNERS[0].sign(Prepare(0, 1, bytes(32)))


def test_it_speaks_only_to_its_own_side() -> None:
    behaviour = make("partition", peers="2,3")
    effects = behaviour.rewrite([Broadcast(PREPARE), Send(2, PREPARE), Send(1, PREPARE)], NOW)
    assert effects == [Send(1, PREPARE), Send(1, PREPARE)]
    assert behaviour.acted == 2


def test_it_hears_only_its_own_side() -> None:
    behaviour = make("partition", peers="2,3")
    assert [behaviour.hears(peer) for peer in (1, 2, 3)] == [True, False, False]
    alone = make("partition")
    assert not any(alone.hears(peer) for peer in (1, 2, 3))
    both = Several((make("silent"), behaviour))
    assert both.hears(1) and not both.hears(2)


def test_clients_are_still_answered() -> None:
    answer = Answer(bytes(32), PREPARE)
    assert make("partition").rewrite([answer], NOW) == [answer]


@pytest.mark.parametrize("peers", ["0", "4", "x", "", "1,,2"])
def test_only_other_replicas_can_be_cut_off(peers: str) -> None:
    with pytest.raises(ConfigurationError, match="peers are some of 1,2,3"):
        make("partition", peers=peers)


def test_the_simulator_does_not_draw_it() -> None:
    # It has cuts of its own, and its seeds stand for what they drew.
    assert "partition" not in BEHAVIOURS


def test_a_simulated_replica_that_is_cut_off_carries_nothing_out() -> None:
    field = Field(4)
    others = frozenset({0, 1, 2})
    field.betray(3, Partition(field.crime_of(3, Partition.name), others))
    assert field.play([ATTACK], 1 * SECOND) is None
    assert field.carried_out == dict.fromkeys(others, ATTACK)
