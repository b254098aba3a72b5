"""The ready messages of one queue, in order, of which only a window is held in memory.

    returned  →  front  →  on disk  →  tail
    (a heap)     (list)    (a count)   (list: published while there is more on disk, not yet durable)

A priority queue has one of these for each priority (priorities.py). Every position in one part is lower than all
in the next: what came back was at the front once, and the tail is moved to disk (that is, forgotten here) in
order, as its messages become durable. While nothing is on disk and the front has room, a message goes straight to
the front and the other parts are empty.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from pabal.model.errors import StoreError
from pabal.model.limits import DISPATCH_BYTES_MAX, DISPATCH_MESSAGES_MAX, LOAD_BYTES_MAX, LOAD_MESSAGES_MAX
from pabal.model.message import LOGGED, SEQUENCE_MASK, STORED, Message
from pabal.store.interface import Store
from pabal.store.journal import QueueLog

_FIRST_LOAD_SHARE: int = 512
"""After a restart a queue first loads this part of what it loads at once otherwise: there may be many queues."""
_PASSED_BYTES_MAX: int = 2 * 1024 * 1024
"""Contents of messages that were taken and are let go all together."""


def count_bodies(messages: Iterable[Message]) -> tuple[int, int]:
    """Bytes of the bodies: of all of them, and of those that are in the store."""
    size = stored = 0
    for message in messages:
        body_bytes = message.envelope.container.body_bytes(message.content)
        size += body_bytes
        if message.state >= LOGGED:
            stored += body_bytes
    return size, stored


class Backlog:
    """`content_bytes`: of the messages held in memory. `paging`: new messages must go to the store, see above.

    `base`: of a priority queue, the position at which the messages of this priority begin (message.level_base).
    `count`: how many are on disk at first. `taken`, `taken_bytes`: what was taken since it was made.
    """

    __slots__ = (
        "_base",
        "_bytes_max",
        "_disk_count",
        "_end",
        "_front",
        "_head",
        "_load_share",
        "_log",
        "_messages_max",
        "_passed_bytes",
        "_recovered_position",
        "_returned",
        "_seen_position",
        "_store",
        "_tail",
        "content_bytes",
        "paging",
        "returned_bytes",
        "taken",
        "taken_bytes",
    )

    def __init__(
        self, store: Store, log: QueueLog, messages_max: int, bytes_max: int, count: int, base: int | None = None
    ) -> None:
        self._store = store
        self._log = log
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._base = base or 0
        self.taken = 0
        self.taken_bytes = 0
        self._end = None if base is None else base + SEQUENCE_MASK  # no position is that high
        self._returned: list[tuple[int, Message]] = []
        self.returned_bytes = 0
        self._front: list[Message] = []
        self._head = 0
        self._passed_bytes = 0  # of the contents of those before the head, which are still in the list
        self._tail: list[Message] = []
        self._disk_count = count
        self._seen_position = self._base  # the last position that is in front of those on disk
        self._recovered_position = log.delivered_position
        self._load_share = _FIRST_LOAD_SHARE
        self.content_bytes = 0
        self.paging = count > 0

    def __len__(self) -> int:
        return len(self._returned) + len(self._front) - self._head + self._disk_count + len(self._tail)

    def append(self, messages: list[Message], content_bytes: int) -> None:
        """At the end. While `paging`, all of them must be in the queue's log."""
        self.content_bytes += content_bytes
        if self.paging:
            self._tail += messages
            return
        front = self._front
        front += messages
        if len(front) - self._head > self._messages_max or self.content_bytes > self._bytes_max:
            self.paging = True
            self._seen_position = front[-1].position

    def push_back(self, message: Message) -> None:
        """To its own place, in front of all that were not delivered yet. What waited over a restart may have a place
        behind others that were delivered: those are read first, and it goes among them."""
        position = message.position
        self.content_bytes += len(message.content)
        if self.paging and position > self._seen_position:
            self._load_before(position)
        if self._head < len(self._front) and self._front[self._head].position < position:
            insort(self._front, message, self._head, key=_position)
        else:
            heappush(self._returned, (position, message))
            self.returned_bytes += len(message.content)

    @property
    def returned(self) -> int:
        """How many are back that were delivered before: all of them are in memory."""
        return len(self._returned)

    def first(self) -> Message | None:
        """The next message, left where it is."""
        if self._returned:
            return self._returned[0][1]
        if self._head == len(self._front) and not self._refill():
            return None
        return self._front[self._head]

    def take(self, most: int) -> list[Message]:
        """The next messages: `most` of them, or fewer; none only when the backlog is empty."""
        if self._returned:
            count = min(most, len(self._returned))
            taken = [heappop(self._returned)[1] for _ in range(count)]
            size = sum(len(message.content) for message in taken)
            self.returned_bytes -= size
        else:
            if self._head == len(self._front) and not self._refill():
                return []
            taken = self._front[self._head : self._head + most]
            size = 0
            for message in taken:
                size += len(message.content)
            self._move_head(len(taken), size)
        self.content_bytes -= size
        self.taken += len(taken)
        self.taken_bytes += size
        return taken

    def _move_head(self, count: int, size: int) -> None:
        """So many were taken from the front. They are let go now and then, since each time the others move up."""
        head = self._head + count
        self._passed_bytes += size
        if head == len(self._front):
            self._front = []
            head = self._passed_bytes = 0
        elif self._passed_bytes > _PASSED_BYTES_MAX or (head >= 4096 and head * 2 >= len(self._front)):
            del self._front[:head]
            head = self._passed_bytes = 0
        self._head = head

    @property
    def mean_bytes(self) -> int:
        """Of the contents that it has, or had, in memory."""
        count = len(self) - self._disk_count + self.taken
        return (self.content_bytes + self.taken_bytes) // count if count else 0

    @property
    def on_disk(self) -> int:
        """How many are not in memory."""
        return self._disk_count

    @property
    def ready_bytes(self) -> int:
        """Of all contents; those on disk are taken to be as large as the others."""
        return self.content_bytes + self._disk_count * self.mean_bytes

    def step(self) -> int:
        """How many messages to hand out in one step, so that it is about DISPATCH_BYTES_MAX of them."""
        held = len(self._returned) + len(self._front) - self._head + len(self._tail)
        average = self.content_bytes // held if held else self.mean_bytes
        if average * DISPATCH_MESSAGES_MAX <= DISPATCH_BYTES_MAX:
            return DISPATCH_MESSAGES_MAX
        return max(1, DISPATCH_BYTES_MAX // average)

    def clear(self) -> tuple[list[Message], list[tuple[int, int, int]]]:
        """Empties it: the messages that were in memory; and of those on disk their count, first and last place."""
        messages = [message for _, message in self._returned] + self._front[self._head :] + self._tail
        on_disk = []
        if self._disk_count:
            last = self._tail[0].position if self._tail else self._base + self._log.next_position
            on_disk = [(self._disk_count, self._seen_position + 1, last - 1)]
        self._returned, self._front, self._tail = [], [], []
        self.returned_bytes = 0
        self._head = self._passed_bytes = self._disk_count = self.content_bytes = 0
        self.paging = False
        return messages, on_disk

    def scan(self) -> Iterator[Message]:
        """Every message in it, in no order that matters, and left where it is. Those on disk are read through."""
        yield from (message for _, message in self._returned)
        yield from self._front[self._head :]
        yield from self._tail
        if self._disk_count:
            after = self._seen_position
            before = self._tail[0].position if self._tail else self._end
            while some := self._store.read(self._log.queue_id, after, before, LOAD_MESSAGES_MAX, LOAD_BYTES_MAX):
                yield from some
                after = some[-1].position

    # --- Disk -----------------------------------------------------------------------------------------------

    def browse(self, after: int, most: int) -> list[Message]:
        """The next messages beyond the position `after`, in order and left where they are; none only at the end."""
        if self._returned and after < max(self._returned)[0]:
            found = sorted((entry for entry in self._returned if entry[0] > after), key=_first)
            return [message for _, message in found[:most]]
        front = self._front
        start = bisect_right(front, after, self._head, key=_position)
        if start < len(front):
            return front[start : start + most]
        if self._disk_count:
            last = self._tail[0].position if self._tail else self._end
            found_on_disk = self._store.read(
                self._log.queue_id, max(after, self._seen_position), last, most, LOAD_BYTES_MAX
            )
            if found_on_disk:
                for message in found_on_disk:
                    message.redelivered = self._was_delivered(message)
                return found_on_disk
        start = bisect_right(self._tail, after, key=_position)
        return self._tail[start : start + most]

    def trim(self) -> None:
        """Forgets those at the beginning of the tail that are durable now: they are on disk."""
        if not self.paging:
            return
        durable = self._log.durable_position
        count = size = 0
        for message in self._tail:
            if message.position & SEQUENCE_MASK > durable or message.state < STORED:
                break
            count += 1
            size += len(message.content)
        del self._tail[:count]
        self._disk_count += count
        self.content_bytes -= size

    def _refill(self) -> bool:
        """Fills the empty front from disk, or from the tail when nothing is on disk. False when both are empty."""
        self._front = []
        self._head = self._passed_bytes = 0
        if self._disk_count:
            self._front = self._read(self._tail[0].position if self._tail else self._end)
            if not self._front:
                raise self._damaged(0)
        else:
            self._front = self._tail
            self._tail = []
        if not self._disk_count and not self._tail:
            self.paging = False
        return bool(self._front)

    def _load_before(self, position: int) -> None:
        """What is on disk in front of this position is in the front from now on: it is no more than was in memory
        before the restart."""
        while self._disk_count and (found := self._read(position)):
            self._front += found
        self._seen_position = position

    def _read(self, before: int | None) -> list[Message]:
        """The next messages on disk, which are not counted there any more."""
        share = self._load_share
        self._load_share = max(1, share // 8)
        found = self._store.read(
            self._log.queue_id, self._seen_position, before, LOAD_MESSAGES_MAX // share, LOAD_BYTES_MAX // share
        )
        self._store.journal.messages_read += len(found)
        if len(found) > self._disk_count:
            raise self._damaged(len(found))
        size = 0
        recovered = self._recovered_position
        for message in found:
            size += len(message.content)
            if message.attempts > 0 or message.position & SEQUENCE_MASK <= recovered:
                message.redelivered = True
        self.content_bytes += size
        if found:
            self._seen_position = found[-1].position
        self._disk_count -= len(found)
        return found

    def _was_delivered(self, message: Message) -> bool:
        """One that was read from disk."""
        return message.attempts > 0 or message.position & SEQUENCE_MASK <= self._recovered_position

    def _damaged(self, found: int) -> StoreError:
        return StoreError(
            f"queue {self._log.queue_id} should have {self._disk_count} messages on disk beyond "
            f"position {self._seen_position} and {found} were read: the data is damaged"
        )


def _first(entry: tuple[int, Message]) -> int:
    return entry[0]


def _position(message: Message) -> int:
    return message.position
