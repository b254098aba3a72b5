"""What goes back to its queues because channels have ended: when one held very many messages, some in each turn, so
that others do not wait for it. Until a queue has all of them back it hands nothing out: the order is its own then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from pabal.model.limits import RETURN_MESSAGES_MAX

if TYPE_CHECKING:
    from pabal.broker.queue import Queue


class Leaver(Protocol):
    """A channel that has ended and still holds messages."""

    def held_queues(self) -> Iterable[Queue]:
        """Where they came from, some more than once."""

    def give_back(self, most: int) -> int:
        """The first of them go back; how many are left."""


class Returns:
    """Falsy when there is nothing to give back. `expected`: queues that something goes back to, from how many."""

    __slots__ = ("_line", "_room", "expected")

    def __init__(self) -> None:
        self.expected: dict[Queue, int] = {}
        self._line: deque[tuple[Leaver, int, list[Queue]]] = deque()  # with how many messages each
        self._room = RETURN_MESSAGES_MAX  # in this turn

    def __bool__(self) -> bool:
        return bool(self._line)

    def take(self, leaver: Leaver, count: int) -> None:
        """It holds so many: they go back now, or if that is a lot and nobody needs them at once, in steps."""
        if count <= self._room:
            self._room -= count
            leaver.give_back(count)
            return
        queues = list(dict.fromkeys(leaver.held_queues()))
        if any(queue.at_once for queue in queues):
            leaver.give_back(count)
            return
        for queue in queues:
            self.expected[queue] = self.expected.get(queue, 0) + 1
        self._line.append((leaver, count, queues))

    def step(self) -> None:
        """What is for this turn."""
        self._room = RETURN_MESSAGES_MAX
        while self._line and self._room > 0:
            count = self._line[0][1]
            self._room -= count - self._give_back(self._room)

    def complete(self, queue: Queue) -> None:
        """All of what goes back to this queue goes back now, with what is before it in the line."""
        while queue in self.expected:
            self._give_back(self._line[0][1])

    def _give_back(self, most: int) -> int:
        """Of the first in the line; how many it has left."""
        leaver, _, queues = self._line[0]
        left = leaver.give_back(most)
        if left:
            self._line[0] = (leaver, left, queues)
            return left
        self._line.popleft()
        for queue in queues:
            self.expected[queue] -= 1
            if not self.expected[queue]:
                del self.expected[queue]
                queue.schedule()
        return 0
