"""Digests are worked out between turns, and the core hears of each."""

import asyncio
from itertools import pairwise

from pbft.node.sealer import Sealer, SealFailed, StateSealed
from pbft.types import Digest, SequenceNumber

DIGEST = bytes(32)


class Portions:
    """A state with digests that take so many portions each."""

    def __init__(self, *portions: int) -> None:
        self.left = list(portions)
        self.steps: list[str] = []

    @property
    def is_sealing(self) -> bool:
        return bool(self.left)

    def advance_seal(self) -> tuple[SequenceNumber, Digest] | None:
        self.steps.append("portion")
        self.left[0] -= 1
        if self.left[0]:
            return None
        del self.left[0]
        return len(self.steps), DIGEST


def test_nothing_happens_where_nothing_is_sealed() -> None:
    async def scenario() -> None:
        state, told = Portions(), list[object]()
        Sealer(state, told.append).wake()
        await asyncio.sleep(0)
        assert state.steps == [] and told == []

    asyncio.run(scenario())


def test_every_digest_is_told_once_and_in_order() -> None:
    async def scenario() -> None:
        state, told = Portions(3, 1, 2), list[object]()
        sealer = Sealer(state, told.append)
        sealer.wake()
        assert state.steps == [], "what the turn has woken goes first"
        await asyncio.sleep(0.1)
        assert told == [StateSealed(3, DIGEST), StateSealed(4, DIGEST), StateSealed(6, DIGEST)]

    asyncio.run(scenario())


def test_others_go_between_two_portions_however_often_it_is_woken() -> None:
    async def scenario() -> None:
        state = Portions(4)
        sealer = Sealer(state, lambda event: state.steps.append("told"))
        while state.is_sealing:
            sealer.wake()
            sealer.wake()
            await asyncio.sleep(0)
            state.steps.append("other")
        portions = [index for index, step in enumerate(state.steps) if step == "portion"]
        assert all(later - earlier > 1 for earlier, later in pairwise(portions))
        assert len(portions) == 4

    asyncio.run(scenario())


def test_a_state_that_was_replaced_meanwhile_has_nothing_to_seal() -> None:
    async def scenario() -> None:
        state, told = Portions(2), list[object]()
        Sealer(state, told.append).wake()
        state.left.clear()
        await asyncio.sleep(0.01)
        assert state.steps == [] and told == []

    asyncio.run(scenario())


def test_a_state_that_cannot_be_hashed_ends_it() -> None:
    class Broken(Portions):
        def advance_seal(self) -> tuple[SequenceNumber, Digest] | None:
            raise MemoryError("no room")

    async def scenario() -> None:
        told: list[object] = []
        sealer = Sealer(Broken(2), told.append)
        sealer.wake()
        await asyncio.sleep(0.01)
        (failed,) = told
        assert isinstance(failed, SealFailed) and isinstance(failed.error, MemoryError)

    asyncio.run(scenario())
