"""What the pika tests say again and again: connect, collect deliveries, wait, expect a close."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker
from pika.spec import Basic, BasicProperties

from broker_process import BrokerAddress

WAIT_SECONDS_MAX = 10.0

Connect = Callable[..., BlockingConnection]


def open_connection(broker: BrokerAddress, **parameters: Any) -> BlockingConnection:
    """A blocking connection as guest; `parameters` are those of pika.ConnectionParameters."""
    defaults = {"host": broker.host, "port": broker.port, "blocked_connection_timeout": WAIT_SECONDS_MAX}
    return BlockingConnection(pika.ConnectionParameters(**{**defaults, **parameters}))


def cut(connection: BlockingConnection) -> None:
    """Ends the socket without connection.close, as when the client's process dies."""
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)


class Names:
    """Unique names; whatever bears one of them is deleted after the test."""

    def __init__(self, unique: Callable[[str], str]) -> None:
        self._unique = unique
        self.queues: list[str] = []
        self.exchanges: list[str] = []

    def queue(self, prefix: str = "queue") -> str:
        self.queues.append(self._unique(prefix))
        return self.queues[-1]

    def exchange(self, prefix: str = "exchange") -> str:
        self.exchanges.append(self._unique(prefix))
        return self.exchanges[-1]


@dataclass
class Received:
    """One delivery: its method, its properties and its body."""

    method: Basic.Deliver
    properties: BasicProperties
    body: bytes

    @property
    def tag(self) -> int:
        tag: int = self.method.delivery_tag
        return tag

    @property
    def redelivered(self) -> bool:
        return bool(self.method.redelivered)


class Inbox:
    """A consumer that keeps what it is given, in order, and settles nothing by itself."""

    def __init__(self, channel: BlockingChannel, queue: str, auto_ack: bool = False, **options: Any) -> None:
        self.channel = channel
        self.received: list[Received] = []
        self.cancelled: list[str] = []
        channel.add_on_cancel_callback(self._on_cancel)
        self.consumer_tag = channel.basic_consume(queue, self._on_message, auto_ack=auto_ack, **options)

    def _on_message(
        self, _channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self.received.append(Received(method, properties, body))

    def _on_cancel(self, method: Any) -> None:
        self.cancelled.append(method.method.consumer_tag)

    @property
    def bodies(self) -> list[bytes]:
        return [received.body for received in self.received]

    def wait(self, count: int) -> list[Received]:
        """Waits until `count` deliveries have come since the beginning; more is an error."""
        wait_until(self.channel.connection, lambda: len(self.received) >= count, lambda: self.bodies)
        assert len(self.received) == count, self.bodies
        return self.received


def wait_until(
    connection: BlockingConnection | list[BlockingConnection],
    condition: Callable[[], object],
    state: Callable[[], object] = lambda: "",
) -> None:
    """Lets the connections work until the condition holds; fails after WAIT_SECONDS_MAX."""
    connections = connection if isinstance(connection, list) else [connection]
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS_MAX} s; {state()}"
        for one in connections:
            one.process_data_events(time_limit=0.02)


def get(channel: BlockingChannel, queue: str, auto_ack: bool = True) -> Received:
    """basic.get of a message that may still be on its way to the queue."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        if method is not None:
            return Received(method, properties, body)
        assert time.monotonic() < deadline, f"{queue} stayed empty"
        channel.connection.process_data_events(time_limit=0.01)


def bodies(channel: BlockingChannel, queue: str, count: int) -> list[bytes]:
    """Takes exactly `count` messages, waiting for them, and finds the queue empty then."""
    taken = [get(channel, queue).body for _ in range(count)]
    assert channel.basic_get(queue) == (None, None, None), f"more than {count} messages in {queue}"
    return taken


def publish(channel: BlockingChannel, queue: str, *payloads: bytes | str, **properties: Any) -> None:
    """Publishes to a queue by the default exchange."""
    for payload in payloads:
        body = payload.encode() if isinstance(payload, str) else payload
        channel.basic_publish("", queue, body, BasicProperties(**properties))


def ready_count(channel: BlockingChannel, queue: str) -> int:
    """How many messages are ready, by a passive declaration."""
    count: int = channel.queue_declare(queue, passive=True).method.message_count
    return count


def wait_ready(channel: BlockingChannel, queue: str, count: int) -> None:
    wait_until(
        channel.connection,
        lambda: ready_count(channel, queue) == count,
        lambda: f"{ready_count(channel, queue)} ready in {queue}, not {count}",
    )


@contextmanager
def channel_error(channel: BlockingChannel, code: int, text: str) -> Iterator[None]:
    """The block makes the broker close the channel, and only the channel, with exactly this."""
    with pytest.raises(ChannelClosedByBroker) as caught:
        yield
        # What the block sent may have no reply: a round trip brings the close in.
        channel.basic_qos(prefetch_count=0)
    assert (caught.value.reply_code, caught.value.reply_text) == (code, text)
    assert channel.is_closed
    assert channel.connection.is_open


@contextmanager
def connection_error(connection: BlockingConnection, code: int, text: str) -> Iterator[None]:
    """The block makes the broker close the whole connection with exactly this."""
    with pytest.raises(ConnectionClosedByBroker) as caught:
        yield
        wait_until(connection, lambda: False)
    assert (caught.value.reply_code, caught.value.reply_text) == (code, text)
    assert connection.is_closed


class Confirmations:
    """What a channel was told about its publications, in order, by a select connection of pika."""

    def __init__(self, channel: BlockingChannel) -> None:
        self.events: list[tuple[str, int, bool]] = []
        self.unsettled: set[int] = set()
        self.acked: set[int] = set()
        self.nacked: set[int] = set()
        self.connection = channel.connection
        self.impl = channel._impl
        self.impl.confirm_delivery(self._on_answer, lambda _frame: None)
        self.published = 0

    def _on_answer(self, received: Any) -> None:
        method = received.method
        kind = "ack" if isinstance(method, Basic.Ack) else "nack"
        self.events.append((kind, method.delivery_tag, method.multiple))
        tags = (
            {tag for tag in self.unsettled if tag <= method.delivery_tag}
            if method.multiple
            else {method.delivery_tag}
        )
        assert tags <= self.unsettled, "confirmed twice or never published"
        self.unsettled -= tags
        (self.acked if kind == "ack" else self.nacked).update(tags)

    def publish(self, exchange: str, key: str, body: bytes, **properties: object) -> None:
        self.published += 1
        self.unsettled.add(self.published)
        self.impl.basic_publish(exchange, key, body, BasicProperties(**properties))

    def wait(self) -> None:
        wait_until(self.connection, lambda: not self.unsettled, lambda: sorted(self.unsettled)[:5])
