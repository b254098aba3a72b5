"""Fixtures of the client tests: pika connections that are closed, queues and exchanges that are deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError

from broker_process import BrokerAddress
from clients.pika_client import Connect, Names, open_connection

TEST_SECONDS_MAX = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A broker that never answers fails the test that waits for it, and not the whole run."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS_MAX, method="signal"))


@pytest.fixture
def names(broker: BrokerAddress, unique: Callable[[str], str]) -> Iterator[Names]:
    """Gives unique names of queues and exchanges and deletes whatever bears them afterwards."""
    given = Names(unique)
    yield given
    connection = open_connection(broker)
    channel = connection.channel()
    for queue in given.queues:
        channel.queue_delete(queue)
    for exchange in given.exchanges:
        channel.exchange_delete(exchange)
    connection.close()


@pytest.fixture
def connect(broker: BrokerAddress, names: Names) -> Iterator[Connect]:
    """Opens pika connections: `connect(heartbeat=0, frame_max=4096)`; they are closed after the test."""
    opened: list[BlockingConnection] = []

    def connect_now(**parameters: object) -> BlockingConnection:
        connection = open_connection(broker, **parameters)
        opened.append(connection)
        return connection

    yield connect_now
    for connection in opened:
        if connection.is_open:
            with contextlib.suppress(AMQPError):
                connection.close()


@pytest.fixture
def connection(connect: Connect) -> pika.BlockingConnection:
    return connect()


@pytest.fixture
def channel(connection: BlockingConnection) -> BlockingChannel:
    return connection.channel()


@pytest.fixture
def queue(channel: BlockingChannel, names: Names) -> str:
    """A transient queue of this test."""
    name = names.queue()
    channel.queue_declare(name)
    return name
