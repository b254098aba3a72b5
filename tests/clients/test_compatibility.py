"""A real broker that stands for RabbitMQ 4.3, as pika sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ConnectionClosedByBroker, ProbableAccessDeniedError

from broker_process import BrokerProcess
from clients.pika_client import Inbox, get, open_connection, publish


@pytest.fixture
def connect(start_broker: Callable[..., BrokerProcess]) -> Iterator[Callable[..., BlockingConnection]]:
    broker = start_broker(arguments=["--compat", "rabbitmq-4.3"])
    yield lambda **parameters: open_connection(broker, **parameters)
    broker.stop()


def test_version(connect: Callable[..., BlockingConnection]) -> None:
    assert connect()._impl.server_properties["version"] == "4.3.0"


def test_a_queue_for_all_must_be_durable(connect: Callable[..., BlockingConnection]) -> None:
    channel = connect().channel()
    channel.queue_declare("durable", durable=True)
    channel.queue_declare("", exclusive=True)
    with pytest.raises(ConnectionClosedByBroker) as caught:
        channel.queue_declare("transient")
    assert caught.value.reply_code == 541
    assert caught.value.reply_text.startswith("INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\n")


def test_a_shared_prefetch_is_one_of_each_consumer(connect: Callable[..., BlockingConnection]) -> None:
    channel = connect().channel()
    channel.queue_declare("q", durable=True)
    channel.basic_qos(prefetch_count=1, global_qos=True)
    inboxes = [Inbox(channel, "q"), Inbox(channel, "q")]
    publish(channel, "q", b"1", b"2", b"3")
    for inbox in inboxes:
        inbox.wait(1)


def test_small_frames_are_refused(connect: Callable[..., BlockingConnection]) -> None:
    with pytest.raises(ProbableAccessDeniedError, match="frame_max = 4096 is lower than the minimum allowed value"):
        connect(frame_max=4096)
    assert connect(frame_max=8192).is_open


def test_what_counts_as_an_attempt(connect: Callable[..., BlockingConnection]) -> None:
    channel = connect().channel()
    channel.queue_declare("q", durable=True, arguments={"x-delivery-limit": 1, "x-queue-type": "quorum"})
    publish(channel, "q", b"x", delivery_mode=2)
    for _ in range(5):
        received = get(channel, "q", auto_ack=False)
        assert not received.properties.headers
        channel.basic_nack(received.tag, requeue=True)
    channel.basic_reject(get(channel, "q", auto_ack=False).tag, requeue=True)
    received = get(channel, "q", auto_ack=False)
    assert received.properties.headers == {"x-delivery-count": 1}
    channel.basic_reject(received.tag, requeue=True)
    assert channel.queue_declare("q", passive=True).method.message_count == 0
