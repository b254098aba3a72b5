"""Delayed exchanges, delayed retry and quorum queues, as pika sees them. (What needs RabbitMQ's plugin or a later
RabbitMQ runs on Pabal only.)"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from broker_process import BrokerProcess
from clients.pika_client import Connect, Inbox, Names, channel_error, get, open_connection, wait_until

QUORUM = {"x-queue-type": "quorum"}


def told(text: str, queue: str) -> str:
    """The reply text."""
    text = text.replace("QUEUE", f"queue '{queue}' in vhost '/'").replace("QUORUM", "queue type rabbit_quorum_queue")
    return f"PRECONDITION_FAILED - {text}"


@pytest.fixture
def later(channel: BlockingChannel, names: Names, pabal_only: None) -> tuple[str, str]:
    """A delayed exchange and a queue bound to it."""
    exchange, queue = names.exchange("later"), names.queue("later")
    channel.exchange_declare(exchange, "x-delayed-message", arguments={"x-delayed-type": "direct"})
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange, "k")
    return exchange, queue


def publish(channel: BlockingChannel, exchange: str, body: bytes, delay: Any = None, **properties: Any) -> None:
    headers = {} if delay is None else {"x-delay": delay}
    channel.basic_publish(exchange, "k", body, pika.BasicProperties(headers=headers, **properties), mandatory=True)


def test_messages_come_when_their_time_is_there(channel: BlockingChannel, later: tuple[str, str]) -> None:
    exchange, queue = later
    channel.confirm_delivery()
    inbox = Inbox(channel, queue, auto_ack=True)
    began = time.monotonic()
    publish(channel, exchange, b"late", 400)
    publish(channel, exchange, b"soon", "150")
    publish(channel, exchange, b"now")
    inbox.wait(3)
    assert inbox.bodies == [b"now", b"soon", b"late"]
    assert time.monotonic() - began >= 0.398  # the broker counts whole milliseconds
    assert [received.properties.headers.get("x-delay") for received in inbox.received] == [None, -150, -400]


def test_in_a_transaction_the_delay_begins_with_the_commit(channel: BlockingChannel, later: tuple[str, str]) -> None:
    exchange, queue = later
    channel.tx_select()
    publish(channel, exchange, b"no", 50)
    channel.tx_rollback()
    publish(channel, exchange, b"yes", 50)
    channel.tx_commit()
    assert get(channel, queue).body == b"yes"
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_held_messages_survive_kill_9(start_broker: Callable[..., BrokerProcess]) -> None:
    own_broker = start_broker()
    channel = open_connection(own_broker).channel()
    channel.exchange_declare("later", "x-delayed-message", durable=True, arguments={"x-delayed-type": "topic"})
    channel.queue_declare("q", durable=True)
    channel.queue_bind("q", "later", "#")
    channel.confirm_delivery()
    for delay in (1500, 700, 10):
        publish(channel, "later", str(delay).encode(), delay, delivery_mode=2)
    own_broker.kill()
    own_broker.start()
    connection = open_connection(own_broker)
    inbox = Inbox(connection.channel(), "q", auto_ack=True)
    inbox.wait(3)
    assert inbox.bodies == [b"10", b"700", b"1500"]
    connection.close()


WANTED = "PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type"
OTHER_WANTED = "PRECONDITION_FAILED - Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, WANTED),
        ({"x-delayed-type": 5}, WANTED),
        ({"x-delayed-type": "x-delayed-message"}, OTHER_WANTED),
    ],
    ids=str,
)
@pytest.mark.usefixtures("pabal_only")
def test_it_says_what_it_needs(channel: BlockingChannel, names: Names, arguments: dict[str, Any], text: str) -> None:
    with channel_error(channel, 406, text):
        channel.exchange_declare(names.exchange(), "x-delayed-message", arguments=arguments)


@pytest.mark.usefixtures("pabal_only")
def test_a_failed_job_is_tried_again_later(channel: BlockingChannel, names: Names) -> None:
    queue = names.queue("jobs")
    channel.queue_declare(
        queue,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delayed-retry-type": "all",
            "x-delayed-retry-min": 100,
            "x-delayed-retry-max": 150,
        },
    )
    channel.basic_publish("", queue, b"job")
    inbox = Inbox(channel, queue)
    came = []
    for attempt in range(3):
        inbox.wait(attempt + 1)
        came.append(time.monotonic())
        channel.basic_reject(inbox.received[-1].tag, requeue=True)
    assert came[1] - came[0] >= 0.098  # the broker counts whole milliseconds
    assert came[2] - came[1] >= 0.148
    assert [(received.properties.headers or {}).get("x-delivery-count") for received in inbox.received] == [
        None,
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"durable": False}, "invalid property 'non-durable' for QUEUE"),
        ({"durable": True, "exclusive": True}, "invalid property 'exclusive-owner' for QUEUE"),
        ({"durable": True, "auto_delete": True}, "invalid property 'auto-delete' for QUEUE"),
        (
            {"durable": True, "more": {"x-max-priority": 3}},
            "invalid arg 'x-max-priority' for QUEUE of QUORUM",
        ),
        (
            {"durable": True, "more": {"x-queue-mode": "lazy"}},
            "invalid arg 'x-queue-mode' for QUEUE of QUORUM",
        ),
    ],
    ids=str,
)
def test_what_a_quorum_queue_cannot_be(
    channel: BlockingChannel, names: Names, options: dict[str, Any], text: str
) -> None:
    flags = {name: value for name, value in options.items() if name != "more"}
    queue = names.queue()
    with channel_error(channel, 406, told(text, queue)):
        channel.queue_declare(queue, arguments={"x-queue-type": "quorum", **options.get("more", {})}, **flags)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x-queue-mode": "bad"}, "invalid arg 'x-queue-mode' for QUEUE: \"unsupported queue mode 'bad'\""),
        ({"x-queue-version": 9}, "invalid arg 'x-queue-version' for QUEUE: \"unsupported queue version '9'\""),
        ({"x-max-age": "1h"}, "invalid arg 'x-max-age' for QUEUE of queue type rabbit_classic_queue"),
        (
            QUORUM | {"x-dead-letter-strategy": "hope"},
            "invalid arg 'x-dead-letter-strategy' for QUEUE: invalid_dlx_strategy",
        ),
        (
            QUORUM | {"x-quorum-initial-group-size": 0},
            "invalid arg 'x-quorum-initial-group-size' for QUEUE: {value_zero,0}",
        ),
    ],
    ids=str,
)
def test_values_are_checked(channel: BlockingChannel, names: Names, arguments: dict[str, Any], text: str) -> None:
    queue = names.queue()
    with channel_error(channel, 406, told(text, queue)):
        channel.queue_declare(queue, durable=True, arguments=arguments)


def test_a_quorum_queue_needs_a_name(channel: BlockingChannel) -> None:
    with channel_error(
        channel, 406, "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue"
    ):
        channel.queue_declare("", durable=True, arguments={"x-queue-type": "quorum"})


@pytest.mark.usefixtures("pabal_only")
def test_a_consumer_may_have_a_lease_of_its_own(connect: Connect, names: Names) -> None:
    queue = names.queue()
    hanging, working = connect(), connect()
    channel = hanging.channel()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"job")
    stuck = Inbox(channel, queue, arguments={"x-consumer-timeout": 100})
    stuck.wait(1)
    inbox = Inbox(working.channel(), queue)
    wait_until([hanging, working], lambda: inbox.received)
    assert (inbox.bodies, inbox.received[0].redelivered) == ([b"job"], True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "{value_zero,0}"),
        (-1, "{value_negative,-1}"),
        ("x", '"expected integer, got longstr"'),
        (True, '"expected integer, got bool"'),
    ],
)
@pytest.mark.usefixtures("pabal_only")
def test_which_must_be_a_time(channel: BlockingChannel, names: Names, value: Any, text: str) -> None:
    queue = names.queue()
    channel.queue_declare(queue)
    with channel_error(channel, 406, told(f"invalid arg 'x-consumer-timeout' for QUEUE: {text}", queue)):
        Inbox(channel, queue, arguments={"x-consumer-timeout": value})
