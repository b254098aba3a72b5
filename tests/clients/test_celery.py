"""Celery with real worker processes: tasks, retries, chords, remote control, a worker that dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery, chain, chord, group

from broker_process import BrokerAddress
from clients.celery_app import PREFIX, make_app
from clients.pika_client import Names, open_connection

START_SECONDS_MAX = 20.0
RESULT_SECONDS_MAX = 15.0
TESTS = Path(__file__).resolve().parent.parent


def files(directory: Path) -> str:
    """A result backend that can count the members of a chord, which rpc:// cannot."""
    return f"clients.celery_app:WholeFiles+file://{directory}"


class Worker:
    """`celery worker` as a child process."""

    def __init__(self, app: Celery, broker_url: str, backend: str, queue: str, log: Path) -> None:
        self.app = app
        self.log_path = log
        self.name = f"{queue}@tests"
        self.queue = queue
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            PREFIX + "BROKER": broker_url,
            PREFIX + "BACKEND": backend,
            PREFIX + "QUEUE": queue,
        }

    def start(self, *options: str) -> Worker:
        command = [sys.executable, "-m", "celery", "-A", "clients.celery_app", "worker"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--loglevel", "info", "-n", self.name, *options],
                env=self.environment,
                cwd=TESTS,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while f"{self.name} ready." not in self.log():
            assert self.process.poll() is None, f"the worker exited:\n{self.log()}"
            assert time.monotonic() < deadline, f"the worker did not start:\n{self.log()}"
            time.sleep(0.02)
        return self

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        """A warm shutdown, which must end well."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(15)
        finally:
            self.kill()
        assert code == 0, self.log()
        assert "Connection to broker lost" not in self.log()
        assert "Unrecoverable error" not in self.log()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


Start = Callable[..., Worker]


@pytest.fixture
def start_worker(broker: BrokerAddress, names: Names, tmp_path: Path) -> Iterator[Start]:
    """`start_worker(backend, *options, queue=None)`; workers that are left are killed."""
    started: list[Worker] = []
    apps: list[Celery] = []

    def start(backend: str, *options: str, queue: str | None = None) -> Worker:
        queue = queue or names.queue("celery")
        names.exchanges.append(queue)
        app = make_app(broker.url, backend, queue)
        apps.append(app)
        worker = Worker(app, broker.url, backend, queue, tmp_path / f"worker-{len(started)}.log")
        started.append(worker)
        return worker.start(*options)

    yield start
    for worker in started:
        worker.kill()
    for app in apps:
        app.close()


def test_results_over_rpc_and_remote_control(start_worker: Start, broker: BrokerAddress) -> None:
    """One worker for all of it: its start takes longer than the tasks."""
    worker = start_worker("rpc://", "--pool", "solo")
    app = worker.app
    add, echo, flaky, fail = (app.tasks[name] for name in ("add", "echo", "flaky", "fail"))

    assert add.delay(2, 3).get(timeout=RESULT_SECONDS_MAX) == 5
    many = [add.delay(n, n) for n in range(30)]
    assert [result.get(timeout=RESULT_SECONDS_MAX) for result in many] == [2 * n for n in range(30)]
    assert group(add.s(n, 1) for n in range(10))().get(timeout=RESULT_SECONDS_MAX) == list(range(1, 11))
    assert chain(add.s(1, 2), add.s(3), add.s(4))().get(timeout=RESULT_SECONDS_MAX) == 10

    value = {"text": "파발", "list": [1, None, 2.5, {"deep": True}]}
    assert echo.delay(value).get(timeout=RESULT_SECONDS_MAX) == value
    large = "x" * 1_000_000
    assert echo.delay(large).get(timeout=RESULT_SECONDS_MAX) == large

    with pytest.raises(ValueError, match="as asked"):
        fail.delay("as asked").get(timeout=RESULT_SECONDS_MAX)
    assert flaky.delay(3).get(timeout=RESULT_SECONDS_MAX) == 3

    began = time.monotonic()
    assert add.apply_async((1, 1), countdown=0.5).get(timeout=RESULT_SECONDS_MAX) == 2
    assert time.monotonic() - began >= 0.5
    assert flaky.delay(1, countdown=0.2).get(timeout=RESULT_SECONDS_MAX) == 1

    control = app.control
    assert control.ping(timeout=5, limit=1) == [{worker.name: {"ok": "pong"}}]
    inspect = control.inspect([worker.name], timeout=5, limit=1)
    (active,) = inspect.active_queues()[worker.name]
    assert (active["name"], active["exchange"]["name"], active["durable"]) == (
        worker.queue,
        worker.queue,
        True,
    )
    assert "add" in inspect.registered()[worker.name]
    consumer = open_connection(broker)
    assert consumer.channel().queue_declare(worker.queue, passive=True).method.consumer_count == 1
    consumer.close()

    worker.stop()
    log = worker.log()
    assert "Warm shutdown" in log
    # 1 + 30 + 10 + 3 + 1 of them, none run twice.
    assert len(re.findall(r"Task add\[[^]]*\] succeeded", log)) == 45
    assert len(re.findall(r"Task flaky\[[^]]*\] retry:", log)) == 4


def test_a_chord_in_threads(start_worker: Start, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    worker = start_worker(
        files(results), "--pool", "threads", "--concurrency", "4", "--without-gossip", "--without-mingle"
    )
    add, total, flaky = (worker.app.tasks[name] for name in ("add", "total", "flaky"))
    counted = chord((add.s(n, n) for n in range(20)), total.s())()
    assert counted.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 380
    # Members that need another attempt hold the chord up, and do not break it. (Retried at once, in another
    # thread, Celery may write "success" before "retry".)
    counted = chord([flaky.s(2, 0.2), flaky.s(1, 0.2), add.s(4, 4)], total.s())()
    assert counted.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 11
    worker.stop()


def test_a_killed_workers_task_goes_to_another(start_worker: Start, tmp_path: Path) -> None:
    results, mark = tmp_path / "results", tmp_path / "mark"
    results.mkdir()
    options = ("--pool", "solo", "--without-gossip", "--without-mingle")
    first = start_worker(files(results), *options)
    result = first.app.tasks["hang_once"].delay(str(mark))
    deadline = time.monotonic() + RESULT_SECONDS_MAX
    while not mark.exists():
        assert time.monotonic() < deadline, first.log()
        time.sleep(0.01)
    first.kill()
    second = start_worker(files(results), *options, queue=first.queue)
    assert result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == "second"
    second.stop()
