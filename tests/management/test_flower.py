"""Celery's monitor Flower, unchanged, beside a worker: what its pages and its API show of Pabal.

Flower asks the HTTP API for the queues, consumes the events of workers over AMQP, and tells workers what to do.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from broker_process import BrokerProcess
from clients.celery_worker import Worker, Workers, files, wait_for
from management.conftest import broker_with_api

ANSWER_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 15.0
SEEN_SECONDS_MAX = 60.0
TEST_SECONDS_MAX = 200.0
QUEUE = "flower.tasks"
PREFETCH = 2

pytestmark = pytest.mark.timeout(TEST_SECONDS_MAX, method="signal")


class Table(HTMLParser):
    """The one table of a page, a dictionary a row: heading -> text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._headings: list[str] = []
        self._lines: list[list[str]] = []
        self._cells: list[str] | None = None
        self.feed(page)
        self.rows = [dict(zip(self._headings, line, strict=True)) for line in self._lines]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._lines.append([])
        elif tag in ("th", "td"):
            self._cells = self._headings if tag == "th" else self._lines[-1]
            self._cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._cells = None
        elif tag == "thead":
            self._lines.clear()

    def handle_data(self, data: str) -> None:
        if self._cells is not None:
            self._cells[-1] += data


class Flower:
    """`celery flower` as a child process, of the same application as the worker."""

    def __init__(self, broker: BrokerProcess, worker: Worker, directory: Path) -> None:
        self._log_path = directory / "flower.log"
        command = [sys.executable, "-m", "celery", "-A", "clients.celery_app", "flower"]
        api = f"http://guest:guest@{broker.host}:{broker.http_port}/api/"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--address=127.0.0.1", "--port=0", f"--broker-api={api}"],
                env={**worker.environment, "FLOWER_UNAUTHENTICATED_API": "true"},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._port = 0

    def wait_until_ready(self, worker: Worker) -> None:
        """It has found its port, hears the worker's events, and has asked the worker which queues it has."""
        self.wait_for(lambda: self._process.poll() is not None or "Visit me at" in self.log())
        found = re.search(r"Visit me at http://127\.0\.0\.1:(\d+)", self.log())
        assert found is not None, f"Flower did not start:\n{self.log()}"
        self._port = int(found[1])
        self.wait_for(lambda: self.value("/api/workers?status=true") == {worker.name: True})
        # It waits a second for answers and does not ask again by itself.
        self.wait_for(lambda: "active_queues" in self.value("/api/workers?refresh=true").get(worker.name, {}))

    def wait_for(self, condition: Any, state: Any = lambda: "") -> None:
        wait_for(condition, lambda: f"{state()}\n{self.log()}", SEEN_SECONDS_MAX)

    def call(self, method: str, path: str, body: Any = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS_MAX)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        assert response.status == 200, f"{method} {path}: {response.status} {text}\n{self.log()}"
        return text

    def value(self, path: str) -> Any:
        return json.loads(self.call("GET", path))

    def queues(self) -> dict[str, dict[str, str]]:
        """The page of the broker, by queue."""
        return {row["Queue"]: row for row in Table(self.call("GET", "/broker")).rows}

    def shows(self, queue: str, **figures: str) -> bool:
        row = self.queues().get(queue, {})
        return {heading: row.get(heading) for heading in figures} == figures

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(STOP_SECONDS_MAX) == 0, self.log()
        assert "management API call failed" not in self.log()
        assert "Failed to capture events" not in self.log()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One of their own: Celery leaves exchanges behind."""
    with broker_with_api(tmp_path_factory.mktemp("flower-broker")) as process:
        yield process


@pytest.fixture(scope="module")
def worker(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    directory = tmp_path_factory.mktemp("flower-worker")
    workers = Workers(broker, directory, QUEUE)
    try:
        worker = workers.start(
            files(directory / "results"),
            *("--without-mingle", "--task-events", "--pool", "threads", "--concurrency", "1"),
            worker_prefetch_multiplier=PREFETCH,
        )
        yield worker
        worker.stop()
    finally:
        workers.close()


@pytest.fixture(scope="module")
def flower(broker: BrokerProcess, worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    process = Flower(broker, worker, tmp_path_factory.mktemp("flower"))
    try:
        process.wait_until_ready(worker)
        yield process
        process.stop()
    finally:
        process.kill()


def test_the_page_of_the_broker_counts_messages(flower: Flower, worker: Worker, tmp_path: Path) -> None:
    """One task hangs and one more is prefetched; five are left in the queue."""
    gate = tmp_path / "gate"
    try:
        for _ in range(7):
            worker.app.tasks["hang_until"].delay(os.fspath(gate))
        flower.wait_for(
            lambda: flower.shows(QUEUE, Messages="7", Unacked="2", Ready="5", Consumers="1"), flower.queues
        )
        names = {queue["name"] for queue in flower.value("/api/workers")[worker.name]["active_queues"]}
        assert QUEUE in names
        assert set(flower.queues()) == names
        lengths = {queue["name"]: queue["messages"] for queue in flower.value("/api/queues/length")["active_queues"]}
        assert lengths == {name: 7 if name == QUEUE else 0 for name in names}
    finally:
        gate.touch()
    flower.wait_for(lambda: flower.shows(QUEUE, Messages="0", Unacked="0", Ready="0", Consumers="1"), flower.queues)


def test_a_queue_that_does_nothing_shows_since_when(flower: Flower) -> None:
    """The worker's queue for what goes to all workers: nothing comes to it, which the broker notes after 5 s."""
    [idle] = set(flower.queues()) - {QUEUE}
    moment = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00")
    flower.wait_for(lambda: moment.fullmatch(flower.queues()[idle]["Idle since"]), flower.queues)


def test_it_shows_the_worker_and_its_tasks(flower: Flower, worker: Worker) -> None:
    shown = flower.value("/api/workers")[worker.name]
    assert {"add", "fail", "hang_until"} <= set(shown["registered"])
    assert shown["stats"]["broker"]["transport"] == "amqp"
    assert worker.name in flower.call("GET", "/workers")
    done = worker.app.tasks["add"].delay(20, 22)
    failed = worker.app.tasks["fail"].delay("as asked")
    wanted = {done.id: "SUCCESS", failed.id: "FAILURE"}
    flower.wait_for(lambda: {name: states(flower).get(name) for name in wanted} == wanted, lambda: states(flower))
    task = flower.value("/api/tasks")[done.id]
    assert (task["name"], task["args"], task["result"]) == ("add", "(20, 22)", "42")
    assert task["worker"] == worker.name
    assert done.id in flower.value("/api/tasks?state=SUCCESS&taskname=add")
    assert flower.value(f"/api/task/info/{failed.id}")["exception"] == "ValueError('as asked')"


def states(flower: Flower) -> dict[str, str]:
    return {name: task["state"] for name, task in flower.value("/api/tasks").items()}


def test_it_sends_tasks_and_tells_workers_what_to_do(flower: Flower, worker: Worker) -> None:
    sent = json.loads(flower.call("POST", "/api/task/async-apply/add", {"args": [1, 2]}))["task-id"]
    flower.wait_for(lambda: states(flower).get(sent) == "SUCCESS", lambda: states(flower))
    assert flower.value(f"/api/task/result/{sent}")["result"] == 3
    more = "flower.more"
    flower.call("POST", f"/api/worker/queue/add-consumer/{worker.name}?queue={more}")

    def appears() -> bool:
        flower.value(f"/api/workers?refresh=true&workername={worker.name}")
        return flower.shows(more, Messages="0", Ready="0", Consumers="1")

    flower.wait_for(appears, flower.queues)
    flower.call("POST", f"/api/worker/queue/cancel-consumer/{worker.name}?queue={more}")
    flower.wait_for(lambda: flower.shows(more, Consumers="0"), flower.queues)
