"""Celery with a real worker process: results over rpc://, retries, groups, remote control, events, priorities."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import TaskRevokedError
from pika.adapters.blocking_connection import BlockingChannel

from broker_process import BrokerAddress
from clients.celery_app import every
from clients.celery_worker import ALONE, RESULT_SECONDS_MAX, Worker, Workers, files, wait_for
from clients.pika_client import Names, open_connection, ready_count

REPLY_SECONDS_MAX = 5
THREADS = 3
PREFETCH_MULTIPLIER = 2


@pytest.fixture(scope="module")
def queue() -> str:
    return f"celery.{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def workers(session_broker: BrokerAddress, queue: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    session_broker.ensure_running()  # type: ignore[attr-defined]
    started = Workers(session_broker, tmp_path_factory.mktemp("celery"), queue)
    yield started
    started.close()
    connection = open_connection(session_broker)
    connection.channel().queue_delete(queue)
    connection.channel().exchange_delete(queue)
    connection.close()


@pytest.fixture(scope="module")
def shared_worker(workers: Workers) -> Iterator[Worker]:
    """The worker of most tests: its start takes longer than they do."""
    worker = workers.start(
        "rpc://",
        *("--without-mingle", "--task-events", "--pool", "threads", "--concurrency", str(THREADS)),
        worker_prefetch_multiplier=PREFETCH_MULTIPLIER,
        task_queue_max_priority=9,
    )
    yield worker
    worker.stop()
    assert "Warm shutdown" in worker.log()


@pytest.fixture
def worker(shared_worker: Worker, broker: BrokerAddress) -> Worker:
    """As shared_worker; a failed test shows the broker's log."""
    return shared_worker


@pytest.fixture
def app(worker: Worker) -> Celery:
    return worker.app


def get(result: Any) -> Any:
    return result.get(timeout=RESULT_SECONDS_MAX)


def runs(worker: Worker, results: list[Any]) -> int:
    """How often the worker says it did these tasks."""
    log = worker.log()
    return sum(len(re.findall(rf"\[{result.id}\] succeeded", log)) for result in results)


def test_results_over_rpc(worker: Worker) -> None:
    add, echo, fail = (worker.app.tasks[name] for name in ("add", "echo", "fail"))
    many = [add.delay(n, n) for n in range(30)]
    assert [get(result) for result in many] == [2 * n for n in range(30)]
    wait_for(lambda: runs(worker, many) >= 30)
    assert runs(worker, many) == 30
    assert get(group(add.s(n, 1) for n in range(10))()) == list(range(1, 11))
    assert get(chain(add.s(1, 2), add.s(3), add.s(4))()) == 10
    assert get(chain(add.s(1, 2), group(add.s(3), add.s(4)))()) == [6, 7]
    value = {"text": "파발", "list": [1, None, 2.5, {"deep": True}]}
    assert get(echo.delay(value)) == value
    large = "x" * 1_000_000
    assert get(echo.delay(large)) == large
    with pytest.raises(ValueError, match="as asked"):
        get(fail.delay("as asked"))
    with pytest.raises(NotImplementedError, match="does not support chords"):
        chord((add.s(n, n) for n in range(2)), worker.app.tasks["total"].s())()


def test_results_are_consumed_from_a_queue_of_the_client(app: Celery, channel: BlockingChannel) -> None:
    assert get(app.tasks["add"].delay(1, 1)) == 2
    replies = app.backend.binding.name
    assert channel.queue_declare(replies, passive=True).method.consumer_count == 1


def test_retries_and_countdown(app: Celery) -> None:
    add, flaky, unstable = (app.tasks[name] for name in ("add", "flaky", "unstable"))
    began = time.monotonic()
    later, backed_off = add.apply_async((1, 1), countdown=0.5), unstable.delay(1)
    assert get(flaky.delay(3)) == 3
    assert get(flaky.delay(1, countdown=0.2)) == 1
    assert get(later) == 2
    assert time.monotonic() - began >= 0.5
    assert get(backed_off) == 1


def test_a_chord_whose_results_are_files(
    worker: Worker, workers: Workers, channel: BlockingChannel, tmp_path: Path
) -> None:
    other = workers.start(
        files(tmp_path), *ALONE, "--pool", "threads", "--concurrency", "4", task_queue_max_priority=9
    )
    # Only this worker keeps results in files: it alone is to get the tasks.
    options = {"destination": [worker.name], "reply": True, "timeout": REPLY_SECONDS_MAX}
    worker.app.control.cancel_consumer(worker.queue, **options)
    wait_for(lambda: channel.queue_declare(worker.queue, passive=True).method.consumer_count == 1)
    add, total, flaky = (other.app.tasks[name] for name in ("add", "total", "flaky"))
    counted = chord((add.s(n, n) for n in range(20)), total.s())()
    assert counted.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 380
    # Members that need another attempt hold the chord up, and do not break it. (Retried at once, in another
    # thread, Celery may write "success" before "retry".)
    counted = chord([flaky.s(2, 0.2), flaky.s(1, 0.2), add.s(4, 4)], total.s())()
    assert counted.get(timeout=RESULT_SECONDS_MAX, interval=0.02) == 11
    worker.app.control.add_consumer(worker.queue, **options)
    other.stop()


def test_remote_control(worker: Worker, channel: BlockingChannel) -> None:
    control = worker.app.control
    assert control.ping(destination=[worker.name], timeout=REPLY_SECONDS_MAX) == [{worker.name: {"ok": "pong"}}]
    inspect = control.inspect([worker.name], timeout=REPLY_SECONDS_MAX, limit=1)
    active = {queue["name"]: queue for queue in inspect.active_queues()[worker.name]}
    assert active[worker.queue]["exchange"]["name"] == worker.queue
    assert active[worker.queue]["durable"] is True
    assert "add" in inspect.registered()[worker.name]
    assert inspect.active()[worker.name] == []
    assert inspect.stats()[worker.name]["broker"]["transport"] == "amqp"
    assert channel.queue_declare(worker.queue, passive=True).method.consumer_count == 1

    options = {"destination": [worker.name], "reply": True, "timeout": REPLY_SECONDS_MAX, "limit": 1}
    (reply,) = control.rate_limit("note", "1000/s", **options)
    assert reply == {worker.name: {"ok": "new rate limit set successfully"}}
    revoked = str(uuid.uuid4())
    (reply,) = control.revoke(revoked, **options)
    assert "ok" in reply[worker.name]
    with pytest.raises(TaskRevokedError):
        get(worker.app.tasks["add"].apply_async((1, 1), task_id=revoked))


def test_priorities(worker: Worker, channel: BlockingChannel) -> None:
    """Tasks that wait while no worker takes them are delivered by priority, and in their order within one."""
    options = {"destination": [worker.name], "reply": True, "timeout": REPLY_SECONDS_MAX}
    worker.app.control.cancel_consumer(worker.queue, **options)
    wait_for(lambda: channel.queue_declare(worker.queue, passive=True).method.consumer_count == 0)
    results = [
        worker.app.tasks["echo"].apply_async((number,), priority=priority)
        for number, priority in enumerate([0, 5, 9, None, 5, 1, 9])
    ]
    wait_for(lambda: ready_count(channel, worker.queue) == len(results))
    worker.app.control.add_consumer(worker.queue, **options)
    assert [get(result) for result in results] == list(range(len(results)))
    received = re.findall(r"Task echo\[([^]]*)\] received", worker.log())
    assert received[-len(results) :] == [results[number].id for number in (2, 6, 1, 4, 5, 0, 3)]


def test_prefetch(worker: Worker, channel: BlockingChannel, tmp_path: Path) -> None:
    """The worker holds as many tasks as its threads times the multiplier; the others stay in the queue."""
    gate = tmp_path / "gate"
    results = [worker.app.tasks["hang_until"].delay(str(gate)) for _ in range(THREADS * PREFETCH_MULTIPLIER + 4)]
    try:
        inspect = worker.app.control.inspect([worker.name], timeout=REPLY_SECONDS_MAX, limit=1)
        wait_for(lambda: len(inspect.active()[worker.name]) == THREADS)
        wait_for(lambda: ready_count(channel, worker.queue) == 4, lambda: ready_count(channel, worker.queue))
        assert len(inspect.reserved()[worker.name]) == THREADS * PREFETCH_MULTIPLIER - THREADS
    finally:
        gate.touch()
    assert [get(result) for result in results] == [None] * len(results)
    wait_for(lambda: runs(worker, results) >= len(results))
    assert runs(worker, results) == len(results)


class AllSeen(Exception):
    pass


def test_events(app: Celery) -> None:
    """A monitor sees what becomes of tasks, and the worker's heartbeats."""
    seen: set[tuple[str, str]] = set()
    expected: set[tuple[str, str]] = set()

    def note_event(event: dict[str, Any]) -> None:
        if not expected:
            # The worker answered "wakeup" with a heartbeat, so the monitor's queue is bound.
            assert event["type"] == "worker-heartbeat"
            ids = [
                app.tasks[name].delay(*given).id for name, given in (("add", (1, 2)), ("fail", "x"), ("flaky", (1,)))
            ]
            kinds = ("sent", "received", "started", "succeeded")
            expected.update((f"task-{kind}", ids[0]) for kind in kinds)
            expected.update({("task-failed", ids[1]), ("task-retried", ids[2]), ("task-succeeded", ids[2])})
        seen.add((event["type"], event.get("uuid", "")))
        if expected <= seen:
            raise AllSeen

    with app.connection_for_read() as connection, pytest.raises(AllSeen):
        receiver = app.events.Receiver(connection, handlers={"*": note_event})
        receiver.capture(timeout=RESULT_SECONDS_MAX, wakeup=True)


def test_broadcast_and_remote_shutdown(worker: Worker, workers: Workers, names: Names, tmp_path: Path) -> None:
    second = workers.start("rpc://", "--pool", "solo", task_queue_max_priority=9)
    names.exchanges.append(every(worker.queue))
    lines = tmp_path / "lines"
    worker.app.tasks["note"].apply_async((str(lines), "to all"), exchange=every(worker.queue), routing_key="all")
    wait_for(lambda: lines.exists() and lines.read_text() == "to all\n" * 2)
    both = [worker.name, second.name]
    replies = worker.app.control.ping(destination=both, timeout=REPLY_SECONDS_MAX)
    assert sorted(name for reply in replies for name in reply) == sorted(both)
    worker.app.control.shutdown(destination=[second.name])
    second.ended()
