"""How messages get into a queue: what is kept of them, and the limits of its length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pabal.broker.backlog import count_bodies
from pabal.broker.consumer import Consumer
from pabal.broker.priorities import PriorityBacklog, make_backlog
from pabal.broker.statistics import Counters
from pabal.model.arguments import QueueArguments
from pabal.model.definitions import QueueDefinition
from pabal.model.limits import DISPATCH_MESSAGE_BYTES, URGENT_MS
from pabal.model.message import PENDING, UNSTORED, Envelope, Message, level_base
from pabal.store.journal import QueueLog

if TYPE_CHECKING:
    from pabal.broker.vhost import Vhost


class Intake(ABC):
    """One half of a queue; the other is queue.Queue, which says what the fields mean."""

    def __init__(self, vhost: Vhost, definition: QueueDefinition, arguments: QueueArguments, log: QueueLog) -> None:
        self.vhost = vhost
        self.definition = definition
        self.name = definition.name
        self.durable = definition.durable
        self.arguments = arguments
        self.declared = arguments
        self.log = log
        self.backlog = make_backlog(vhost.broker.store, log, self.durable, arguments.max_priority)
        log.on_durable = self.backlog.trim
        self.consumers: list[Consumer] = []
        self.counters = Counters()
        self.leased = 0
        self.scheduled = False
        # Messages may have expired, or be from before a restart: look at each before it is delivered.
        self._sifts = log.count > 0
        self._urgent = False  # there may be messages that expire soon
        self.body_bytes = log.body_bytes  # of ready messages, kept if there is a limit on it
        self._follow_arguments()
        log.counts_bytes = self._counts_bytes
        if self._counts_bytes and log.count and not log.body_bytes:
            self._count_bytes()

    def _follow_arguments(self) -> None:
        arguments = self.arguments
        self._timed = arguments.expires_ms is not None
        self._lease_ms = arguments.lease_ms
        self._ttl_ms = arguments.message_ttl_ms
        self._sifts = self._sifts or self._ttl_ms is not None
        self._bounded = arguments.max_length is not None or arguments.max_length_bytes is not None
        self._counts_bytes = arguments.max_length_bytes is not None
        self._may_relay = arguments.only_delays
        self.log.counts_attempts = arguments.counts_attempts

    def _count_bytes(self) -> None:
        """What is in the store cannot be, here, if some of it is leased: it will be when the queue is loaded anew."""
        self.body_bytes, stored = count_bodies(self.backlog.scan())
        self.log.count_bytes(None if self.leased else stored)

    @property
    def at_once(self) -> bool:
        """What consumers have room for is handed out in the turn in which it comes: later it may have expired, or
        count against a length limit."""
        return self._bounded or self._urgent

    @abstractmethod
    def _look(self) -> None: ...

    @abstractmethod
    def dispatch(self) -> None: ...

    @abstractmethod
    def _dead_letter(self, messages: list[Message], reason: str) -> None: ...

    def _append(self, envelope: Envelope, contents: list[bytes], content_bytes: int) -> None:
        log = self.log
        position = log.next_position
        expires_at_ms = 0
        if self._ttl_ms is not None or envelope.ttl_ms is not None:
            expires_at_ms = self._expiry(envelope)
            self._will_expire(expires_at_ms)
        backlog = self.backlog
        if isinstance(backlog, PriorityBacklog):
            priority = min(envelope.priority, self.arguments.max_priority or 0)
            backlog = backlog.level(priority)
            position += level_base(priority)
        stored = (envelope.persistent and self.durable) or backlog.paging
        state = PENDING if stored else UNSTORED
        messages = [
            Message(envelope, content, place, expires_at_ms, state)
            for place, content in enumerate(contents, position)
        ]
        log.next_position += len(messages)
        backlog.append(messages, content_bytes)
        self.vhost.broker.taken_in_bytes += content_bytes + len(messages) * DISPATCH_MESSAGE_BYTES
        if stored:
            log.append(messages, content_bytes)
        if not self.scheduled:
            self._look()

    def _publish_bounded(self, envelope: Envelope, contents: list[bytes], forced: bool) -> Sequence[int]:
        """With a length limit: what a consumer can take at once does not count, so look at each one."""
        refused: list[int] = []
        for index, content in enumerate(contents):
            size = envelope.container.body_bytes(content)
            if self._exceeds(1, size) and self.consumers:
                self.dispatch()
            if self.arguments.overflow != "drop-head" and not forced and self._exceeds(1, size):
                refused.append(index)
                if self.arguments.overflow == "reject-publish-dlx":
                    self._dead_letter([Message(envelope, content, 0, 0, UNSTORED)], "maxlen")
                continue
            self._append(envelope, [content], len(content))
            if self._counts_bytes:
                self.body_bytes += size
            if self._exceeds(0, 0) and self.consumers:
                self.dispatch()
            self._drop_head()
        return refused

    def _exceeds(self, messages: int, body_bytes: int) -> bool:
        """Whether so many more ready messages, of so many bytes, are more than the queue may hold."""
        length, size = self.arguments.max_length, self.arguments.max_length_bytes
        return (length is not None and len(self.backlog) + messages > length) or (
            size is not None and self.body_bytes + body_bytes > size
        )

    def takes(self, count: int, body_bytes: int) -> bool:
        """Whether it refuses none of `count` messages published now, with so many bytes in their bodies. What its
        consumers have room for does not count."""
        if not self._bounded or self.arguments.overflow == "drop-head" or not self._exceeds(count, body_bytes):
            return True
        self.dispatch()
        served = self.consumers[:1] if self.arguments.single_active_consumer else self.consumers
        room = sum(max(consumer.room(), 0) for consumer in served)
        return count <= room or not self._exceeds(count - room, body_bytes)

    def _drop_head(self) -> None:
        """Dead-letters the first of those beyond the limits."""
        if self.arguments.overflow == "drop-head":
            while len(self.backlog) and self._exceeds(0, 0):
                self._dead_letter(self._take(1), "maxlen")

    def _take(self, most: int) -> list[Message]:
        """Ready messages that are ready no more."""
        backlog = self.backlog
        before = backlog.taken_bytes
        messages = backlog.take(most)
        size = backlog.taken_bytes - before + len(messages) * DISPATCH_MESSAGE_BYTES
        self.vhost.broker.handed_out_bytes += size
        if self._counts_bytes:
            for message in messages:
                self.body_bytes -= message.envelope.container.body_bytes(message.content)
        return messages

    def _will_expire(self, at_ms: int) -> None:
        """There is a message that will."""
        self._sifts = True
        if at_ms < self.vhost.broker.now_ms + URGENT_MS:
            self._urgent = True

    def _expiry(self, envelope: Envelope) -> int:
        """When a message published now expires, in ms since the epoch."""
        times = [ttl for ttl in (self._ttl_ms, envelope.ttl_ms) if ttl is not None]
        return self.vhost.broker.now_ms + min(times)
