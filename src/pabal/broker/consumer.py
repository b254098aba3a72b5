"""A consumer: the one class at which every protocol takes messages from queues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from mypy_extensions import mypyc_attr

from pabal.broker.statistics import Counters
from pabal.model.message import Message

if TYPE_CHECKING:
    from pabal.broker.clients import ClientChannel
    from pabal.broker.queue import Queue

_NO_ARGUMENTS: Final[dict[str, Any]] = {}


def deal(messages: list[Message], rooms: list[int], first: int) -> tuple[list[list[Message]], int]:
    """Shares messages out one by one, beginning with the consumer `first`: those of each consumer, and whose turn
    comes next. `rooms`: how many each one can take, together no fewer than there are; it is used up."""
    batches: list[list[Message]] = [[] for _ in rooms]
    index = first
    for message in messages:
        index %= len(rooms)
        while not rooms[index]:
            index = (index + 1) % len(rooms)
        batches[index].append(message)
        rooms[index] -= 1
        index += 1
    return batches, index


class Rotation:
    """Whose turn it is among the consumers of a queue, which are known here by their places in its list. Who was
    found without room is not asked again before there is a reason to: of a thousand consumers with a prefetch of
    one, all but a few are busy, and asking them all would cost more than the message. `next`: whose turn it is.
    `misplaced`: somebody left, so their places are to be told anew before they are asked.
    """

    __slots__ = ("_asked", "_size", "misplaced", "next")

    def __init__(self) -> None:
        self.next = 0
        self.misplaced = False
        self._size = 0
        self._asked = 0  # a bit for each place, the lowest for the first

    def resize(self, size: int) -> None:
        """There are so many consumers now: ask each of them."""
        self._size = size
        self.ask_all()

    def ask_all(self) -> None:
        """Any of them may have room."""
        self._asked = (1 << self._size) - 1

    def ask(self, place: int) -> None:
        """This one may have room again. -1: it is none of them, or not any more."""
        if place >= 0:
            self._asked |= 1 << place

    def in_turn(self) -> Iterator[int]:
        """The places of those that may have room, each once, beginning with the one whose turn it is."""
        first = self.next if self.next < self._size else 0
        for start, bits in ((first, self._asked >> first), (0, self._asked & ((1 << first) - 1))):
            while bits:
                lowest = bits & -bits
                yield start + lowest.bit_length() - 1
                bits ^= lowest

    def pass_over(self, place: int) -> None:
        """It has no room."""
        self._asked &= ~(1 << place)


@mypyc_attr(allow_interpreted_subclasses=True)
class Consumer(ABC):
    """Takes messages from one queue as long as it has room for them.

    `auto_settle`: a message counts as processed when it is handed over. `unsettled`: messages leased to this
    consumer, also those whose lease ran out until the consumer says something of them: who hangs gets no more.
    """

    def __init__(self, queue: Queue, tag: str, auto_settle: bool, exclusive: bool, priority: int = 0) -> None:
        self.queue = queue
        self.tag = tag
        self.auto_settle = auto_settle
        self.exclusive = exclusive
        self.priority = priority
        """Those of a higher one are served first, as long as they have room."""
        self.place = -1
        """Among the queue's consumers; -1 when it is none of them."""
        self.unsettled = 0
        self.overdue = 0
        """Of these, messages whose lease ran out."""
        self.counters: Counters | None = None
        """Of the channel it belongs to."""
        self.home: ClientChannel | None = None
        """That channel; None when no client is behind it."""
        self.prefetch = 0
        """How many it may hold unsettled, 0 for any number."""
        self.table = _NO_ARGUMENTS
        """The arguments it was made with."""
        self.asked = False
        """It is handed what was asked for one by one."""
        self.lease_ms: int | None = None
        """How long it may hold a message, if it is to be other than the queue says."""
        self.shared_credit = False
        """Room depends on other consumers too, so ask again after each message."""

    @abstractmethod
    def room(self) -> int:
        """How many messages it can take now; 0 when it has no credit or its peer does not read."""

    @abstractmethod
    def deliver(self, messages: list[Message]) -> None:
        """Takes these, all of its queue and leased to it unless `auto_settle`. Sets each one's `delivery`."""

    @abstractmethod
    def revoked(self, message: Message) -> None:
        """The lease of this message ran out and it went back. What the consumer says of it later is ignored."""

    @abstractmethod
    def cancelled(self) -> None:
        """The queue is gone, and with it this consumer."""
