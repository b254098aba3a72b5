"""Publisher confirms, returned messages, and what a full queue says to its publisher."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import NackError, UnroutableError
from pika.spec import Basic, BasicProperties, Confirm, Queue

from broker_process import BrokerAddress
from clients.pika_client import (
    Confirmations,
    Connect,
    Names,
    bodies,
    connection_error,
    publish,
    ready_count,
    wait_until,
)
from clients.raw_client import RawClient


def test_each_publication_waits_for_its_confirm(channel: BlockingChannel, queue: str) -> None:
    channel.confirm_delivery()
    for n in range(20):
        publish(channel, queue, b"%d" % n, delivery_mode=2)
        assert ready_count(channel, queue) == n + 1


@pytest.mark.parametrize("delivery_mode", [1, 2])
def test_many_publications_are_confirmed_once_each(
    channel: BlockingChannel, names: Names, delivery_mode: int
) -> None:
    queue = names.queue()
    channel.queue_declare(queue, durable=True)
    confirmations = Confirmations(channel)
    for n in range(1000):
        confirmations.publish("", queue, b"%d" % n, delivery_mode=delivery_mode)
    confirmations.wait()
    assert confirmations.acked == set(range(1, 1001))
    assert ready_count(channel, queue) == 1000


def test_what_reaches_no_queue_is_confirmed(channel: BlockingChannel) -> None:
    confirmations = Confirmations(channel)
    for exchange in ("", "amq.direct", "amq.fanout", "amq.topic"):
        confirmations.publish(exchange, "reaches no queue", b"x", delivery_mode=2)
    confirmations.wait()
    assert confirmations.acked == {1, 2, 3, 4}


def test_confirms_count_from_the_selection(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abc")
    confirmations = Confirmations(channel)
    confirmations.publish("", queue, b"d")
    confirmations.wait()
    assert confirmations.events == [("ack", 1, False)]


def test_select_twice(broker: BrokerAddress) -> None:
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        client.open_channel(1)
        for expected in (1, 2):
            client.send(1, Confirm.Select())
            client.expect(Confirm.SelectOk)
            client.publish(1, Basic.Publish(exchange="", routing_key="nowhere"), b"x")
            assert client.expect(Basic.Ack).delivery_tag == expected


def test_a_mandatory_message_is_returned_before_its_ack(broker: BrokerAddress) -> None:
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        client.open_channel(1)
        client.send(1, Confirm.Select())
        client.expect(Confirm.SelectOk)
        properties = BasicProperties(message_id="m1", headers={"a": [1, None]})
        method = Basic.Publish(exchange="amq.direct", routing_key="nowhere", mandatory=True)
        client.publish(1, method, b"come back", properties)
        returned = client.expect(Basic.Return)
        assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
        assert (returned.exchange, returned.routing_key) == ("amq.direct", "nowhere")
        header = client.receive()
        assert header.body_size == 9
        assert header.properties == properties
        assert client.receive().fragment == b"come back"
        ack = client.expect(Basic.Ack)
        assert (ack.delivery_tag, ack.multiple) == (1, False)


def test_a_mandatory_message_without_a_body_is_returned(broker: BrokerAddress) -> None:
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        client.open_channel(1)
        client.publish(1, Basic.Publish(exchange="", routing_key="nowhere", mandatory=True))
        client.expect(Basic.Return)
        assert client.receive().body_size == 0
        client.send(1, Basic.Qos())
        client.expect(Basic.QosOk)


def test_mandatory_with_pika(channel: BlockingChannel, queue: str) -> None:
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"arrives", mandatory=True)
    with pytest.raises(UnroutableError) as caught:
        channel.basic_publish("", queue + ".missing", b"returns", BasicProperties(type="t"), mandatory=True)
    (message,) = caught.value.messages
    assert (message.body, message.properties.type) == (b"returns", "t")
    assert message.method.reply_code == 312
    assert bodies(channel, queue, 1) == [b"arrives"]


def test_mandatory_without_confirms(channel: BlockingChannel, queue: str) -> None:
    returned: list[bytes] = []
    channel.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    channel.basic_publish("", queue, b"arrives", mandatory=True)
    channel.basic_publish("", queue + ".missing", b"returns", mandatory=True)
    wait_until(channel.connection, lambda: returned)
    assert returned == [b"returns"]
    assert bodies(channel, queue, 1) == [b"arrives"]


def test_immediate_costs_the_connection(connect: Connect, queue: str) -> None:
    other = connect()
    channel = other.channel()
    with connection_error(other, 540, "NOT_IMPLEMENTED - immediate=true"):
        method = Basic.Publish(exchange="", routing_key=queue, immediate=True)
        channel._impl._send_method(method, (BasicProperties(), b"now"))


def test_a_full_queue_refuses_with_a_nack(channel: BlockingChannel, names: Names) -> None:
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    channel.confirm_delivery()
    publish(channel, queue, *"ab")
    for _ in range(2):
        with pytest.raises(NackError):
            publish(channel, queue, b"c")
    assert bodies(channel, queue, 2) == [b"a", b"b"]
    publish(channel, queue, b"d")
    assert bodies(channel, queue, 1) == [b"d"]


def test_acks_and_nacks_of_a_burst(channel: BlockingChannel, names: Names) -> None:
    full, open_ = names.queue("full"), names.queue("open")
    channel.queue_declare(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    channel.queue_declare(open_)
    confirmations = Confirmations(channel)
    for n in range(100):
        confirmations.publish("", full if n % 2 else open_, b"x")
    confirmations.wait()
    assert confirmations.acked == set(range(1, 101, 2))
    assert confirmations.nacked == set(range(2, 101, 2))
    assert ready_count(channel, open_) == 50
    assert ready_count(channel, full) == 0


def test_one_refusing_queue_of_several_gives_a_nack(channel: BlockingChannel, names: Names) -> None:
    full, open_, exchange = names.queue("full"), names.queue("open"), names.exchange()
    channel.queue_declare(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    channel.queue_declare(open_)
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(full, exchange)
    channel.queue_bind(open_, exchange)
    channel.confirm_delivery()
    with pytest.raises(NackError):
        channel.basic_publish(exchange, "", b"x")
    assert bodies(channel, open_, 1) == [b"x"]


def test_without_confirms_a_full_queue_drops_in_silence(channel: BlockingChannel, names: Names) -> None:
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(channel, queue, *"abc")
    assert bodies(channel, queue, 1) == [b"a"]


def test_confirms_of_two_channels_are_apart(broker: BrokerAddress, names: Names) -> None:
    queue = names.queue()
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        for number in (1, 2):
            client.open_channel(number)
            client.send(number, Confirm.Select())
            client.expect(Confirm.SelectOk)
        client.send(1, Queue.Declare(queue=queue))
        client.expect(Queue.DeclareOk)
        for number in (2, 1, 2):
            client.publish(number, Basic.Publish(exchange="", routing_key=queue), b"x")
        last = {1: 0, 2: 0}
        while last != {1: 1, 2: 2}:
            received = client.receive()
            assert isinstance(received.method, Basic.Ack)
            assert received.method.delivery_tag > last[received.channel_number]
            last[received.channel_number] = received.method.delivery_tag
