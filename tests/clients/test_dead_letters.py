"""Dead letters: their reasons, their history in x-death, where they go and what they keep."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker
from pika.spec import BasicProperties

from clients.desk import Desk, death, delivery_count, first_death, history, other_headers
from clients.pika_client import (
    Inbox,
    Names,
    bodies,
    get,
    ready_count,
    wait_ready,
)


@pytest.fixture
def desk(channel: BlockingChannel, names: Names) -> Desk:
    return Desk(channel, names)


def test_rejected(desk: Desk) -> None:
    desk.declare()
    desk.publish(b"bad", headers={"mine": 1}, message_id="m", delivery_mode=2, content_type="text/plain")
    desk.reject()
    received = desk.take()
    assert (received.body, received.redelivered) == (b"bad", False)
    assert (received.method.exchange, received.method.routing_key) == ("", desk.dead)
    assert history(received) == [death(desk.source, "rejected")]
    assert other_headers(received) == {"mine": 1, **first_death(desk.source, "rejected")}
    rest = received.properties
    assert (rest.message_id, rest.delivery_mode, rest.content_type) == ("m", 2, "text/plain")


def test_last_death_headers_when_the_broker_writes_them(desk: Desk, is_pabal: bool) -> None:
    desk.declare()
    desk.publish(b"bad")
    desk.reject()
    headers = desk.take().properties.headers
    last = {key: value for key, value in headers.items() if key.startswith("x-last-death-")}
    expected = {
        "x-last-death-queue": desk.source,
        "x-last-death-reason": "rejected",
        "x-last-death-exchange": "",
    }
    # RabbitMQ before 3.13 writes none of them.
    assert last == expected if is_pabal else last in ({}, expected)


@pytest.mark.parametrize("settle", ["nack", "reject", "nack multiple"])
def test_each_way_to_refuse(desk: Desk, settle: str) -> None:
    desk.declare()
    desk.publish(*"abc")
    inbox = Inbox(desk.channel, desk.source)
    inbox.wait(3)
    if settle == "nack multiple":
        desk.channel.basic_nack(3, multiple=True, requeue=False)
    else:
        for tag in (1, 2, 3):
            getattr(desk.channel, f"basic_{settle}")(tag, requeue=False)
    letters = [desk.take() for _ in range(3)]
    assert [letter.body for letter in letters] == [b"a", b"b", b"c"]
    assert [history(letter) for letter in letters] == [[death(desk.source, "rejected")]] * 3


def test_a_requeued_message_is_no_dead_letter(desk: Desk) -> None:
    desk.declare()
    desk.publish(b"again")
    for _ in range(5):
        taken = get(desk.channel, desk.source, auto_ack=False)
        desk.channel.basic_nack(taken.tag, requeue=True)
    assert get(desk.channel, desk.source).body == b"again"
    assert ready_count(desk.channel, desk.dead) == 0


def test_expired_by_the_message(desk: Desk) -> None:
    desk.declare()
    desk.publish(b"late", expiration="20")
    received = desk.take()
    # It must not expire again where it goes.
    assert received.properties.expiration is None
    assert history(received) == [death(desk.source, "expired", **{"original-expiration": "20"})]
    assert other_headers(received) == first_death(desk.source, "expired")


def test_expired_by_the_queue(desk: Desk) -> None:
    desk.declare(message_ttl=20)
    desk.publish(b"a")
    desk.publish(b"b", expiration="60000")
    first, second = desk.take(), desk.take()
    assert history(first) == [death(desk.source, "expired")]
    assert history(second) == [death(desk.source, "expired", **{"original-expiration": "60000"})]
    assert second.properties.expiration is None


def test_expired_ones_keep_their_order(desk: Desk) -> None:
    desk.declare(message_ttl=50)
    sent = [b"%d" % n for n in range(50)]
    desk.publish(*sent)
    assert bodies(desk.channel, desk.dead, 50) == sent


def test_expired_at_once(desk: Desk) -> None:
    desk.declare(message_ttl=0)
    desk.publish(b"now")
    assert history(desk.take()) == [death(desk.source, "expired")]


def test_maxlen(desk: Desk) -> None:
    desk.declare(max_length=1)
    desk.publish(*"abc")
    first, second = desk.take(), desk.take()
    assert [first.body, second.body] == [b"a", b"b"]
    assert history(first) == history(second) == [death(desk.source, "maxlen")]
    assert other_headers(first) == first_death(desk.source, "maxlen")
    assert bodies(desk.channel, desk.source, 1) == [b"c"]


def test_maxlen_removes_the_expiration_too(desk: Desk) -> None:
    desk.declare(max_length=0)
    desk.publish(b"x", expiration="60000")
    received = desk.take()
    assert received.properties.expiration is None
    assert history(received) == [death(desk.source, "maxlen", **{"original-expiration": "60000"})]


def test_reject_publish_makes_no_dead_letter(desk: Desk) -> None:
    desk.declare(max_length=1, overflow="reject-publish")
    desk.publish(*"ab")
    assert bodies(desk.channel, desk.source, 1) == [b"a"]
    assert ready_count(desk.channel, desk.dead) == 0


def test_reject_publish_dlx_does(desk: Desk) -> None:
    try:
        desk.declare(max_length=1, overflow="reject-publish-dlx")
    except ChannelClosedByBroker as error:
        # A broker without it must say so.
        assert (error.reply_code, "reject-publish-dlx" in error.reply_text) == (406, True)
        pytest.skip(error.reply_text)
    desk.publish(*"ab")
    received = desk.take()
    assert (received.body, history(received)) == (b"b", [death(desk.source, "maxlen")])
    assert bodies(desk.channel, desk.source, 1) == [b"a"]


def test_without_a_routing_key_the_messages_own_is_kept(desk: Desk) -> None:
    channel = desk.channel
    topic, dead_exchange = desk.names.exchange("topic"), desk.names.exchange("dead")
    channel.exchange_declare(topic, "topic")
    channel.exchange_declare(dead_exchange, "fanout")
    channel.queue_bind(desk.dead, dead_exchange)
    desk.declare(dead_letter_exchange=dead_exchange, dead_letter_routing_key=None)
    channel.queue_bind(desk.source, topic, "order.#")
    headers = {"CC": ["order.copy"], "BCC": ["order.blind"]}
    channel.basic_publish(topic, "order.new", b"bad", BasicProperties(headers=headers))
    desk.reject()
    received = desk.take()
    assert (received.method.exchange, received.method.routing_key) == (dead_exchange, "order.new")
    expected = death(desk.source, "rejected", exchange=topic)
    expected["routing-keys"] = ["order.new", "order.copy"]
    assert history(received) == [expected]
    assert other_headers(received) == {
        "CC": ["order.copy"],
        **first_death(desk.source, "rejected", topic),
    }


def test_with_a_routing_key_the_copies_end(desk: Desk) -> None:
    desk.declare()
    channel, copy = desk.channel, desk.names.queue("copy")
    channel.queue_declare(copy)
    desk.publish(b"bad", headers={"CC": [copy]})
    assert bodies(channel, copy, 1) == [b"bad"]
    desk.reject()
    received = desk.take()
    expected = death(desk.source, "rejected")
    expected["routing-keys"] = [desk.source, copy]
    assert history(received) == [expected]
    assert other_headers(received) == first_death(desk.source, "rejected")
    assert ready_count(channel, copy) == 0


def test_counts_and_order_of_a_history(desk: Desk) -> None:
    """A retry by a waiting queue: rejected, waited, delivered again, and so on."""
    channel, waiting = desk.channel, desk.names.queue("waiting")
    desk.declare(dead_letter_routing_key=waiting)
    channel.queue_declare(
        waiting,
        arguments={
            "x-message-ttl": 10,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": desk.source,
        },
    )
    desk.publish(b"retry", headers={"mine": 1})
    for attempt in range(4):
        taken = get(channel, desk.source, auto_ack=False)
        assert taken.redelivered is False
        if attempt == 0:
            assert taken.properties.headers == {"mine": 1}
        else:
            assert history(taken) == [
                {**death(waiting, "expired"), "count": attempt},
                {**death(desk.source, "rejected"), "count": attempt},
            ]
            assert other_headers(taken) == {"mine": 1, **first_death(desk.source, "rejected")}
        channel.basic_reject(taken.tag, requeue=False)


def test_another_reason_is_another_entry(desk: Desk) -> None:
    desk.declare()
    desk.publish(b"x")
    desk.reject()
    letter = desk.take()
    desk.publish(b"x", headers=letter.properties.headers, expiration="5")
    letter = desk.take()
    assert history(letter) == [
        death(desk.source, "expired", **{"original-expiration": "5"}),
        death(desk.source, "rejected"),
    ]
    assert other_headers(letter) == first_death(desk.source, "rejected")
    # Republished by a client with its history, it goes on counting.
    desk.publish(b"x", headers=letter.properties.headers)
    desk.reject()
    letter = desk.take()
    assert [(d["reason"], d["count"]) for d in history(letter)] == [("rejected", 2), ("expired", 1)]


def test_a_history_that_is_none_is_replaced(desk: Desk) -> None:
    desk.declare()
    desk.publish(b"x", headers={"x-death": "not a list"})
    desk.reject()
    assert history(desk.take()) == [death(desk.source, "rejected")]


def test_an_automatic_cycle_ends(desk: Desk) -> None:
    # A message that expires back into its own queue would go round for ever: it is dropped.
    desk.declare(message_ttl=10, dead_letter_routing_key=desk.source)
    desk.confirm()
    desk.publish(b"round")
    wait_ready(desk.channel, desk.source, 0)
    assert bodies(desk.channel, desk.source, 0) == []


def test_a_cycle_by_rejection_goes_on(desk: Desk) -> None:
    desk.declare(dead_letter_routing_key=desk.source)
    desk.publish(b"round")
    for _ in range(3):
        desk.reject()
    letter = get(desk.channel, desk.source)
    assert [(d["reason"], d["count"]) for d in history(letter)] == [("rejected", 3)]


def test_a_missing_exchange_drops(desk: Desk) -> None:
    missing = desk.names.exchange("later")
    desk.declare(dead_letter_exchange=missing)
    desk.confirm()
    desk.publish(*"ab")
    desk.reject()
    assert ready_count(desk.channel, desk.source) == 1
    # Declared later, it is used from then on.
    desk.channel.exchange_declare(missing, "fanout")
    desk.channel.queue_bind(desk.dead, missing)
    desk.reject()
    assert bodies(desk.channel, desk.dead, 1) == [b"b"]


def test_one_letter_to_several_queues(desk: Desk) -> None:
    channel, exchange, second = desk.channel, desk.names.exchange(), desk.names.queue()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_declare(second)
    channel.queue_bind(desk.dead, exchange)
    channel.queue_bind(second, exchange)
    desk.declare(dead_letter_exchange=exchange)
    desk.publish(b"x")
    desk.reject()
    assert bodies(channel, desk.dead, 1) == [b"x"]
    assert bodies(channel, second, 1) == [b"x"]


def test_purged_and_deleted_ones_are_no_dead_letters(desk: Desk) -> None:
    desk.declare()
    desk.publish(*"ab")
    wait_ready(desk.channel, desk.source, 2)
    desk.channel.queue_purge(desk.source)
    desk.publish(b"c")
    wait_ready(desk.channel, desk.source, 1)
    desk.channel.queue_delete(desk.source)
    assert bodies(desk.channel, desk.dead, 0) == []


def declare_limited(desk: Desk, is_pabal: bool, limit: int) -> None:
    """RabbitMQ limits deliveries in quorum queues only; Pabal in each queue."""
    if is_pabal:
        desk.declare(delivery_limit=limit)
    else:
        desk.declare(durable=True, queue_type="quorum", delivery_limit=limit)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_delivery_limit(desk: Desk, is_pabal: bool, limit: int) -> None:
    declare_limited(desk, is_pabal, limit)
    desk.publish(b"poison", headers={"mine": 1})
    for attempt in range(limit + 1):
        taken = get(desk.channel, desk.source, auto_ack=False)
        assert (delivery_count(taken), taken.redelivered) == (attempt, attempt > 0)
        desk.channel.basic_nack(taken.tag, requeue=True)
    letter = desk.take()
    assert history(letter) == [death(desk.source, "delivery_limit")]
    assert other_headers(letter) == {"mine": 1, **first_death(desk.source, "delivery_limit")}
    assert ready_count(desk.channel, desk.source) == 0


def test_delivery_limit_by_lost_channels(desk: Desk, connection: BlockingConnection, is_pabal: bool) -> None:
    declare_limited(desk, is_pabal, 1)
    desk.publish(b"poison")
    for attempt in range(2):
        consumer = connection.channel()
        inbox = Inbox(consumer, desk.source)
        inbox.wait(1)
        assert (delivery_count(inbox.received[0]), inbox.received[0].redelivered) == (attempt, attempt > 0)
        consumer.close()
    assert history(desk.take()) == [death(desk.source, "delivery_limit")]


def test_delivery_limit_spares_the_others(desk: Desk, is_pabal: bool) -> None:
    declare_limited(desk, is_pabal, 1)
    desk.publish(*"abc")
    taken = [get(desk.channel, desk.source, auto_ack=False) for _ in range(3)]
    desk.channel.basic_nack(taken[1].tag, requeue=True)
    again = get(desk.channel, desk.source, auto_ack=False)
    desk.channel.basic_nack(again.tag, requeue=True)
    assert desk.take().body == b"b"
    desk.channel.basic_nack(taken[0].tag, requeue=True)
    assert get(desk.channel, desk.source).body == b"a"
    assert ready_count(desk.channel, desk.dead) == 0
