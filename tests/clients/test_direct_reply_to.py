"""Direct reply-to: answers to requests come to a consumer of the pseudo-queue, without a queue for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from broker_process import BrokerProcess
from clients.pika_client import (
    Confirmations,
    Connect,
    Inbox,
    Names,
    bodies,
    channel_error,
    connection_error,
    cut,
    get,
    open_connection,
    wait_until,
)

REPLIES = "amq.rabbitmq.reply-to"
NO_CONSUMER = "PRECONDITION_FAILED - fast reply consumer does not exist"


@pytest.fixture
def server(connect: Connect) -> BlockingChannel:
    """The channel of who answers, on a connection of its own."""
    return connect().channel()


def consume(channel: BlockingChannel, **options: object) -> Inbox:
    return Inbox(channel, REPLIES, auto_ack=True, **options)


def request(channel: BlockingChannel, queue: str, body: bytes = b"?", **properties: object) -> None:
    channel.basic_publish("", queue, body, BasicProperties(reply_to=REPLIES, **properties))


def address_of(channel: BlockingChannel, queue: str) -> str:
    """Where the next request in the queue is to be answered."""
    address: str = get(channel, queue).properties.reply_to
    return address


def exists(connection: BlockingConnection, name: str) -> bool:
    channel = connection.channel()
    try:
        found = channel.queue_declare(name, passive=True).method
    except ChannelClosedByBroker as error:
        assert (error.reply_code, error.reply_text) == (404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
        return False
    assert (found.queue, found.message_count, found.consumer_count) == (name, 0, 1)
    channel.close()
    return True


def test_request_and_reply(channel: BlockingChannel, server: BlockingChannel, queue: str) -> None:
    inbox = consume(channel)
    properties = {"correlation_id": "7", "headers": {"a": [1, None]}, "delivery_mode": 2, "message_id": "m"}
    request(channel, queue, b"question", **properties)
    received = get(server, queue)
    address = received.properties.reply_to
    assert received.body == b"question"
    assert address.startswith(REPLIES + ".")
    # Nothing but reply_to was changed on the way.
    assert received.properties == BasicProperties(reply_to=address, **properties)

    reply = BasicProperties(correlation_id="7", delivery_mode=2, headers={"b": "c"})
    server.basic_publish("", address, b"answer", reply)
    server.basic_publish("", address, b"and another")
    first, second = inbox.wait(2)
    assert (first.body, first.properties) == (b"answer", reply)
    assert (second.body, second.properties) == (b"and another", BasicProperties())
    assert (first.method.exchange, first.method.routing_key) == ("", address)
    assert first.method.consumer_tag == inbox.consumer_tag
    assert not first.redelivered


def test_many_requests_of_many_clients(connect: Connect, server: BlockingChannel, queue: str) -> None:
    """Each has its answers, all of them and in order, be it on a connection of its own or not."""
    first, second = connect(), connect()
    channels = [first.channel(), first.channel(), second.channel()]
    inboxes = [consume(channel) for channel in channels]
    count = 200
    for number in range(count):
        for who, channel in enumerate(channels):
            request(channel, queue, b"%d %d" % (who, number), correlation_id=str(number))
    addresses = set()
    for _ in range(count * len(channels)):
        received = get(server, queue)
        addresses.add(received.properties.reply_to)
        reply = BasicProperties(correlation_id=received.properties.correlation_id)
        server.basic_publish("", received.properties.reply_to, received.body, reply)
    assert len(addresses) == len(channels)
    for who, inbox in enumerate(inboxes):
        received_all = inbox.wait(count)
        assert inbox.bodies == [b"%d %d" % (who, number) for number in range(count)]
        assert [r.properties.correlation_id for r in received_all] == [str(number) for number in range(count)]


def test_a_run_of_requests_and_one_of_large_replies(
    channel: BlockingChannel, server: BlockingChannel, queue: str
) -> None:
    inbox = consume(channel)
    for _ in range(500):
        request(channel, queue)
    properties = [get(server, queue).properties for _ in range(500)]
    assert len({p.reply_to for p in properties}) == 1
    replies = [bytes([65 + number]) * 400_000 for number in range(12)]
    for body in replies:
        server.basic_publish("", properties[0].reply_to, body)
    inbox.wait(len(replies))
    assert inbox.bodies == replies


def test_beside_other_consumers_of_the_channel(channel: BlockingChannel, server: BlockingChannel, queue: str) -> None:
    """Acknowledgements of theirs are not confused by replies in between."""
    replies = consume(channel)
    work = Inbox(channel, queue)
    request(channel, queue, b"1")
    address = work.wait(1)[0].properties.reply_to
    server.basic_publish("", address, b"reply")
    replies.wait(1)
    channel.basic_publish("", queue, b"2")
    work.wait(2)
    for received in work.received:
        channel.basic_ack(received.tag)
    channel.basic_cancel(work.consumer_tag)
    assert bodies(channel, queue, 0) == []


# --- The rules ----------------------------------------------------------------------------------------------


def test_the_consumer_cannot_acknowledge(channel: BlockingChannel) -> None:
    with channel_error(channel, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"):
        Inbox(channel, REPLIES)


def test_one_consumer_a_channel(channel: BlockingChannel) -> None:
    consume(channel)
    with channel_error(channel, 406, "PRECONDITION_FAILED - reply consumer already set"):
        consume(channel)


def test_another_consumer_after_the_first_was_cancelled(
    channel: BlockingChannel, server: BlockingChannel, queue: str
) -> None:
    first = consume(channel, exclusive=True)
    request(channel, queue)
    old = address_of(server, queue)
    channel.basic_cancel(first.consumer_tag)
    second = consume(channel)
    request(channel, queue)
    new = address_of(server, queue)
    assert new != old
    server.basic_publish("", old, b"late")
    server.basic_publish("", new, b"in time")
    assert [received.body for received in second.wait(1)] == [b"in time"]
    assert first.received == []


def test_tags_are_not_used_twice(connection: BlockingConnection, channel: BlockingChannel, queue: str) -> None:
    Inbox(channel, queue, consumer_tag="tag")
    # pika would not send a second one with the tag.
    channel._impl._consumers.clear()
    with connection_error(connection, 530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"):
        channel._impl.basic_consume(REPLIES, lambda *_: None, auto_ack=True, consumer_tag="tag")


def test_no_request_without_a_consumer(channel: BlockingChannel, queue: str) -> None:
    with channel_error(channel, 406, NO_CONSUMER):
        request(channel, queue)


def test_no_request_on_another_channel(connection: BlockingConnection, channel: BlockingChannel, queue: str) -> None:
    consume(channel)
    other = connection.channel()
    with channel_error(other, 406, NO_CONSUMER):
        request(other, queue)


def test_no_request_after_the_consumer_was_cancelled(channel: BlockingChannel, queue: str) -> None:
    inbox = consume(channel)
    request(channel, queue, b"before")
    assert get(channel, queue).body == b"before"
    channel.basic_cancel(inbox.consumer_tag)
    with channel_error(channel, 406, NO_CONSUMER):
        request(channel, queue, b"after")


def test_the_name_as_text_elsewhere_means_nothing(channel: BlockingChannel, queue: str) -> None:
    properties = BasicProperties(headers={"reply_to": REPLIES}, correlation_id=REPLIES, reply_to=REPLIES + "x")
    channel.basic_publish("", queue, b"", properties)
    assert get(channel, queue).properties == properties


def test_through_other_exchanges_and_hands(
    channel: BlockingChannel, server: BlockingChannel, names: Names, queue: str
) -> None:
    """A request may take any way. Whoever forwards it, the address stays."""
    inbox = consume(channel)
    channel.queue_bind(queue, "amq.topic", f"{queue}.#")
    channel.basic_publish("amq.topic", f"{queue}.x", b"", BasicProperties(reply_to=REPLIES))
    address = address_of(server, queue)
    server.basic_publish("", queue, b"", BasicProperties(reply_to=address))
    assert address_of(server, queue) == address
    # The answer may be a copy, or a dead letter.
    server.basic_publish("", queue, b"copied", BasicProperties(headers={"CC": [address]}))
    assert inbox.wait(1)[0].body == get(server, queue).body == b"copied"
    source = names.queue("source")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": address, "x-message-ttl": 0}
    server.queue_declare(source, arguments=arguments)
    server.basic_publish("", source, b"dead")
    assert inbox.wait(2)[1].body == b"dead"
    # Only the default exchange knows the address.
    server.basic_publish("amq.topic", address, b"nowhere")
    server.basic_publish("", address, b"there")
    assert inbox.wait(3)[2].body == b"there"


# --- Names --------------------------------------------------------------------------------------------------


def test_declaring_tells_whether_the_address_is_there(
    connection: BlockingConnection, channel: BlockingChannel, server: BlockingChannel, queue: str
) -> None:
    assert exists(connection, REPLIES)
    inbox = consume(channel)
    request(channel, queue)
    address = address_of(server, queue)
    assert exists(server.connection, address)
    # RabbitMQ takes a declaration that is not passive for one that is.
    assert server.queue_declare(address, durable=True).method.consumer_count == 1
    assert server.queue_declare(REPLIES).method.queue == REPLIES
    channel.basic_cancel(inbox.consumer_tag)
    assert not exists(server.connection, address)
    with channel_error(server, 404, f"NOT_FOUND - no queue '{address}' in vhost '/'"):
        server.queue_declare(address)


@pytest.mark.parametrize("how", ["get", "consume", "purge", "bind"])
@pytest.mark.parametrize("bare", [True, False], ids=["pseudo-queue", "address"])
def test_it_is_no_queue_otherwise(
    channel: BlockingChannel, server: BlockingChannel, queue: str, how: str, bare: bool
) -> None:
    consume(channel)
    request(channel, queue)
    name = address_of(server, queue)
    if bare:
        if how == "consume":
            return
        name = REPLIES
    with channel_error(server, 404, f"NOT_FOUND - no queue '{name}' in vhost '/'"):
        match how:
            case "get":
                server.basic_get(name)
            case "consume":
                server.basic_consume(name, lambda *_: None, auto_ack=True)
            case "purge":
                server.queue_purge(name)
            case _:
                server.queue_bind(name, "amq.fanout")


def test_deleting_it_does_nothing(channel: BlockingChannel, server: BlockingChannel, queue: str) -> None:
    inbox = consume(channel)
    request(channel, queue)
    address = address_of(server, queue)
    assert server.queue_delete(address).method.message_count == 0
    assert server.queue_delete(REPLIES).method.message_count == 0
    server.basic_publish("", address, b"still there")
    inbox.wait(1)


# --- When it is gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancel", "channel", "error", "connection", "socket"])
def test_gone_with_its_consumer(connect: Connect, server: BlockingChannel, queue: str, end: str) -> None:
    client = connect()
    channel = client.channel()
    inbox = consume(channel)
    request(channel, queue)
    address = address_of(server, queue)
    match end:
        case "cancel":
            channel.basic_cancel(inbox.consumer_tag)
        case "channel":
            channel.close()
        case "error":
            with pytest.raises(ChannelClosedByBroker):
                channel.queue_declare(queue + ".unknown", passive=True)
        case "connection":
            client.close()
        case _:
            cut(client)
    wait_until(server.connection, lambda: not exists(server.connection, address))
    returned: list[tuple[Basic.Return, bytes]] = []
    server.add_on_return_callback(lambda _channel, method, _properties, body: returned.append((method, body)))
    server.basic_publish("", address, b"dropped")
    server.basic_publish("", address, b"returned", mandatory=True)
    wait_until(server.connection, lambda: returned)
    assert [(method.reply_code, method.routing_key, body) for method, body in returned] == [
        (312, address, b"returned")
    ]
    if end == "cancel":
        client.process_data_events(0.05)
        assert inbox.received == []


def test_a_reply_that_arrives_is_not_returned(
    channel: BlockingChannel, server: BlockingChannel, queue: str, pabal_only: None
) -> None:
    """(RabbitMQ 3.10 delivers it and returns it as well.)"""
    inbox = consume(channel)
    request(channel, queue)
    returned: list[bytes] = []
    server.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    server.confirm_delivery()
    server.basic_publish("", address_of(server, queue), b"arrives", mandatory=True)
    inbox.wait(1)
    assert returned == []


def test_replies_are_confirmed(channel: BlockingChannel, server: BlockingChannel, queue: str) -> None:
    inbox = consume(channel)
    request(channel, queue)
    address = address_of(server, queue)
    confirmations = Confirmations(server)
    for number in range(10):
        confirmations.publish("", address, b"%d" % number, delivery_mode=2)
    confirmations.wait()
    assert not confirmations.nacked
    inbox.wait(10)
    channel.basic_cancel(inbox.consumer_tag)
    confirmations.publish("", address, b"unroutable")
    confirmations.wait()
    assert not confirmations.nacked


def test_a_client_that_does_not_read_loses_nothing(connect: Connect, server: BlockingChannel, queue: str) -> None:
    client = connect(heartbeat=0)
    channel = client.channel()
    inbox = consume(channel)
    request(channel, queue)
    address = address_of(server, queue)
    replies = [bytes([number]) * 200_000 for number in range(100)]
    confirmations = Confirmations(server)
    for body in replies:
        confirmations.publish("", address, body)
    confirmations.wait()
    inbox.wait(len(replies))
    assert inbox.bodies == replies


def test_after_a_restart_the_address_is_gone(start_broker: Callable[..., BrokerProcess]) -> None:
    broker = start_broker()
    connection = open_connection(broker)
    channel = connection.channel()
    channel.queue_declare("requests", durable=True)
    consume(channel)
    channel.confirm_delivery()
    request(channel, "requests", delivery_mode=2)
    broker.restart(kill=True)
    connection = open_connection(broker)
    channel = connection.channel()
    address = address_of(channel, "requests")
    assert address.startswith(REPLIES + ".")
    assert not exists(connection, address)
    inbox = consume(channel)
    channel.basic_publish("", address, b"late")
    request(channel, "requests")
    channel.basic_publish("", address_of(channel, "requests"), b"now")
    assert inbox.wait(1)[0].body == b"now"
    connection.close()
