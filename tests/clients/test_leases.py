"""Leases (x-consumer-timeout on any queue): what is not settled in time goes to somebody else. Pabal only."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from clients.desk import Desk, death, delivery_count, first_death, history, other_headers
from clients.pika_client import (
    Connect,
    Inbox,
    Names,
    channel_error,
    get,
    publish,
    wait_ready,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("pabal_only")

LEASE_MS = 150


@pytest.fixture
def leased(channel: BlockingChannel, names: Names) -> str:
    """A queue with a short lease time."""
    queue = names.queue("leased")
    channel.queue_declare(queue, arguments={"x-consumer-timeout": LEASE_MS})
    return queue


def round_trip(channel: BlockingChannel) -> None:
    """Fails if what was sent before made the broker close the channel."""
    channel.basic_qos(prefetch_count=1)
    assert channel.is_open


def test_a_hanging_consumers_message_goes_to_another(connect: Connect, leased: str) -> None:
    hanging, working = connect(), connect()
    hanging_channel, working_channel = hanging.channel(), working.channel()
    for channel in (hanging_channel, working_channel):
        channel.basic_qos(prefetch_count=1)
    stuck = Inbox(hanging_channel, leased)
    publish(working_channel, leased, b"job")
    stuck.wait(1)
    inbox = Inbox(working_channel, leased)
    inbox.wait(1)
    assert (inbox.bodies, inbox.received[0].redelivered) == ([b"job"], True)
    assert stuck.received[0].redelivered is False
    working_channel.basic_ack(inbox.received[0].tag)
    # The late acknowledgement is ignored, and costs nobody a channel.
    hanging_channel.basic_ack(stuck.received[0].tag)
    round_trip(hanging_channel)
    assert working_channel.queue_declare(leased, passive=True).method.message_count == 0
    publish(working_channel, leased, *"ab")
    wait_until([hanging, working], lambda: len(stuck.received) + len(inbox.received) == 4)
    assert stuck.bodies[0] == inbox.bodies[0] == b"job"
    assert sorted(stuck.bodies[1:] + inbox.bodies[1:]) == [b"a", b"b"]


@pytest.mark.parametrize("late", ["ack", "nack", "reject"])
def test_a_late_settlement_settles_nothing(channel: BlockingChannel, leased: str, late: str) -> None:
    publish(channel, leased, b"job")
    first = get(channel, leased, auto_ack=False)
    second = get(channel, leased, auto_ack=False)
    assert (first.redelivered, second.redelivered) == (False, True)
    getattr(channel, f"basic_{late}")(first.tag)
    round_trip(channel)
    # It is still leased to the second; returned by it, it is there.
    channel.basic_nack(second.tag, requeue=True)
    third = get(channel, leased)
    assert (third.body, third.redelivered) == (b"job", True)


def test_a_settlement_of_many_covers_late_ones(channel: BlockingChannel, leased: str) -> None:
    publish(channel, leased, b"job")
    get(channel, leased, auto_ack=False)
    second = get(channel, leased, auto_ack=False)
    channel.basic_ack(second.tag, multiple=True)
    round_trip(channel)
    wait_ready(channel, leased, 0)
    assert channel.queue_delete(leased, if_empty=True).method.message_count == 0


def test_an_unknown_tag_is_an_error_still(channel: BlockingChannel, leased: str) -> None:
    publish(channel, leased, b"job")
    get(channel, leased, auto_ack=False)
    with channel_error(channel, 406, "PRECONDITION_FAILED - unknown delivery tag 99"):
        channel.basic_ack(99)


def test_what_is_settled_in_time_stays_settled(channel: BlockingChannel, leased: str, names: Names) -> None:
    publish(channel, leased, *"ab")
    first = get(channel, leased, auto_ack=False)
    channel.basic_ack(first.tag)
    second = get(channel, leased, auto_ack=False)
    # The second comes back, the first does not.
    again = get(channel, leased)
    assert (second.body, again.body, again.redelivered) == (b"b", b"b", True)
    assert channel.basic_get(leased) == (None, None, None)


def test_each_message_has_a_lease_of_its_own_and_its_old_place(
    channel: BlockingChannel, connect: Connect, leased: str
) -> None:
    publish(channel, leased, *"abcd")
    for _ in range(3):
        get(channel, leased, auto_ack=False)
    wait_ready(channel, leased, 4)
    back = [get(channel, leased) for _ in range(4)]
    assert [(r.body, r.redelivered) for r in back] == [
        (b"a", True),
        (b"b", True),
        (b"c", True),
        (b"d", False),
    ]


def test_automatic_acks_know_no_lease(channel: BlockingChannel, leased: str, names: Names) -> None:
    publish(channel, leased, b"gone", b"held")
    inbox = Inbox(channel, leased, auto_ack=True)
    inbox.wait(2)
    channel.basic_cancel(inbox.consumer_tag)
    # Another message outlives a whole lease; the first two have not come back with it.
    publish(channel, leased, b"other")
    get(channel, leased, auto_ack=False)
    assert get(channel, leased).body == b"other"
    assert channel.basic_get(leased) == (None, None, None)


def test_without_the_argument_there_is_no_lease(channel: BlockingChannel, leased: str, queue: str) -> None:
    publish(channel, queue, b"kept")
    publish(channel, leased, b"clock")
    held = get(channel, queue, auto_ack=False)
    for _ in range(3):
        get(channel, leased, auto_ack=False)
    assert channel.basic_get(queue) == (None, None, None)
    channel.basic_ack(held.tag)
    round_trip(channel)


def test_a_hanging_consumer_is_given_no_more_until_it_speaks(
    connection: BlockingConnection, channel: BlockingChannel, leased: str
) -> None:
    channel.basic_qos(prefetch_count=1)
    stuck = Inbox(channel, leased)
    other = connection.channel()
    publish(other, leased, b"first")
    stuck.wait(1)
    wait_ready(other, leased, 1)
    publish(other, leased, b"second")
    wait_ready(other, leased, 2)
    stuck.wait(1)
    channel.basic_ack(stuck.received[0].tag)
    stuck.wait(2)
    assert (stuck.bodies, stuck.received[1].redelivered) == ([b"first", b"first"], True)


@pytest.mark.parametrize("limit", [0, 2])
def test_a_limit_reached_by_leases(channel: BlockingChannel, names: Names, limit: int) -> None:
    desk = Desk(channel, names)
    desk.declare(consumer_timeout=LEASE_MS, delivery_limit=limit)
    desk.publish(b"poison", headers={"mine": 1})
    for attempt in range(limit + 1):
        taken = get(channel, desk.source, auto_ack=False)
        assert (delivery_count(taken), taken.redelivered) == (attempt, attempt > 0)
    letter = desk.take()
    assert letter.body == b"poison"
    assert history(letter) == [death(desk.source, "lease_expired")]
    assert other_headers(letter) == {"mine": 1, **first_death(desk.source, "lease_expired")}
    # The last of them speaks when all is over.
    channel.basic_ack(limit + 1)
    round_trip(channel)


def test_the_last_attempt_gives_the_reason(channel: BlockingChannel, names: Names) -> None:
    desk = Desk(channel, names)
    desk.declare(consumer_timeout=LEASE_MS, delivery_limit=1)
    desk.publish(b"lease, then nack")
    get(channel, desk.source, auto_ack=False)
    second = get(channel, desk.source, auto_ack=False)
    channel.basic_nack(second.tag, requeue=True)
    assert history(desk.take()) == [death(desk.source, "delivery_limit")]
    desk.publish(b"nack, then lease")
    first = get(channel, desk.source, auto_ack=False)
    channel.basic_nack(first.tag, requeue=True)
    get(channel, desk.source, auto_ack=False)
    assert history(desk.take()) == [death(desk.source, "lease_expired")]
