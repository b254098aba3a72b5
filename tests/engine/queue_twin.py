"""The obvious queue: a list, a dict of leases, a list of the dead. What the real one must be equal to."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class TwinMessage:
    """`attempts` and `redelivered`: None when the twin cannot know, since that depends on what was written when."""

    name: str
    place: int
    persistent: bool
    expires_at_ms: int | None
    attempts: int | None = 0
    redelivered: bool | None = False


@dataclass(eq=False)
class TwinConsumer:
    credit: int
    auto: bool
    unsettled: int = 0
    taken: list[TwinMessage] = field(default_factory=list)
    held: list[TwinMessage] = field(default_factory=list)

    def room(self) -> int:
        return self.credit - (len(self.taken) if self.auto else self.unsettled)


class Twin:
    """`arguments` as the queue's. `dead`: names and reasons, in order."""

    def __init__(self, arguments: dict[str, Any], durable: bool, now_ms: int) -> None:
        self.ttl_ms: int | None = arguments.get("x-message-ttl")
        self.max_length: int | None = arguments.get("x-max-length")
        self.rejects = arguments.get("x-overflow") == "reject-publish"
        self.limit: int | None = arguments.get("x-delivery-limit")
        self.lease_ms: int | None = arguments.get("x-consumer-timeout")
        self.dead_letters = "x-dead-letter-exchange" in arguments
        self.durable = durable
        self.now_ms = now_ms
        self.ready: list[TwinMessage] = []
        self.leased: dict[str, tuple[TwinMessage, TwinConsumer, int]] = {}
        self.dead: list[tuple[str, str, bool]] = []
        self.consumers: list[TwinConsumer] = []
        self.turn = 0
        self.place = 0
        self.surely_delivered = self.maybe_delivered = 0

    def publish(self, names: list[str], persistent: bool, ttl_ms: int | None) -> list[int]:
        refused = []
        for index, name in enumerate(names):
            if self.max_length is not None and len(self.ready) >= self.max_length and self.consumers:
                self.dispatch()
            if self.rejects and self.max_length is not None and len(self.ready) >= self.max_length:
                refused.append(index)
                continue
            self.place += 1
            ttls = [ttl for ttl in (self.ttl_ms, ttl_ms) if ttl is not None]
            expires_at_ms = self.now_ms + min(ttls) if ttls else None
            self.ready.append(TwinMessage(name, self.place, persistent, expires_at_ms))
            if self.max_length is not None and len(self.ready) > self.max_length and self.consumers:
                self.dispatch()
            self.drop_head()
        return refused

    def drop_head(self) -> None:
        while self.max_length is not None and not self.rejects and len(self.ready) > self.max_length:
            self.die(self.ready.pop(0), "maxlen")

    def die(self, message: TwinMessage, reason: str) -> None:
        if self.dead_letters:
            self.dead.append((message.name, reason, message.persistent))

    def over_limit(self, message: TwinMessage) -> bool:
        return self.limit is not None and message.attempts is not None and message.attempts > self.limit

    def expired(self, message: TwinMessage) -> bool:
        return message.expires_at_ms is not None and message.expires_at_ms < self.now_ms

    def dispatch(self) -> None:
        """Expires at the head only; then one message to each consumer with room, in turn."""
        while self.ready and self.expired(self.ready[0]):
            self.die(self.ready.pop(0), "expired")
        while self.ready and any(consumer.room() > 0 for consumer in self.consumers):
            message = self.ready.pop(0)
            if self.fit(message):
                self.lease(message, self.next_consumer())

    def next_consumer(self) -> TwinConsumer:
        """The one behind the last one served, or the next that has room. A consumer alone takes no turn."""
        if len(self.consumers) == 1:
            return self.consumers[0]
        self.turn %= len(self.consumers)
        while self.consumers[self.turn].room() <= 0:
            self.turn = (self.turn + 1) % len(self.consumers)
        self.turn += 1
        return self.consumers[self.turn - 1]

    def fit(self, message: TwinMessage) -> bool:
        if self.expired(message):
            self.die(message, "expired")
        elif self.over_limit(message):
            self.die(message, "delivery_limit")
        else:
            return True
        return False

    def lease(self, message: TwinMessage, consumer: TwinConsumer) -> None:
        self.maybe_delivered = max(self.maybe_delivered, message.place)
        if message.persistent:
            self.surely_delivered = max(self.surely_delivered, message.place)
        consumer.taken.append(copy.copy(message))
        if not consumer.auto:
            consumer.unsettled += 1
            consumer.held.append(message)
            self.leased[message.name] = (message, consumer, self.now_ms + (self.lease_ms or 0))

    def get(self, consumer: TwinConsumer) -> None:
        while self.ready and self.expired(self.ready[0]):
            self.die(self.ready.pop(0), "expired")
        while self.ready:
            message = self.ready.pop(0)
            if self.fit(message):
                return self.lease(message, consumer)
        return None

    def settle(self, names: list[str], outcome: str) -> None:
        messages = []
        for name in names:
            message, consumer, _ = self.leased.pop(name)
            consumer.unsettled -= 1
            consumer.held.remove(message)
            messages.append(message)
        if outcome == "return":
            self.give_back(messages, "delivery_limit")
        elif outcome == "reject":
            for message in messages:
                self.die(message, "rejected")

    def give_back(self, messages: list[TwinMessage], reason: str) -> None:
        worn = []
        for message in messages:
            message.attempts = None if message.attempts is None else message.attempts + 1
            message.redelivered = True
            if self.over_limit(message):
                worn.append(message)
            else:
                self.ready.append(message)
        self.ready.sort(key=lambda m: m.place)
        for message in worn:
            self.die(message, reason)
        self.drop_head()

    def tick(self) -> None:
        """Leases that ran out; whoever held them keeps no room for it until he speaks of it."""
        if self.lease_ms is not None:
            due = [(m, c) for m, c, until_ms in self.leased.values() if until_ms <= self.now_ms]
            for message, consumer in due:
                del self.leased[message.name]
                consumer.held.remove(message)
            if due:
                self.give_back([message for message, _ in due], "lease_expired")

    def snapshot(self) -> Twin:
        """What a commit that begins now makes durable. Those with consumers are on one attempt more by then."""
        kept = copy.deepcopy(self)
        kept.consumers.clear()
        for message, consumer, _ in kept.leased.values():
            if self.limit is not None and not consumer.auto and message.attempts is not None:
                message.attempts += 1
            kept.ready.append(message)
        kept.leased.clear()
        kept.ready.sort(key=lambda m: m.place)
        return kept

    def restarted(self, now_ms: int, on_disk: set[str], dead_on_disk: set[str]) -> None:
        """What was persistent is there; of the others, those that had been paged to disk."""
        self.now_ms = now_ms
        for message in self.ready:
            assert message.name in on_disk or not (message.persistent and self.durable), f"{message} is lost"
        assert on_disk <= {m.name for m in self.ready}, "something came back"
        self.ready = [m for m in self.ready if m.name in on_disk]
        assert all(name in dead_on_disk for name, _, persistent in self.dead if persistent), "a dead letter is lost"
        self.dead = [letter for letter in self.dead if letter[0] in dead_on_disk]
        for message in self.ready:
            if self.limit is None:
                message.attempts = None  # kept only where they count
            if message.attempts or message.place <= self.surely_delivered:
                message.redelivered = True
            else:
                message.redelivered = None if message.place <= self.maybe_delivered else False
        self.turn = 0
