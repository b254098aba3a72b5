"""Connections: credentials, vhosts, negotiation, channel numbers, heartbeats, capabilities, URIs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection
from pika.data import encode_table
from pika.exceptions import ProbableAccessDeniedError, ProbableAuthenticationError
from pika.spec import Basic, Channel, Connection, Queue

from broker_process import BrokerAddress, BrokerProcess
from clients.pika_client import Connect, Names, bodies, publish, wait_until
from clients.raw_client import RawClient

REFUSED = "ACCESS_REFUSED - Login was refused using authentication mechanism {}. For details see the broker logfile."
CLOSES = {"authentication_failure_close": True}
FRAME_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
WAIT_SECONDS_MAX = 10.0


@pytest.fixture
def client(broker: BrokerAddress) -> Iterator[RawClient]:
    with RawClient(broker.host, broker.port) as client:
        yield client


@pytest.mark.parametrize(("user", "password"), [("guest", "wrong"), ("nobody", "guest"), ("", "")])
def test_wrong_credentials(client: RawClient, user: str, password: str) -> None:
    client.start()
    client.start_ok(user, password, CLOSES)
    close = client.expect(Connection.Close)
    assert (close.reply_code, close.reply_text) == (403, REFUSED.format("PLAIN"))
    assert (close.class_id, close.method_id) == (0, 0)
    client.send(0, Connection.CloseOk())
    assert client.receive() is None


def test_wrong_credentials_of_a_client_that_cannot_be_told(client: RawClient) -> None:
    client.start()
    client.start_ok(password="wrong")
    assert client.receive() is None


def test_wrong_credentials_with_pika(broker: BrokerAddress) -> None:
    with pytest.raises(ProbableAuthenticationError) as caught:
        BlockingConnection(pika.URLParameters(broker.url_for("guest", "wrong", "%2F")))
    assert REFUSED.format("PLAIN") in str(caught.value)


def test_an_unknown_mechanism(client: RawClient) -> None:
    client.start()
    client.send(0, Connection.StartOk({}, "TOKEN", "x", "en_US"))
    # RabbitMQ closes the socket, after three seconds, without a word.
    answer = client.receive()
    assert answer is None or isinstance(answer.method, Connection.Close)


def test_mechanisms(client: RawClient) -> None:
    start = client.start()
    assert {b"PLAIN", b"AMQPLAIN"} <= set(start.mechanisms.split())
    assert b"en_US" in start.locales.split()
    assert (start.version_major, start.version_minor) == (0, 9)


@pytest.mark.parametrize("password", ["guest", "wrong"])
def test_amqplain(client: RawClient, password: str) -> None:
    pieces: list[bytes] = []
    encode_table(pieces, {"LOGIN": "guest", "PASSWORD": password})
    # The response is a table without its length.
    response = b"".join(pieces)[4:].decode("latin-1")
    client.start()
    client.send(0, Connection.StartOk({"capabilities": CLOSES}, "AMQPLAIN", response, "en_US"))
    if password == "guest":
        client.tune()
    else:
        close = client.expect(Connection.Close)
        assert (close.reply_code, close.reply_text) == (403, REFUSED.format("AMQPLAIN"))


def test_unknown_vhost(client: RawClient, broker: BrokerAddress) -> None:
    client.start()
    client.start_ok()
    proposal = client.tune()
    client.send(0, Connection.TuneOk(proposal.channel_max, proposal.frame_max, 0))
    client.send(0, Connection.Open("nowhere"))
    close = client.expect(Connection.Close)
    assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - vhost nowhere not found")
    assert (close.class_id, close.method_id) == (10, 40)
    with pytest.raises(ProbableAccessDeniedError) as caught:
        BlockingConnection(pika.URLParameters(broker.url_for("guest", "guest", "nowhere")))
    assert "(530) 'NOT_ALLOWED - vhost nowhere not found'" in str(caught.value)


def test_two_ways_to_write_the_default_vhost(broker: BrokerAddress, connect: Connect, names: Names) -> None:
    queue = names.queue()
    by_name = BlockingConnection(pika.URLParameters(broker.url + "?heartbeat=30"))
    by_default = BlockingConnection(pika.URLParameters(broker.url_for("guest", "guest", "").rstrip("/")))
    by_name.channel().queue_declare(queue)
    publish(by_default.channel(), queue, b"same")
    assert bodies(by_name.channel(), queue, 1) == [b"same"]
    by_name.close()
    by_default.close()


def test_the_proposal(client: RawClient) -> None:
    client.start()
    client.start_ok()
    proposal = client.tune()
    assert (proposal.channel_max, proposal.frame_max, proposal.heartbeat) == (2047, 131072, 60)


@pytest.mark.parametrize(
    ("channel_max", "frame_max"), [(3000, 131072), (2047, 200000), (2047, 100), (2047, 0), (0, 131072)]
)
def test_no_more_than_proposed(client: RawClient, channel_max: int, frame_max: int) -> None:
    # 0 means without limit, which is more than the proposal too; 4096 is the least frame_max.
    client.start()
    client.start_ok()
    client.tune()
    client.send(0, Connection.TuneOk(channel_max, frame_max, 0))
    client.send(0, Connection.Open("/"))
    answer = client.receive()
    assert answer is None or isinstance(answer.method, Connection.Close)


def test_negotiated_limits_of_pika(connect: Connect) -> None:
    small = connect(channel_max=5, frame_max=8192, heartbeat=7)._impl.params
    assert (small.channel_max, small.frame_max, small.heartbeat) == (5, 8192, 7)
    large = connect(heartbeat=600)._impl.params
    assert (large.channel_max, large.frame_max) == (2047, 131072)


def test_more_channels_than_negotiated(client: RawClient) -> None:
    client.handshake(channel_max=3)
    for number in (1, 2, 3):
        client.open_channel(number)
    client.send(4, Channel.Open())
    close = client.expect(Connection.Close)
    text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)"
    assert (close.reply_code, close.reply_text) == (530, text)
    assert (close.class_id, close.method_id) == (0, 0)


def test_a_closed_channel_leaves_room(client: RawClient) -> None:
    client.handshake(channel_max=2)
    for _ in range(5):
        for number in (1, 2):
            client.open_channel(number)
        for number in (1, 2):
            client.send(number, Channel.Close(200, "", 0, 0))
            client.expect(Channel.CloseOk)


def test_many_channels_of_one_connection(client: RawClient, queue: str) -> None:
    client.handshake()
    numbers = [1, 2, 3, 500, 1000, 2046, 2047]
    for number in numbers:
        client.open_channel(number)
        client.publish(number, Basic.Publish(exchange="", routing_key=queue), b"%d" % number)
        client.send(number, Queue.Declare(queue=queue, passive=True))
        client.expect(Queue.DeclareOk)
    client.close_connection()


def test_many_connections(connect: Connect, queue: str) -> None:
    connections = [connect() for _ in range(50)]
    for number, connection in enumerate(connections):
        publish(connection.channel(), queue, b"%d" % number)
        connection.close()
    assert sorted(map(int, bodies(connect().channel(), queue, 50))) == list(range(50))


def test_server_properties(client: RawClient) -> None:
    properties = client.start().server_properties
    for key in ("product", "version", "platform"):
        assert isinstance(properties[key], str)
        assert properties[key]
    capabilities = properties["capabilities"]
    for name in (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ):
        assert capabilities[name] is True, name


def test_client_properties_of_every_kind_are_taken(connect: Connect) -> None:
    properties = {
        "product": "tests",
        "connection_name": "한글 이름",
        "capabilities": {"connection.blocked": True, "consumer_cancel_notify": True},
        "nested": {"list": [1, None, {"x": b"y"}]},
    }
    connection = connect(client_properties=properties)
    seen: list[object] = []
    connection.add_on_connection_blocked_callback(lambda *event: seen.append(event))
    connection.channel()
    assert connection.is_open
    assert seen == []


def test_a_client_that_does_not_know_of_cancels_is_not_told(client: RawClient, names: Names) -> None:
    client.handshake()
    client.open_channel(1)
    queue = names.queue()
    client.send(1, Queue.Declare(queue=queue))
    client.expect(Queue.DeclareOk)
    client.send(1, Basic.Consume(queue=queue))
    client.expect(Basic.ConsumeOk)
    client.send(1, Queue.Delete(queue=queue))
    client.expect(Queue.DeleteOk)
    client.send(1, Basic.Qos())
    # Neither before nor after the answers comes a basic.cancel.
    client.expect(Basic.QosOk)
    client.close_connection()


def test_the_server_sends_heartbeats_and_misses_those_of_the_client(broker: BrokerAddress) -> None:
    """Of two clients with a heartbeat of one second the one that beats is kept, the other closed."""
    with (
        RawClient(broker.host, broker.port) as silent,
        RawClient(broker.host, broker.port) as beating,
    ):
        silent.handshake(heartbeat=1)
        beating.handshake(heartbeat=1)
        began = time.monotonic()
        silent.socket.settimeout(0.2)
        received = b""
        while time.monotonic() - began < WAIT_SECONDS_MAX:
            beating.send_bytes(FRAME_HEARTBEAT)
            try:
                data = silent.receive_bytes()
            except TimeoutError:
                continue
            if not data:
                break
            received += data
        silent_seconds = time.monotonic() - began
        assert 1.5 <= silent_seconds <= 5.0
        assert received.startswith(FRAME_HEARTBEAT)
        assert received.replace(FRAME_HEARTBEAT, b"") == b""
        beating.open_channel(1)
        beating.close_connection()


def test_a_broker_that_was_stopped_blames_no_client(start_broker: Callable[..., BrokerProcess]) -> None:
    """As by SIGSTOP, or with the machine it runs on: what came meanwhile is read before anybody is missed."""
    broker = start_broker()
    with RawClient(broker.host, broker.port) as client:
        client.handshake(heartbeat=1)
        os.kill(broker.pid, signal.SIGSTOP)
        began = time.monotonic()
        while time.monotonic() - began < 4:
            client.send_bytes(FRAME_HEARTBEAT)
            time.sleep(0.5)
        os.kill(broker.pid, signal.SIGCONT)
        client.open_channel(1)
        client.send_bytes(FRAME_HEARTBEAT)
        client.close_connection()


def test_pika_idles_with_heartbeats(connect: Connect) -> None:
    connection = connect(heartbeat=1)
    checker = connection._impl._heartbeat_checker
    wait_until(connection, lambda: checker._heartbeat_frames_received >= 3)
    connection.channel()


def test_closing_closes_the_channels(connect: Connect, queue: str) -> None:
    connection = connect()
    channels = [connection.channel() for _ in range(3)]
    connection.close()
    assert all(channel.is_closed for channel in channels)
    assert connect().channel().is_open
