"""The thread on which commits wait for the disk.

An executor of the standard library would do, but costs several times as much a commit: a future with its lock and
condition for each, where a queue and one call back suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

Finish = Callable[[], None]
Finished = Callable[[BaseException | None], None]


class CommitThread:
    """Calls what it is given in order, each time telling `finished`, on this thread, what was raised."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Finish, Finished] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def run(self, finish: Finish, finished: Finished) -> None:
        """Returns at once."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="commit")
            self._thread.start()
        self._jobs.put((finish, finished))

    def stop(self) -> None:
        """Waits for the end of what was begun. Nothing may be run after it."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            finish, finished = job
            raised: BaseException | None = None
            try:
                finish()
            except BaseException as error:  # whatever it is, the loop is to know
                raised = error
            finished(raised)
