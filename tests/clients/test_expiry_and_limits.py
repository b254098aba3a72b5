"""Messages that expire, queues that overflow, and what neither touches."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker, NackError

from clients.pika_client import (
    Connect,
    Inbox,
    Names,
    bodies,
    get,
    publish,
    ready_count,
    wait_ready,
)


@pytest.fixture
def channel(connection: BlockingConnection) -> BlockingChannel:
    """Publishes with confirms: what has been published is in the queue, and can be counted."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def wait_past(channel: BlockingChannel, names: Names, milliseconds: int) -> None:
    """Returns when a message published now with this expiration has expired."""
    clock, rung = names.queue("clock"), names.queue("rung")
    channel.queue_declare(rung)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": rung}
    channel.queue_declare(clock, arguments=arguments)
    publish(channel, clock, b"tick", expiration=str(milliseconds))
    get(channel, rung)


def queue_with(channel: BlockingChannel, names: Names, **arguments: object) -> str:
    """A queue with the arguments x-<name>."""
    queue = names.queue()
    try:
        channel.queue_declare(queue, arguments={f"x-{k.replace('_', '-')}": v for k, v in arguments.items()})
    except ChannelClosedByBroker as error:
        if error.reply_text.endswith("is not supported yet"):
            pytest.skip(error.reply_text)
        raise
    return queue


def test_a_message_expires(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"short", expiration="100")
    assert ready_count(channel, queue) == 1
    wait_ready(channel, queue, 0)
    assert bodies(channel, queue, 0) == []


def test_ten_years_may_be_named(channel: BlockingChannel, names: Names) -> None:
    """As long as Celery's delay queues, and longer; 2**32 ms are only seven weeks."""
    queue, years = names.queue(), 315_360_000_000
    channel.queue_declare(queue, arguments={"x-message-ttl": years, "x-expires": years})
    publish(channel, queue, b"x", expiration=str(years))
    assert get(channel, queue).properties.expiration == str(years)


def test_a_message_without_expiration_stays(channel: BlockingChannel, names: Names, queue: str) -> None:
    publish(channel, queue, b"stays")
    publish(channel, queue, b"stays too", expiration="60000")
    wait_past(channel, names, 50)
    received = get(channel, queue)
    assert (received.body, received.properties.expiration) == (b"stays", None)
    received = get(channel, queue)
    assert (received.body, received.properties.expiration) == (b"stays too", "60000")


def test_a_queue_expires_its_messages(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, message_ttl=100)
    publish(channel, queue, *"abc")
    assert ready_count(channel, queue) == 3
    wait_ready(channel, queue, 0)


def test_the_shorter_time_holds(channel: BlockingChannel, names: Names) -> None:
    long_queue = queue_with(channel, names, message_ttl=60000)
    short_queue = queue_with(channel, names, message_ttl=50)
    publish(channel, long_queue, b"x", expiration="50")
    publish(channel, short_queue, b"x", expiration="60000")
    wait_ready(channel, long_queue, 0)
    wait_ready(channel, short_queue, 0)


def test_zero_reaches_a_waiting_consumer_only(channel: BlockingChannel, names: Names, queue: str) -> None:
    zero = queue_with(channel, names, message_ttl=0)
    publish(channel, queue, b"nobody", expiration="0")
    publish(channel, zero, b"nobody")
    wait_ready(channel, queue, 0)
    wait_ready(channel, zero, 0)
    inboxes = [Inbox(channel, queue, auto_ack=True), Inbox(channel, zero, auto_ack=True)]
    publish(channel, queue, b"waiting", expiration="0")
    publish(channel, zero, b"waiting")
    for inbox in inboxes:
        inbox.wait(1)
        assert inbox.bodies == [b"waiting"]


def test_what_has_expired_is_never_delivered(channel: BlockingChannel, names: Names, queue: str) -> None:
    # Behind a message that stays, an expired one is at least not handed out.
    publish(channel, queue, b"first")
    publish(channel, queue, b"expires", expiration="20")
    publish(channel, queue, b"last")
    wait_past(channel, names, 40)
    assert bodies(channel, queue, 2) == [b"first", b"last"]


def test_what_is_being_processed_does_not_expire(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, message_ttl=60)
    publish(channel, queue, b"taken")
    taken = get(channel, queue, auto_ack=False)
    wait_past(channel, names, 80)
    channel.basic_ack(taken.tag)
    publish(channel, queue, b"returned")
    taken = get(channel, queue, auto_ack=False)
    wait_past(channel, names, 80)
    # Back in the queue it is past its time.
    channel.basic_nack(taken.tag, requeue=True)
    wait_ready(channel, queue, 0)
    assert bodies(channel, queue, 0) == []


def test_max_length_drops_the_oldest(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, max_length=3)
    publish(channel, queue, *"abcdefg")
    assert ready_count(channel, queue) == 3
    assert bodies(channel, queue, 3) == [b"e", b"f", b"g"]


def test_max_length_counts_ready_messages(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, max_length=2)
    publish(channel, queue, *"ab")
    first = get(channel, queue, auto_ack=False)
    publish(channel, queue, *"cd")
    wait_ready(channel, queue, 2)
    # The requeued one is the oldest again, and one too many.
    channel.basic_nack(first.tag, requeue=True)
    assert bodies(channel, queue, 2) == [b"c", b"d"]


def test_max_length_zero_passes_to_waiting_consumers(
    channel: BlockingChannel, connect: Connect, names: Names
) -> None:
    queue = queue_with(channel, names, max_length=0)
    publish(channel, queue, b"nobody")
    assert ready_count(channel, queue) == 0
    inbox = Inbox(connect().channel(), queue, auto_ack=True)
    publish(channel, queue, *"ab")
    inbox.wait(2)
    assert inbox.bodies == [b"a", b"b"]


def test_max_length_bytes_counts_bodies(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, max_length_bytes=10)
    publish(channel, queue, b"12345", b"67890", b"", b"")
    assert ready_count(channel, queue) == 4
    publish(channel, queue, b"x")
    assert bodies(channel, queue, 4) == [b"67890", b"", b"", b"x"]


def test_both_limits_hold(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, max_length=3, max_length_bytes=10)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    assert bodies(channel, queue, 3) == [b"2", b"3", b"4"]
    publish(channel, queue, b"12345", b"123456")
    assert bodies(channel, queue, 1) == [b"123456"]


def test_reject_publish_by_bytes(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, max_length_bytes=4, overflow="reject-publish")
    # What would cross the limit is refused; what just fills it is taken.
    publish(channel, queue, b"123")
    with pytest.raises(NackError):
        publish(channel, queue, b"45")
    publish(channel, queue, b"6")
    with pytest.raises(NackError):
        publish(channel, queue, b"7")
    assert bodies(channel, queue, 2) == [b"123", b"6"]


def test_drop_head_said_in_words(channel: BlockingChannel, names: Names) -> None:
    queue = queue_with(channel, names, max_length=1, overflow="drop-head")
    publish(channel, queue, *"ab")
    assert bodies(channel, queue, 1) == [b"b"]
