"""Celery as it is set up for quorum queues: confirms, prefetch per consumer, delays by its chain of 28 queues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker_process import BrokerProcess
from clients.celery_worker import ALONE, RESULT_SECONDS_MAX, Worker, Workers, files
from clients.pika_client import get as take
from clients.pika_client import open_connection

SETTINGS = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "broker_transport_options": {"confirm_publish": True},
    "worker_detect_quorum_queues": True,
    "broker_heartbeat": 1,
}


@pytest.fixture
def broker_of_its_own(start_broker: Callable[..., BrokerProcess]) -> BrokerProcess:
    """The names of Celery's delay queues are fixed, and they are durable."""
    return start_broker()


@pytest.fixture
def worker(broker_of_its_own: BrokerProcess, tmp_path: Path) -> Iterator[Worker]:
    workers = Workers(broker_of_its_own, tmp_path, "quorum")
    pool = (*ALONE, "--pool", "threads", "--concurrency", "2")
    yield workers.start(files(tmp_path / "results"), *pool, **SETTINGS)
    workers.close()


def received_at(worker: Worker, result: object) -> float:
    """When the worker first saw the task, in seconds of the epoch."""
    (line,) = (line for line in worker.log().splitlines() if f"[{result.id}] received" in line)  # type: ignore[attr-defined]
    return datetime.strptime(line[1:24], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def test_delays(worker: Worker, broker_of_its_own: BrokerProcess, tmp_path: Path) -> None:
    add, flaky = worker.app.tasks["add"], worker.app.tasks["flaky"]
    assert "Global QoS is disabled" in worker.log()
    assert add.delay(1, 1).get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 2

    began = time.time()
    tasks = [(seconds, add.apply_async((seconds, 0), countdown=seconds)) for seconds in (3, 2, 1)]
    tasks.append((1, add.apply_async((1, 0), eta=datetime.now(UTC) + timedelta(seconds=1.9))))
    years = add.apply_async((0, 0), countdown=2**27 + 2**26)
    again = flaky.delay(1, countdown=1)
    for seconds, result in tasks:
        assert result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == seconds
        # It stays with the broker until then: the worker has not seen it before.
        assert seconds - 0.1 <= received_at(worker, result) - began < seconds + 5
    assert again.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 1
    # Who asks the queue in which the last one waits gets it.
    connection = open_connection(broker_of_its_own)
    waiting = take(connection.channel(), "celery_delayed_27")
    assert waiting.properties.correlation_id == years.id
    connection.close()
    worker.stop()


def test_delays_outlive_the_broker(worker: Worker, broker_of_its_own: BrokerProcess) -> None:
    began = time.time()
    result = worker.app.tasks["add"].apply_async((1, 2), countdown=3)
    broker_of_its_own.restart(kill=True)
    assert result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 3
    assert time.time() - began >= 2.9
