"""The Celery application of the tests; the worker process and the test import it, with the same environment.

PABAL_TEST_CELERY_BROKER, _BACKEND and _QUEUE say where it connects, where results go and which queue it uses;
_SETTINGS are further settings of Celery's, in JSON.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.backends.filesystem import FilesystemBackend
from kombu import Queue
from kombu.common import Broadcast

PREFIX = "PABAL_TEST_CELERY_"
HANG_SECONDS_MAX = 60.0


class WholeFiles(FilesystemBackend):
    """Celery's results in files, but never seen half written: its own backend writes them in place."""

    def set(self, key: bytes, value: bytes | str) -> None:
        path = Path(os.fsdecode(self._filename(key)))
        written = path.with_name(f".{uuid.uuid4().hex}")
        written.write_bytes(value if isinstance(value, bytes) else value.encode())
        written.replace(path)


def make_app(broker_url: str, backend: str, queue: str, settings: Mapping[str, Any]) -> Celery:
    app = Celery("pabal-tests", broker=broker_url, backend=backend)
    app.conf.update(
        task_default_queue=queue,
        task_default_exchange=queue,
        task_default_routing_key=queue,
        task_send_sent_event=True,
        result_chord_retry_interval=0.1,
        result_persistent=False,
        worker_prefetch_multiplier=2,
        broker_connection_retry_on_startup=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
    )
    app.conf.update(settings)
    if app.conf.task_default_queue_type != "quorum":
        # Celery makes the queue a quorum queue only when it is not told the queues.
        app.conf.task_queues = (Queue(queue, app.amqp.default_exchange, queue), Broadcast(every(queue)))
    app.task(add, name="add")
    app.task(total, name="total")
    app.task(fail, name="fail")
    app.task(echo, name="echo")
    app.task(note, name="note")
    app.task(flaky, name="flaky", bind=True, max_retries=5)
    app.task(unstable, name="unstable", bind=True, autoretry_for=(ConnectionError,), retry_backoff=1)
    app.task(hang_once, name="hang_once", acks_late=True)
    app.task(hang_until, name="hang_until", acks_late=True)
    app.task(die_once, name="die_once", acks_late=True, reject_on_worker_lost=True)
    return app


def every(queue: str) -> str:
    """The exchange by which tasks go to every worker of the queue."""
    return f"{queue}.every"


def add(x: int, y: int) -> int:
    return x + y


def total(numbers: Iterable[int]) -> int:
    return sum(numbers)


def fail(text: str) -> None:
    raise ValueError(text)


def echo(value: Any) -> Any:
    return value


def note(path: str, text: str) -> None:
    """Adds a line to the file."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


def flaky(self: Task, failures: int, countdown: float = 0) -> int:
    """Fails as often as asked, each time asking to be tried again."""
    if self.request.retries < failures:
        raise self.retry(countdown=countdown, exc=RuntimeError("not yet"))
    return int(self.request.retries)


def unstable(self: Task, failures: int) -> int:
    """Fails as often as asked; Celery tries again by itself, later and later."""
    if self.request.retries < failures:
        raise ConnectionError("not yet")
    return int(self.request.retries)


def hang_until(path: str) -> None:
    """Waits for the file."""
    deadline = time.monotonic() + HANG_SECONDS_MAX
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def hang_once(path: str) -> str:
    """The first to come leaves a mark and never returns; the second finds the mark."""
    mark = Path(path)
    if mark.exists():
        return "second"
    mark.write_text("started")
    while True:
        time.sleep(1)


def die_once(path: str) -> str:
    """The first to come leaves a mark and kills its process, one of the pool's; the second finds the mark."""
    mark = Path(path)
    if mark.exists():
        return "second"
    mark.write_text("started")
    os.kill(os.getpid(), signal.SIGKILL)
    return "not reached"


if PREFIX + "BROKER" in os.environ:
    app = make_app(
        *(os.environ[PREFIX + name] for name in ("BROKER", "BACKEND", "QUEUE")),
        json.loads(os.environ[PREFIX + "SETTINGS"]),
    )
