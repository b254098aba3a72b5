"""The store that a broker uses: commits go to a log at once, and to the data file now and then.

A commit adds an entry to the log, one small write at the end of a file. When enough has gathered, or when a commit is
too large to be written twice, it is a checkpoint instead: everything since the last checkpoint goes to the data file
in one transaction, which also ends the log's epoch. The two never overlap, so what is durable is always the data file
and the log's entries of its epoch on top; after a crash they are put into it before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from pabal.model.errors import DiskFull
from pabal.model.limits import (
    ENTRY_BYTES_MAX,
    HELD_BYTES_MAX,
    HELD_CHANGES_MAX,
    LOG_BYTES_MAX,
    UNSTORED_CHANGES_MAX,
)
from pabal.model.message import Message
from pabal.store.batch import Batch
from pabal.store.entry import decode_entry
from pabal.store.interface import Loaded, Size, Store
from pabal.store.reserve import Reserve

_PAGES_PER_CONTENT: Final = 2
"""A content takes up to twice its bytes in pages of the data file."""


class Checkpoints(Store, Protocol):
    """A store each of whose commits is a checkpoint. `epoch`: how many there were, kept with the data."""

    @property
    def epoch(self) -> int: ...

    @property
    def busy(self) -> bool:
        """It has work of its own left, which commits do step by step."""

    def recover(self, batches: list[Batch]) -> None:
        """Applies these, the oldest first, and makes it durable, as one checkpoint."""

    def checkpoint(self) -> None:
        """As `begin`, also when there is nothing to be written."""

    def again(self) -> None: ...


class Log(Protocol):
    """See WriteAheadLog."""

    used_bytes: int

    def recover(self, epoch: int) -> Iterator[bytes]: ...

    def restart(self, epoch: int) -> None: ...

    def encode(self, chunks: list[bytes]) -> bytes: ...

    def append(self, entry: bytes) -> None: ...

    def close(self) -> None: ...


class LoggedStore:
    """See Store. `unstored_max`: changes that may wait for a checkpoint. `reserve`: given up when the disk is full.

    Without a reserve each commit is a checkpoint: small ones, and the log stays empty, so that a start on a full disk
    has nothing to put into the data file."""

    def __init__(
        self, base: Checkpoints, log: Log, unstored_max: int = UNSTORED_CHANGES_MAX, reserve: Reserve | None = None
    ) -> None:
        self.journal = base.journal
        self._base = base
        self._log = log
        self._unstored_max = unstored_max
        self._reserve = reserve
        self._in_need = reserve is not None and reserve.was_given_up
        self._useless_bytes = 0  # free pages of the data file, where no place was found for a commit all the same
        self._entry: bytes | None = None
        self._hold_wanted = False
        self.held = False
        """The data file has all that was committed when it began to be, and does not change: see `hold`."""

    def hold(self) -> None:
        """Has the next commit be a checkpoint, and all after it go to the log alone until `release`: the data file
        can be copied meanwhile. It ends by itself when the disk is full."""
        self._hold_wanted = True

    def release(self) -> bool:
        """Ends it. Returns whether it has lasted until now."""
        held, self.held, self._hold_wanted = self.held, False, False
        return held

    @property
    def _without_reserve(self) -> bool:
        return self._in_need or (self._reserve is not None and not self._reserve.held)

    @property
    def in_need(self) -> bool:
        """See Store: a commit found the disk full, and no reserve could be put by since; or the free pages of the
        data file, which were taken for one, have become few."""
        return self._in_need or self._holds_much

    @property
    def _holds_much(self) -> bool:
        """What the log and the memory have taken while the data file is held."""
        journal = self.journal
        return self.held and (journal.unstored > HELD_CHANGES_MAX or journal.unstored_bytes > HELD_BYTES_MAX)

    def load(self) -> Loaded:
        """See Store."""
        batches = [decode_entry(payload) for payload in self._log.recover(self._base.epoch)]
        if batches:
            self._recover(batches)
        self._log.restart(self._base.epoch)
        return self._base.load()

    def _recover(self, batches: list[Batch]) -> None:
        while True:
            try:
                self._base.recover(batches)
                return
            except DiskFull:
                self._in_need = True
                if self._reserve is None or not self._reserve.give_up():
                    raise

    def read(self, queue_id: int, after: int, before: int | None, most: int, most_bytes: int) -> list[Message]:
        """See Store: of what is in the data file; the rest is in memory."""
        return self._base.read(queue_id, after, before, most, most_bytes)

    def size(self) -> Size:
        """See Store: of the data file alone."""
        return self._base.size()

    def begin(self) -> bool:
        """See Store."""
        journal = self.journal
        if self._hold_wanted:
            self._base.checkpoint()
            return True
        if not self.held and (
            self._base.busy
            or self._without_reserve
            or journal.unstored > self._unstored_max
            or journal.unstored_bytes > LOG_BYTES_MAX  # what is transient takes memory, and no room in the log
            or journal.unsaved_bytes > ENTRY_BYTES_MAX
            or self._log.used_bytes > LOG_BYTES_MAX
        ):
            if self._without_reserve and not self._in_need:
                self._watch_free_pages()
            return self._base.begin()
        if journal.empty:
            return False
        chunks = journal.take_entry()
        if not chunks:
            return False
        self._entry = self._log.encode(chunks)
        return True

    def _watch_free_pages(self) -> None:
        """Without a reserve: what is decided from now on must leave room for what consumers settle."""
        reserve = self._reserve
        assert reserve is not None
        coming = _PAGES_PER_CONTENT * (self.journal.unsaved_bytes + self.journal.unstored_bytes)
        free = self._base.size().free_bytes + reserve.disk_free_bytes()
        self._in_need = free < self._useless_bytes + reserve.size_bytes + coming

    def finish(self) -> None:
        """See Store."""
        if self._entry is not None:
            self._log.append(self._entry)
        else:
            self._base.finish()

    def again(self) -> None:
        """See Store. An entry is not tried again: its changes wait for a checkpoint already, and that is made now."""
        reserve = self._reserve
        if reserve is not None:
            if not self._in_need or not reserve.held:
                size = self._base.size()
                self._useless_bytes = max(self._useless_bytes, min(size.free_bytes, size.file_bytes // 2))
            reserve.give_up()
        self._in_need = True
        self.held = self._hold_wanted = False
        self._entry = None
        self._base.again()

    def relieved(self) -> bool:
        """See Store. Free pages of the data file are as good as the reserve, and mostly what there is when consumers
        have emptied queues: the file does not shrink."""
        reserve = self._reserve
        if reserve is not None and not reserve.held and not reserve.make():
            if self._in_need and not self.journal.committing:
                size = self._base.size()
                enough = min(self._useless_bytes + 2 * reserve.size_bytes, size.file_bytes * 3 // 4)
                self._in_need = size.free_bytes < enough
        elif not self.journal.committing:
            self._in_need = False
            self._useless_bytes = 0
        return not self.in_need

    def done(self) -> None:
        """See Store."""
        if self._entry is not None:
            self._entry = None
            self.journal.committing = False
        else:
            self._base.done()
            self._log.restart(self._base.epoch)
            self.held, self._hold_wanted = self._hold_wanted, False

    def close(self) -> None:
        """See Store."""
        self._base.close()
        self._log.close()
