"""The leases of a queue that end by themselves: which message, until when.

Leases of the same length end in the order in which they began, so they need no sorting, only one line a length.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pabal.model.message import Message

_NO_LINES: Final[dict[int, OrderedDict[int, tuple[int, Message]]]] = {}
_NO_LENGTHS: Final[dict[int, int]] = {}


class Leases:
    """Falsy when there are none."""

    __slots__ = ("_length_of", "_lines")

    def __init__(self) -> None:
        # length → position → end, message; none of its own before the first lease: few queues have any
        self._lines: dict[int, OrderedDict[int, tuple[int, Message]]] = _NO_LINES
        self._length_of: dict[int, int] = _NO_LENGTHS

    def __bool__(self) -> bool:
        return bool(self._length_of)

    def begin(self, messages: list[Message], length_ms: int, now_ms: int) -> None:
        if self._lines is _NO_LINES:
            self._lines = {}
            self._length_of = {}
        line = self._lines.get(length_ms)
        if line is None:
            line = self._lines[length_ms] = OrderedDict()
        for message in messages:
            line[message.position] = (now_ms + length_ms, message)
            self._length_of[message.position] = length_ms

    def end(self, messages: list[Message]) -> None:
        """They are settled; some may have had no lease."""
        for message in messages:
            length_ms = self._length_of.pop(message.position, None)
            if length_ms is not None:
                del self._lines[length_ms][message.position]

    def next_ms(self) -> int | None:
        """When the first of them ends."""
        ends = [next(iter(line.values()))[0] for line in self._lines.values() if line]
        return min(ends, default=None)

    def take_ended(self, now_ms: int, most: int) -> list[Message]:
        """Ends up to `most` leases whose time is over, and returns their messages."""
        ended: list[Message] = []
        for length_ms, line in list(self._lines.items()):
            while line and len(ended) < most:
                end_ms, message = next(iter(line.values()))
                if end_ms > now_ms:
                    break
                del line[message.position]
                del self._length_of[message.position]
                ended.append(message)
            if not line:
                del self._lines[length_ms]
        return ended

    def clear(self) -> None:
        self._lines.clear()
        self._length_of.clear()
