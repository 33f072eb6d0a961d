"""Keeps places free at a listener for whoever comes next.

gRPC refuses connections above a number, whoever has the others: who opens that many and does
nothing more would keep everybody out who comes later, a peer that restarts among them. So those
that carry no stream give way, the oldest first, before all places are taken.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pbft.transport.connections import Accepted, Address, Connection, parse_peer
from pbft.transport.listener import Context, name_in_certificate

SWEEP_SECONDS = 1.0
"""Between two looks, when few connections are idle ..."""
HURRY_SECONDS = 0.02
"""... and when more than half as many are as may be: who opens them opens others in the place of
those that were ended, and between two looks that must be no more than places were free."""
SWEEP_SHARE = 5
"""A look takes at most one part in so many of the event loop's time."""


class Crowd:
    """The connections of one listener."""

    def __init__(self, places: int, idle_of_one: int) -> None:
        """`places` is how many gRPC lets in, `idle_of_one` how many without a stream one owner of a
        certificate may have. Whose they are is known once they carried a stream."""
        self._places = places
        self._idle_of_one = idle_of_one
        self._streams: Counter[Address] = Counter()
        """Those that wait for their Hello or are past it, by the other end of their connection."""
        self._owners: dict[Address, str] = {}
        """Names in the certificates of connections that carried a stream."""
        self._task: asyncio.Task[None] | None = None

    def start(self, address: str, port: int) -> None:
        """Begins to look after the listener that was bound to this address and got this port."""
        assert self._task is None
        accepted = Accepted(address, port)
        self._task = asyncio.create_task(self._run(accepted), name=f"connections at {address}")

    async def close(self) -> None:
        """Ends that; not the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    @contextmanager
    def stream(self, context: Context) -> Iterator[None]:
        """While this lasts the stream's connection stays. The handler of a stream is in here, whose
        duration without a Hello is bounded; not the end of a stream, which may be refused."""
        remote = parse_peer(context.peer())
        owner = name_in_certificate(context)
        if owner is not None:
            self._owners[remote] = owner
        self._streams[remote] += 1
        try:
            yield
        finally:
            self._streams[remote] -= 1
            if not self._streams[remote]:
                del self._streams[remote]

    async def _run(self, accepted: Accepted) -> None:
        while True:
            began = time.thread_time()
            pause = SWEEP_SECONDS
            with suppress(OSError):  # No free descriptor: there will be.
                pause = self._sweep(accepted.look())
            took = time.thread_time() - began
            await asyncio.sleep(max(pause, took * SWEEP_SHARE))

    def _sweep(self, connections: list[Connection]) -> float:
        """Of all open ones, oldest first, ends those that are to give way: those without a stream
        have three quarters of the places that the others leave. Returns how soon to look again."""
        open_now = {it.remote for it in connections}
        self._owners = {it: owner for it, owner in self._owners.items() if it in open_now}
        idle = [it for it in connections if it.remote not in self._streams]
        room = max(0, self._places - (len(connections) - len(idle))) * 3 // 4
        surplus = set(idle[: max(0, len(idle) - room)])
        of_one: defaultdict[str, list[Connection]] = defaultdict(list)
        for connection in idle:
            if (owner := self._owners.get(connection.remote)) is not None:
                of_one[owner].append(connection)
        for own in of_one.values():
            surplus.update(own[: -self._idle_of_one])
        for connection in surplus:
            connection.shut_down()
        return HURRY_SECONDS if len(idle) > room // 2 else SWEEP_SECONDS
