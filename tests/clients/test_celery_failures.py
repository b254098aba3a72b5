"""Celery when something dies: a worker, a process of its pool, one that hangs without dying, the broker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_process import BrokerAddress, BrokerProcess
from clients.celery_worker import ALONE, RESULT_SECONDS_MAX, Workers, files, wait_for
from clients.pika_client import Names

SOLO = (*ALONE, "--pool", "solo")


@pytest.fixture
def workers(broker: BrokerAddress, names: Names, tmp_path: Path) -> Iterator[Workers]:
    started = Workers(broker, tmp_path, names.queue("celery"))
    names.exchanges.append(started.queue)
    yield started
    started.close()


def test_a_killed_workers_task_goes_to_another(workers: Workers, tmp_path: Path) -> None:
    mark, backend = tmp_path / "mark", files(tmp_path / "results")
    first = workers.start(backend, *SOLO)
    result = first.app.tasks["hang_once"].delay(str(mark))
    wait_for(mark.exists, first.log)
    first.kill()
    second = workers.start(backend, *SOLO)
    assert result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == "second"
    second.stop()


def test_a_frozen_workers_task_goes_to_another(workers: Workers, tmp_path: Path) -> None:
    """Its socket stays open; it is the heartbeats that are missed."""
    mark, backend = tmp_path / "mark", files(tmp_path / "results")
    first = workers.start(backend, *SOLO, broker_heartbeat=1)
    result = first.app.tasks["hang_once"].delay(str(mark))
    wait_for(mark.exists, first.log)
    first.process.send_signal(signal.SIGSTOP)
    second = workers.start(backend, *SOLO)
    assert result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == "second"
    second.stop()


def test_a_task_whose_process_dies_is_tried_again(workers: Workers, tmp_path: Path) -> None:
    """acks_late and reject_on_worker_lost: the worker lives, and rejects what its pool's dead process had."""
    worker = workers.start(files(tmp_path / "results"), *ALONE, "--pool", "prefork", "--concurrency", "1")
    result = worker.app.tasks["die_once"].delay(str(tmp_path / "mark"))
    assert result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == "second"
    assert worker.log().count(f"[{result.id}] received") == 2
    worker.stop()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_worker_outlives_the_broker(how: str, start_broker: Callable[..., BrokerProcess], tmp_path: Path) -> None:
    """The task that is under way and those that wait are done, and so are new ones."""
    broker = start_broker()
    workers = Workers(broker, tmp_path, "survivor")
    try:
        worker = workers.start(
            files(tmp_path / "results"),
            *(*ALONE, "--pool", "threads", "--concurrency", "1"),
            broker_transport_options={"confirm_publish": True},
            worker_prefetch_multiplier=1,
        )
        gate, tasks = tmp_path / "gate", worker.app.tasks
        results = [tasks["hang_until"].delay(str(gate)), *(tasks["add"].delay(n, n) for n in range(5))]
        wait_for(lambda: f"[{results[0].id}] received" in worker.log(), worker.log)
        broker.restart(kill=how == "killed")
        gate.touch()
        results += [tasks["add"].delay(n, n) for n in range(5, 8)]
        values = [result.get(timeout=RESULT_SECONDS_MAX, interval=0.02) for result in results]
        assert values == [None, *(2 * n for n in range(8))]
        assert "Connection to broker lost" in worker.log()
        wait_for(lambda: all(f"[{result.id}] succeeded" in worker.log() for result in results))
        # What was acknowledged after the connection was lost comes again; what waited is done once.
        assert all(worker.log().count(f"[{result.id}] succeeded") == 1 for result in results[1:])
    finally:
        workers.close()
