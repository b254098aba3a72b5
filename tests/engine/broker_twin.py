"""The obvious broker: queues by name, dead letters from one to the other, transactions, and what a crash leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from queue_twin import Deaths, TwinLease, TwinMessage, TwinQueue


@dataclass(eq=False)
class TwinChannel:
    """`published`, `settled`: what its open transaction holds, if it is in that mode."""

    transacting: bool
    unsettled: list[TwinLease] = field(default_factory=list)
    published: list[tuple[str, list[TwinMessage]]] = field(default_factory=list)
    settled: list[tuple[list[TwinLease], str]] = field(default_factory=list)


class TwinBroker:
    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.queues: dict[str, TwinQueue] = {}
        self.place = 0
        self.letters: list[tuple[TwinQueue, TwinMessage, str]] = []
        self.moving = False

    def next_place(self) -> int:
        self.place += 1
        return self.place

    def declare(self, name: str, arguments: dict[str, Any], durable: bool) -> None:
        if name in self.queues:
            self.queues[name].used_ms = self.now_ms
        else:
            self.queues[name] = TwinQueue(self, name, arguments, durable)

    def delete(self, name: str) -> None:
        """Its consumers are told; what they hold is of no interest any more."""
        self.queues.pop(name).consumers.clear()

    def end_turn(self) -> None:
        """Each queue hands out what it can, again and again until nobody can."""
        while [name for name in sorted(self.queues) if self.queues[name].dispatch()]:
            pass

    def tick(self) -> None:
        for name in sorted(self.queues):
            self.queues[name].tick()

    # --- Dead letters ---------------------------------------------------------------------------------------

    def die(self, queue: TwinQueue, messages: list[TwinMessage], reason: str) -> None:
        """Who dies of another's death waits until that one is buried."""
        self.letters += [(queue, message, reason) for message in messages]
        if self.moving:
            return
        self.moving = True
        while self.letters:
            self.move(*self.letters.pop(0))
        self.moving = False

    def move(self, origin: TwinQueue, message: TwinMessage, reason: str) -> None:
        name = origin.arguments.get("x-dead-letter-routing-key")
        deaths = one_more(message.deaths, origin.name, reason)
        if name in self.queues and not is_cycle(deaths, name):
            letter = TwinMessage(message.name, message.size, message.persistent, None, message.priority, deaths)
            self.queues[name].publish([letter], forced=True)

    # --- Channels -------------------------------------------------------------------------------------------

    def settle(self, channel: TwinChannel, leases: list[TwinLease], outcome: str) -> None:
        """In the given order; a transaction only makes a note of it."""
        channel.unsettled = [lease for lease in channel.unsettled if lease not in leases]
        if channel.transacting:
            channel.settled.append((leases, outcome))
        else:
            self.do_settle(leases, outcome)

    def do_settle(self, leases: list[TwinLease], outcome: str) -> None:
        for lease in leases:
            if lease.late:
                lease.consumer.unsettled -= 1
        in_time = [lease for lease in leases if not lease.late]
        for consumer, group in groupby(in_time, key=lambda lease: lease.consumer):
            consumer.queue.settle(list(group), outcome)

    def commit(self, channel: TwinChannel) -> bool:
        """All of it, or False and nothing."""
        there = [(self.queues[name], messages) for name, messages in channel.published if name in self.queues]
        for queue in dict.fromkeys(queue for queue, _ in there):
            if not queue.takes([m for q, messages in there if q is queue for m in messages]):
                return False
        for leases, outcome in channel.settled:
            if outcome != "return" and any(lease.late for lease in leases):
                return False
        for queue, messages in there:
            queue.publish(messages, forced=True)
        for leases, outcome in channel.settled:
            self.do_settle(leases, outcome)
        channel.published, channel.settled = [], []
        return True

    def rollback(self, channel: TwinChannel) -> None:
        channel.unsettled += [lease for leases, _ in channel.settled for lease in leases]
        channel.unsettled.sort(key=lambda lease: lease.tag)
        channel.published, channel.settled = [], []

    def close(self, channel: TwinChannel) -> None:
        """Its consumers are gone already. What it has not settled for good goes back."""
        self.rollback(channel)
        leases, channel.unsettled = channel.unsettled, []
        self.do_settle(leases, "return")

    # --- Restarts -------------------------------------------------------------------------------------------

    def snapshot(self) -> list[TwinQueue]:
        """What a commit that begins now makes durable."""
        return [queue.snapshot() for queue in self.queues.values() if queue.durable]

    def restart(self, committed: list[TwinQueue], on_disk: dict[str, set[str]]) -> None:
        """`on_disk`: the names of the messages there, by queue."""
        assert set(on_disk) == {queue.name for queue in committed}
        self.queues = {queue.name: queue.snapshot() for queue in committed}
        for queue in self.queues.values():
            queue.restarted(on_disk[queue.name])


def one_more(deaths: Deaths, queue: str, reason: str) -> Deaths:
    """The latest death comes first, and there is one entry for each queue and reason."""
    before = sum(count for q, r, count in deaths if (q, r) == (queue, reason))
    others = tuple(death for death in deaths if death[:2] != (queue, reason))
    return ((queue, reason, before + 1), *others)


def is_cycle(deaths: Deaths, name: str) -> bool:
    """It was in that queue before, and since then nobody rejected it."""
    for queue, reason, _ in deaths:
        if reason == "rejected":
            return False
        if queue == name:
            return True
    return False
