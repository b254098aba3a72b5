"""The ledger's side of transactions: each is there as a whole or not at all, whenever one looks at the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulated_copies import DEAD, LATER, Copy, Violation, on_disk

from pabal.store.memory import Disk

if TYPE_CHECKING:
    from simulated_copies import CopyKey
    from simulated_ledger import Ledger


class Settled:
    """A delivery that a transaction settles. `queue`: where it was delivered from. `ends`: there is nothing left of
    it then. `sure`: it was there for good before, and nobody else has it."""

    __slots__ = ("copy", "counted", "ends", "queue", "sure")

    def __init__(self, copy: Copy, queue: str, kind: str) -> None:
        self.copy = copy
        self.queue = queue
        self.ends = kind == "ack" or (kind == "reject" and (queue == DEAD or not copy.spec.dead_letters))
        self.sure = False
        self.counted = False

    def is_there(self, places: dict[CopyKey, list[str]]) -> bool:
        found = places.get(self.copy.key, [])
        return bool(found) if self.ends else self.queue in found or LATER in found


class Attempt:
    """A transaction whose tx.commit was sent. `returned`: what it gives back, from which queue, tried or not."""

    __slots__ = ("name", "published", "returned", "settled")

    def __init__(self, name: str) -> None:
        self.name = name
        self.published: list[Copy] = []
        self.settled: list[Settled] = []
        self.returned: list[tuple[Copy, str, bool]] = []


class Transactions:
    """`pending`: those that the broker was told to commit, and of which the disk has not been seen to have all."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.pending: list[Attempt] = []
        self.answered_count = self.refused_count = 0

    def begun(self, attempt: Attempt, certain: bool, now_ms: int) -> None:
        """The broker has read tx.commit; unless `certain`, it may not have acted on it yet."""
        self.pending.append(attempt)
        if certain:
            for copy, queue, failed in attempt.returned:
                self._ledger.returned(copy, queue, failed, now_ms)
        for settled in attempt.settled:
            copy = settled.copy
            settled.sure = settled.sure and certain and copy.must_be_kept
            if not certain:
                copy.may_go = True
            elif settled.ends:
                settled.counted = True
                self._ledger.settled(copy)

    def answered(self, attempt: Attempt, disk: Disk) -> None:
        """tx.commit-ok: all of it is on disk."""
        self.answered_count += 1
        self._ledger.confirmed(attempt.published, disk)
        places = on_disk(disk) if attempt.settled else {}
        for settled in attempt.settled:
            copy = settled.copy
            if settled.is_there(places):
                raise Violation(f"{copy.name} was settled in {attempt.name}, which was answered, and is still there")
            if settled.ends:
                if copy.ended_by is not None:
                    raise Violation(f"{copy.name} was settled in {attempt.name} and in {copy.ended_by}")
                copy.ended_by = attempt.name
                copy.gone = True
        if attempt in self.pending:
            self.pending.remove(attempt)

    def refused(self, attempt: Attempt) -> None:
        """The channel was closed instead: nothing of it was done, nor ever will be."""
        self.refused_count += 1
        for copy in attempt.published:
            copy.refused = True
        for settled in attempt.settled:
            if settled.counted:
                self._ledger.unsettled(settled.copy)
        for copy, _, _ in attempt.returned:
            self._ledger.not_returned(copy)
        if attempt in self.pending:
            self.pending.remove(attempt)

    def check(self, disk: Disk) -> None:
        """Looks for all of those that are pending, and for what tells that they are there or that they are not."""
        if not self.pending:
            return
        places = on_disk(disk)
        pending = []
        for attempt in self.pending:
            done = [f"{copy.name} is there" for copy in attempt.published if copy.key in places]
            undone = [
                f"{copy.name} is not there"
                for copy in attempt.published
                if copy.key not in places and copy.is_kept_once_durable
            ]
            for settled in attempt.settled:
                copy = settled.copy
                if settled.is_there(places):
                    undone.append(f"{copy.name} is still there")
                elif settled.sure and copy.settled <= settled.counted and not copy.may_go:
                    done.append(f"{copy.name} is gone")
            if done and undone:
                raise Violation(f"{attempt.name} is there in part: {', '.join(done)}, but {', '.join(undone)}")
            if not done:
                pending.append(attempt)
        self.pending = pending
