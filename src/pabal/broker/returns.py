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
        """Where they came from."""

    def give_back(self, deliveries: list[int]) -> None:
        """These, by their delivery numbers, go back."""


class _Rest:
    """What one of them still holds: its deliveries from `done` on."""

    __slots__ = ("deliveries", "done", "leaver", "queues")

    def __init__(self, leaver: Leaver, deliveries: list[int], queues: list[Queue]) -> None:
        self.leaver = leaver
        self.deliveries = deliveries
        self.queues = queues
        self.done = 0


class Returns:
    """Falsy when there is nothing to give back. `expected`: queues that something goes back to, from how many."""

    __slots__ = ("_line", "_room", "expected")

    def __init__(self) -> None:
        self.expected: dict[Queue, int] = {}
        self._line: deque[_Rest] = deque()
        self._room = RETURN_MESSAGES_MAX  # in this turn

    def __bool__(self) -> bool:
        return bool(self._line)

    def take(self, leaver: Leaver, deliveries: list[int]) -> None:
        """It holds these: they go back now, or if that is a lot and nobody needs them at once, in steps."""
        if len(deliveries) <= self._room:
            self._room -= len(deliveries)
            leaver.give_back(deliveries)
            return
        queues = list(dict.fromkeys(leaver.held_queues()))
        if any(queue.at_once for queue in queues):
            leaver.give_back(deliveries)
            return
        for queue in queues:
            self.expected[queue] = self.expected.get(queue, 0) + 1
        self._line.append(_Rest(leaver, deliveries, queues))

    def step(self) -> None:
        """What is for this turn."""
        self._room = RETURN_MESSAGES_MAX
        while self._line and self._room > 0:
            self._room -= self._give_back(self._room)

    def complete(self, queue: Queue) -> None:
        """All of what goes back to this queue goes back now, with what is before it in the line."""
        while queue in self.expected:
            first = self._line[0]
            self._give_back(len(first.deliveries) - first.done)

    def _give_back(self, most: int) -> int:
        """Some of what the first in the line holds; how many."""
        first = self._line[0]
        some = first.deliveries[first.done : first.done + most]
        first.done += len(some)
        first.leaver.give_back(some)
        if first.done == len(first.deliveries):
            self._line.popleft()
            for queue in first.queues:
                self.expected[queue] -= 1
                if not self.expected[queue]:
                    del self.expected[queue]
                    queue.end_leases()  # those that ran out meanwhile
        return len(some)
