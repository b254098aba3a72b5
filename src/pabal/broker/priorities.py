"""The ready messages of a priority queue: a backlog for each priority, the highest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pabal.broker.backlog import Backlog
from pabal.model.message import LEVEL_SHIFT, Message


class PriorityBacklog:
    """Offers what Backlog offers. `make(priority)` makes the backlog of one priority."""

    __slots__ = ("_levels", "_make", "_order")

    def __init__(self, make: Callable[[int], Backlog], priorities: list[int]) -> None:
        self._make = make
        self._levels: dict[int, Backlog] = {}
        self._order: list[Backlog] = []
        for priority in priorities:
            self.level(priority)

    def level(self, priority: int) -> Backlog:
        """The backlog of this priority, made when it is the first of it."""
        backlog = self._levels.get(priority)
        if backlog is None:
            backlog = self._levels[priority] = self._make(priority)
            self._order = [self._levels[p] for p in sorted(self._levels, reverse=True)]
        return backlog

    def __len__(self) -> int:
        return sum(map(len, self._order))

    @property
    def content_bytes(self) -> int:
        return sum(backlog.content_bytes for backlog in self._order)

    def push_back(self, message: Message) -> None:
        self.level(255 - (message.position >> LEVEL_SHIFT)).push_back(message)

    def first(self) -> Message | None:
        for backlog in self._order:
            if len(backlog):
                return backlog.first()
        return None

    def take(self, most: int) -> list[Message]:
        for backlog in self._order:
            if len(backlog):
                return backlog.take(most)
        return []

    def average_bytes(self) -> int:
        for backlog in self._order:
            if len(backlog):
                return backlog.average_bytes()
        return 0

    def scan(self) -> Iterator[Message]:
        for backlog in self._order:
            yield from backlog.scan()

    def trim(self) -> None:
        for backlog in self._order:
            backlog.trim()

    def clear(self) -> tuple[list[Message], list[tuple[int, int, int]]]:
        messages: list[Message] = []
        on_disk: list[tuple[int, int, int]] = []
        for backlog in self._order:
            held, ranges = backlog.clear()
            messages += held
            on_disk += ranges
        return messages, on_disk
