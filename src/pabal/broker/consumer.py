"""A consumer: the one class at which every protocol takes messages from queues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pabal.model.message import Message

if TYPE_CHECKING:
    from pabal.broker.queue import Queue


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
        self.unsettled = 0
        self.overdue = 0
        """Of these, messages whose lease ran out."""
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
