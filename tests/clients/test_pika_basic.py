"""Publishing, consuming and settling with pika: order, competition, prefetch, redelivery, get, recover."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from clients.pika_client import (
    Connect,
    Inbox,
    bodies,
    channel_error,
    cut,
    get,
    publish,
    wait_ready,
    wait_until,
)


def test_messages_come_in_the_order_they_were_published(channel: BlockingChannel, queue: str) -> None:
    sent = [b"%d" % n for n in range(500)]
    publish(channel, queue, *sent)
    inbox = Inbox(channel, queue, auto_ack=True)
    inbox.wait(500)
    assert inbox.bodies == sent
    assert [r.tag for r in inbox.received] == list(range(1, 501))
    assert {r.method.consumer_tag for r in inbox.received} == {inbox.consumer_tag}
    assert {(r.method.exchange, r.method.routing_key) for r in inbox.received} == {("", queue)}
    assert not any(r.redelivered for r in inbox.received)


def test_consumers_take_turns(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    others = [connect() for _ in range(3)]
    inboxes = [Inbox(other.channel(), queue) for other in others]
    publish(channel, queue, *(b"%d" % n for n in range(30)))
    wait_until(others, lambda: sum(len(i.received) for i in inboxes) == 30)
    for first, inbox in enumerate(inboxes):
        assert inbox.bodies == [b"%d" % n for n in range(first, 30, 3)]


def test_a_slow_consumer_does_not_hold_up_a_fast_one(connect: Connect, queue: str) -> None:
    slow, fast, publisher = connect(), connect(), connect().channel()
    slow_channel, fast_channel = slow.channel(), fast.channel()
    for one in (slow_channel, fast_channel):
        one.basic_qos(prefetch_count=1)
    slow_inbox = Inbox(slow_channel, queue)
    publish(publisher, queue, b"0")
    slow_inbox.wait(1)
    taken: list[bytes] = []

    def work(_channel: object, method: object, _properties: object, body: bytes) -> None:
        taken.append(body)
        fast_channel.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]

    fast_channel.basic_consume(queue, work)
    publish(publisher, queue, *(b"%d" % n for n in range(1, 20)))
    wait_until([slow, fast], lambda: len(taken) == 19)
    assert taken == [b"%d" % n for n in range(1, 20)]
    assert slow_inbox.bodies == [b"0"]


def test_prefetch_limits_what_is_unsettled(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=3)
    inbox = Inbox(channel, queue)
    publish(channel, queue, *"abcdefgh")
    inbox.wait(3)
    wait_ready(channel, queue, 5)
    channel.basic_ack(2, multiple=True)
    inbox.wait(5)
    wait_ready(channel, queue, 3)
    channel.basic_nack(3, requeue=False)
    inbox.wait(6)
    wait_ready(channel, queue, 2)
    assert inbox.bodies == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_prefetch_does_not_limit_automatic_acks(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=1)
    publish(channel, queue, *"abcdef")
    Inbox(channel, queue, auto_ack=True).wait(6)


def test_prefetch_counts_each_consumer_by_itself(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=2)
    first, second = Inbox(channel, queue), Inbox(channel, queue)
    publish(channel, queue, *"abcdefgh")
    wait_until(channel.connection, lambda: len(first.received) + len(second.received) >= 4)
    wait_ready(channel, queue, 4)
    assert (len(first.received), len(second.received)) == (2, 2)


def test_prefetch_applies_to_later_consumers_only(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=1)
    first = Inbox(channel, queue)
    channel.basic_qos(prefetch_count=3)
    publish(channel, queue, *"abcdefgh")
    first.wait(1)
    wait_ready(channel, queue, 7)
    second = Inbox(channel, queue)
    second.wait(3)
    wait_ready(channel, queue, 4)
    first.wait(1)


def test_global_prefetch_is_shared_by_the_consumers_of_a_channel(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=3, global_qos=True)
    first, second = Inbox(channel, queue), Inbox(channel, queue)
    publish(channel, queue, *"abcdefgh")
    wait_until(channel.connection, lambda: len(first.received) + len(second.received) >= 3)
    wait_ready(channel, queue, 5)
    assert len(first.received) + len(second.received) == 3
    channel.basic_ack(0, multiple=True)
    wait_until(channel.connection, lambda: len(first.received) + len(second.received) >= 6)
    wait_ready(channel, queue, 2)


def test_global_prefetch_and_that_of_the_consumer_both_hold(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=2)
    channel.basic_qos(prefetch_count=3, global_qos=True)
    first, second = Inbox(channel, queue), Inbox(channel, queue)
    publish(channel, queue, *"abcdefgh")
    wait_until(channel.connection, lambda: len(first.received) + len(second.received) >= 3)
    wait_ready(channel, queue, 5)
    assert sorted((len(first.received), len(second.received))) == [1, 2]


def test_a_requeued_message_takes_its_own_place_again(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcd")
    taken = [get(channel, queue, auto_ack=False) for _ in range(3)]
    assert [(r.body, r.redelivered) for r in taken] == [(b"a", False), (b"b", False), (b"c", False)]
    channel.basic_nack(taken[2].tag, requeue=True)
    channel.basic_reject(taken[0].tag, requeue=True)
    again = [get(channel, queue) for _ in range(3)]
    assert [(r.body, r.redelivered) for r in again] == [(b"a", True), (b"c", True), (b"d", False)]
    channel.basic_reject(taken[1].tag, requeue=True)
    last = get(channel, queue)
    assert (last.body, last.redelivered) == (b"b", True)


def test_nack_of_many_requeues_in_order(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcde")
    inbox = Inbox(channel, queue)
    inbox.wait(5)
    channel.basic_cancel(inbox.consumer_tag)
    channel.basic_ack(2)
    channel.basic_nack(4, multiple=True, requeue=True)
    assert bodies(channel, queue, 3) == [b"a", b"c", b"d"]
    channel.basic_nack(0, multiple=True, requeue=True)
    assert bodies(channel, queue, 1) == [b"e"]


def test_reject_without_requeue_drops(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"ab")
    channel.basic_reject(get(channel, queue, auto_ack=False).tag, requeue=False)
    assert bodies(channel, queue, 1) == [b"b"]


def test_get_counts_what_remains(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abc")
    counts = [channel.basic_get(queue)[0].message_count for _ in range(3)]
    assert counts == [2, 1, 0]
    assert channel.basic_get(queue) == (None, None, None)


def test_get_and_its_ack(channel: BlockingChannel, connect: Connect, queue: str) -> None:
    publish(channel, queue, *"ab")
    first = get(channel, queue, auto_ack=False)
    assert (first.method.exchange, first.method.routing_key, first.tag) == ("", queue, 1)
    wait_ready(channel, queue, 1)
    channel.basic_ack(first.tag)
    get(channel, queue, auto_ack=False)
    wait_ready(channel, queue, 0)
    channel.close()
    other = connect().channel()
    wait_ready(other, queue, 1)
    assert get(other, queue).redelivered is True


def test_ack_of_many_settles_all_before(channel: BlockingChannel, connect: Connect, queue: str) -> None:
    publish(channel, queue, *"abcde")
    inbox = Inbox(channel, queue)
    inbox.wait(5)
    channel.basic_ack(3, multiple=True)
    channel.close()
    other = connect().channel()
    wait_ready(other, queue, 2)
    assert bodies(other, queue, 2) == [b"d", b"e"]


def test_ack_of_all_when_there_is_nothing(channel: BlockingChannel, queue: str) -> None:
    channel.basic_ack(0, multiple=True)
    channel.basic_nack(0, multiple=True)
    publish(channel, queue, b"still open")
    assert get(channel, queue).body == b"still open"


def test_recover_requeues_what_is_unsettled(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abc")
    for _ in range(2):
        get(channel, queue, auto_ack=False)
    channel.basic_recover(requeue=True)
    again = [get(channel, queue) for _ in range(3)]
    assert [(r.body, r.redelivered) for r in again] == [(b"a", True), (b"b", True), (b"c", False)]


def test_recover_redelivers_to_the_consumer_with_new_tags(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"ab")
    inbox = Inbox(channel, queue)
    inbox.wait(2)
    channel.basic_recover(requeue=True)
    inbox.wait(4)
    assert [(r.body, r.redelivered, r.tag) for r in inbox.received[2:]] == [(b"a", True, 3), (b"b", True, 4)]
    with channel_error(channel, 406, "PRECONDITION_FAILED - unknown delivery tag 1"):
        channel.basic_ack(1)


@pytest.mark.parametrize("settle", ["ack", "nack", "reject"])
def test_unknown_delivery_tag(channel: BlockingChannel, settle: str) -> None:
    with channel_error(channel, 406, "PRECONDITION_FAILED - unknown delivery tag 77"):
        getattr(channel, f"basic_{settle}")(77)


def test_unknown_delivery_tag_with_multiple(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"a")
    get(channel, queue, auto_ack=False)
    with channel_error(channel, 406, "PRECONDITION_FAILED - unknown delivery tag 2"):
        channel.basic_ack(2, multiple=True)


def test_second_ack_of_the_same_delivery(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"a")
    tag = get(channel, queue, auto_ack=False).tag
    channel.basic_ack(tag)
    with channel_error(channel, 406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        channel.basic_ack(tag)


def test_ack_of_an_automatic_ack(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"a")
    tag = get(channel, queue, auto_ack=True).tag
    with channel_error(channel, 406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        channel.basic_ack(tag)


def test_ack_on_another_channel(connection: BlockingConnection, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"a")
    tag = get(channel, queue, auto_ack=False).tag
    other = connection.channel()
    with channel_error(other, 406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        other.basic_ack(tag)
    channel.basic_ack(tag)
    wait_ready(channel, queue, 0)


def test_a_closed_channel_gives_its_messages_back(
    connection: BlockingConnection, channel: BlockingChannel, queue: str
) -> None:
    publish(channel, queue, *"abc")
    other = connection.channel()
    Inbox(other, queue).wait(3)
    wait_ready(channel, queue, 0)
    other.close()
    wait_ready(channel, queue, 3)
    assert [(r.body, r.redelivered) for r in (get(channel, queue) for _ in range(3))] == [
        (b"a", True),
        (b"b", True),
        (b"c", True),
    ]


def test_a_channel_closed_for_an_error_gives_its_messages_back(
    connection: BlockingConnection, channel: BlockingChannel, queue: str
) -> None:
    publish(channel, queue, *"ab")
    other = connection.channel()
    Inbox(other, queue).wait(2)
    with pytest.raises(ChannelClosedByBroker):
        other.queue_declare("no such queue", passive=True)
    wait_ready(channel, queue, 2)
    assert bodies(channel, queue, 2) == [b"a", b"b"]


def test_a_lost_connection_gives_its_messages_back(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"ab")
    dying = connect()
    Inbox(dying.channel(), queue).wait(2)
    cut(dying)
    wait_ready(channel, queue, 2)
    assert [(r.body, r.redelivered) for r in (get(channel, queue) for _ in range(2))] == [
        (b"a", True),
        (b"b", True),
    ]


def test_cancel_stops_deliveries_and_keeps_what_was_delivered(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    publish(channel, queue, *"ab")
    inbox.wait(1)
    assert channel.basic_cancel(inbox.consumer_tag) == []
    channel.basic_ack(1)
    wait_ready(channel, queue, 1)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 0
    assert inbox.bodies == [b"a"]


def test_an_ack_may_come_after_the_cancel(channel: BlockingChannel, connect: Connect, queue: str) -> None:
    publish(channel, queue, *"ab")
    inbox = Inbox(channel, queue)
    inbox.wait(2)
    channel.basic_cancel(inbox.consumer_tag)
    channel.basic_ack(1)
    channel.close()
    other = connect().channel()
    wait_ready(other, queue, 1)
    assert bodies(other, queue, 1) == [b"b"]
