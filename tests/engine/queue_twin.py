"""The obvious queue: lists of messages, leases and consumers. What the real one must be equal to."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker_twin import TwinBroker, TwinChannel

QUORUM_LIMIT = 2
"""What the machine takes as the delivery limit of a quorum queue that says nothing of it."""
LETTER_MS = 50
"""... and as the time after which a letter without a place is tried again."""

Deaths = tuple[tuple[str, str, int], ...]
"""Queue, reason, how often; the latest first."""


@dataclass(eq=False)
class TwinMessage:
    """`size`: of its body. `ttl_ms`, `priority`, `delay_ms`: as published. The rest is of the queue it is in.
    `attempts` and `redelivered`: None when the twin cannot know, since that depends on what was written when."""

    name: str
    size: int
    persistent: bool
    ttl_ms: int | None = None
    priority: int = 0
    delay_ms: int = 0
    deaths: Deaths = ()
    place: int = 0
    level: int = 0
    expires_at_ms: int | None = None
    attempts: int | None = 0
    redelivered: bool | None = False


@dataclass(eq=False)
class TwinConsumer:
    """`taken`: all it was ever given. `unsettled`: also what was taken from it, until it speaks of it."""

    queue: TwinQueue
    channel: TwinChannel
    credit: int = 0
    auto: bool = False
    exclusive: bool = False
    priority: int = 0
    lease_ms: int | None = None
    unsettled: int = 0
    taken: list[TwinLease] = field(default_factory=list)

    def room(self) -> int:
        return max(0, self.credit - (len(self.taken) if self.auto else self.unsettled))


@dataclass(eq=False)
class TwinLease:
    """`message`: as it was handed out. `late`: the queue has taken it back. `tag`: what the channel calls it."""

    message: TwinMessage
    consumer: TwinConsumer
    until_ms: int
    late: bool = False
    tag: int = 0


@dataclass(eq=False)
class TwinWait:
    """A message that waits to be tried again, or a dead `letter` that waits for a place."""

    message: TwinMessage
    until_ms: int
    letter: bool = False


class TwinQueue:
    """`turn`: whose turn it is among the consumers. `active`: who gets messages, if only one may."""

    def __init__(self, broker: TwinBroker, name: str, arguments: dict[str, Any], durable: bool) -> None:
        self.broker = broker
        self.name = name
        self.arguments = arguments
        self.durable = durable
        self.overflow = arguments.get("x-overflow", "drop-head")
        quorum = arguments.get("x-queue-type") == "quorum"
        self.limit: int | None = arguments.get("x-delivery-limit", QUORUM_LIMIT if quorum else None)
        at_least_once = arguments.get("x-dead-letter-strategy") == "at-least-once"
        self.keeps_letters = at_least_once and self.overflow == "reject-publish"
        self.single = arguments.get("x-single-active-consumer", False)
        self.ready: list[TwinMessage] = []
        self.leases: list[TwinLease] = []
        self.waiting: list[TwinWait] = []
        self.consumers: list[TwinConsumer] = []
        self.active: TwinConsumer | None = None
        self.turn = 0
        self.used_ms = broker.now_ms
        self.surely_delivered = self.maybe_delivered = 0

    # --- Taking in ------------------------------------------------------------------------------------------

    def publish(self, messages: list[TwinMessage], forced: bool = False) -> list[int]:
        """What a consumer can take at once does not count against the limits. Returns who was refused."""
        refused = []
        for index, message in enumerate(messages):
            if self.beyond(1, message.size) and self.consumers:
                self.dispatch()
            if self.overflow != "drop-head" and not forced and self.beyond(1, message.size):
                refused.append(index)
                if self.overflow == "reject-publish-dlx":
                    self.broker.die(self, [message], "maxlen")
                continue
            self.take_in(message)
            if self.beyond() and self.consumers:
                self.dispatch()
            self.drop_head()
        return refused

    def take_in(self, message: TwinMessage) -> None:
        ttls = [ttl for ttl in (self.arguments.get("x-message-ttl"), message.ttl_ms) if ttl is not None]
        message = copy.copy(message)
        message.place = self.broker.next_place()
        message.level = min(message.priority, self.arguments.get("x-max-priority", 0))
        message.expires_at_ms = self.broker.now_ms + min(ttls) if ttls else None
        self.put_in_order([message])

    def put_in_order(self, messages: list[TwinMessage]) -> None:
        self.ready += messages
        self.ready.sort(key=lambda m: (-m.level, m.place))

    def beyond(self, count: int = 0, size: int = 0) -> bool:
        """Whether so many more messages, of so many bytes, are more than there may be."""
        length, size_max = self.arguments.get("x-max-length"), self.arguments.get("x-max-length-bytes")
        return (length is not None and len(self.ready) + count > length) or (
            size_max is not None and sum(m.size for m in self.ready) + size > size_max
        )

    def drop_head(self) -> None:
        while self.overflow == "drop-head" and self.ready and self.beyond():
            self.broker.die(self, [self.ready.pop(0)], "maxlen")

    def takes(self, messages: list[TwinMessage]) -> bool:
        """Whether it refuses none of them; what consumers have room for does not count."""
        count, size = len(messages), sum(m.size for m in messages)
        if self.overflow == "drop-head" or not self.beyond(count, size):
            return True
        self.dispatch()
        room = sum(consumer.room() for consumer in self.served())
        return count <= room or not self.beyond(count - room, size)

    # --- Handing out ----------------------------------------------------------------------------------------

    def expired(self, message: TwinMessage) -> bool:
        return message.expires_at_ms is not None and message.expires_at_ms < self.broker.now_ms

    def over_limit(self, message: TwinMessage) -> bool:
        return self.limit is not None and message.attempts is not None and message.attempts > self.limit

    def expire(self) -> bool:
        """At the head only."""
        before = len(self.ready)
        while self.ready and self.expired(self.ready[0]):
            self.broker.die(self, [self.ready.pop(0)], "expired")
        return len(self.ready) < before

    def served(self) -> list[TwinConsumer]:
        """Those who get messages when they have room."""
        return [self.active] if self.single and self.active else self.consumers

    def dispatch(self) -> bool:
        """One message to each consumer with room, in turn. Returns whether there was anything to do."""
        came_back = self.end_waits()
        did = self.expire() or came_back
        while self.ready and any(consumer.room() for consumer in self.served()):
            did = True
            message = self.ready.pop(0)
            if self.fit(message):
                self.lease(message, self.next_consumer())
        if came_back:
            self.drop_head()
        return did

    def next_consumer(self) -> TwinConsumer:
        """Of those of the highest priority with room, the next behind the last one served."""
        if self.single or len(self.consumers) == 1:
            return self.served()[0]  # who is alone takes no turn
        highest = max(consumer.priority for consumer in self.consumers if consumer.room())
        self.turn %= len(self.consumers)
        while not self.consumers[self.turn].room() or self.consumers[self.turn].priority < highest:
            self.turn = (self.turn + 1) % len(self.consumers)
        self.turn += 1
        return self.consumers[self.turn - 1]

    def fit(self, message: TwinMessage) -> bool:
        """Not expired, and not on its last attempt when the broker went down."""
        if self.expired(message):
            self.broker.die(self, [message], "expired")
        elif self.over_limit(message):
            self.broker.die(self, [message], "delivery_limit")
        else:
            return True
        return False

    def lease(self, message: TwinMessage, consumer: TwinConsumer) -> None:
        self.maybe_delivered = max(self.maybe_delivered, message.place)
        if message.persistent:
            self.surely_delivered = max(self.surely_delivered, message.place)
        lease_ms = consumer.lease_ms or self.arguments.get("x-consumer-timeout", 10**9)
        until_ms = self.broker.now_ms + lease_ms
        lease = TwinLease(message, consumer, until_ms)
        consumer.taken.append(lease)
        if not consumer.auto:
            consumer.unsettled += 1
            consumer.channel.unsettled.append(lease)
            self.leases.append(lease)

    def get(self, consumer: TwinConsumer) -> None:
        self.used_ms = self.broker.now_ms
        self.expire()
        while self.ready:
            message = self.ready.pop(0)
            if self.fit(message):
                return self.lease(message, consumer)
        return None

    # --- Consumers ------------------------------------------------------------------------------------------

    def admits(self, exclusive: bool) -> bool:
        if any(consumer.exclusive for consumer in self.consumers):
            return False
        return not (exclusive and (self.consumers or self.single))

    def add_consumer(self, consumer: TwinConsumer) -> None:
        self.consumers.append(consumer)
        self.active = self.active or consumer

    def remove_consumer(self, consumer: TwinConsumer) -> None:
        """The next active one is the first of the highest priority."""
        if consumer not in self.consumers:
            return
        index = self.consumers.index(consumer)
        del self.consumers[index]
        if index < self.turn:
            self.turn -= 1
        if self.active is consumer:
            self.active = max(self.consumers, key=lambda c: c.priority, default=None)
        if not self.consumers:
            self.used_ms = self.broker.now_ms

    # --- Settling -------------------------------------------------------------------------------------------

    def settle(self, leases: list[TwinLease], outcome: str) -> None:
        messages = [lease.message for lease in leases]
        for lease in leases:
            lease.consumer.unsettled -= 1
        if self.broker.queues.get(self.name) is not self:
            return  # deleted
        for lease in leases:
            self.leases.remove(lease)
        if outcome == "reject":
            self.broker.die(self, messages, "rejected")
        elif outcome != "accept":
            self.give_back(messages, "delivery_limit", failed=outcome == "return")

    def give_back(self, messages: list[TwinMessage], reason: str, failed: bool) -> None:
        """To their own places, now or later; who came back too often dies."""
        worn = []
        for old in messages:
            message = copy.copy(old)
            if message.attempts is not None and (failed or self.broker.counts_releases):
                message.attempts += 1
            message.redelivered = True
            wait_ms = self.retry_ms(message, failed)
            if self.over_limit(message):
                worn.append(message)
            elif wait_ms:
                self.waiting.append(TwinWait(message, self.broker.now_ms + wait_ms))
            else:
                self.put_in_order([message])
        self.broker.die(self, worn, reason)
        self.drop_head()

    # --- Waiting --------------------------------------------------------------------------------------------

    def retry_ms(self, message: TwinMessage, failed: bool) -> int:
        """So much longer each time, up to the most."""
        if self.arguments.get("x-delayed-retry-type") not in ("all", "failed" if failed else "returned"):
            return 0
        least: int = self.arguments["x-delayed-retry-min"]
        return min(least * max(message.attempts or 0, 1), self.arguments.get("x-delayed-retry-max", least))

    def end_waits(self) -> bool:
        """Who waited long enough is ready in his own place; letters are tried again."""
        due = [wait for wait in self.waiting if wait.until_ms <= self.broker.now_ms]
        self.waiting = [wait for wait in self.waiting if wait not in due]
        for wait in sorted(due, key=lambda wait: (wait.until_ms, wait.letter)):
            if wait.letter:
                self.broker.bury(self, wait.message)
            else:
                self.put_in_order([wait.message])
        return bool(due)

    # --- Time and restarts ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """It goes when nobody used it for long; leases end."""
        expires_ms = self.arguments.get("x-expires")
        if expires_ms is not None and not self.consumers and self.broker.now_ms >= self.used_ms + expires_ms:
            self.broker.delete(self.name)
            return
        due = [lease for lease in self.leases if lease.until_ms <= self.broker.now_ms]
        due.sort(key=lambda lease: (-lease.message.level, lease.message.place))
        for lease in due:
            lease.late = True
            self.leases.remove(lease)
        if due:
            self.give_back([lease.message for lease in due], "lease_expired", failed=False)

    def snapshot(self) -> TwinQueue:
        """What a commit that begins now makes durable. Those with consumers are on one attempt more by then."""
        kept = copy.copy(self)
        leased = [copy.copy(lease.message) for lease in self.leases]
        for message in leased:
            if self.limit is not None and message.attempts is not None:
                message.attempts += 1
        kept.ready = [copy.copy(message) for message in self.ready]
        kept.put_in_order(leased)
        kept.waiting = [TwinWait(copy.copy(w.message), w.until_ms, w.letter) for w in self.waiting]
        kept.leases, kept.consumers, kept.active, kept.turn = [], [], None, 0
        return kept

    def restarted(self, on_disk: set[str], waiting_on_disk: set[str]) -> None:
        """What was persistent is there; of the others, those that had been paged to disk, and all that wait."""
        self.used_ms = self.broker.now_ms
        assert waiting_on_disk == {wait.message.name for wait in self.waiting}
        for message in self.ready:
            assert message.name in on_disk or not message.persistent, f"{message} is lost"
        assert on_disk <= {m.name for m in self.ready}, "something came back"
        self.ready = [m for m in self.ready if m.name in on_disk]
        for message in self.ready:
            if self.limit is None:
                message.attempts = None  # kept only where they count
            if message.attempts or message.place <= self.surely_delivered:
                message.redelivered = True
            else:
                message.redelivered = None if message.place <= self.maybe_delivered else False
