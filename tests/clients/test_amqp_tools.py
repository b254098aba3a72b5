"""The command line tools of rabbitmq-c (Debian: amqp-tools): another client library, in C."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import UnroutableError

from broker_process import BrokerAddress
from clients.pika_client import Names, bodies, get, publish, wait_until

TOOLS = ("amqp-publish", "amqp-get", "amqp-consume", "amqp-declare-queue", "amqp-delete-queue")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {', '.join(MISSING)} (apt: amqp-tools)")

WAIT_SECONDS_MAX = 10.0


class Tools:
    """Runs a tool against the broker: `tools("get", "-q", queue)`."""

    def __init__(self, broker: BrokerAddress) -> None:
        self.url = broker.url

    def command(self, tool: str, *arguments: str) -> list[str]:
        return [f"amqp-{tool}", f"--url={self.url}", *arguments]

    def __call__(self, tool: str, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(tool, *arguments), input=input, capture_output=True, timeout=WAIT_SECONDS_MAX
        )

    def ok(self, tool: str, *arguments: str, input: bytes = b"") -> bytes:
        result = self(tool, *arguments, input=input)
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture
def tools(broker: BrokerAddress) -> Tools:
    return Tools(broker)


def test_declare_publish_get_delete(tools: Tools, names: Names) -> None:
    queue = names.queue()
    assert tools.ok("declare-queue", "-d", "-q", queue).decode().strip() == queue
    tools.ok("publish", "-r", queue, "-p", "-b", "hello from C")
    tools.ok("publish", "-r", queue, input=b"from standard input\x00\xff")
    assert tools.ok("get", "-q", queue) == b"hello from C"
    assert tools.ok("get", "-q", queue) == b"from standard input\x00\xff"
    empty = tools("get", "-q", queue)
    assert (empty.returncode, empty.stdout) == (2, b"")
    tools.ok("publish", "-r", queue, "-b", "one")
    # It tells how many messages went with the queue.
    assert tools.ok("delete-queue", "-q", queue).strip() == b"1"


def test_a_server_named_queue(tools: Tools, channel: BlockingChannel) -> None:
    name = tools.ok("declare-queue", "-q", "").decode().strip()
    assert name.startswith("amq.gen-")
    assert channel.queue_delete(name).method.message_count == 0


def test_properties(tools: Tools, channel: BlockingChannel, queue: str) -> None:
    options = [
        "-r",
        queue,
        "-C",
        "text/x",
        "-E",
        "gzip",
        "-t",
        "reply.here",
        "-H",
        "colour: red",
        "-p",
        "-b",
        "x",
    ]
    tools.ok("publish", *options)
    properties = get(channel, queue).properties
    assert (properties.content_type, properties.content_encoding) == ("text/x", "gzip")
    assert (properties.reply_to, properties.delivery_mode) == ("reply.here", 2)
    assert properties.headers == {"colour": "red"}


def test_lines(tools: Tools, channel: BlockingChannel, queue: str) -> None:
    tools.ok("publish", "-r", queue, "-l", input=b"one\ntwo\nthree\n")
    assert bodies(channel, queue, 3) == [b"one\n", b"two\n", b"three\n"]


@pytest.mark.parametrize("size", [1, 131064, 131065, 3_000_000])
def test_sizes(tools: Tools, queue: str, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    tools.ok("publish", "-r", queue, input=body)
    assert tools.ok("get", "-q", queue) == body


def test_consume(tools: Tools, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcd")
    assert tools.ok("consume", "-q", queue, "-c", "3", "-p", "1", "cat") == b"abc"
    assert tools.ok("consume", "-q", queue, "-A", "-c", "1", "cat") == b"d"
    assert bodies(channel, queue, 0) == []


def test_consume_from_an_exchange(tools: Tools, channel: BlockingChannel, names: Names) -> None:
    exchange = names.exchange()
    channel.exchange_declare(exchange, "direct")
    process: subprocess.Popen[Any] = subprocess.Popen(
        tools.command("consume", "-e", exchange, "-r", "key", "-x", "-c", "2", "cat"), stdout=subprocess.PIPE
    )
    try:
        channel.confirm_delivery()

        def published() -> bool:
            try:
                channel.basic_publish(exchange, "key", b"first,", mandatory=True)
            except UnroutableError:
                return False
            return True

        wait_until(channel.connection, published)
        channel.basic_publish(exchange, "key", b"second", mandatory=True)
        output, _ = process.communicate(timeout=WAIT_SECONDS_MAX)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, b"first,second")


def test_errors_are_told(tools: Tools, broker: BrokerAddress, names: Names) -> None:
    missing = names.queue()
    result = tools("get", "-q", missing)
    assert result.returncode == 1
    assert f"NOT_FOUND - no queue '{missing}' in vhost '/'".encode() in result.stderr
    wrong = subprocess.run(
        ["amqp-get", f"--url={broker.url_for('guest', 'wrong', '%2F')}", "-q", missing],
        capture_output=True,
        timeout=WAIT_SECONDS_MAX,
    )
    assert wrong.returncode == 1
    assert b"403" in wrong.stderr
