"""What may follow what on a connection and on a channel, and what breaks a frame: sent octet by octet."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from pika import frame
from pika.spec import Basic, BasicProperties, Channel, Confirm, Connection, Queue

from broker_process import BrokerAddress
from clients.pika_client import Names
from clients.raw_client import PROTOCOL_HEADER, RawClient


@pytest.fixture
def client(broker: BrokerAddress) -> Iterator[RawClient]:
    """Connected, with channel 1 open."""
    with RawClient(broker.host, broker.port) as client:
        client.handshake(frame_max=4096)
        client.open_channel(1)
        yield client


def frame_of(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def expect_close(client: RawClient, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
    """connection.close whose text begins with `text`, then the end of the stream."""
    close = client.expect(Connection.Close)
    assert close.reply_code == code
    assert close.reply_text.startswith(text)
    assert (close.class_id, close.method_id) == (class_id, method_id)
    client.send(0, Connection.CloseOk())
    assert client.receive() is None


PUBLISH = frame.Method(1, Basic.Publish(exchange="", routing_key="nowhere")).marshal()
HEADER = frame.Header(1, 4, BasicProperties()).marshal()


@pytest.mark.parametrize(
    "header",
    [b"GET / HTTP/1.0\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"AMQP\x01\x01\x00\x0a", b"AMQP\x00\x00\x09\x00"],
)
def test_another_protocol_is_answered_with_ours(broker: BrokerAddress, header: bytes) -> None:
    with RawClient(broker.host, broker.port) as client:
        client.send_bytes(header)
        answer = b""
        while data := client.receive_bytes():
            answer += data
        assert answer == PROTOCOL_HEADER


def test_a_client_of_0_9_is_served_as_one_of_0_9_1(broker: BrokerAddress) -> None:
    with RawClient(broker.host, broker.port) as client:
        for octet in b"AMQP\x01\x01\x00\x09":
            client.send_bytes(bytes([octet]))
        start = client.expect(Connection.Start)
        assert (start.version_major, start.version_minor) == (0, 9)
        client.start_ok()
        client.tune()


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        pytest.param(frame_of(1, 1, b"\x00\x3c\x00\x0a", b"\x00"), 501, "FRAME_ERROR - ", id="end octet"),
        pytest.param(frame_of(7, 1, b"\x00\x3c\x00\x0a"), 501, "FRAME_ERROR - ", id="type 7"),
        pytest.param(frame_of(1, 1, b"x" * 5000), 501, "FRAME_ERROR - ", id="longer than frame_max"),
        pytest.param(struct.pack(">BHI", 1, 1, 5000), 501, "FRAME_ERROR - ", id="longer, only announced"),
        pytest.param(frame_of(8, 0, b"x"), 501, "FRAME_ERROR - ", id="heartbeat with a payload"),
        pytest.param(frame_of(1, 1, b"\x00"), 501, "FRAME_ERROR - ", id="one octet of a method"),
        pytest.param(frame_of(8, 1, b""), 505, "UNEXPECTED_FRAME - ", id="heartbeat on a channel"),
        pytest.param(
            HEADER,
            505,
            "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            id="header",
        ),
        pytest.param(
            frame.Body(1, b"abcd").marshal(),
            505,
            "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            id="body alone",
        ),
        pytest.param(
            PUBLISH + frame.Header(1, 0, BasicProperties()).marshal() + frame.Body(1, b"").marshal(),
            505,
            "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            id="body after an empty message",
        ),
    ],
)
def test_broken_frames(client: RawClient, data: bytes, code: int, text: str) -> None:
    client.send_bytes(data)
    expect_close(client, code, text)


NO_HEADER = "UNEXPECTED_FRAME - expected content header for class 60, got "
NO_BODY = "UNEXPECTED_FRAME - expected content body, got non content body frame instead"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(PUBLISH + PUBLISH, NO_HEADER + "non content header frame instead", id="method, method"),
        pytest.param(
            PUBLISH + frame.Body(1, b"abcd").marshal(),
            NO_HEADER + "non content header frame instead",
            id="method, body",
        ),
        pytest.param(
            PUBLISH + frame_of(2, 1, struct.pack(">HHQH", 50, 0, 0, 0)),
            NO_HEADER + "one for class 50 instead",
            id="header of another class",
        ),
        pytest.param(
            PUBLISH + frame_of(2, 1, struct.pack(">HHQH", 60, 1, 0, 0)),
            NO_HEADER + "non content header frame instead",
            id="header with a weight",
        ),
        pytest.param(PUBLISH + HEADER + PUBLISH, NO_BODY, id="method, header, method"),
        pytest.param(PUBLISH + HEADER + HEADER, NO_BODY, id="method, header, header"),
        pytest.param(PUBLISH + HEADER + frame.Body(1, b"abcde").marshal() + PUBLISH, NO_BODY, id="too much body"),
    ],
)
def test_content_out_of_order(client: RawClient, data: bytes, text: str) -> None:
    client.send_bytes(data)
    expect_close(client, 505, text, 60, 40)


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        pytest.param(struct.pack(">HH", 50, 10), (50, 10), id="without its arguments"),
        pytest.param(struct.pack(">HHIHB", 60, 10, 0, 0, 0) + b"more", (60, 10), id="with octets left over"),
    ],
)
def test_a_method_that_cannot_be_decoded(client: RawClient, arguments: bytes, ids: tuple[int, int]) -> None:
    client.send_bytes(frame_of(1, 1, arguments))
    expect_close(client, 501, "FRAME_ERROR - ", *ids)


def test_a_name_that_is_not_utf8(client: RawClient) -> None:
    client.send_bytes(frame_of(1, 1, struct.pack(">HHHB", 50, 10, 0, 3) + b"a\xff\xfe" + b"\x00\x00\x00\x00\x00"))
    close = client.expect(Connection.Close)
    assert (close.reply_code, close.reply_text) == (501, "FRAME_ERROR - Malformed UTF-8 in shortstr")


def test_a_routing_key_need_not_be_utf8(client: RawClient, queue: str) -> None:
    """RabbitMQ does not look at it, and a fanout exchange may carry anything."""
    exchange = "amq.fanout"
    client.send(1, Queue.Bind(queue=queue, exchange=exchange))
    client.expect(Queue.BindOk)
    key = b"\xe9t\xe9"
    method = struct.pack(">HHHB", 60, 40, 0, len(exchange)) + exchange.encode() + bytes([len(key)]) + key + b"\x00"
    client.send_bytes(frame_of(1, 1, method) + HEADER + frame.Body(1, b"abcd").marshal())
    client.send(1, Basic.Get(queue=queue, no_ack=True))
    client.buffer = client.receive_bytes()
    assert bytes([len(key)]) + key in client.buffer


def test_a_body_in_any_number_of_frames(client: RawClient, queue: str) -> None:
    client.send(1, Basic.Publish(exchange="", routing_key=queue))
    parts = (b"", b"a", b"", b"bcd")
    client.send_bytes(HEADER + b"".join(frame.Body(1, part).marshal() for part in parts))
    client.send(1, Basic.Get(queue=queue, no_ack=True))
    client.expect(Basic.GetOk)
    assert client.receive_content()[1] == b"abcd"


def test_channels_send_their_frames_between_each_other(client: RawClient, queue: str) -> None:
    client.open_channel(2)
    method, body = Basic.Publish(exchange="", routing_key=queue), b"abcd"
    for step in (
        lambda n: frame.Method(n, method).marshal(),
        lambda n: frame.Header(n, 4, BasicProperties(message_id=str(n))).marshal(),
        lambda n: frame.Body(n, body[:2]).marshal(),
        lambda n: frame.Body(n, body[2:]).marshal(),
    ):
        client.send_bytes(step(1) + step(2))
    for channel in (1, 2):
        client.send(channel, Basic.Qos())
        client.expect(Basic.QosOk)
    seen = []
    for _ in range(2):
        client.send(1, Basic.Get(queue=queue, no_ack=True))
        client.expect(Basic.GetOk)
        properties, body = client.receive_content()
        assert body == b"abcd"
        seen.append(properties.message_id)
    assert sorted(seen) == ["1", "2"]


def test_octet_by_octet(broker: BrokerAddress, queue: str) -> None:
    with RawClient(broker.host, broker.port) as client:
        whole = client.send_bytes

        def send_slowly(data: bytes) -> None:
            for octet in data:
                whole(bytes((octet,)))

        client.send_bytes = send_slowly  # type: ignore[method-assign]
        client.handshake()
        client.open_channel(1)
        client.publish(1, Basic.Publish(exchange="", routing_key=queue), b"slow")
        client.send(1, Queue.Declare(queue=queue, passive=True))
        client.expect(Queue.DeclareOk)
        client.send(1, Basic.Get(queue=queue, no_ack=True))
        client.expect(Basic.GetOk)
        assert client.receive_content()[1] == b"slow"
        client.close_connection()


def test_everything_in_one_write(broker: BrokerAddress, queue: str) -> None:
    with RawClient(broker.host, broker.port) as client:
        tune_ok, open_ = Connection.TuneOk(2047, 4096, 0), Connection.Open("/")
        start_ok = Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")
        methods = [(0, start_ok), (0, tune_ok), (0, open_), (1, Channel.Open()), (1, Confirm.Select())]
        data = b"".join(frame.Method(channel, method).marshal() for channel, method in methods)
        publish = frame.Method(1, Basic.Publish(exchange="", routing_key=queue)).marshal()
        message = publish + HEADER + frame.Body(1, b"abcd").marshal()
        client.send_bytes(PROTOCOL_HEADER + data + message * 3)
        for answer in (
            Connection.Start,
            Connection.Tune,
            Connection.OpenOk,
            Channel.OpenOk,
            Confirm.SelectOk,
        ):
            client.expect(answer)
        confirmed = 0
        while confirmed < 3:
            confirmed = client.expect(Basic.Ack).delivery_tag
        client.send(1, Queue.Purge(queue=queue))
        assert client.expect(Queue.PurgeOk).message_count == 3


def test_methods_without_reply(client: RawClient, names: Names) -> None:
    queue = names.queue()
    client.send(1, Queue.Declare(queue=queue, nowait=True))
    client.send(1, Queue.Bind(queue=queue, exchange="amq.fanout", nowait=True))
    client.send(1, Confirm.Select(nowait=True))
    client.publish(1, Basic.Publish(exchange="amq.fanout", routing_key=""), b"x")
    assert client.expect(Basic.Ack).delivery_tag == 1
    client.send(1, Basic.Consume(queue=queue, consumer_tag="mine", nowait=True))
    assert client.expect(Basic.Deliver).consumer_tag == "mine"
    assert client.receive_content()[1] == b"x"
    client.send(1, Basic.Cancel("mine", nowait=True))
    client.send(1, Basic.RecoverAsync(requeue=True))
    client.send(1, Queue.Purge(queue=queue, nowait=True))
    client.send(1, Queue.Delete(queue=queue, nowait=True))
    client.send(1, Queue.Declare(queue=queue, passive=True))
    assert client.expect(Channel.Close).reply_code == 404


def test_what_follows_a_refusal_on_the_channel_is_ignored(client: RawClient, queue: str) -> None:
    for _ in range(3):
        client.send(1, Queue.Purge(queue="no such queue"))
    client.publish(1, Basic.Publish(exchange="", routing_key=queue), b"never")
    assert client.expect(Channel.Close).reply_code == 404
    client.send(1, Channel.CloseOk())
    client.open_channel(1)
    client.send(1, Queue.Purge(queue=queue))
    assert client.expect(Queue.PurgeOk).message_count == 0


def test_both_sides_close_the_channel_at_once(client: RawClient) -> None:
    client.send(1, Queue.Purge(queue="no such queue"))
    client.send(1, Channel.Close(200, "done", 0, 0))
    assert client.expect(Channel.Close).reply_code == 404
    client.expect(Channel.CloseOk)
    client.send(1, Channel.CloseOk())
    client.open_channel(1)


def test_a_channel_must_not_be_reopened_before_its_close_is_answered(client: RawClient) -> None:
    client.send(1, Queue.Purge(queue="no such queue"))
    client.send(1, Channel.Open())
    client.expect(Channel.Close)
    close = client.expect(Connection.Close)
    assert (close.reply_code, close.reply_text) == (504, "CHANNEL_ERROR - second 'channel.open' seen")


def test_a_refusal_answers_even_a_method_without_reply(client: RawClient) -> None:
    client.send(1, Queue.Declare(queue="amq.mine", nowait=True))
    close = client.expect(Channel.Close)
    assert (close.reply_code, close.class_id, close.method_id) == (403, 50, 10)


def test_a_text_beyond_a_short_string_is_cut(client: RawClient) -> None:
    client.send(1, Queue.Purge(queue="q" * 250))
    close = client.expect(Channel.Close)
    assert close.reply_code == 404
    assert close.reply_text.startswith("NOT_FOUND - no queue 'qqq")
    assert close.reply_text.endswith("qqq...")
    assert len(close.reply_text) == 255


def test_methods_of_a_channel_that_is_not_open(broker: BrokerAddress) -> None:
    for method in (Queue.Declare(queue="q"), Channel.Close(200, "", 0, 0), Channel.CloseOk()):
        with RawClient(broker.host, broker.port) as client:
            client.handshake()
            client.send(2, method)
            close = client.expect(Connection.Close)
            assert (close.reply_code, close.reply_text) == (504, "CHANNEL_ERROR - expected 'channel.open'")
            assert close.class_id << 16 | close.method_id == method.INDEX


def test_methods_of_the_wrong_level(broker: BrokerAddress) -> None:
    state = "CHANNEL_ERROR - unexpected method in connection state running"
    for channel, method, code, text in (
        (0, Queue.Declare(queue="q"), 504, state),
        (0, Channel.Open(), 504, state),
        (0, Connection.Open("/"), 504, state),
        (0, Connection.CloseOk(), 504, state),
        (1, Connection.Open("/"), 503, "COMMAND_INVALID - unimplemented method"),
    ):
        with RawClient(broker.host, broker.port) as client:
            client.handshake()
            client.open_channel(1)
            client.send(channel, method)
            close = client.expect(Connection.Close)
            assert (close.reply_code, close.reply_text) == (code, text)
            assert close.class_id << 16 | close.method_id == method.INDEX


def test_flow_off_is_obeyed_or_refused(client: RawClient, queue: str) -> None:
    """RabbitMQ has no channel.flow from clients; a broker that has it must hold deliveries back."""
    client.send(1, Basic.Consume(queue=queue, no_ack=True))
    client.expect(Basic.ConsumeOk)
    client.send(1, Channel.Flow(active=False))
    answer = client.receive().method
    if isinstance(answer, Connection.Close):
        assert (answer.reply_code, answer.reply_text) == (540, "NOT_IMPLEMENTED - active=false")
        assert (answer.class_id, answer.method_id) == (20, 20)
        return
    assert (type(answer), answer.active) == (Channel.FlowOk, False)
    client.publish(1, Basic.Publish(exchange="", routing_key=queue), b"later")
    client.send(1, Queue.Declare(queue=queue, passive=True))
    assert client.expect(Queue.DeclareOk).message_count == 1
    client.send(1, Channel.Flow(active=True))
    assert client.expect(Channel.FlowOk).active is True
    client.expect(Basic.Deliver)
    assert client.receive_content()[1] == b"later"
