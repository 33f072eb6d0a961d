"""The digests of checkpoints, worked out in the event loop between everything else."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pbft.types import Digest, SequenceNumber

PAUSE_SECONDS = 0.004
"""Between two portions: what arrives meanwhile goes first."""


@dataclass(frozen=True, slots=True)
class StateSealed:
    """The digest of a sealed state is known."""

    sequence: SequenceNumber
    digest: Digest


@dataclass(frozen=True, slots=True)
class SealFailed:
    """The digests cannot be computed any more: what was hashed so far is of no use."""

    error: Exception


class SealableState(Protocol):
    """The side of the replicated state that has digests to compute."""

    @property
    def is_sealing(self) -> bool: ...

    def advance_seal(self) -> tuple[SequenceNumber, Digest] | None: ...


class Sealer:
    """Does what is to be done for the digests, a portion at a time."""

    def __init__(
        self, state: SealableState, tell: Callable[[StateSealed | SealFailed], None]
    ) -> None:
        """`tell` is called with each digest, in the event loop."""
        self._state = state
        self._tell = tell
        self._scheduled = False

    def wake(self) -> None:
        """To be called after every turn. The first portion comes after the writers of the streams,
        which the turn has woken: what is done then delays no batch."""
        if self._state.is_sealing and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        self._scheduled = False
        if not self._state.is_sealing:
            return
        try:
            done = self._state.advance_seal()
        except Exception as error:
            self._tell(SealFailed(error))
            return
        if done is not None:
            self._tell(StateSealed(*done))
        if self._state.is_sealing:
            self._scheduled = True
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._advance)
