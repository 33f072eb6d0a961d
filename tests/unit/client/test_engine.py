"""The engine and the event loop that it runs in."""

import asyncio
from unittest.mock import patch

import pytest
import uvloop

from pbft_client.engine import ClientSettings, Engine
from pbft_client.errors import OutcomeUnknown
from tests.unit.client.world import World


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_deadline_that_is_over_when_it_is_looked_at_disturbs_nothing(new_loop: object) -> None:
    """On a busy machine: the timer is due at once, and before it runs more happens."""

    async def story() -> None:
        world = World()
        engine = Engine(world.genesis, world.signer, (), ClientSettings(), None)
        call = asyncio.ensure_future(engine.call(b"put", changes=True))
        await asyncio.sleep(0)
        with patch.object(engine._deadlines, "next_us", return_value=0):
            engine._flush()
            engine._flush()
        await engine.close()
        with pytest.raises(OutcomeUnknown):
            await call

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(story())
