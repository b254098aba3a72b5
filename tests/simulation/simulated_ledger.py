"""What the simulation knows from the outside of every message, and the promises it holds the broker to.

Clients tell the ledger what they sent and what they were given; after a crash it compares that with the disk.
"""

from __future__ import annotations

from collections.abc import Callable

from simulated_copies import DEAD, Copy, CopyKey, QueueSpec, Stream, Violation, identify, on_disk
from simulated_transactions import Transactions

from pabal.store.memory import Disk

Consumer = tuple[str, str]
"""Client and tag."""


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
        self._returned: list[Copy] = []  # waiting, and not known to be durable
        self._last_first: dict[Stream, int] = {}  # the highest number delivered first
        self._firsts: dict[Stream, list[int]] = {}  # the same of the turn that is being written
        self._runs: dict[tuple[str, str, Stream], int] = {}
        self.active = ActiveConsumers()
        self.transactions = Transactions(self)

    # --- What clients say -----------------------------------------------------------------------------------

    def sent(self, publisher: str, seq: int, queues: list[str], persistent: bool, priority: int) -> list[Copy]:
        copies = [Copy(publisher, seq, self.specs[name], persistent, priority, self.life) for name in queues]
        self.copies |= {copy.key: copy for copy in copies}
        return copies

    def may_expire(self, copies: list[Copy]) -> None:
        """They have an expiration of their own."""
        for copy in copies:
            copy.expires = True
            self.not_only_delivered.add(copy.spec.name)

    def confirmed(self, copies: list[Copy], disk: Disk) -> None:
        """The broker said so, just now: then they are on disk, or somebody has settled them."""
        there: dict[CopyKey, list[str]] | None = None
        for copy in copies:
            copy.confirmed = True
            self.confirmed_count += 1
            if copy.must_be_kept:
                there = on_disk(disk) if there is None else there
                if copy.key not in there:
                    raise Violation(f"{copy.name} was confirmed before it was durable")

    def refused(self, copy: Copy) -> None:
        """By its queue. It is among the dead letters then, or nowhere."""
        copy.refused = True
        copy.confirmed = copy.spec.keeps_refused

    def settled(self, copy: Copy) -> None:
        """The broker has processed a settle that ends this copy."""
        copy.settled += 1
        self._unsafe.append(copy)

    def unsettled(self, copy: Copy) -> None:
        """It has not, after all."""
        copy.settled -= 1

    def returned(self, copy: Copy, queue: str, failed: bool, now_ms: int) -> None:
        """The broker has processed that it comes back to `queue`, tried or not."""
        wait_ms = copy.spec.retry_ms(failed)
        if queue == copy.spec.name and wait_ms:
            copy.not_before_ms = now_ms + wait_ms
            self._returned.append(copy)

    def not_returned(self, copy: Copy) -> None:
        """Not in that way, after all."""
        copy.not_before_ms = copy.waits_for_good_ms

    def settle_is_durable(self, copy: Copy) -> None:
        if copy.settled:
            copy.gone = True

    def everything_is_durable(self) -> None:
        """Nothing waits for a commit."""
        for copy in self._unsafe:
            self.settle_is_durable(copy)
        self._unsafe.clear()
        for copy in self._returned:
            copy.waits_for_good_ms = copy.not_before_ms
        self._returned.clear()
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

    def delivered(
        self, consumer: tuple[str, str], queue: str, content: bytes, redelivered: bool, now_ms: int
    ) -> Copy:
        """A message was handed out from `queue`."""
        key = identify(content, queue)
        copy = self.copies.get(key)
        if copy is None or copy.gone:
            raise Violation(f"{key} was delivered from {queue} after it was gone for good")
        if copy.refused and not (copy.spec.keeps_refused and queue == DEAD):
            raise Violation(f"{copy.name} was refused and delivered all the same")
        if queue == copy.spec.name and now_ms < copy.not_before_ms:
            raise Violation(f"{copy.name} is delivered {copy.not_before_ms - now_ms} ms before its time")
        if self.specs[queue].single:
            self.active.delivered(consumer, queue)
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
        if copy.order is None:
            return
        self._firsts.setdefault(copy.stream, []).append(copy.order)
        run = (*consumer, copy.stream)
        if copy.order < self._runs.get(run, 0):
            raise Violation(f"{copy.name} came to {consumer} after {self._runs[run]}")
        self._runs[run] = copy.order

    def turn_written(self, is_gone: Callable[[str, str], bool]) -> None:
        """All that was handed out in one turn has been reported: first deliveries are in the publisher's order.
        `is_gone`: whether this client, or this consumer of it, is known to have left."""
        for stream, numbers in self._firsts.items():
            publisher, queue, _, _ = stream
            last = self._last_first.get(stream, 0)
            if min(numbers) < last:
                raise Violation(f"{publisher}-{min(numbers)} of {queue} was first delivered after {publisher}-{last}")
            self._last_first[stream] = max(numbers)
        self.active.check(is_gone)
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
        # After a restart a priority queue marks all that came before the last that was delivered, of any priority.
        may_be_marked = self.specs[queue].max_priority and copy.born < self.life
        if last is None and all(marks) and not may_be_marked:
            raise Violation(f"{copy.name} is delivered from {queue} for the first time and marked as redelivered")
        if last == self.life and not all(marks):
            raise Violation(f"{copy.name} is delivered from {queue} again and not marked as redelivered")
        if queue in copy.delivered_for_good and not all(marks):
            raise Violation(f"{copy.name} is delivered from {queue} again after a crash, not marked as redelivered")

    # --- After a crash --------------------------------------------------------------------------------------

    def crashed(self, disk: Disk) -> None:
        """Compares with what is on disk, and from now on takes that for what there is."""
        self.transactions.check(disk)
        self.transactions.pending.clear()
        self.life += 1
        self._unsafe.clear()
        self._returned.clear()
        self._handed_out.clear()
        self._firsts.clear()
        self._runs.clear()
        self._marks.clear()
        self.counted.clear()
        self.active = ActiveConsumers()
        for stream in list(self._last_first):
            _, queue, _, _ = stream
            if queue in self.not_only_delivered or self.specs[queue].expires:
                del self._last_first[stream]
        found = on_disk(disk)
        kept: dict[CopyKey, Copy] = {}
        for key, copy in self.copies.items():
            places = found.pop(key, [])
            self.check(copy, places)
            if places:
                copy.confirmed = True
                copy.settled = 0
                copy.not_before_ms = copy.waits_for_good_ms
                copy.may_go = not copy.persistent
                kept[key] = copy
        if found:
            raise Violation(f"on disk, and nobody knows them (any more): {sorted(found)}")
        self.copies = kept
        self.not_only_delivered = {copy.spec.name for copy in kept.values() if copy.expires}

    def check(self, copy: Copy, places: list[str]) -> None:
        """`places`: the queues it is in now."""
        if len(places) > 1:
            raise Violation(f"{copy.name} is there {len(places)} times")
        if places and copy.gone:
            raise Violation(f"{copy.name} came back after its settle was durable")
        if places and copy.refused and not (copy.spec.keeps_refused and places == [DEAD]):
            raise Violation(f"{copy.name} was refused and kept all the same")
        if not places and copy.must_be_kept:
            raise Violation(f"{copy.name} was lost after it was confirmed")


class ActiveConsumers:
    """Of queues with a single active consumer: one has it until it leaves, and then never again."""

    def __init__(self) -> None:
        self._active: dict[str, Consumer] = {}
        self._former: set[Consumer] = set()
        self._served: dict[str, dict[Consumer, None]] = {}  # in the turn that is being written

    def delivered(self, consumer: Consumer, queue: str) -> None:
        if consumer[1] != "get":
            self._served.setdefault(queue, {})[consumer] = None

    def check(self, is_gone: Callable[[str, str], bool]) -> None:
        for queue, served in self._served.items():
            for consumer in served:
                if consumer in self._former:
                    raise Violation(f"{consumer} is served by {queue} after another took over")
            staying = [consumer for consumer in served if not is_gone(*consumer)]
            before = self._active.get(queue)
            if len(staying) > 1:
                raise Violation(f"{queue} serves {staying} at once")
            if staying and before not in (None, staying[0]):
                assert before is not None
                if not is_gone(*before):
                    raise Violation(f"{queue} serves {staying[0]} while {before} is still there")
                self._former.add(before)
            if staying:
                self._active[queue] = staying[0]
        self._served.clear()
