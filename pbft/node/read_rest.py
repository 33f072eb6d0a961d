"""Long fast reads leave the event loop to the others in between.

A read is answered in one go, and what one may look at takes a good part of a second. Nobody orders
it, so no queue slows it down: clients that kept a few of them under way would keep every replica
from voting in time, and honest primaries would be suspected.
"""

from pbft.types import ClientKey

LONG_SECONDS = 0.01
"""Shorter reads are free."""
REST_FACTOR = 3
"""So many times what a long one took, no further one of its client is answered; of two clients that
read so, twice as many: together they take a third of the time at most."""


class ReadRest:
    """Which clients' reads are not answered for a while; the times are those of one clock."""

    def __init__(self) -> None:
        self._until: dict[ClientKey, float] = {}

    def is_due(self, client: ClientKey, now: float) -> bool:
        """Whether a read of this client is to be left unanswered."""
        return now < self._until.get(client, now)

    def note(self, client: ClientKey, seconds: float, now: float) -> None:
        """A read of this client has just taken so long."""
        if seconds <= LONG_SECONDS:
            return
        self._until = {other: until for other, until in self._until.items() if until > now}
        others = len(self._until.keys() - {client})
        self._until[client] = now + REST_FACTOR * (1 + others) * seconds
