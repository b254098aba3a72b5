"""Queues: names, exclusiveness, auto-delete, deletion, purging, consumers and what they are told."""

from __future__ import annotations

import re

from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Queue

from clients.pika_client import (
    Connect,
    Inbox,
    Names,
    bodies,
    channel_error,
    cut,
    get,
    publish,
    wait_ready,
    wait_until,
)

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{}' in vhost '/'. It could be "
    "originally declared on another connection or the exclusive property value does not match that of the "
    "original declaration."
)


def exists(connection: BlockingConnection, queue: str) -> bool:
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except ChannelClosedByBroker as error:
        # 405: it is there, and somebody else's.
        return error.reply_code != 404
    channel.close()
    return True


def test_the_server_names_a_queue(channel: BlockingChannel) -> None:
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", first)
    assert first != second
    # On this channel an empty name means the queue declared last.
    channel.queue_bind("", "amq.direct", first)
    channel.basic_publish("amq.direct", first, b"for the second")
    assert bodies(channel, second, 1) == [b"for the second"]
    assert bodies(channel, first, 0) == []


def test_an_empty_routing_key_means_the_queue_declared_last(channel: BlockingChannel, names: Names) -> None:
    queue = names.queue()
    channel.queue_declare(queue)
    channel.queue_bind("", "amq.direct")
    channel.basic_publish("amq.direct", queue, b"x")
    assert bodies(channel, queue, 1) == [b"x"]


def test_declaring_again_counts_messages_and_consumers(
    channel: BlockingChannel, connect: Connect, queue: str
) -> None:
    assert channel.queue_declare(queue).method.consumer_count == 0
    publish(channel, queue, *"abc")
    wait_ready(channel, queue, 3)
    consumer = connect().channel()
    consumer.basic_qos(prefetch_count=1)
    Inbox(consumer, queue).wait(1)
    wait_ready(channel, queue, 2)
    method = channel.queue_declare(queue).method
    assert (method.queue, method.message_count, method.consumer_count) == (queue, 2, 1)


def test_unknown_arguments_are_no_difference(channel: BlockingChannel, names: Names) -> None:
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-my-own": "thing"})
    channel.queue_declare(queue)
    channel.queue_declare(queue, arguments={"x-my-own": "other", "x-queue-type": "classic"})


def test_integers_of_different_widths_are_equivalent(channel: BlockingChannel, names: Names) -> None:
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-max-length": 5})

    # The same declaration with the value as a 64-bit integer (field type l).
    class WideDeclare(Queue.Declare):
        def encode(self) -> list[bytes]:
            narrow = b"".join(super().encode())
            length = narrow.index(b"\x0cx-max-length")
            table = b"\x0cx-max-lengthl" + (5).to_bytes(8, "big")
            return [narrow[: length - 4], len(table).to_bytes(4, "big"), table]

    channel._impl._send_method(WideDeclare(queue=queue, arguments={"x-max-length": 5}))
    assert channel.queue_declare(queue, passive=True).method.queue == queue


def test_an_exclusive_queue_ends_with_its_connection(
    connect: Connect, connection: BlockingConnection, names: Names
) -> None:
    for end in (BlockingConnection.close, cut):
        queue = names.queue()
        owner = connect()
        owner.channel().queue_declare(queue, exclusive=True, durable=True)
        locked = connection.channel()
        with channel_error(locked, 405, LOCKED.format(queue)):
            locked.basic_get(queue)
        end(owner)
        wait_until(connection, lambda queue=queue: not exists(connection, queue))


def test_an_exclusive_queue_takes_messages_of_others(
    connect: Connect, channel: BlockingChannel, names: Names
) -> None:
    queue = names.queue()
    channel.queue_declare(queue, exclusive=True)
    publish(connect().channel(), queue, b"from outside")
    assert get(channel, queue).body == b"from outside"


def test_an_exclusive_queue_outlives_its_channel(connection: BlockingConnection, names: Names) -> None:
    queue = names.queue()
    first = connection.channel()
    first.queue_declare(queue, exclusive=True)
    first.close()
    assert exists(connection, queue)
    connection.channel().queue_delete(queue)


def test_auto_delete_follows_the_last_consumer(
    connection: BlockingConnection, channel: BlockingChannel, names: Names
) -> None:
    queue = names.queue()
    channel.queue_declare(queue, auto_delete=True)
    first, second = Inbox(channel, queue), Inbox(channel, queue)
    channel.basic_cancel(first.consumer_tag)
    assert exists(connection, queue)
    channel.basic_cancel(second.consumer_tag)
    wait_until(connection, lambda: not exists(connection, queue))


def test_auto_delete_waits_for_a_first_consumer(
    connect: Connect, connection: BlockingConnection, names: Names
) -> None:
    queue = names.queue()
    declarer = connect()
    declarer.channel().queue_declare(queue, auto_delete=True)
    declarer.close()
    assert exists(connection, queue)
    consumer = connect()
    publish(consumer.channel(), queue, b"x")
    Inbox(consumer.channel(), queue).wait(1)
    consumer.close()
    wait_until(connection, lambda: not exists(connection, queue))


def test_delete_counts_ready_messages(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abc")
    get(channel, queue, auto_ack=False)
    wait_ready(channel, queue, 2)
    assert channel.queue_delete(queue).method.message_count == 2
    assert channel.queue_delete(queue).method.message_count == 0
    assert channel.queue_delete(queue, if_unused=True, if_empty=True).method.message_count == 0


def test_delete_if_unused_and_empty_succeeds_when_it_is(
    connection: BlockingConnection, channel: BlockingChannel, queue: str
) -> None:
    channel.queue_delete(queue, if_unused=True, if_empty=True)
    assert not exists(connection, queue)


def test_delete_unbinds(channel: BlockingChannel, names: Names) -> None:
    queue, exchange = names.queue(), names.exchange()
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_declare(queue)
    channel.queue_bind(queue, exchange)
    channel.queue_delete(queue)
    with channel_error(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, "fanout", passive=True)


def test_an_ack_after_the_queue_was_deleted(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"ab")
    first, second = (get(channel, queue, auto_ack=False).tag for _ in range(2))
    channel.queue_delete(queue)
    channel.basic_ack(first)
    channel.basic_nack(second, requeue=True)
    channel.basic_qos(prefetch_count=0)
    assert channel.is_open


def test_purge_counts_and_spares_what_is_unsettled(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcde")
    taken = get(channel, queue, auto_ack=False)
    wait_ready(channel, queue, 4)
    assert channel.queue_purge(queue).method.message_count == 4
    assert channel.queue_purge(queue).method.message_count == 0
    channel.basic_nack(taken.tag, requeue=True)
    assert bodies(channel, queue, 1) == [b"a"]


def test_consumers_are_told_when_their_queue_is_deleted(
    connect: Connect, channel: BlockingChannel, queue: str
) -> None:
    consumers = [connect() for _ in range(2)]
    inboxes = [Inbox(consumer.channel(), queue) for consumer in consumers]
    channel.queue_delete(queue)
    wait_until(consumers, lambda: all(inbox.cancelled for inbox in inboxes))
    assert [inbox.cancelled for inbox in inboxes] == [[inbox.consumer_tag] for inbox in inboxes]
    assert all(inbox.channel.is_open for inbox in inboxes)


def test_an_exclusive_consumer_has_the_queue_alone(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    refused = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    inbox = Inbox(channel, queue, exclusive=True)
    other = connect().channel()
    with channel_error(other, 403, refused):
        other.basic_consume(queue, lambda *_: None)
    getter = connect().channel()
    # basic.get is not consuming: it is let in.
    assert getter.basic_get(queue) == (None, None, None)
    channel.basic_cancel(inbox.consumer_tag)
    third = connect().channel()
    Inbox(third, queue)
    with channel_error(channel, 403, refused):
        channel.basic_consume(queue, lambda *_: None, exclusive=True)


def test_consumer_tags(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    named = Inbox(channel, queue, consumer_tag="mine")
    assert named.consumer_tag == "mine"
    # A tag belongs to its channel.
    other = connect()
    assert Inbox(other.channel(), queue, consumer_tag="mine").consumer_tag == "mine"


def test_a_message_sent_to_many_queues_is_settled_in_each(channel: BlockingChannel, names: Names) -> None:
    queues = [names.queue() for _ in range(3)]
    for queue in queues:
        channel.queue_declare(queue)
        channel.queue_bind(queue, "amq.direct", queues[0])
    channel.basic_publish("amq.direct", queues[0], b"shared")
    first = get(channel, queues[0], auto_ack=False)
    channel.basic_ack(first.tag)
    assert bodies(channel, queues[1], 1) == [b"shared"]
    assert bodies(channel, queues[2], 1) == [b"shared"]
    assert bodies(channel, queues[0], 0) == []


def test_long_names_and_other_scripts(channel: BlockingChannel, names: Names) -> None:
    longest = names.queue("long")
    longest += "n" * (255 - len(longest))
    names.queues.append(longest)
    assert channel.queue_declare(longest).method.queue == longest
    publish(channel, longest, b"x")
    assert bodies(channel, longest, 1) == [b"x"]
    beyond_ascii = names.queue("주문")
    assert channel.queue_declare(beyond_ascii).method.queue == beyond_ascii
