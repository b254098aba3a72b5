"""The ready messages of a priority queue: a backlog for each priority, the highest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pabal.broker.backlog import Backlog
from pabal.model.limits import (
    WINDOW_BYTES_STORED,
    WINDOW_BYTES_TRANSIENT,
    WINDOW_MESSAGES_STORED,
    WINDOW_MESSAGES_TRANSIENT,
)
from pabal.model.message import LEVEL_SHIFT, Message, level_base
from pabal.store.interface import Store
from pabal.store.journal import QueueLog


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

    @property
    def taken_bytes(self) -> int:
        return sum(backlog.taken_bytes for backlog in self._order)

    @property
    def mean_bytes(self) -> int:
        means = [backlog.mean_bytes for backlog in self._order]
        known = [mean for mean in means if mean]
        return sum(known) // len(known) if known else 0

    @property
    def ready_bytes(self) -> int:
        return sum(backlog.ready_bytes for backlog in self._order)

    @property
    def on_disk(self) -> int:
        return sum(backlog.on_disk for backlog in self._order)

    def push_back(self, message: Message) -> None:
        self.level(255 - (message.position >> LEVEL_SHIFT)).push_back(message)

    @property
    def returned(self) -> int:
        return sum(backlog.returned for backlog in self._order)

    @property
    def returned_bytes(self) -> int:
        return sum(backlog.returned_bytes for backlog in self._order)

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

    def step(self) -> int:
        for backlog in self._order:
            if len(backlog):
                return backlog.step()
        return 1

    def scan(self) -> Iterator[Message]:
        for backlog in self._order:
            yield from backlog.scan()

    def browse(self, after: int, most: int) -> list[Message]:
        for backlog in self._order:
            if len(backlog) and (found := backlog.browse(after, most)):
                return found
        return []

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


def make_backlog(store: Store, log: QueueLog, durable: bool, max_priority: int | None) -> Backlog | PriorityBacklog:
    """A queue's, with what is in the store already."""
    window = (WINDOW_MESSAGES_TRANSIENT, WINDOW_BYTES_TRANSIENT)
    if durable:
        window = (WINDOW_MESSAGES_STORED, WINDOW_BYTES_STORED)
    if max_priority is None:
        return Backlog(store, log, *window, log.count)
    levels = log.levels = log.levels or {}

    def make_level(priority: int) -> Backlog:
        return Backlog(store, log, *window, levels.get(priority, 0), level_base(priority))

    return PriorityBacklog(make_level, list(levels))
