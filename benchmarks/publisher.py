"""A publisher for AMQP: sends messages encoded beforehand and counts confirms, with next to no cost of its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from client import CHANNEL, METHOD, Connection, publish_frames
from shapes import exchange_of, properties, routing_key
from spec import Gate, Load, LoadError, Report
from supply import Supply, publish_supply

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
            fresh.append(self.settle(tag, bool(buffer[at + len(_ACK_HEAD) + _TAG.size] & 1)))
            at += _CONFIRM_BYTES
        del buffer[:at]
        if buffer.startswith(_NACK_HEAD):
            raise LoadError("the broker refused messages (basic.nack)")
        if len(buffer) >= len(_ACK_HEAD) and not buffer.startswith(_ACK_HEAD):
            connection.read_frame()  # Not a confirm: raises if it is a close, and is of no interest else.
        self.confirmed += sum(map(len, fresh))
        return fresh

    def settle(self, tag: int, multiple: bool) -> Sequence[int]:
        """Count a confirm; returns the publish numbers that it confirms for the first time."""
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
    supply = supply_of(load, queue, connection.frame_bytes_max)
    gate()
    report = Report.begin()
    publish_supply(connection, load, supply, Confirms(connection), report)
    report.end()
    connection.declare(queue, passive=True)  # A reply proves that all was taken in and nothing refused.
    connection.close()
    return report


def supply_of(load: Load, queue: str, frame_bytes_max: int) -> Supply:
    """A load's messages to a queue, with frames of at most so many bytes."""
    encoded = [
        publish_frames(
            exchange_of(load, queue),
            routing_key(load, queue, number),
            properties(load, number),
            body,
            frame_bytes_max,
        )
        for number, body in enumerate(load.bodies())
    ]
    return Supply([message for message, _ in encoded], encoded[0][1])
