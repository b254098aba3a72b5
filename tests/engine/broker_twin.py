"""The obvious broker: queues by name, dead letters from one to the other, transactions, and what a crash leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from queue_twin import LETTER_MS, Deaths, TwinLease, TwinMessage, TwinQueue, TwinWait


@dataclass(eq=False)
class TwinChannel:
    """`published`, `settled`: what its open transaction holds, if it is in that mode."""

    transacting: bool
    unsettled: list[TwinLease] = field(default_factory=list)
    published: list[tuple[str, list[TwinMessage]]] = field(default_factory=list)
    settled: list[tuple[list[TwinLease], str]] = field(default_factory=list)


class Committed(NamedTuple):
    """What a commit makes durable: queues, and who is held back until when, for which queue."""

    queues: list[TwinQueue]
    delayed: list[tuple[int, str, TwinMessage]]


class TwinBroker:
    """`delayed`: until when, for which queue. `counts_releases`: being given back untried is an attempt too."""

    def __init__(self, now_ms: int, counts_releases: bool) -> None:
        self.now_ms = now_ms
        self.counts_releases = counts_releases
        self.queues: dict[str, TwinQueue] = {}
        self.delayed: list[tuple[int, str, TwinMessage]] = []
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
        self.release()
        while [name for name in sorted(self.queues) if self.queues[name].dispatch()]:
            pass

    def tick(self) -> None:
        for name in sorted(self.queues):
            self.queues[name].tick()

    def publish(self, name: str, messages: list[TwinMessage], forced: bool = False) -> list[int]:
        """Returns who was refused. Those that want to be held back never are."""
        if not messages[0].delay_ms:
            return self.queues[name].publish(messages, forced)
        self.delayed += [(self.now_ms + message.delay_ms, name, message) for message in messages]
        return []

    def release(self) -> None:
        """Of the held back those whose time has come, in the order of their times, to where they go now."""
        due = [entry for entry in self.delayed if entry[0] <= self.now_ms]
        self.delayed = [entry for entry in self.delayed if entry[0] > self.now_ms]
        for _, name, message in sorted(due, key=lambda entry: entry[0]):
            if name in self.queues:
                self.queues[name].publish([message], forced=True)

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
        if "x-dead-letter-routing-key" in origin.arguments:
            deaths = one_more(message.deaths, origin.name, reason)
            self.bury(
                origin, TwinMessage(message.name, message.size, message.persistent, None, message.priority, 0, deaths)
            )

    def bury(self, origin: TwinQueue, letter: TwinMessage) -> None:
        """Without a place it is gone, or waits for one."""
        name = origin.arguments["x-dead-letter-routing-key"]
        if name in self.queues:
            if not is_cycle(letter.deaths, name):
                self.queues[name].publish([letter], forced=True)
        elif origin.keeps_letters:
            origin.waiting.append(TwinWait(letter, self.now_ms + LETTER_MS, letter=True))

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
        there = [(name, some) for name, some in channel.published if name in self.queues or some[0].delay_ms]
        for target in dict.fromkeys(name for name, some in there if not some[0].delay_ms):
            at_once = [m for name, some in there if name == target for m in some if not m.delay_ms]
            if not self.queues[target].takes(at_once):
                return False
        for leases, outcome in channel.settled:
            if outcome in ("accept", "reject") and any(lease.late for lease in leases):
                return False
        for name, some in there:
            self.publish(name, some, forced=True)
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

    def snapshot(self) -> Committed:
        """What a commit that begins now makes durable."""
        return Committed([queue.snapshot() for queue in self.queues.values() if queue.durable], list(self.delayed))

    def restart(self, committed: Committed, on_disk: OnDisk) -> None:
        self.queues = {queue.name: queue.snapshot() for queue in committed.queues}
        self.delayed = list(committed.delayed)
        assert set(on_disk.queues) == set(self.queues)
        assert on_disk.delayed == {message.name for _, _, message in self.delayed}
        for name, queue in self.queues.items():
            queue.restarted(on_disk.queues[name], on_disk.waiting[name])


class OnDisk(NamedTuple):
    """Names of messages: of each queue, of what waits in it, and of those held back."""

    queues: dict[str, set[str]]
    waiting: dict[str, set[str]]
    delayed: set[str]


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
