"""Priorities of messages and of consumers, a single active consumer, and a length limit in bytes over a restart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import BasicProperties

from broker_process import BrokerProcess
from clients.pika_client import (
    Connect,
    Inbox,
    Names,
    bodies,
    channel_error,
    get,
    open_connection,
    publish,
    ready_count,
    wait_ready,
)


def declare(channel: BlockingChannel, names: Names, **arguments: object) -> str:
    queue = names.queue()
    table = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    channel.queue_declare(queue, arguments=table)
    return queue


def test_higher_priorities_first_and_in_order(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names, max_priority=5)
    for number, priority in enumerate([0, 3, 5, 3, None, 1, 5]):
        publish(channel, queue, b"%d" % number, priority=priority)
    wait_ready(channel, queue, 7)
    assert bodies(channel, queue, 7) == [b"2", b"6", b"1", b"3", b"5", b"0", b"4"]


def test_a_priority_beyond_the_highest_counts_as_that(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names, max_priority=2)
    publish(channel, queue, b"two", priority=2)
    publish(channel, queue, b"nine", priority=9)
    wait_ready(channel, queue, 2)
    assert bodies(channel, queue, 2) == [b"two", b"nine"]


def test_without_max_priority_there_is_none(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names)
    publish(channel, queue, b"low", priority=1)
    publish(channel, queue, b"high", priority=9)
    wait_ready(channel, queue, 2)
    assert bodies(channel, queue, 2) == [b"low", b"high"]


def test_a_returned_message_goes_before_its_equals(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names, max_priority=9)
    for body, priority in ((b"a", 4), (b"b", 4), (b"low", 1)):
        publish(channel, queue, body, priority=priority)
    wait_ready(channel, queue, 3)
    first = get(channel, queue, auto_ack=False)
    publish(channel, queue, b"high", priority=9)
    channel.basic_nack(first.tag, requeue=True)
    wait_ready(channel, queue, 4)
    assert bodies(channel, queue, 4) == [b"high", b"a", b"b", b"low"]


def test_purge_of_all_priorities(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names, max_priority=3)
    for priority in (0, 1, 2, 3):
        publish(channel, queue, b"x", priority=priority)
    wait_ready(channel, queue, 4)
    assert channel.queue_purge(queue).method.message_count == 4
    assert ready_count(channel, queue) == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [(256, "{max_value_exceeded,256}"), (-1, "{value_negative,-1}"), ("high", '"expected integer, got longstr"')],
)
def test_a_max_priority_that_cannot_be(
    channel: BlockingChannel, names: Names, value: object, reason: str, is_pabal: bool
) -> None:
    queue = names.queue()
    text = f"PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue '{queue}' in vhost '/': "
    with channel_error(channel, 406, text + (reason if is_pabal else "")):
        channel.queue_declare(queue, arguments={"x-max-priority": value})


def test_consumers_of_a_higher_priority_are_served_first(
    channel: BlockingChannel, connect: Connect, names: Names
) -> None:
    queue = declare(channel, names)
    low, high = connect().channel(), connect().channel()
    for each in (low, high):
        each.basic_qos(prefetch_count=2)
    lower = Inbox(low, queue)
    higher = Inbox(high, queue, arguments={"x-priority": 10})
    publish(channel, queue, *"abc")
    assert [received.body for received in higher.wait(2)] == [b"a", b"b"]
    assert [received.body for received in lower.wait(1)] == [b"c"]
    high.basic_ack(higher.received[1].tag, multiple=True)
    publish(channel, queue, b"d")
    assert higher.wait(3)[2].body == b"d"


def test_a_consumer_priority_that_is_no_number(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names)
    reason = '"expected integer, got longstr"'
    text = f"PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{queue}' in vhost '/': {reason}"
    with channel_error(channel, 406, text):
        channel.basic_consume(queue, lambda *_: None, arguments={"x-priority": "first"})


def test_a_single_active_consumer(channel: BlockingChannel, connect: Connect, names: Names) -> None:
    queue = declare(channel, names, single_active_consumer=True)
    first_connection = connect()
    first = Inbox(first_connection.channel(), queue)
    second = Inbox(connect().channel(), queue, auto_ack=True)
    publish(channel, queue, *"abc")
    assert [received.body for received in first.wait(3)] == [b"a", b"b", b"c"]
    assert second.received == []
    first_connection.close()
    assert [received.body for received in second.wait(3)] == [b"a", b"b", b"c"]
    assert all(received.redelivered for received in second.received)


def test_no_exclusive_consumer_where_one_is_active(channel: BlockingChannel, names: Names) -> None:
    queue = declare(channel, names, single_active_consumer=True)
    with channel_error(channel, 403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"):
        channel.basic_consume(queue, lambda *_: None, exclusive=True)


PERSISTENT = BasicProperties(delivery_mode=2)


@pytest.mark.parametrize("paged", [False, True])
def test_priorities_and_bytes_survive(start_broker: Callable[..., BrokerProcess], paged: bool) -> None:
    """The order of priorities and the count of bytes after kill -9, with a backlog in memory or mostly on disk."""
    broker = start_broker()
    count = 20_000 if paged else 6
    connection = open_connection(broker)
    channel = connection.channel()
    arguments = {"x-max-priority": 2, "x-max-length-bytes": count * 10, "x-overflow": "reject-publish"}
    channel.queue_declare("q", durable=True, arguments=arguments)
    for number in range(count):
        properties = BasicProperties(delivery_mode=2, priority=number % 3)
        channel.basic_publish("", "q", b"%010d" % number, properties)
    channel.confirm_delivery()
    channel.queue_declare("fence", durable=True)
    channel.basic_publish("", "fence", b"", PERSISTENT)
    broker.restart(kill=True)
    channel = open_connection(broker).channel()
    assert ready_count(channel, "q") == count
    channel.basic_publish("", "q", b"one too many", PERSISTENT)
    inbox = Inbox(channel, "q", auto_ack=True)
    expected = [b"%010d" % number for level in (2, 1, 0) for number in range(count) if number % 3 == level]
    inbox.wait(count)
    assert inbox.bodies == expected
