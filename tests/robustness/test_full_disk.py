"""A full disk under the real broker: nothing confirmed is lost, consumers drain it, publishers go on by themselves.

The data are on a small file system of their own, and the watermark for free space is off, so that it is the writes
themselves that find no room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPError

from broker_process import BrokerProcess
from robustness.small_disk import NoSmallDisk, small_disk

SIZES_MIB = (64, 48)
"""The smaller one has no room for a reserve: there every commit goes to the data file at once."""
SECONDS_MAX = 20.0
BODY_BYTES = 20_000
PERSISTENT = pika.BasicProperties(delivery_mode=2)
StartBroker = Callable[..., BrokerProcess]


class Publisher(threading.Thread):
    """Publishes its number and a count, one confirm after the other. `confirmed`: counts that were. `blocked`: since
    when it has been told so, 0 when it is not."""

    def __init__(self, broker: BrokerProcess, number: int, first: int = 0) -> None:
        super().__init__(daemon=True)
        self.broker, self.number = broker, number
        self.sent = first
        self.confirmed: list[int] = []
        self.blocked = False
        self.was_blocked = False
        self.reason = ""
        self.halt = False
        self.start()

    def run(self) -> None:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(self.broker.url))
            # The blocking adapter keeps these to itself for as long as it waits for a confirm.
            connection._impl.add_on_connection_blocked_callback(self._block)
            connection._impl.add_on_connection_unblocked_callback(self._unblock)
            channel = connection.channel()
            channel.confirm_delivery()
            while not self.halt:
                self.sent += 1
                body = f"{self.number} {self.sent} ".encode().ljust(BODY_BYTES)
                channel.basic_publish("", "q", body, PERSISTENT)
                self.confirmed.append(self.sent)
            connection.close()
        except (AMQPError, OSError):
            pass  # the broker was killed

    def _block(self, _: object, frame: object) -> None:
        self.reason = frame.method.reason  # type: ignore[attr-defined]
        self.blocked = self.was_blocked = True

    def _unblock(self, *_: object) -> None:
        self.blocked = False


class Ledger:
    """What was delivered, and whether it may be."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def take(self, body: bytes, redelivered: bool) -> None:
        number, count = map(int, body.split(b" ", 2)[:2])
        seen = self.seen.setdefault(number, [])
        if redelivered and count in seen:
            return
        assert not seen or count > seen[-1], f"{count} of {number} came behind {seen[-1]}"
        seen.append(count)

    def check(self, publishers: list[Publisher]) -> None:
        for publisher in publishers:
            lost = set(publisher.confirmed) - set(self.seen.get(publisher.number, []))
            assert not lost, f"{len(lost)} confirmed of {publisher.number} are lost: {sorted(lost)[:5]}"


def eventually(condition: Callable[[], bool], what: str, broker: BrokerProcess) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert broker.is_running, broker.log()
        assert time.monotonic() < deadline, f"not in time: {what}\n{broker.log()}"
        time.sleep(0.02)


def drain(broker: BrokerProcess, ledger: Ledger, until: Callable[[], bool]) -> int:
    """Consumes and acknowledges until the queue is empty and `until` says so."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=50)
    taken = 0
    deadline = time.monotonic() + SECONDS_MAX
    for method, _, body in channel.consume("q", inactivity_timeout=0.3):
        if method is not None:
            ledger.take(body, method.redelivered)
            channel.basic_ack(method.delivery_tag)
            taken += 1
        elif until():
            break
        assert time.monotonic() < deadline, f"{taken} taken\n{broker.log()}"
    connection.close()
    return taken


@pytest.fixture(params=SIZES_MIB)
def full_broker(
    start_broker: StartBroker, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., BrokerProcess]]:
    try:
        with small_disk(tmp_path, request.param) as point:
            (tmp_path / "broker-0").mkdir()
            (tmp_path / "broker-0" / "data").symlink_to(point / "data")
            (point / "data").mkdir()
            started: list[BrokerProcess] = []

            def start(**environment: str) -> BrokerProcess:
                broker = start_broker(environment={"PABAL_DISK_FREE_BYTES_MIN": "0", **environment})
                started.append(broker)
                return broker

            yield start
            for broker in started:
                broker.kill()
    except NoSmallDisk as error:
        pytest.skip(str(error))


def declare(broker: BrokerProcess) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    connection.channel().queue_declare("q", durable=True)
    connection.close()


def fill(broker: BrokerProcess, publishers: list[Publisher]) -> None:
    eventually(lambda: all(publisher.was_blocked for publisher in publishers), "all are blocked", broker)
    assert {publisher.reason for publisher in publishers} == {"low on disk"}


def stop(publishers: list[Publisher]) -> None:
    for publisher in publishers:
        publisher.halt = True
    for publisher in publishers:
        publisher.join(SECONDS_MAX)
        assert not publisher.is_alive()


def test_consumers_drain_it_and_publishers_go_on(full_broker: Callable[..., BrokerProcess]) -> None:
    broker, ledger = full_broker(), Ledger()
    declare(broker)
    publishers = [Publisher(broker, number) for number in range(3)]
    for _ in range(2):
        fill(broker, publishers)
        confirmed = [len(publisher.confirmed) for publisher in publishers]
        for publisher in publishers:
            publisher.was_blocked = False

        drain_until(broker, ledger, partial(resumed, publishers, confirmed))
    stop(publishers)
    drain(broker, ledger, lambda: True)
    ledger.check(publishers)
    broker.stop()


def resumed(publishers: list[Publisher], before: list[int]) -> bool:
    return all(len(p.confirmed) > count + 20 for p, count in zip(publishers, before, strict=True))


def drain_until(broker: BrokerProcess, ledger: Ledger, done: Callable[[], bool]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=50)
    deadline = time.monotonic() + SECONDS_MAX
    for method, _, body in channel.consume("q", inactivity_timeout=0.1):
        if method is not None:
            ledger.take(body, method.redelivered)
            channel.basic_ack(method.delivery_tag)
        if done():
            break
        assert time.monotonic() < deadline, broker.log()
    channel.cancel()
    connection.close()


def test_killed_while_full_and_started_while_full(
    full_broker: Callable[..., BrokerProcess], request: pytest.FixtureRequest
) -> None:
    broker, ledger = full_broker(), Ledger()
    declare(broker)
    first = [Publisher(broker, number) for number in range(3)]
    fill(broker, first)
    broker.kill()
    stop(first)
    for _ in range(2):
        broker.start()
        broker.kill()
    broker.start()
    second = [Publisher(broker, number) for number in range(3, 6)]
    eventually(lambda: all(publisher.blocked for publisher in second), "still full", broker)
    drain_until(broker, ledger, lambda: all(len(publisher.confirmed) > 20 for publisher in second))
    stop(second)
    drain(broker, ledger, lambda: True)
    ledger.check(first + second)
    broker.stop()
    assert (broker.data / "pabal.reserve").exists() == (request.node.callspec.params["full_broker"] == 64)
