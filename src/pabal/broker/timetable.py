"""Messages that wait for their time, the soonest first, of which only a window is held in memory.

    soon        →  on disk   and beside it  unsaved
    (a heap)       (a count)                (beyond the horizon, not yet durable)

Every message up to the horizon is in the heap; those beyond it are on disk, or on their way there. So a million of
them cost the memory of the window, and a restart costs nothing. Messages that are due at the same time come in the
order of their sequence.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from pabal.model.errors import StoreError
from pabal.model.limits import (
    LOAD_BYTES_MAX,
    LOAD_MESSAGES_MAX,
    WINDOW_BYTES_STORED,
    WINDOW_MESSAGES_STORED,
)
from pabal.model.message import PENDING, STORED, Envelope, Message
from pabal.store.batch import position_ms, timed_position
from pabal.store.interface import Store
from pabal.store.journal import QueueLog

_EVERYTHING: Final = 1 << 136
"""The horizon when nothing is on disk alone."""


class Timetable:
    """`log` is one with timed positions; what is in it already waits on disk."""

    __slots__ = ("_disk_count", "_horizon", "_log", "_soon", "_soon_bytes", "_store", "_unsaved")

    def __init__(self, store: Store, log: QueueLog) -> None:
        self._store = store
        self._log = log
        self._soon: list[tuple[int, Message]] = []
        self._soon_bytes = 0
        self._unsaved: dict[int, Message] = {}
        self._disk_count = log.count
        self._horizon = 0 if log.count else _EVERYTHING
        log.on_durable = self._saved

    def __len__(self) -> int:
        return len(self._soon) + len(self._unsaved) + self._disk_count

    def add(self, message: Message, at_ms: int, sequence: int | None = None, kind: int = 0) -> None:
        """Takes a copy of a message, to be had again from `at_ms` on, and to be in the store until it is removed.
        `sequence`: its place among those of the same time and kind, the order of arrival if None."""
        log = self._log
        if sequence is None:
            sequence = log.next_position
            log.next_position += 1
        position = timed_position(at_ms, sequence, kind)
        waiting = Message(message.envelope, message.content, position, message.expires_at_ms, PENDING)
        waiting.attempts = message.attempts
        log.append([waiting], len(message.content))
        self.put_back(waiting)

    def add_new(self, envelope: Envelope, contents: list[bytes], content_bytes: int, times_ms: list[int]) -> None:
        """The same for messages that are in no queue, each to be had again from its time on."""
        log = self._log
        sequence = log.next_position
        log.next_position += len(contents)
        messages = [
            Message(envelope, content, timed_position(at_ms, place), 0, PENDING)
            for place, (content, at_ms) in enumerate(zip(contents, times_ms, strict=True), sequence)
        ]
        log.append(messages, content_bytes)
        for message in messages:
            self.put_back(message)

    def put_back(self, message: Message) -> None:
        """One that was taken waits on."""
        if message.position > self._horizon:
            self._unsaved[message.position] = message
            return
        heappush(self._soon, (message.position, message))
        self._soon_bytes += len(message.content)
        if len(self._soon) > WINDOW_MESSAGES_STORED or self._soon_bytes > WINDOW_BYTES_STORED:
            self._shed()

    def next_ms(self) -> int | None:
        """When the next message is due, None when there is none."""
        if not self._soon and not self._refill():
            return None
        return position_ms(self._soon[0][0])

    def take(self, now_ms: int, most: int) -> list[Message]:
        """Messages that are due, in order: `most` of them, or fewer (about LOAD_BYTES_MAX at most). They are in the
        store until `remove`."""
        taken: list[Message] = []
        size = 0
        beyond = timed_position(now_ms + 1, 0)
        while (
            len(taken) < most
            and size < LOAD_BYTES_MAX
            and (self._soon or self._refill())
            and self._soon[0][0] < beyond
        ):
            message = heappop(self._soon)[1]
            size += len(message.content)
            self._soon_bytes -= len(message.content)
            taken.append(message)
        return taken

    def remove(self, messages: list[Message]) -> None:
        """These were taken and are where they belong: in the same commit the store forgets that they waited."""
        self._log.remove(messages)

    # --- Disk -----------------------------------------------------------------------------------------------

    def _shed(self) -> None:
        """Keeps the sooner half in memory. The others are dropped from it as soon as they are known to be on disk:
        when the commit is done that follows, as something was added or removed."""
        soon = sorted(self._soon)
        kept = max(1, len(soon) // 2)
        self._horizon = soon[kept - 1][0]
        self._unsaved.update(soon[kept:])
        del soon[kept:]
        self._soon = soon
        self._soon_bytes = sum(len(message.content) for _, message in soon)

    def _saved(self) -> None:
        """A commit is done: what was in it and is beyond the horizon is on disk, which suffices."""
        if self._unsaved:
            pending = {position: m for position, m in self._unsaved.items() if m.state < STORED}
            self._disk_count += len(self._unsaved) - len(pending)
            self._unsaved = pending

    def _refill(self) -> bool:
        """Fills the empty heap with what is next. False when there is nothing."""
        if not self._disk_count and not self._unsaved:
            self._horizon = _EVERYTHING
            return False
        found: list[Message] = []
        if self._disk_count:
            found = self._store.read(self._log.queue_id, self._horizon, None, LOAD_MESSAGES_MAX, LOAD_BYTES_MAX)
            # A commit that is on disk but not done yet may have brought some that are also among the unsaved.
            fresh = [message for message in found if message.position not in self._unsaved]
            self._disk_count -= len(fresh)
            if self._disk_count < 0 or not found:
                raise StoreError(
                    f"queue {self._log.queue_id} should have more waiting messages on disk: the data is damaged"
                )
            for message in fresh:
                self._soon.append((message.position, message))
        self._horizon = found[-1].position if self._disk_count else _EVERYTHING
        for position in [position for position in self._unsaved if position <= self._horizon]:
            self._soon.append((position, self._unsaved.pop(position)))
        heapify(self._soon)
        self._soon_bytes = sum(len(message.content) for _, message in self._soon)
        return True
