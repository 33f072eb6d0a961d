"""A thread for blocking work, one job at a time, whose end is told in the event loop."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class WorkerThread:
    """Runs jobs in the order given. Several times cheaper per job than an executor's futures."""

    def __init__(self, name: str) -> None:
        """Starts the thread; to be called in the event loop that is to be told."""
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        # A daemon, so that a disk that never answers cannot keep a failed process alive.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Queues `job`; `done` is called in the event loop with what it raised, or None."""
        self._jobs.put((job, done))

    async def close(self) -> None:
        """Finishes the queued jobs (their `done` included) and ends the thread."""
        finished = self._loop.create_future()
        self.submit(lambda: None, lambda _: finished.set_result(None))
        await finished
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._jobs.get()) is not None:
            job, done = task
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(done, error)
            except RuntimeError:
                return  # The loop was closed without waiting for us: nobody is left to tell.
