"""The turn: decide on all that arrived, write deliveries, commit once for all of it, and only then confirm.

While one commit is made durable on another thread, the next turns gather; they begin their commit when it is
done. There is no batch size, and no timer but one: settlements that nobody waits for may wait a few milliseconds.
Knows no sockets: a simulation drives it as the server does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pabal.broker.broker import Broker, Waiter
from pabal.model.errors import DiskFull, StoreError
from pabal.model.limits import SETTLEMENTS_WAIT_MS
from pabal.store.interface import Store


class Writer(Protocol):
    """A connection with output."""

    def flush(self) -> None:
        """Sends it."""


class Turn:
    """`run_commit(finish, done)` calls `finish` where it may block, and then, back on this thread, `done` with
    the StoreError that it raised or None. `fatal` is told of a failed commit: nothing may be confirmed any more.
    `full` is told when there was no room for one: it is to call `retry` at some later time. Until then turns go on,
    `waits_for_room`, and nobody is told that anything is durable.
    """

    def __init__(
        self,
        broker: Broker,
        store: Store,
        run_commit: Callable[[Callable[[], None], Callable[[StoreError | None], None]], None],
        fatal: Callable[[StoreError], None],
        full: Callable[[DiskFull], None] | None = None,
    ) -> None:
        self._broker = broker
        self._store = store
        self._run_commit = run_commit
        self._fatal = fatal
        self._full = full
        self._writers: list[Writer] = []
        self._waiters: dict[Waiter, int] = {}
        self.committing = False
        self.failed = False
        self._begun_ms = 0
        self.postponed_ms = 0
        """What there is to commit waits until then for the end of another turn; 0: nothing waits."""
        self.waits_for_room = False

    @property
    def disk_busy(self) -> bool:
        """A commit is with the disk, and not waiting for room on it."""
        return self.committing and not self.waits_for_room

    def writes(self, writer: Writer) -> None:
        """This connection has output."""
        self._writers.append(writer)

    def end(self) -> None:
        """Ends a turn: everything that arrived in one pass of the loop has been decided."""
        if self.failed:
            return
        try:
            self._broker.dispatch()
            self.flush()
            if not self.committing:
                if self._can_wait():
                    self.postponed_ms = self._begun_ms + SETTLEMENTS_WAIT_MS
                else:
                    self._commit()
        except StoreError as error:
            self._fail(error)

    def next_tick_ms(self) -> int | None:
        """When the broker's next timer is due, or a turn must end for what was postponed; None: not before there is
        something to do."""
        at_ms = self._broker.next_tick_ms()
        if not self.postponed_ms or (at_ms is not None and at_ms < self.postponed_ms):
            return at_ms
        return self.postponed_ms

    def _can_wait(self) -> bool:
        """Nobody waits for what there is to commit, which are settlements only, and the last commit was just now: one
        later for more of them costs the disk and the processor less."""
        broker = self._broker
        if broker.waiters or not self._store.journal.only_settlements:
            return False
        return broker.now_ms - self._begun_ms < SETTLEMENTS_WAIT_MS

    def flush(self) -> None:
        while self._writers:
            writers, self._writers = self._writers, []
            for writer in writers:
                writer.flush()

    def _commit(self) -> None:
        """Begins a commit; when there is nothing to commit, those who wait need not."""
        while True:
            self._waiters, self._broker.waiters = self._broker.waiters, {}
            self.postponed_ms = 0
            if self._store.begin():
                self.committing = True
                self._begun_ms = self._broker.now_ms
                self._run_commit(self._store.finish, self._committed)
                return
            if not self._waiters:
                return
            self._release()

    def _committed(self, error: StoreError | None) -> None:
        if error is not None and isinstance(error, DiskFull) and self._full is not None:
            self.waits_for_room = True
            self._full(error)
            return
        self.committing = False
        if error is not None:
            self._fail(error)
            return
        try:
            self._store.done()
            self._release()
        except StoreError as failure:
            self._fail(failure)
        self.end()

    def retry(self) -> None:
        """Tries the commit again for which there was no room, and with it all that has been decided since: what
        consumers have settled meanwhile need not be written any more. Those who waited for either wait for both."""
        if self.failed or not self.waits_for_room:
            return
        self.waits_for_room = False
        try:
            self._store.again()
        except StoreError as error:
            self._fail(error)
            return
        self._waiters.update(self._broker.waiters)
        self._broker.waiters = {}
        self._run_commit(self._store.finish, self._committed)

    def _release(self) -> None:
        """What they wait for is durable."""
        waiters, self._waiters = self._waiters, {}
        for waiter, upto in waiters.items():
            waiter.durable(upto)
        self._broker.dispatch()
        self.flush()

    def _fail(self, error: StoreError) -> None:
        self.failed = True
        self._fatal(error)
