"""I10: the history of the honest clients is linearizable, by both checkers."""

from functools import cache

from pbft.sim.checkers import (
    Operation,
    Outcome,
    check_black_box,
    check_the_checkers,
    check_witness,
)
from pbft.sim.clients import Record
from pbft.sim.invariants import Violation
from pbft.sim.world import World

BLACK_BOX_STEPS = 200_000
"""A run has a few hundred operations: a search that takes longer is lost among unknown outcomes."""


def history_of(world: World) -> list[Operation]:
    """What the honest clients saw, in the checkers' form."""
    now_us = world.scheduler.now_us
    return [_operation(record, now_us) for client in world.clients for record in client.records]


def _operation(record: Record, now_us: int) -> Operation:
    return Operation(
        client=f"client {record.client}",
        action=record.wish.action,
        invoked_us=record.invoked_us,
        completed_us=now_us if record.completed_us is None else record.completed_us,
        outcome=Outcome.OK if record.known else Outcome.UNKNOWN,
        result=record.result,
        position=record.position,
    )


def check_history(world: World) -> None:
    """Raises Violation if either checker finds something that no linearizable store does, and
    CheckUndecided if the witness finds nothing and the black box gives up."""
    _try_checkers()
    history = history_of(world)
    for problem in (check_witness(history), check_black_box(history, BLACK_BOX_STEPS)):
        if problem is not None:
            raise Violation("I10", str(problem))


@cache
def _try_checkers() -> None:
    """Once per process: checkers that accept a broken history would prove nothing."""
    check_the_checkers()
