"""Workers in processes of their own, so that the load generator is not slowed by Python's lock."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import time
import traceback
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from spec import Load, LoadError, Report, Task

_forking = multiprocessing.get_context("fork")


class Crew:
    """Workers of one kind, one for each queue, started, connected and waiting to begin."""

    def __init__(self, task: Task, load: Load, queues: list[str]) -> None:
        self.pipes: list[Pipe] = []
        self._processes: list[BaseProcess] = []
        for queue in queues:
            ours, theirs = _forking.Pipe()
            process = _forking.Process(target=_work, args=(task, load, queue, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self._processes.append(process)

    def go(self) -> None:
        """Let all of them begin."""
        for pipe in self.pipes:
            pipe.send("go")

    def stop(self) -> None:
        """End all of them, now if they have not ended."""
        for process, pipe in zip(self._processes, self.pipes, strict=True):
            pipe.close()
            process.join(0.3)
            if process.is_alive():
                process.kill()
                process.join()


def _work(task: Task, load: Load, queue: str, pipe: Pipe) -> None:
    """A worker process: reports "ready", then a `Report`, or else what went wrong as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent gets it too, and ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def gate() -> None:
        pipe.send("ready")
        pipe.recv()

    answer: Report | LoadError
    try:
        answer = task(load, queue, gate)
    except LoadError as error:
        answer = LoadError(f"{task.__name__} {queue}: {error}")
    except EOFError:
        return  # The parent has given up.
    except Exception:
        answer = LoadError(f"{task.__name__} {queue}:\n{traceback.format_exc()}")
    with contextlib.suppress(OSError):
        pipe.send(answer)


def collect(pipes: list[Pipe], deadline: float) -> list[Any]:
    """Wait for one answer of each worker; the first error of any ends it.

    Args:
        pipes: to the workers.
        deadline: in seconds of the monotonic clock.
    """
    answers: dict[Pipe, Any] = {}
    while len(answers) < len(pipes):
        waiting = [pipe for pipe in pipes if pipe not in answers]
        for pipe in multiprocessing.connection.wait(waiting, max(0.0, deadline - time.monotonic())):
            assert isinstance(pipe, Pipe)
            try:
                answer = pipe.recv()
            except EOFError:
                raise LoadError("a worker process died") from None
            if isinstance(answer, LoadError):
                raise answer
            answers[pipe] = answer
        if time.monotonic() >= deadline:
            raise LoadError(f"deadline passed with {len(pipes) - len(answers)} workers at it still")
    return [answers[pipe] for pipe in pipes]
