"""Merges and installations of the replicated state: begun and finished in the task that owns the
core, run in a thread of their own (protocol.md sections 6, 9 and 10)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pbft.core.effects import Install, Merge
from pbft.node.worker import WorkerThread
from pbft.storage.api import StorageCorrupt


class DiskPlan(Protocol):
    """What the thread is to do; it touches nothing that the event loop touches."""

    def run(self) -> None:
        """Makes it durable. Blocks. Raises StorageFailed, or StorageCorrupt with nothing done."""
        ...


class DurableState(Protocol):
    """The disk side of the replicated state. A plan goes back to where it came from: its type is
    the state's own."""

    def begin_merge(self, effect: Merge) -> DiskPlan:
        """Prepares the merge of all layers up to the checkpoint; cheap."""
        ...

    def finish_merge(self, plan: Any) -> None:
        """Lets reads use what the plan has made durable; cheap."""
        ...

    def begin_install(self, effect: Install) -> DiskPlan:
        """Prepares the installation of the staged state; cheap."""
        ...

    def finish_install(self, plan: Any) -> None:
        """Lets reads use what the plan has made durable; cheap."""
        ...


@dataclass(frozen=True, slots=True)
class DiskJobDone:
    """The plan of an effect is durable and waits to be finished."""

    effect: Merge | Install
    plan: DiskPlan


@dataclass(frozen=True, slots=True)
class DiskJobFailed:
    """What a plan had to read is corrupt: nothing of it was done, and nothing more is."""

    error: StorageCorrupt


class StateDisk:
    """Performs Merge and Install effects one after the other, in the order given."""

    def __init__(
        self,
        state: DurableState,
        worker: WorkerThread,
        tell: Callable[[DiskJobDone | DiskJobFailed], None],
        fail: Callable[[str, BaseException], None],
    ) -> None:
        """`tell` is called when a plan is durable; `finish` must follow. `fail` is called instead
        if the disk refuses, and nothing more is performed. What is corrupt is told, too: unlike
        after a refused write, it is known what is on disk, so that the process can end in order
        and say what to do."""
        self._state = state
        self._worker = worker
        self._tell = tell
        self._fail = fail
        self._waiting: deque[Merge | Install] = deque()
        self._busy = False

    def perform(self, effect: Merge | Install) -> None:
        """Queues an effect."""
        self._waiting.append(effect)
        self._begin_next()

    def finish(self, done: DiskJobDone) -> None:
        """To be called where the core is run, before the core hears of it."""
        if isinstance(done.effect, Merge):
            self._state.finish_merge(done.plan)
        else:
            self._state.finish_install(done.plan)
        self._busy = False
        self._begin_next()

    def _begin_next(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        effect = self._waiting.popleft()
        if isinstance(effect, Merge):
            plan = self._state.begin_merge(effect)
        else:
            plan = self._state.begin_install(effect)
        self._worker.submit(plan.run, partial(self._on_run, DiskJobDone(effect, plan)))

    def _on_run(self, done: DiskJobDone, error: BaseException | None) -> None:
        if error is None:
            self._tell(done)
        elif isinstance(error, StorageCorrupt):
            self._tell(DiskJobFailed(error))
        else:
            self._fail("the state could not be made durable", error)
