"""The store that a broker uses: commits go to a log at once, and to the data file now and then.

A commit adds an entry to the log, one small write at the end of a file. When enough has gathered, or when a commit is
too large to be written twice, it is a checkpoint instead: everything since the last checkpoint goes to the data file
in one transaction, which also ends the log's epoch. The two never overlap, so what is durable is always the data file
and the log's entries of its epoch on top; after a crash they are put into it before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pabal.model.limits import ENTRY_BYTES_MAX, LOG_BYTES_MAX, UNSTORED_CHANGES_MAX
from pabal.model.message import Message
from pabal.store.batch import Batch
from pabal.store.entry import decode_entry
from pabal.store.interface import Loaded, Size, Store


class Checkpoints(Store, Protocol):
    """A store each of whose commits is a checkpoint. `epoch`: how many there were, kept with the data."""

    @property
    def epoch(self) -> int: ...

    @property
    def busy(self) -> bool:
        """It has work of its own left, which commits do step by step."""

    def recover(self, batches: list[Batch]) -> None:
        """Applies these, the oldest first, and makes it durable, as one checkpoint."""


class Log(Protocol):
    """See WriteAheadLog."""

    used_bytes: int

    def recover(self, epoch: int) -> Iterator[bytes]: ...

    def restart(self, epoch: int) -> None: ...

    def encode(self, chunks: list[bytes]) -> bytes: ...

    def append(self, entry: bytes) -> None: ...

    def close(self) -> None: ...


class LoggedStore:
    """See Store. `unstored_max`: changes that may wait for a checkpoint."""

    def __init__(self, base: Checkpoints, log: Log, unstored_max: int = UNSTORED_CHANGES_MAX) -> None:
        self.journal = base.journal
        self._base = base
        self._log = log
        self._unstored_max = unstored_max
        self._entry: bytes | None = None

    def load(self) -> Loaded:
        """See Store."""
        batches = [decode_entry(payload) for payload in self._log.recover(self._base.epoch)]
        if batches:
            self._base.recover(batches)
        self._log.restart(self._base.epoch)
        return self._base.load()

    def read(self, queue_id: int, after: int, before: int | None, most: int, most_bytes: int) -> list[Message]:
        """See Store: of what is in the data file; the rest is in memory."""
        return self._base.read(queue_id, after, before, most, most_bytes)

    def size(self) -> Size:
        """See Store: of the data file alone."""
        return self._base.size()

    def begin(self) -> bool:
        """See Store."""
        journal = self.journal
        if (
            self._base.busy
            or journal.unstored > self._unstored_max
            or journal.unstored_bytes > LOG_BYTES_MAX  # what is transient takes memory, and no room in the log
            or journal.unsaved_bytes > ENTRY_BYTES_MAX
            or self._log.used_bytes > LOG_BYTES_MAX
        ):
            return self._base.begin()
        if journal.empty:
            return False
        chunks = journal.take_entry()
        if not chunks:
            return False
        self._entry = self._log.encode(chunks)
        return True

    def finish(self) -> None:
        """See Store."""
        if self._entry is not None:
            self._log.append(self._entry)
        else:
            self._base.finish()

    def done(self) -> None:
        """See Store."""
        if self._entry is not None:
            self._entry = None
            self.journal.committing = False
        else:
            self._base.done()
            self._log.restart(self._base.epoch)

    def close(self) -> None:
        """See Store."""
        self._base.close()
        self._log.close()
