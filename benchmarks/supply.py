"""Messages encoded beforehand, and the ways to send them; the same for all protocols."""

from __future__ import annotations

import select
import socket
import struct
import time
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from spec import STAMP_BYTES, Load, Report

SEND_BYTES = 131_072
_STAMP = struct.Struct(">Q")


class Line(Protocol):
    """A connection that bytes can be sent on."""

    sock: socket.socket

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""


class Counter(Protocol):
    """Counts what the broker has confirmed."""

    confirmed: int

    def receive(self) -> Sequence[Sequence[int]]:
        """Wait for confirms; returns the publish numbers (from 1) that are confirmed by them."""


class Supply:
    """A cycle of encoded messages.

    Args:
        encoded: whole messages as they go over the wire.
        body_at: where in the first of them the body begins.
    """

    def __init__(self, encoded: list[bytes], body_at: int) -> None:
        self._first = encoded[0]
        self._body_at = body_at
        self._cycle = memoryview(b"".join(encoded))
        self._begins = [0, *accumulate(map(len, encoded))]
        self._at_once = max(1, SEND_BYTES * len(encoded) // len(self._cycle))

    def send(self, line: Line, first: int, end: int) -> None:
        """Send the messages from number `first` until before `end`."""
        begins = self._begins
        cycle = len(begins) - 1
        while first < end:
            begin = first % cycle
            count = min(self._at_once, end - first, cycle - begin)
            line.send(self._cycle[begins[begin] : begins[begin + count]])
            first += count

    def stamped(self, stamp: int) -> bytes:
        """The first message, with another stamp."""
        body_at = self._body_at
        return self._first[:body_at] + _STAMP.pack(stamp) + self._first[body_at + STAMP_BYTES :]


def publish_supply(line: Line, load: Load, supply: Supply, counter: Counter, report: Report) -> None:
    """Publish `load.messages_each` messages, as fast as the broker takes them or at the given rate."""
    if load.rate_per_s:
        _publish_at_rate(line, load, supply, counter, report)
    elif load.window:
        _publish_confirmed(line, load, supply, counter)
    else:
        supply.send(line, 0, load.messages_each)


def _publish_confirmed(line: Line, load: Load, supply: Supply, counter: Counter) -> None:
    """Keep up to a window of messages unconfirmed, topped up a fifth of a window at a time."""
    total, window = load.messages_each, load.window
    least = max(1, window // 5)
    sent = 0
    while counter.confirmed < total:
        room = min(window - (sent - counter.confirmed), total - sent)
        if room >= least or sent + room == total:
            supply.send(line, sent, sent + room)
            sent += room
        counter.receive()


def _publish_at_rate(line: Line, load: Load, supply: Supply, counter: Counter, report: Report) -> None:
    """Send messages when they fall due, each with the time of its sending in front of its body."""
    total, rate = load.messages_each, load.rate_per_s
    sent_ns: array[int] = array("q", [0])
    sent, started_ns = 0, time.monotonic_ns()
    while sent < total or (load.window and counter.confirmed < total):
        now_ns = time.monotonic_ns()
        due = min(total, (now_ns - started_ns) * rate // 1_000_000_000 + 1)
        if due > sent:
            line.send(supply.stamped(now_ns) * (due - sent))
            sent_ns.extend([now_ns] * (due - sent))
            sent = due
        next_due_ns = started_ns + sent * 1_000_000_000 // rate
        pause_s = max(0, next_due_ns - time.monotonic_ns()) / 1e9 if sent < total else 0.0
        if not load.window:
            time.sleep(pause_s)
        elif sent == total or select.select([line.sock], [], [], pause_s)[0]:
            fresh = counter.receive()
            now_ns = time.monotonic_ns()
            report.latencies_ns.extend(now_ns - sent_ns[tag] for tags in fresh for tag in tags)
