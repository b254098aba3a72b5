"""Properties, headers of every type and bodies of every size come out as they went in."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pika import frame
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties, Queue

from broker_process import BrokerAddress
from clients.pika_client import Connect, Inbox, Names, get, publish
from clients.raw_client import RawClient

FRAME_OVERHEAD = 8


def test_all_properties(channel: BlockingChannel, queue: str) -> None:
    properties = BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        headers={"key": "value"},
        delivery_mode=2,
        priority=9,
        correlation_id="correlation",
        reply_to="reply.queue",
        expiration="60000",
        message_id="message-1",
        timestamp=1700000000,
        type="order.created",
        user_id="guest",
        app_id="tests",
        cluster_id="cluster",
    )
    channel.basic_publish("", queue, b"body", properties)
    received = get(channel, queue)
    assert received.properties == properties
    assert vars(received.properties) == vars(properties)


def test_no_properties(channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"body")
    assert get(channel, queue).properties == BasicProperties()


@pytest.mark.parametrize("name", ["content_type", "correlation_id", "message_id", "cluster_id"])
def test_one_property(channel: BlockingChannel, queue: str, name: str) -> None:
    for value in ("x", "", "é" * 127):
        properties = BasicProperties(**{name: value})
        channel.basic_publish("", queue, b"", properties)
        assert get(channel, queue).properties == properties


HEADER_VALUES = {
    "true": True,
    "false": False,
    "zero": 0,
    "int8": -128,
    "int32": 2**31 - 1,
    "negative int32": -(2**31),
    "int64": 2**63 - 1,
    "negative int64": -(2**63),
    "text": "text",
    "empty": "",
    "unicode": "파발 – relay ✓",
    "long text": "x" * 70000,
    "decimal": Decimal("123.45"),
    "negative decimal": Decimal("-1.5"),
    "timestamp": datetime(2024, 2, 29, 12, 30, 45, tzinfo=UTC),
    "bytes": bytes(range(256)),
    "none": None,
    "list": [1, "two", None, True, [3, [4]], {"five": 5}],
    "empty list": [],
    "table": {"a": 1, "b": {"c": [None, {"d": "e"}]}},
    "empty table": {},
}


def test_headers_of_every_type_pika_knows(channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"", BasicProperties(headers=HEADER_VALUES))
    headers = get(channel, queue).properties.headers
    assert headers == HEADER_VALUES
    for key, value in HEADER_VALUES.items():
        # 1 == True, so the types count too; pika's 64-bit integers are a class of their own.
        assert isinstance(headers[key], type(value)), key
        assert isinstance(headers[key], bool) == isinstance(value, bool), key


FIELDS = {
    # RabbitMQ's field types, each as its octets.
    b"t": b"\x01",
    b"b": b"\x80",
    b"B": b"\xff",
    b"s": b"\x80\x00",
    b"u": b"\xff\xff",
    b"I": b"\x80\x00\x00\x00",
    b"i": b"\xff\xff\xff\xff",
    b"l": b"\x80" + bytes(7),
    b"f": struct.pack(">f", 1.5),
    b"d": struct.pack(">d", -0.1),
    b"D": b"\x02\x00\x00\x30\x39",
    b"S": struct.pack(">I", 4) + b"text",
    b"A": struct.pack(">I", 6) + b"I\x00\x00\x00\x07V",
    b"T": struct.pack(">Q", 1700000000),
    b"F": struct.pack(">I", 5) + b"\x02abb\x7f",
    b"V": b"",
    b"x": struct.pack(">I", 3) + b"\x00\xff\x01",
}


def raw_headers(kinds: list[bytes]) -> bytes:
    """A headers table with one field of each kind, as octets."""
    table = b"".join(b"\x02k" + kind + kind + FIELDS[kind] for kind in kinds)
    return struct.pack(">I", len(table)) + table


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.decode())
def test_field_types_octet_for_octet(broker: BrokerAddress, queue: str, kind: bytes) -> None:
    # Flags: headers only (bit 13).
    payload = struct.pack(">HHQH", 60, 0, 2, 1 << 13) + raw_headers([kind])
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        client.open_channel(1)
        client.send(1, Basic.Publish(exchange="", routing_key=queue))
        client.send_bytes(struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce")
        client.send_bytes(frame.Body(1, b"ok").marshal())
        client.send(1, Basic.Qos())
        client.expect(Basic.QosOk)
        client.send(1, Basic.Get(queue=queue, no_ack=True))
        client.expect(Basic.GetOk)
        while len(client.buffer) < 7 + len(payload):
            client.buffer += client.receive_bytes()
        assert client.buffer[7 : 7 + len(payload)] == payload


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 131064, 131065, 262128, 1 << 20])
def test_body_sizes(channel: BlockingChannel, connect: Connect, queue: str, size: int) -> None:
    body = bytes(n * 31 % 251 for n in range(size))
    sender = connect(frame_max=4096).channel()
    publish(sender, queue, body)
    assert get(channel, queue).body == body
    publish(channel, queue, body)
    assert get(sender, queue).body == body


def test_frame_max_of_the_receiver_is_kept(broker: BrokerAddress, channel: BlockingChannel, queue: str) -> None:
    body = b"0123456789" * 2000
    for delivery in (Basic.Get(queue=queue, no_ack=True), Basic.Consume(queue=queue, no_ack=True)):
        publish(channel, queue, body)
        with RawClient(broker.host, broker.port) as client:
            client.handshake(frame_max=4096)
            client.open_channel(1)
            client.send(1, Basic.Qos())
            client.expect(Basic.QosOk)
            get_ready(client, queue)
            client.send(1, delivery)
            if isinstance(delivery, Basic.Consume):
                client.expect(Basic.ConsumeOk)
                client.expect(Basic.Deliver)
            else:
                client.expect(Basic.GetOk)
            assert client.receive().body_size == len(body)
            fragments = []
            while sum(map(len, fragments)) < len(body):
                fragments.append(client.receive().fragment)
            assert b"".join(fragments) == body
            largest = 4096 - FRAME_OVERHEAD
            assert [len(fragment) for fragment in fragments] == [largest] * 4 + [len(body) - 4 * largest]


def get_ready(client: RawClient, queue: str) -> None:
    """Waits until the queue holds its one message."""
    while True:
        client.send(1, Queue.Declare(queue=queue, passive=True))
        if client.expect(Queue.DeclareOk).message_count == 1:
            return


def test_headers_near_frame_max(connect: Connect, queue: str) -> None:
    small = connect(frame_max=4096).channel()
    headers = {"long": "x" * 4000}
    small.basic_publish("", queue, b"body", BasicProperties(headers=headers))
    received = get(small, queue)
    assert (received.properties.headers, received.body) == (headers, b"body")


def test_twenty_mebibytes(channel: BlockingChannel, connect: Connect, names: Names) -> None:
    queue = names.queue()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    body = hashlib.sha512(b"seed").digest() * (20 * (1 << 20) // 64)
    publish(channel, queue, body, delivery_mode=2)
    inbox = Inbox(connect().channel(), queue, auto_ack=True)
    inbox.wait(1)
    assert hashlib.sha256(inbox.received[0].body).digest() == hashlib.sha256(body).digest()


def test_sizes_in_turn_keep_their_order(channel: BlockingChannel, connect: Connect, queue: str) -> None:
    sizes = [0, 200000, 1, 0, 131064, 5, 131065, 0, 4088]
    sent = [b"%d" % n * size for n, size in enumerate(sizes)]
    inbox = Inbox(connect(frame_max=8192).channel(), queue, auto_ack=True)
    publish(channel, queue, *sent)
    inbox.wait(len(sent))
    assert inbox.bodies == sent
