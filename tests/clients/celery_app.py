"""The Celery application of the tests; the worker process and the test import it, with the same environment.

PABAL_TEST_CELERY_BROKER, _BACKEND and _QUEUE say where it connects, where results go and which queue it uses.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.backends.filesystem import FilesystemBackend

PREFIX = "PABAL_TEST_CELERY_"


class WholeFiles(FilesystemBackend):
    """Celery's results in files, but never seen half written: its own backend writes them in place."""

    def set(self, key: bytes, value: bytes | str) -> None:
        path = Path(os.fsdecode(self._filename(key)))
        written = path.with_name(f".{uuid.uuid4().hex}")
        written.write_bytes(value if isinstance(value, bytes) else value.encode())
        written.replace(path)


def make_app(broker_url: str, backend: str, queue: str) -> Celery:
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
        worker_hijack_root_logger=False,
    )
    app.task(add, name="add")
    app.task(total, name="total")
    app.task(fail, name="fail")
    app.task(echo, name="echo")
    app.task(flaky, name="flaky", bind=True, max_retries=5)
    app.task(hang_once, name="hang_once", acks_late=True)
    return app


def add(x: int, y: int) -> int:
    return x + y


def total(numbers: Iterable[int]) -> int:
    return sum(numbers)


def fail(text: str) -> None:
    raise ValueError(text)


def echo(value: Any) -> Any:
    return value


def flaky(self: Task, failures: int, countdown: float = 0) -> int:
    """Fails as often as asked, each time asking to be tried again."""
    if self.request.retries < failures:
        raise self.retry(countdown=countdown, exc=RuntimeError("not yet"))
    return int(self.request.retries)


def hang_once(path: str) -> str:
    """The first to come leaves a mark and never returns; the second finds the mark."""
    mark = Path(path)
    if mark.exists():
        return "second"
    mark.write_text("started")
    while True:
        time.sleep(1)


if PREFIX + "BROKER" in os.environ:
    app = make_app(*(os.environ[PREFIX + name] for name in ("BROKER", "BACKEND", "QUEUE")))
