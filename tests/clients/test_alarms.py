"""Alarms as pika sees them: connection.blocked and connection.unblocked of a real broker that is low on disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ConnectionBlockedTimeout

from broker_process import BrokerProcess
from clients import alarm_broker
from clients.pika_client import Inbox, get, open_connection, wait_until

PERSISTENT = pika.BasicProperties(delivery_mode=2)
ENOUGH = 50_000_000


class Machine:
    """A broker, and the free space of its disk."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.connections: list[BlockingConnection] = []
        self.low = False

    def set_free(self, size: int) -> None:
        """Makes the disk short of space, or no longer; the broker has said that it knows when this returns."""
        assert self.low != (size < ENOUGH)
        self.low = size < ENOUGH
        new = self.broker.directory / "free.new"
        new.write_text(str(size))
        since = self.broker.log_size()
        os.replace(new, self.broker.directory / alarm_broker.FREE)
        deadline = time.monotonic() + 10
        while "low on disk" not in self.broker.log(since):
            assert time.monotonic() < deadline, self.broker.log()
            time.sleep(0.005)

    def connect(self, **parameters: object) -> tuple[BlockingConnection, list[str]]:
        """A connection, and what it is told."""
        connection = open_connection(self.broker, **parameters)
        told: list[str] = []
        connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
        connection.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
        self.connections.append(connection)
        return connection, told


@pytest.fixture
def machine(tmp_path: Path, start_broker: Callable[..., BrokerProcess]) -> Iterator[Machine]:
    (tmp_path / "broker-0").mkdir()
    (tmp_path / "broker-0" / alarm_broker.FREE).write_text(str(ENOUGH))
    machine = Machine(start_broker(program=[alarm_broker.__file__]))
    yield machine
    if machine.low:
        machine.set_free(ENOUGH)
    for connection in machine.connections:
        if connection.is_open:
            connection.close()
    machine.broker.stop()


def test_a_publisher_waits_until_there_is_room(machine: Machine) -> None:
    publisher, told = machine.connect()
    channel = publisher.channel()
    channel.queue_declare("q", durable=True)
    channel.basic_publish("", "q", b"before", PERSISTENT)
    channel.queue_declare("q", passive=True)
    consumer, nothing = machine.connect()
    inbox = Inbox(consumer.channel(), "q")
    inbox.wait(1)
    machine.set_free(ENOUGH - 1)
    channel.basic_publish("", "q", b"held", PERSISTENT)
    wait_until(publisher, lambda: told)
    assert told == ["low on disk"]
    # The consumer declares, consumes and acknowledges as ever.
    inbox.channel.basic_ack(inbox.received[0].tag)
    assert inbox.channel.queue_declare("q", passive=True).method.message_count == 0
    late, told_late = machine.connect()
    late.channel().basic_publish("", "q", b"late", PERSISTENT)
    wait_until(late, lambda: told_late)
    machine.set_free(ENOUGH)
    wait_until([publisher, late], lambda: len(told) + len(told_late) == 4)
    assert told == told_late == ["low on disk", "unblocked"]
    wait_until(consumer, lambda: len(inbox.received) == 3)
    assert inbox.bodies[0] == b"before"
    assert set(inbox.bodies) == {b"before", b"held", b"late"}
    assert nothing == []
    log = machine.broker.log()
    assert f"low on disk: publishers are blocked ({ENOUGH - 1} bytes free" in log
    assert "no longer low on disk" in log


def test_confirms_wait_and_come(machine: Machine) -> None:
    publisher, told = machine.connect()
    channel = publisher.channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    machine.set_free(0)
    began = time.monotonic()
    threading.Timer(0.3, machine.set_free, [ENOUGH]).start()
    channel.basic_publish("", "q", b"x", PERSISTENT)  # returns when it is confirmed
    assert time.monotonic() - began >= 0.3
    wait_until(publisher, lambda: len(told) == 2)
    assert told == ["low on disk", "unblocked"]
    assert get(channel, "q").body == b"x"


def test_blocked_connection_timeout(machine: Machine) -> None:
    publisher, _ = machine.connect(blocked_connection_timeout=0.2)
    channel = publisher.channel()
    channel.queue_declare("q")
    channel.confirm_delivery()
    machine.set_free(0)
    with pytest.raises(ConnectionBlockedTimeout):
        channel.basic_publish("", "q", b"x")


def test_heartbeats_keep_a_blocked_connection(machine: Machine) -> None:
    """For longer than two intervals; what the client sends meanwhile is not read."""
    publisher, told = machine.connect(heartbeat=1)
    machine.set_free(0)
    publisher.channel().basic_publish("", "nowhere", b"x")
    began = time.monotonic()
    wait_until(publisher, lambda: time.monotonic() - began > 4)
    assert publisher.is_open
    machine.set_free(ENOUGH)
    wait_until(publisher, lambda: told == ["low on disk", "unblocked"])


def test_too_little_from_the_start(start_broker: Callable[..., BrokerProcess]) -> None:
    """A real reading: no disk has so much."""
    broker = start_broker(environment={"PABAL_DISK_FREE_BYTES_MIN": str(2**62)})
    assert "low on disk" in broker.log()
    connection = open_connection(broker)
    told: list[object] = []
    connection.add_on_connection_blocked_callback(lambda *event: told.append(event))
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    channel.basic_publish("", "q", b"x")
    wait_until(connection, lambda: told)
    other = open_connection(broker).channel()
    assert other.queue_declare("q", passive=True).method.message_count == 0
    broker.stop()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory used is not known here")
def test_low_on_memory(start_broker: Callable[..., BrokerProcess]) -> None:
    broker = start_broker(arguments=["--memory"], environment={"PABAL_MEMORY_BYTES_MAX": "1000000"})
    connection = open_connection(broker)
    told: list[str] = []
    connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
    connection.channel().basic_publish("", "nowhere", b"x")
    wait_until(connection, lambda: told)
    assert told == ["low on memory"]
    broker.stop()
