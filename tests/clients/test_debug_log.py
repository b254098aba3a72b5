"""The debug log of a real broker: what went over the wire, and no password."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable

import pika
import pytest

from broker_process import BrokerProcess
from clients.pika_client import Inbox, cut, open_connection, publish

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO) +127\.0\.0\.1:\d+ (.*)")


def exchange_messages(broker: BrokerProcess) -> list[str]:
    """A short conversation; what the log says of it."""
    connection = open_connection(broker)
    channel = connection.channel()
    channel.queue_declare("q")
    inbox = Inbox(channel, "q", auto_ack=True)
    publish(channel, "q", b"top secret")
    inbox.wait(1)
    try:
        channel.queue_purge("missing")
    except pika.exceptions.ChannelClosedByBroker:
        connection.close()
    broker.stop()
    return [found.group(2) for line in broker.log().splitlines() if (found := LINE.fullmatch(line))]


def test_debug(start_broker: Callable[..., BrokerProcess]) -> None:
    broker = start_broker(arguments=["--log-level", "debug"])
    lines = exchange_messages(broker)
    wanted = [
        "< protocol header 0-0-9-1",
        "= start",
        "< 0 connection.open virtual_host='/'",
        "= opened vhost '/' as user 'guest'",
        "= open",
        "> 0 connection.open-ok",
        "< 1 channel.open",
        "> 1 channel.open-ok",
        "> 1 queue.declare-ok queue='q' message_count=0 consumer_count=0",
        "< 1 basic.publish exchange='' routing_key='q' mandatory=False immediate=False",
        "< 1 header of a body of 10 bytes",
        "< 1 body 10 bytes",
        "> 1 body 10 bytes",
        "< 1 queue.purge queue='missing' no_wait=False",
        "! channel 1 closed: NOT_FOUND - no queue 'missing' in vhost '/'",
        "< 0 connection.close reply_code=200 reply_text='Normal shutdown' class_id=0 method_id=0",
        "= closed",
        "> 0 connection.close-ok",
    ]
    rest = iter(lines)
    for line in wanted:
        assert line in rest, f"{line!r} is missing, or in another order:\n" + "\n".join(lines)
    assert "response=<12 bytes>" in broker.log()
    assert "\\x00guest" not in broker.log()
    assert "top secret" not in broker.log()


def test_one_line_an_event(start_broker: Callable[..., BrokerProcess]) -> None:
    broker = start_broker()
    since = broker.log_size()
    open_connection(broker).close()
    wrong = pika.PlainCredentials("guest", "wrong")
    for parameters in ({"credentials": wrong}, {"virtual_host": "none"}):
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            open_connection(broker, **parameters)
    cut(open_connection(broker))
    with socket.create_connection((broker.host, broker.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.recv(8)
    deadline = time.monotonic() + 10
    while "refused: the first" not in broker.log(since) or "without saying so" not in broker.log(since):
        assert time.monotonic() < deadline, broker.log(since)
        time.sleep(0.01)
    lines = [line.partition("127.0.0.1:")[2].partition(" ")[2] for line in broker.log(since).splitlines()]
    assert sorted(lines) == [
        "closed by the client",
        "closed by the client without saying so",
        "closed: NOT_ALLOWED - vhost none not found",
        "opened vhost '/' as user 'guest'",
        "opened vhost '/' as user 'guest'",
        "refused: the first bytes are not AMQP 0-9-1",
        "refused: user 'guest' - invalid credentials",
    ]


def test_at_other_levels_there_is_nothing_of_it(start_broker: Callable[..., BrokerProcess]) -> None:
    lines = exchange_messages(start_broker())
    assert [line for line in lines if line[0] in "<>=!"] == []
    assert "opened vhost '/' as user 'guest'" in lines
