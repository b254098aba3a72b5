"""What the simulation knows from the outside of every message, and the promises it holds the broker to.

A *copy* is a message in one queue of those it was routed to, wherever it is now: there, or dead-lettered.
Clients tell the ledger what they sent and what they were given; after a crash it compares that with the disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pabal.model.definitions import QueueDefinition, decode_definition
from pabal.store.memory import Disk

DEAD = "dead"
"""The queue of dead letters."""

_ID = re.compile(rb"id=([a-z]+\d+)-(\d+);")
_DEATH = b"\x13x-first-death-queueS"


class Violation(Exception):
    """The broker broke a promise."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue of the run, and what may happen to its messages. `lossy`: some may go without anybody's word."""

    name: str
    durable: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def dead_letters(self) -> bool:
        return "x-dead-letter-exchange" in self.arguments

    @property
    def limit(self) -> int | None:
        return self.arguments.get("x-delivery-limit")

    @property
    def lease_ms(self) -> int | None:
        return self.arguments.get("x-consumer-timeout")

    @property
    def expires(self) -> bool:
        return "x-message-ttl" in self.arguments or "x-max-length" in self.arguments

    @property
    def lossy(self) -> bool:
        drops = "x-max-length" in self.arguments and self.arguments.get("x-overflow") != "reject-publish"
        return not self.dead_letters and (drops or "x-message-ttl" in self.arguments)


class Copy:
    """`settled`: a settle of it was processed, durable or not. `gone`: for good. `may_go`: it may be there or not.
    `handed_out`: in which life of the broker it was last delivered, by the queue it was delivered from.
    `delivered_for_good`: queues that it was delivered from, which a crash must not make the broker forget."""

    __slots__ = (
        "confirmed",
        "delivered_for_good",
        "deliveries",
        "gone",
        "handed_out",
        "may_go",
        "name",
        "persistent",
        "publisher",
        "refused",
        "seq",
        "settled",
        "spec",
    )

    def __init__(self, publisher: str, seq: int, spec: QueueSpec, persistent: bool) -> None:
        self.publisher = publisher
        self.seq = seq
        self.name = f"{publisher}-{seq} of {spec.name}"
        self.spec = spec
        self.persistent = persistent
        self.confirmed = self.refused = self.settled = self.gone = self.may_go = False
        self.deliveries = 0
        self.handed_out: dict[str, int] = {}
        self.delivered_for_good: set[str] = set()

    @property
    def must_be_kept(self) -> bool:
        if not (self.confirmed and self.persistent and self.spec.durable):
            return False
        if self.settled or self.gone or self.may_go or self.spec.lossy:
            return False
        limit = self.spec.limit
        return limit is None or self.spec.dead_letters or self.deliveries <= limit


CopyKey = tuple[str, int, str]
"""Publisher, its number, and the queue it was routed to."""


def identify(data: bytes, queue: str) -> CopyKey:
    """Which copy a content or a stored record in `queue` is."""
    match = _ID.search(data)
    if match is None:
        raise Violation(f"a message in {queue} that nobody sent: {data!r}")
    at = data.find(_DEATH)
    if at >= 0:
        start = at + len(_DEATH) + 4
        queue = data[start : start + int.from_bytes(data[start - 4 : start], "big")].decode()
    return match[1].decode(), int(match[2]), queue


class Ledger:
    """All copies that may be in the broker. `life` counts its restarts."""

    def __init__(self, specs: dict[str, QueueSpec]) -> None:
        self.specs = specs
        self.copies: dict[CopyKey, Copy] = {}
        self.life = 0
        self.confirmed_count = self.delivered_count = 0
        self.counted: list[tuple[Copy, int]] = []
        """What was delivered in this turn with how many attempts before it."""
        self.not_only_delivered: set[str] = set()
        """Queues that messages left in this life in other ways too: these undone by a crash, older ones are there
        again that were never delivered, and may come after younger ones that were."""
        self._marks: dict[tuple[Copy, str], tuple[int | None, list[bool]]] = {}
        self._handed_out: list[tuple[Copy, str]] = []  # since all was durable the last time
        self._unsafe: list[Copy] = []  # settled, and not known to be durable
        self._last_first: dict[tuple[str, str], int] = {}  # publisher, queue → highest number delivered first
        self._firsts: dict[tuple[str, str], list[int]] = {}  # the same of the turn that is being written
        self._runs: dict[tuple[str, str, str, str], int] = {}

    # --- What clients say -----------------------------------------------------------------------------------

    def sent(self, publisher: str, seq: int, queues: list[str], persistent: bool) -> list[Copy]:
        copies = []
        for name in queues:
            copy = self.copies[(publisher, seq, name)] = Copy(publisher, seq, self.specs[name], persistent)
            copies.append(copy)
        return copies

    def confirmed(self, copies: list[Copy], disk: Disk) -> None:
        """The broker said so, just now: then they are on disk, or somebody has settled them."""
        there: dict[CopyKey, int] | None = None
        for copy in copies:
            copy.confirmed = True
            self.confirmed_count += 1
            if copy.must_be_kept:
                there = on_disk(disk) if there is None else there
                if (copy.publisher, copy.seq, copy.spec.name) not in there:
                    raise Violation(f"{copy.name} was confirmed before it was durable")

    def settled(self, copy: Copy) -> None:
        """The broker has processed a settle that ends this copy."""
        copy.settled = True
        self._unsafe.append(copy)

    def settle_is_durable(self, copy: Copy) -> None:
        if copy.settled:
            copy.gone = True

    def everything_is_durable(self) -> None:
        """Nothing waits for a commit."""
        for copy in self._unsafe:
            self.settle_is_durable(copy)
        self._unsafe.clear()
        for copy, queue in self._handed_out:
            copy.delivered_for_good.add(queue)
        self._handed_out.clear()

    def may_be_gone(self, queue: str) -> None:
        """All of this queue's were purged, or not: the commit will tell."""
        self.not_only_delivered.add(queue)
        for copy in self.copies.values():
            if copy.spec.name == queue or queue == DEAD:
                copy.may_go = True

    # --- What the broker does -------------------------------------------------------------------------------

    def delivered(self, consumer: tuple[str, str], queue: str, content: bytes, redelivered: bool) -> Copy:
        """A message was handed out from `queue`."""
        key = identify(content, queue)
        copy = self.copies.get(key)
        if copy is None or copy.gone:
            raise Violation(f"{key} was delivered from {queue} after it was gone for good")
        if copy.refused:
            raise Violation(f"{copy.name} was refused and delivered all the same")
        self.delivered_count += 1
        last, marks = self._marks.setdefault((copy, queue), (copy.handed_out.get(queue), []))
        marks.append(redelivered)
        copy.handed_out[queue] = self.life
        self._handed_out.append((copy, queue))
        if queue == copy.spec.name:
            copy.deliveries += 1
            if last is None and not redelivered:
                self._first_delivery(copy, consumer)
        return copy

    def _first_delivery(self, copy: Copy, consumer: tuple[str, str]) -> None:
        queue = copy.spec.name
        self._firsts.setdefault((copy.publisher, queue), []).append(copy.seq)
        run = (*consumer, copy.publisher, queue)
        if copy.seq < self._runs.get(run, 0):
            raise Violation(f"{copy.name} came to {consumer} after {self._runs[run]}")
        self._runs[run] = copy.seq

    def turn_written(self) -> None:
        """All that was handed out in one turn has been reported: first deliveries are in the publisher's order."""
        for (publisher, queue), numbers in self._firsts.items():
            last = self._last_first.get((publisher, queue), 0)
            if min(numbers) < last:
                raise Violation(f"{publisher}-{min(numbers)} of {queue} was first delivered after {publisher}-{last}")
            self._last_first[(publisher, queue)] = max(numbers)
        for (copy, queue), (last, marks) in self._marks.items():
            self._check_marks(copy, queue, last, marks)
        for copy, attempts in self.counted:
            if attempts >= copy.deliveries:
                raise Violation(f"{copy.name} was delivered {copy.deliveries} times and counts {attempts} before")
        self._firsts.clear()
        self._runs.clear()
        self._marks.clear()
        self.counted.clear()

    def _check_marks(self, copy: Copy, queue: str, last: int | None, marks: list[bool]) -> None:
        """`marks`: whether it was marked as redelivered, each time in this turn, in whatever order the connections
        were written to. `last`: the life of the broker in which it was delivered before."""
        if last is None and all(marks):
            raise Violation(f"{copy.name} is delivered from {queue} for the first time and marked as redelivered")
        if last == self.life and not all(marks):
            raise Violation(f"{copy.name} is delivered from {queue} again and not marked as redelivered")
        if queue in copy.delivered_for_good and not all(marks):
            raise Violation(f"{copy.name} is delivered from {queue} again after a crash, not marked as redelivered")

    # --- After a crash --------------------------------------------------------------------------------------

    def crashed(self, disk: Disk) -> None:
        """Compares with what is on disk, and from now on takes that for what there is."""
        self.life += 1
        self._unsafe.clear()
        self._handed_out.clear()
        self._firsts.clear()
        self._runs.clear()
        self._marks.clear()
        self.counted.clear()
        for publisher, queue in list(self._last_first):
            if queue in self.not_only_delivered or self.specs[queue].expires:
                del self._last_first[(publisher, queue)]
        self.not_only_delivered.clear()
        found = on_disk(disk)
        kept: dict[CopyKey, Copy] = {}
        for key, copy in self.copies.items():
            count = found.pop(key, 0)
            self.check(copy, count)
            if count:
                copy.confirmed = True
                copy.settled = False
                copy.may_go = not copy.persistent
                kept[key] = copy
        if found:
            raise Violation(f"on disk, and nobody knows them (any more): {sorted(found)}")
        self.copies = kept

    def check(self, copy: Copy, count: int) -> None:
        """`count`: how often it is in queues now."""
        if count > 1:
            raise Violation(f"{copy.name} is there {count} times")
        if count and copy.gone:
            raise Violation(f"{copy.name} came back after its settle was durable")
        if count and copy.refused:
            raise Violation(f"{copy.name} was refused and kept all the same")
        if not count and copy.must_be_kept:
            raise Violation(f"{copy.name} was lost after it was confirmed")


def on_disk(disk: Disk) -> dict[CopyKey, int]:
    """How often each copy is in the durable queues on disk; their states must tell the same number."""
    found: dict[CopyKey, int] = {}
    for data in disk.definitions.values():
        definition = decode_definition(data)
        if not isinstance(definition, QueueDefinition):
            continue
        messages = disk.messages.get(definition.queue_id, {})
        for record in messages.values():
            key = identify(record, definition.name)
            found[key] = found.get(key, 0) + 1
        state = disk.states.get(definition.queue_id)
        if (state.messages if state else 0) != len(messages):
            raise Violation(f"{definition.name} has {len(messages)} messages on disk and its state says {state}")
    return found
