"""I10: the history of the honest clients is linearizable, by both checkers."""

from pbft.sim.checkers import history as checked
from pbft.sim.clients import Record
from pbft.sim.world import World


def history_of(world: World) -> list[checked.Operation]:
    """What the honest clients saw, in the checkers' form."""
    now_us = world.scheduler.now_us
    return [_operation(record, now_us) for client in world.clients for record in client.records]


def _operation(record: Record, now_us: int) -> checked.Operation:
    return checked.Operation(
        client=f"client {record.client}",
        action=record.wish.action,
        invoked_us=record.invoked_us,
        completed_us=now_us if record.completed_us is None else record.completed_us,
        outcome=checked.Outcome.OK if record.known else checked.Outcome.UNKNOWN,
        result=record.result,
        position=record.position,
    )


def check_history(world: World) -> None:
    history_of(world)
