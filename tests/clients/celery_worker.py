"""Celery workers as child processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from celery import Celery

from broker_process import BrokerAddress
from clients.celery_app import PREFIX, make_app

START_SECONDS_MAX = 20.0
RESULT_SECONDS_MAX = 15.0
TESTS = Path(__file__).resolve().parent.parent

# For tests that need no news of other workers: quicker, and no queues for it.
ALONE = ("--without-gossip", "--without-mingle")


def files(directory: Path) -> str:
    """A result backend that can count the members of a chord, which rpc:// cannot."""
    directory.mkdir(exist_ok=True)
    return f"clients.celery_app:WholeFiles+file://{directory}"


def wait_for(
    condition: Callable[[], object],
    state: Callable[[], object] = lambda: "",
    seconds_max: float = RESULT_SECONDS_MAX,
) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds_max} s; {state()}"
        time.sleep(0.01)


class Worker:
    """`celery worker` as a child process, and an application that sends it tasks."""

    def __init__(
        self, name: str, broker_url: str, backend: str, queue: str, log: Path, settings: Mapping[str, Any]
    ) -> None:
        self.app: Celery = make_app(broker_url, backend, queue, settings)
        self.log_path = log
        self.name = name
        self.queue = queue
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            PREFIX + "BROKER": broker_url,
            PREFIX + "BACKEND": backend,
            PREFIX + "QUEUE": queue,
            PREFIX + "SETTINGS": json.dumps(settings),
        }

    def start(self, *options: str) -> None:
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

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        """A warm shutdown, which must end well."""
        self.process.send_signal(signal.SIGTERM)
        # It looks for signals when it has something to do, or every two seconds.
        self.app.control.broadcast("ping", destination=[self.name])
        self.ended()
        assert "Connection to broker lost" not in self.log()

    def ended(self) -> None:
        """It ends, or was told to, and ends well."""
        try:
            code = self.process.wait(15)
        finally:
            self.kill()
        assert code == 0, self.log()
        assert "Unrecoverable error" not in self.log()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Workers:
    """Starts workers, and ends what is left of them."""

    def __init__(self, broker: BrokerAddress, directory: Path, queue: str) -> None:
        self.broker = broker
        self.directory = directory
        self.queue = queue
        self.started: list[Worker] = []

    def start(self, backend: str, *options: str, **settings: Any) -> Worker:
        number = len(self.started)
        name, log = f"{self.queue}-{number}@tests", self.directory / f"worker-{number}.log"
        worker = Worker(name, self.broker.url, backend, self.queue, log, settings)
        self.started.append(worker)
        worker.start(*options)
        return worker

    def close(self) -> None:
        for worker in self.started:
            worker.kill()
            worker.app.close()
