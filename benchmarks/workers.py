"""Publishers and consumers: the loops that make the load, a process each, with next to no cost of their own.

A publisher encodes its message once and sends the same bytes again and again. A consumer takes the first
delivery apart, and from then on counts bytes: all deliveries are of one size, since nothing in them differs
but the delivery tag, which is always eight bytes. That the pattern holds, and that the delivery tag equals
the count, is verified at the last whole message of each read, and so also at the very last message.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from client import BODY, CHANNEL, FRAME_OVERHEAD_BYTES, METHOD, Connection, LoadError, publish_frames

SEND_BYTES = 131_072
RECEIVE_BYTES = 262_144
ACK_EVERY = 100
GATHER_BYTES = 16384
STAMP_BYTES = 8

_TAG = struct.Struct(">Q")
_CONFIRM_BYTES = 21
_ACK_HEAD, _NACK_HEAD = (struct.pack(">BHIHH", METHOD, CHANNEL, 13, 60, each) for each in (80, 120))


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent and how.

    Attributes:
        port: the broker's TCP port.
        messages: in total, over all queues.
        size_bytes: of a body.
        queues: with one publisher and one consumer each.
        durable: durable queue and persistent messages.
        window: messages that may be unconfirmed at once; 0 for no confirms.
        prefetch: messages that may be unacknowledged at once; 0 for automatic acknowledgement.
        backlog: publish everything first, then consume it.
        rate_per_s: messages a second and queue, with latency measured; 0 for as fast as it goes.
    """

    port: int
    messages: int = 100_000
    size_bytes: int = 100
    queues: int = 1
    durable: bool = False
    window: int = 0
    prefetch: int = 1000
    backlog: bool = False
    rate_per_s: int = 0

    @property
    def messages_each(self) -> int:
        """Messages of one publisher or consumer."""
        return self.messages // self.queues


@dataclass(slots=True)
class Report:
    """What one worker did: monotonic times, CPU time (user and system) and latencies, all in nanoseconds."""

    started_ns: int
    ended_ns: int = 0
    cpu_ns: int = 0
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))

    @classmethod
    def begin(cls) -> Report:
        """A report that starts now."""
        return cls(time.monotonic_ns(), cpu_ns=-time.process_time_ns())

    def end(self) -> None:
        """Note the end of what is measured."""
        self.ended_ns = time.monotonic_ns()
        self.cpu_ns += time.process_time_ns()


Gate = Callable[[], None]
"""Tells the parent that this worker is connected, and waits until it may begin."""


class Confirms:
    """Keeps count of the confirms on a connection, single and multiple, in any order."""

    def __init__(self, connection: Connection) -> None:
        self.confirmed = 0
        self._connection = connection
        self._lowest_open = 1
        self._early: set[int] = set()
        self._chunk = memoryview(bytearray(65_536))

    def receive(self) -> list[Sequence[int]]:
        """Wait for confirms.

        Returns:
            The publish numbers (from 1) that are confirmed by them, for the first time.

        Raises:
            LoadError: the broker refused a message, or closed.
        """
        connection = self._connection
        buffer = connection.buffer
        size = connection.receive_into(self._chunk)
        buffer += self._chunk[:size]
        fresh: list[Sequence[int]] = []
        at = 0
        while len(buffer) - at >= _CONFIRM_BYTES and buffer.startswith(_ACK_HEAD, at):
            (tag,) = _TAG.unpack_from(buffer, at + len(_ACK_HEAD))
            fresh.append(self._settle(tag, bool(buffer[at + len(_ACK_HEAD) + _TAG.size] & 1)))
            at += _CONFIRM_BYTES
        del buffer[:at]
        if buffer.startswith(_NACK_HEAD):
            raise LoadError("the broker refused messages (basic.nack)")
        if len(buffer) >= len(_ACK_HEAD) and not buffer.startswith(_ACK_HEAD):
            connection.read_frame()  # Not a confirm: raises if it is a close, and is of no interest else.
        self.confirmed += sum(map(len, fresh))
        return fresh

    def _settle(self, tag: int, multiple: bool) -> Sequence[int]:
        early = self._early
        if multiple:
            fresh: Sequence[int] = range(self._lowest_open, tag + 1)
            if early:
                fresh = [each for each in fresh if each not in early]
                early.difference_update(range(self._lowest_open, tag + 1))
            self._lowest_open = max(self._lowest_open, tag + 1)
        else:
            fresh = (tag,) if tag >= self._lowest_open and tag not in early else ()
            early.add(tag)
        while self._lowest_open in early:
            early.remove(self._lowest_open)
            self._lowest_open += 1
        return fresh


def publish(load: Load, queue: str, gate: Gate) -> Report:
    """Publish `load.messages_each` messages, as fast as the broker takes them or at the given rate."""
    connection = Connection(load.port)
    if load.window:
        connection.select_confirms()
    body = b"x" * load.size_bytes
    message, body_at = publish_frames(
        queue, body, persistent=load.durable, frame_bytes_max=connection.frame_bytes_max
    )
    gate()
    report = Report.begin()
    if load.rate_per_s:
        _publish_at_rate(connection, load, message, body_at, report)
    elif load.window:
        _publish_confirmed(connection, load, message)
    else:
        _publish_freely(connection, load.messages_each, message)
    report.end()
    connection.declare(queue, passive=True)  # A reply proves that all was taken in and nothing refused.
    connection.close()
    return report


def _publish_freely(connection: Connection, messages: int, message: bytes) -> None:
    """Send all messages, many at once."""
    batch = max(1, SEND_BYTES // len(message))
    block = message * min(batch, messages)
    for _ in range(messages // batch):
        connection.send(block)
    connection.send(message * (messages % batch))


def _publish_confirmed(connection: Connection, load: Load, message: bytes) -> None:
    """Keep up to a window of messages unconfirmed, topped up a fifth of a window at a time."""
    total, window = load.messages_each, load.window
    least = max(1, window // 5)
    block = memoryview(message * window)
    confirms = Confirms(connection)
    sent = 0
    while confirms.confirmed < total:
        room = min(window - (sent - confirms.confirmed), total - sent)
        if room >= least or (room and sent + room == total):
            connection.send(block[: room * len(message)])
            sent += room
        confirms.receive()


def _publish_at_rate(
    connection: Connection, load: Load, message: bytes, body_at: int, report: Report
) -> None:
    """Send messages when they fall due, each with the time of its sending in front of its body."""
    total, rate = load.messages_each, load.rate_per_s
    head, tail = message[:body_at], message[body_at + STAMP_BYTES :]
    confirms = Confirms(connection)
    sent_ns: array[int] = array("q", [0])
    sent, started_ns = 0, time.monotonic_ns()
    while sent < total or (load.window and confirms.confirmed < total):
        now_ns = time.monotonic_ns()
        due = min(total, (now_ns - started_ns) * rate // 1_000_000_000 + 1)
        if due > sent:
            connection.send((head + _TAG.pack(now_ns) + tail) * (due - sent))
            sent_ns.extend([now_ns] * (due - sent))
            sent = due
        next_due_ns = started_ns + sent * 1_000_000_000 // rate
        pause_s = max(0, next_due_ns - time.monotonic_ns()) / 1e9 if sent < total else 0.0
        if not load.window:
            time.sleep(pause_s)
        elif sent == total or select.select([connection.sock], [], [], pause_s)[0]:
            fresh = confirms.receive()
            now_ns = time.monotonic_ns()
            report.latencies_ns.extend(now_ns - sent_ns[tag] for tags in fresh for tag in tags)


@dataclass(frozen=True, slots=True)
class Pattern:
    """How every delivery of a consumer looks: `head`, delivery tag (8 bytes), `middle`, body.

    Attributes:
        head: bytes before the delivery tag.
        middle: bytes between the delivery tag and the body.
        size_bytes: of the whole delivery with all its frames.
    """

    head: bytes
    middle: bytes
    size_bytes: int

    @property
    def body_at(self) -> int:
        """Offset of the body."""
        return len(self.head) + _TAG.size + len(self.middle)

    def holds(self, view: memoryview, tag: int) -> bool:
        """Whether a delivery with this tag begins at the start of `view`."""
        middle_at = len(self.head) + _TAG.size
        return (
            view[: len(self.head)] == self.head
            and _TAG.unpack_from(view, len(self.head))[0] == tag
            and view[middle_at : self.body_at] == self.middle
        )

    @classmethod
    def learn(cls, connection: Connection, size_bytes: int) -> tuple[Pattern, bytes]:
        """Take the first delivery apart.

        Returns:
            The pattern, and the delivery's bytes.
        """
        kind, deliver = connection.read_frame()
        if kind != METHOD or deliver[7:11] != b"\x00\x3c\x00\x3c":
            raise LoadError(f"expected basic.deliver, got {deliver[:16]!r}")
        _, header = connection.read_frame()
        (announced,) = struct.unpack_from(">Q", header, 11)
        if announced != size_bytes:
            raise LoadError(f"published bodies of {size_bytes} bytes, the delivery has {announced}")
        whole = deliver + header
        head_bytes = 12 + deliver[11]
        body_at, missing = len(whole) + 7, size_bytes
        while missing > 0:
            kind, piece = connection.read_frame()
            if kind != BODY:
                raise LoadError(f"expected a body frame, got one of type {kind}")
            whole += piece
            missing -= len(piece) - FRAME_OVERHEAD_BYTES
        middle = whole[head_bytes + _TAG.size : body_at]
        return cls(whole[:head_bytes], middle, len(whole)), whole


def consume(load: Load, queue: str, gate: Gate) -> Report:
    """Consume exactly `load.messages_each` messages; with a rate, note how old each one is."""
    connection = Connection(load.port)
    gate()
    report = Report.begin()
    connection.consume(queue, prefetch=load.prefetch)
    pattern, first = Pattern.learn(connection, load.size_bytes)
    count, acked, total = 0, 0, load.messages_each
    ack_at_least = max(1, min(ACK_EVERY, load.prefetch // 4))
    in_flight = load.prefetch // 4 if load.prefetch else ACK_EVERY
    gather_bytes = min(GATHER_BYTES, max(1, in_flight) * pattern.size_bytes)
    early = first + bytes(connection.buffer)
    buffer = memoryview(bytearray(max(RECEIVE_BYTES, 4 * pattern.size_bytes) + len(early)))
    buffer[: len(early)] = early
    connection.buffer.clear()
    filled = len(early)
    while True:
        whole, rest = divmod(filled, pattern.size_bytes)
        if whole:
            count += whole
            _verify(connection, pattern, buffer[: filled - rest], buffer[filled - rest : filled], count)
            if load.rate_per_s:
                _note_ages(report, pattern, buffer[: filled - rest])
            buffer[:rest] = buffer[filled - rest : filled]
        if count >= total:
            break
        if load.prefetch and count - acked >= ack_at_least:
            connection.ack(count)
            acked = count
        if not load.rate_per_s:
            _gather(connection, min((total - count) * pattern.size_bytes - rest, gather_bytes))
        filled = rest + connection.receive_into(buffer[rest:])
    report.end()
    if count != total or rest:
        raise LoadError(f"expected {total} messages in {queue}, got {count} and {rest} bytes")
    _gather(connection, 1)
    if load.prefetch:
        connection.ack(count)
    connection.close()
    return report


def _verify(
    connection: Connection, pattern: Pattern, whole: memoryview, rest: memoryview, count: int
) -> None:
    """Check the last whole delivery and the beginning of what follows it.

    Raises:
        LoadError: the broker closed, or sent what differs from the first delivery.
    """
    last = whole[len(whole) - pattern.size_bytes :]
    begun = min(len(rest), len(pattern.head))
    if pattern.holds(last, count) and rest[:begun] == pattern.head[:begun]:
        return
    connection.buffer[:0] = bytes(whole) + bytes(rest)
    while len(connection.buffer) >= FRAME_OVERHEAD_BYTES:
        connection.read_frame()  # Raises at the connection.close or channel.close, if that is what came.
    raise LoadError(f"delivery {count} is not like the first one, or its delivery tag is not {count}")


def _gather(connection: Connection, least_bytes: int) -> None:
    """Have the kernel wake us only when so many bytes are there: a broker may send in crumbs."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least_bytes)


def _note_ages(report: Report, pattern: Pattern, whole: memoryview) -> None:
    """Add the age of each message, by the time stamp in front of its body."""
    now_ns = time.monotonic_ns()
    after = pattern.size_bytes - pattern.body_at - STAMP_BYTES
    stamps = struct.iter_unpack(f">{pattern.body_at}xQ{after}x", whole)
    report.latencies_ns.extend(now_ns - sent_ns for (sent_ns,) in stamps)
