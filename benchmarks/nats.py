"""NATS as a protocol of the benchmark: JetStream for what is durable, core NATS for what is transient.

A durable queue is a work-queue stream in files with a durable push consumer: a message is acknowledged to its
publisher when it is stored and removed when its consumer acknowledged it. A work queue wants an ack for each message.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence

from nats_client import END, NatsConnection, publish_line
from spec import STAMP_BYTES, Gate, Load, LoadError, Protocol, Report
from supply import Supply, publish_supply

_ACK_INBOX = "_INBOX.acks"
_ACK_WAIT_NS = 600 * 10**9
RECEIVE_BYTES = 262_144
GATHER_BYTES = 10_000
_run_number = itertools.count(1)


class PublishAcks:
    """Counts JetStream's acks of what was published: one for each, in their order."""

    def __init__(self, connection: NatsConnection) -> None:
        self.confirmed = 0
        self._connection = connection

    def receive(self) -> list[Sequence[int]]:
        """Wait for acks.

        Returns:
            The publish numbers (from 1) that are acknowledged by them.

        Raises:
            LoadError: an ack is out of turn, or an error.
        """
        connection = self._connection
        connection.fill()
        *lines, rest = bytes(connection.buffer).split(END)
        first = self.confirmed + 1
        expect_ack = False
        left = rest
        for line in lines:
            if expect_ack:
                self._count(line)
            elif not line.startswith(b"MSG ") and not connection.is_control(line):
                raise LoadError(f"expected an ack, got {line[:80]!r}")
            expect_ack = not expect_ack and line.startswith(b"MSG ")
        if expect_ack:
            left = lines[-1] + END + rest
        connection.buffer[:] = left
        return [range(first, self.confirmed + 1)]

    def _count(self, ack: bytes) -> None:
        self.confirmed += 1
        if not ack.endswith(b'"seq":%d}' % self.confirmed):
            raise LoadError(f"publish {self.confirmed} got the answer {ack.decode(errors='replace')}")


def publish(load: Load, queue: str, gate: Gate) -> Report:
    """Publish `load.messages_each` messages, to a stream if they are durable."""
    connection = NatsConnection(load.port)
    connection.subscribe(f"{_ACK_INBOX}.{queue}", 1)
    reply = f"{_ACK_INBOX}.{queue}" if load.window else ""
    encoded = [publish_line(f"bench.{queue}", body, reply) for body in load.bodies()]
    supply = Supply(encoded, encoded[0].index(END) + 2)
    gate()
    report = Report.begin()
    publish_supply(connection, load, supply, PublishAcks(connection), report)
    report.end()
    connection.close()
    return report


def consume(load: Load, queue: str, gate: Gate) -> Report:
    """Consume exactly `load.messages_each` messages; with a rate, note how old each one is."""
    connection = NatsConnection(load.port)
    if not load.durable:
        connection.subscribe(f"bench.{queue}", 1)  # Before anything is published: it would be gone.
        connection.flush()
    gate()
    report = Report.begin()
    if load.durable or load.rate_per_s:
        _consume_parsed(connection, load, queue, report)
    else:
        _consume_exact(connection, load, queue)
    report.end()
    if connection.buffer:
        raise LoadError(f"more than {load.messages_each} messages in {queue}")
    connection.close()
    return report


def _consume_parsed(connection: NatsConnection, load: Load, queue: str, report: Report) -> None:
    """Look at each message by itself, and acknowledge it if it is durable."""
    if load.durable:
        connection.subscribe(f"deliver.{queue}", 1)
    bodies = load.bodies()
    count = 0
    while count < load.messages_each:
        connection.fill()
        acks: list[bytes] = []
        now_ns = time.monotonic_ns()
        for subject, body in _whole_messages(connection):
            if load.rate_per_s:
                report.latencies_ns.append(now_ns - int.from_bytes(body[:STAMP_BYTES]))
            elif body != bodies[count % len(bodies)]:
                raise LoadError(f"delivery {count + 1} is not message {count % len(bodies)}")
            count += 1
            if load.durable:
                acks.append(_ack_of(subject, count))
        if acks:
            connection.send(b"".join(acks))
    if count != load.messages_each:
        raise LoadError(f"more than {load.messages_each} messages in {queue}")


def _consume_exact(connection: NatsConnection, load: Load, queue: str) -> None:
    """Core NATS adds nothing of its own to a message, so every byte to come is known: compare, do not parse."""
    deliveries = [f"MSG bench.{queue} 1 {len(body)}\r\n".encode() + body + END for body in load.bodies()]
    cycle = b"".join(deliveries)
    cycles, some = divmod(load.messages_each, len(deliveries))
    total_bytes = cycles * len(cycle) + sum(map(len, deliveries[:some]))
    expected = cycle * (2 + RECEIVE_BYTES // len(cycle))
    received_bytes, gathering = 0, True
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, GATHER_BYTES)
    while received_bytes < total_bytes:
        if gathering and total_bytes - received_bytes < GATHER_BYTES:
            gathering = False
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        connection.fill()
        data = connection.buffer
        if not expected.startswith(data, received_bytes % len(cycle)):
            while b"PING\r\n" not in data and len(data) < RECEIVE_BYTES // 2:
                connection.fill()  # It may have come in part.
            data[:] = data.replace(b"PING\r\n", b"", 1)
            connection.send(b"PONG\r\n")
            if not expected.startswith(data, received_bytes % len(cycle)):
                raise LoadError(f"something not published among the bytes from {received_bytes} on: {data[:80]!r}")
        received_bytes += len(data)
        data.clear()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    if received_bytes > total_bytes:
        raise LoadError(f"more than {load.messages_each} messages in {queue}")


def _whole_messages(connection: NatsConnection) -> Iterator[tuple[bytes, bytes]]:
    """Take the whole messages out of the buffer: the reply subject (or the subject's number) and the body."""
    data = bytes(connection.buffer)
    at = 0
    while (end := data.find(END, at)) >= 0:
        if not data.startswith(b"MSG ", at):
            if not connection.is_control(data[at:end]):
                raise LoadError(f"expected a message, got {data[at : at + 60]!r}")
            at = end + 2
            continue
        words = data[at:end].split(b" ")
        body_at = end + 2
        body_end = body_at + int(words[-1])
        if len(data) < body_end + 2:
            break
        yield words[-2], data[body_at:body_end]
        at = body_end + 2
    connection.buffer[:] = data[at:]


def _ack_of(reply: bytes, count: int) -> bytes:
    """The ack of a delivery, which has to be the first one of message `count` in the stream."""
    words = reply.split(b".")
    delivered, stream_sequence, consumer_sequence = words[-5:-2]
    if delivered != b"1" or int(stream_sequence) != count or int(consumer_sequence) != count:
        raise LoadError(f"delivery {count} came as {reply.decode()}")
    return b"PUB " + reply + b" 0\r\n\r\n"


@contextlib.contextmanager
def fresh_queues(load: Load) -> Iterator[list[str]]:
    """Fresh, empty streams; deleted at the end. One that is not empty after a good run is an error."""
    number = next(_run_number)
    names = [f"{os.getpid()}-{number}-{each}" for each in range(load.queues)]
    control = NatsConnection(load.port)
    try:
        if load.durable:
            for name in names:
                _make_stream(control, name, load.prefetch)
        yield names
        if load.durable:
            for name in names:
                _wait_empty(control, name)
    finally:
        with contextlib.suppress(LoadError):
            if load.durable:
                for name in names:
                    control.request(f"$JS.API.STREAM.DELETE.{name}")
        control.sock.close()


def _make_stream(control: NatsConnection, name: str, prefetch: int) -> None:
    stream = {"name": name, "subjects": [f"bench.{name}"], "retention": "workqueue", "storage": "file"}
    control.request(f"$JS.API.STREAM.CREATE.{name}", stream | {"num_replicas": 1})
    consumer = {
        "durable_name": "c",
        "deliver_subject": f"deliver.{name}",
        "ack_policy": "explicit",
        "ack_wait": _ACK_WAIT_NS,
        "max_ack_pending": prefetch,
    }
    content = {"stream_name": name, "config": consumer}
    control.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{name}.c", content)


def _wait_empty(control: NatsConnection, name: str) -> None:
    patience = time.monotonic() + 5.0
    while left := control.request(f"$JS.API.STREAM.INFO.{name}")["state"]["messages"]:
        if time.monotonic() > patience:
            raise LoadError(f"{left} messages are left in {name} after all were consumed")
        time.sleep(0.02)


def _greet(port: int) -> str:
    connection = NatsConnection(port, timeout_s=10.0)
    connection.close()
    return str(connection.info["version"])


def _can(load: Load) -> bool:
    """Core NATS knows no acks, JetStream no transient queue that has them; properties and exchanges are AMQP's."""
    acked = load.durable and load.window > 0 and load.prefetch > 0
    fire_and_forget = not load.durable and not load.window and not load.prefetch
    return (acked or fire_and_forget) and not (load.own_properties or load.exchange or load.get)


NATS = Protocol(publish, consume, fresh_queues, _greet, _can)


def configuration(port: int, directory: str) -> str:
    """Of a server whose publish acks mean "on disk", as a confirm does: the default is a sync every two minutes."""
    store = json.dumps({"store_dir": directory, "sync_interval": "always"})
    return f"listen: 127.0.0.1:{port}\nmax_pending: 1GB\njetstream: {store}\n"
