"""A consumer: counts bytes instead of parsing frames, and yet accounts for every message.

It takes the first delivery apart, and from then on knows the size of each delivery to come, since the
delivery tag is always eight bytes. That the pattern holds, that the delivery tag equals the count, and that
it is the message whose turn it was, is verified at the last whole delivery of each read, and so at the end.
"""

from __future__ import annotations

import socket
import struct
import time
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, cycle

from client import BODY, FRAME_OVERHEAD_BYTES, METHOD, Connection, method
from shapes import properties, routing_key, short_string
from spec import STAMP_BYTES, Gate, Load, LoadError, Report

RECEIVE_BYTES = 262_144
ACK_EVERY = 100
GATHER_BYTES = 16_384

_TAG = struct.Struct(">Q")
_GET_OK = struct.pack(">HH", 60, 71)


@dataclass(frozen=True, slots=True)
class Pattern:
    """How every delivery of a consumer looks: `head`, delivery tag (8 bytes), `middle`, body, frame end.

    Attributes:
        load, queue: tell in what the messages differ.
        head: bytes before the delivery tag.
        middle: bytes between the delivery tag and the body, for the first delivery.
        body_size_at: where in `middle` the content header tells the body's size.
        around_bytes: size of a delivery without its body.
    """

    load: Load
    queue: str
    head: bytes
    middle: bytes
    body_size_at: int
    around_bytes: int

    @property
    def body_at(self) -> int:
        """Offset of the body."""
        return len(self.head) + _TAG.size + len(self.middle)

    def holds(self, delivery: memoryview, tag: int, number: int) -> bool:
        """Whether a whole delivery has this pattern, this tag, and what message `number` of the cycle has."""
        middle_at = len(self.head) + _TAG.size
        return (
            delivery[: len(self.head)] == self.head
            and _TAG.unpack_from(delivery, len(self.head))[0] == tag
            and delivery[middle_at : self.body_at] == self._middle(len(delivery) - self.around_bytes, number)
        )

    def _middle(self, size_bytes: int, number: int) -> bytes:
        """`middle` for a body of this size. It has another size than the first only if it is in one frame."""
        load, queue = self.load, self.queue
        if load.exchange or load.own_properties:
            first_key, key = (short_string(routing_key(load, queue, each)) for each in (0, number))
            first_values, values = (properties(load, each)[1] for each in (0, number))
            return self.middle.replace(first_key, key, 1).replace(first_values, values, 1)
        (first_size_bytes,) = _TAG.unpack_from(self.middle, self.body_size_at)
        if size_bytes == first_size_bytes:
            return self.middle
        middle = bytearray(self.middle)
        _TAG.pack_into(middle, self.body_size_at, size_bytes)
        struct.pack_into(">I", middle, len(middle) - 4, size_bytes)
        return bytes(middle)

    @classmethod
    def learn(cls, connection: Connection, load: Load, queue: str) -> tuple[Pattern, bytes]:
        """Take the first delivery apart; it is to be the load's first message.

        Returns:
            The pattern, and the delivery's bytes.
        """
        size_bytes = load.body_sizes()[0]
        kind, deliver = connection.read_frame()
        if kind != METHOD or deliver[7:11] != b"\x00\x3c\x00\x3c":
            raise LoadError(f"expected basic.deliver, got {deliver[:16]!r}")
        _, header = connection.read_frame()
        (announced,) = _TAG.unpack_from(header, 11)
        if announced != size_bytes:
            raise LoadError(f"published a body of {size_bytes} bytes, the delivery has {announced}")
        whole = deliver + header
        head_bytes = 12 + deliver[11]
        body_at, missing = len(whole) + 7, size_bytes
        while missing > 0:
            kind, piece = connection.read_frame()
            if kind != BODY:
                raise LoadError(f"expected a body frame, got one of type {kind}")
            whole += piece
            missing -= len(piece) - FRAME_OVERHEAD_BYTES
        middle_at = head_bytes + _TAG.size
        body_size_at = len(deliver) + 11 - middle_at
        middle, around_bytes = whole[middle_at:body_at], len(whole) - size_bytes
        if properties(load, 0)[1] not in middle or short_string(routing_key(load, queue, 0)) not in middle:
            raise LoadError("the first delivery has another routing key or other properties than were published")
        return cls(load, queue, whole[:head_bytes], middle, body_size_at, around_bytes), whole


class Tally:
    """Counts deliveries by their bytes.

    Args:
        sizes_bytes: of the bodies in a cycle.
        around_bytes: what a delivery has besides.
    """

    def __init__(self, sizes_bytes: list[int], around_bytes: int) -> None:
        self._sizes_bytes = [around_bytes + each for each in sizes_bytes]
        self._ends = list(accumulate(self._sizes_bytes))

    def bytes_of(self, count: int) -> int:
        """Bytes of the first `count` deliveries."""
        cycles, some = divmod(count, len(self._ends))
        return cycles * self._ends[-1] + (self._ends[some - 1] if some else 0)

    def whole_in(self, received_bytes: int) -> int:
        """How many deliveries are whole in so many bytes."""
        cycles, some_bytes = divmod(received_bytes, self._ends[-1])
        return cycles * len(self._ends) + bisect_right(self._ends, some_bytes)

    def size_bytes(self, number: int) -> int:
        """Of the delivery with this number, from 0."""
        return self._sizes_bytes[number % len(self._sizes_bytes)]


class Deliveries:
    """The deliveries of a consumer on its connection, counted and verified as they come in.

    Args:
        connection: has just begun to consume.
        load, queue: tell what is to come.

    Attributes:
        count: whole deliveries so far.
        rest_bytes: of the delivery after them.
    """

    def __init__(self, connection: Connection, load: Load, queue: str) -> None:
        sizes_bytes = load.body_sizes()
        if load.mixed and max(sizes_bytes) > connection.frame_bytes_max - FRAME_OVERHEAD_BYTES:
            raise LoadError("mixed bodies have to fit into one frame each")
        self.pattern, first = Pattern.learn(connection, load, queue)
        self.count = 0
        self.rest_bytes = 0
        self._connection = connection
        self._tally = Tally(sizes_bytes, self.pattern.around_bytes)
        self._cycle = len(sizes_bytes)
        self._numbered = min(sizes_bytes) >= STAMP_BYTES and not load.rate_per_s
        self._total_bytes = self._tally.bytes_of(load.messages_each)
        self._gathering_bytes = self._gather_bytes = 1
        if not load.rate_per_s:
            in_flight = max(1, load.prefetch // 4) if load.prefetch else ACK_EVERY
            self._gather_bytes = min(GATHER_BYTES, in_flight * min(sizes_bytes))
        self._early = first + bytes(connection.buffer)
        self._left = memoryview(b"")
        self._received_bytes = 0
        largest = max(sizes_bytes) + 2 * self.pattern.around_bytes
        self._buffer = memoryview(bytearray(max(RECEIVE_BYTES, 4 * largest, len(self._early))))
        connection.buffer.clear()

    def receive(self) -> memoryview:
        """Wait for more.

        Returns:
            The deliveries that are whole by it; good until the next call.

        Raises:
            LoadError: the broker closed, or sent what has not the pattern, or a message out of turn.
        """
        buffer, rest = self._buffer, self.rest_bytes
        if self._early:
            arrived = len(self._early)
            buffer[:arrived], self._early = self._early, b""
        else:
            buffer[:rest] = self._left
            self.gather(min(self._total_bytes - self._received_bytes, self._gather_bytes))
            arrived = self._connection.receive_into(buffer[rest:])
        filled = rest + arrived
        self._received_bytes += arrived
        count = self._tally.whole_in(self._received_bytes)
        self.rest_bytes = self._received_bytes - self._tally.bytes_of(count)
        whole, self._left = buffer[: filled - self.rest_bytes], buffer[filled - self.rest_bytes : filled]
        fresh, self.count = count - self.count, count
        self._verify(whole, fresh)
        return whole

    def gather(self, least_bytes: int) -> None:
        """Have the kernel wake us only when so many bytes are there: a broker may send in crumbs."""
        if least_bytes == self._gathering_bytes:
            return
        self._gathering_bytes = least_bytes
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least_bytes)

    def _verify(self, whole: memoryview, fresh: int) -> None:
        """Check the last of the fresh deliveries, if there are any, and the beginning of what follows it."""
        pattern, left, number = self.pattern, self._left, self.count - 1
        begun = min(len(left), len(pattern.head))
        fits = left[:begun] == pattern.head[:begun]
        last = whole[len(whole) - self._tally.size_bytes(number) :] if fresh else whole
        if fresh and fits:
            fits = pattern.holds(last, self.count, number % self._cycle)
        if not fits:
            self._connection.buffer[:0] = bytes(whole) + bytes(left)
            while len(self._connection.buffer) >= FRAME_OVERHEAD_BYTES:
                self._connection.read_frame()  # Raises at connection.close or channel.close, if that came.
            raise LoadError(f"delivery {self.count} is not like the one published, or its tag is not {self.count}")
        if fresh and self._numbered:
            (stamp,) = _TAG.unpack_from(last, pattern.body_at)
            if stamp != number % self._cycle:
                raise LoadError(f"delivery {self.count} is not message {number % self._cycle} but {stamp}")


def consume(load: Load, queue: str, gate: Gate) -> Report:
    """Consume exactly `load.messages_each` messages; with a rate, note how old each one is."""
    connection = Connection(load.port)
    gate()
    report = Report.begin()
    if load.get:
        _get_all(connection, load, queue)
    else:
        _consume_all(connection, load, queue, report)
    report.end()
    connection.close()
    return report


def _consume_all(connection: Connection, load: Load, queue: str, report: Report) -> None:
    connection.consume(queue, prefetch=load.prefetch)
    deliveries = Deliveries(connection, load, queue)
    ack_as_they_come(connection, load, deliveries, report)
    deliveries.gather(1)
    if load.prefetch:
        connection.ack(deliveries.count)


def ack_as_they_come(
    connection: Connection, load: Load, deliveries: Deliveries, report: Report | None = None
) -> None:
    """Take in `load.messages_each` messages and acknowledge all but the last ones; note their ages in `report`."""
    acked, ack_at_least = 0, 1 if load.single_acks else max(1, min(ACK_EVERY, load.prefetch // 4))
    while deliveries.count < load.messages_each:
        if load.prefetch and deliveries.count - acked >= ack_at_least:
            if load.single_acks:
                connection.ack_each(acked + 1, deliveries.count)
            else:
                connection.ack(deliveries.count)
            acked = deliveries.count
        whole = deliveries.receive()
        if load.rate_per_s and report:
            _note_ages(report, whole, deliveries.pattern, load.size_bytes)
    if deliveries.count != load.messages_each or deliveries.rest_bytes:
        raise LoadError(f"more than {load.messages_each} messages were delivered")


def _get_all(connection: Connection, load: Load, queue: str) -> None:
    """Get message after message; each get brings the ack of the one before."""
    get = method(60, 70, b"\x00\x00" + short_string(queue) + bytes([not load.prefetch]))
    ack = b""
    for number, body in zip(range(load.messages_each), cycle(load.bodies()), strict=False):
        connection.send(ack + get)
        kind, answer = connection.read_frame()
        if kind != METHOD or answer[7:11] != _GET_OK or _TAG.unpack_from(answer, 11)[0] != number + 1:
            raise LoadError(f"expected get-ok with the tag {number + 1}, got {answer[:24]!r}")
        connection.read_frame()
        if connection.read_frame()[1][7:-1] != body:
            raise LoadError(f"get {number + 1} did not bring message {number}")
        ack = method(60, 80, _TAG.pack(number + 1) + b"\x00") if load.prefetch else b""
    connection.send(ack)


def _note_ages(report: Report, whole: memoryview, pattern: Pattern, size_bytes: int) -> None:
    """Add the age of each message, by the time stamp in front of its body."""
    now_ns = time.monotonic_ns()
    after = pattern.around_bytes + size_bytes - pattern.body_at - STAMP_BYTES
    stamps = struct.iter_unpack(f">{pattern.body_at}xQ{after}x", whole)
    report.latencies_ns.extend(now_ns - sent_ns for (sent_ns,) in stamps)
