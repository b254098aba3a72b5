"""A publisher: sends messages encoded beforehand and counts confirms, with next to no cost of its own."""

from __future__ import annotations

import select
import struct
import time
from array import array
from collections.abc import Sequence
from itertools import accumulate

from client import CHANNEL, METHOD, Connection, LoadError, publish_frames
from spec import STAMP_BYTES, Gate, Load, Report

SEND_BYTES = 131_072

_TAG = struct.Struct(">Q")
_CONFIRM_BYTES = 21
_ACK_HEAD, _NACK_HEAD = (struct.pack(">BHIHH", METHOD, CHANNEL, 13, 60, each) for each in (80, 120))


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
    supply = Supply(load, queue, connection.frame_bytes_max)
    gate()
    report = Report.begin()
    if load.rate_per_s:
        _publish_at_rate(connection, load, supply, report)
    elif load.window:
        _publish_confirmed(connection, load, supply)
    else:
        supply.send(connection, 0, load.messages_each)
    report.end()
    connection.declare(queue, passive=True)  # A reply proves that all was taken in and nothing refused.
    connection.close()
    return report


class Supply:
    """A cycle of messages encoded beforehand; a body begins with its number in the cycle, if there is room.

    Args:
        load: says how large the bodies are and whether messages are persistent.
        queue: where they go to.
        frame_bytes_max: as agreed upon with the broker.
    """

    def __init__(self, load: Load, queue: str, frame_bytes_max: int) -> None:
        encoded: list[bytes] = []
        for number, size_bytes in enumerate(load.body_sizes()):
            body = (_TAG.pack(number) if size_bytes >= STAMP_BYTES else b"").ljust(size_bytes, b"x")
            message, self._body_at = publish_frames(
                queue, body, persistent=load.durable, frame_bytes_max=frame_bytes_max
            )
            encoded.append(message)
        self._first = encoded[0]
        self._cycle = memoryview(b"".join(encoded))
        self._begins = [0, *accumulate(map(len, encoded))]
        self._at_once = max(1, SEND_BYTES * len(encoded) // len(self._cycle))

    def send(self, connection: Connection, first: int, end: int) -> None:
        """Send the messages from number `first` until before `end`."""
        begins = self._begins
        cycle = len(begins) - 1
        while first < end:
            begin = first % cycle
            count = min(self._at_once, end - first, cycle - begin)
            connection.send(self._cycle[begins[begin] : begins[begin + count]])
            first += count

    def stamped(self, stamp: int) -> bytes:
        """The first message, with another stamp."""
        body_at = self._body_at
        return self._first[:body_at] + _TAG.pack(stamp) + self._first[body_at + STAMP_BYTES :]


def _publish_confirmed(connection: Connection, load: Load, supply: Supply) -> None:
    """Keep up to a window of messages unconfirmed, topped up a fifth of a window at a time."""
    total, window = load.messages_each, load.window
    least = max(1, window // 5)
    confirms = Confirms(connection)
    sent = 0
    while confirms.confirmed < total:
        room = min(window - (sent - confirms.confirmed), total - sent)
        if room >= least or sent + room == total:
            supply.send(connection, sent, sent + room)
            sent += room
        confirms.receive()


def _publish_at_rate(connection: Connection, load: Load, supply: Supply, report: Report) -> None:
    """Send messages when they fall due, each with the time of its sending in front of its body."""
    total, rate = load.messages_each, load.rate_per_s
    confirms = Confirms(connection)
    sent_ns: array[int] = array("q", [0])
    sent, started_ns = 0, time.monotonic_ns()
    while sent < total or (load.window and confirms.confirmed < total):
        now_ns = time.monotonic_ns()
        due = min(total, (now_ns - started_ns) * rate // 1_000_000_000 + 1)
        if due > sent:
            connection.send(supply.stamped(now_ns) * (due - sent))
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
