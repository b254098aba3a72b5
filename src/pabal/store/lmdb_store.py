"""The durable store: one LMDB file, each queue a key range.

A commit is applied on the caller's thread (about a microsecond a message) and only `txn.commit()`, which is
where the disk is waited for, may run on another. LMDB's own write lock belongs to a thread, so it is off
(`lock=False`) and a lock file of ours keeps a second process out. That puts two duties on us: one writer at a
time (the turn sees to it), and no reader open when a write transaction begins (`read` is short and synchronous).

Databases: `messages` queue id + position → record; `queues` queue id → state; `definitions` key → JSON;
`drops` queue id + first + last, ranges being removed; `contents` content id → content of the messages whose records
refer to it; `references` content id → how many these are, if more than one; `meta` "format" → version of this layout,
"epoch" → how many commits there were, by which the write-ahead log beside the file knows what is new in it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from errno import EIO, ENOSPC
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any, Final

import lmdb

from pabal.model.definitions import decode_definition, durable_ids
from pabal.model.errors import DiskFull, StoreError
from pabal.model.limits import DROPS_PER_COMMIT_MAX, MAP_BYTES, RESERVE_BYTES_MAX
from pabal.model.message import Container, Message
from pabal.store.batch import (
    Batch,
    decode_state,
    encode_state,
    key_prefix,
    message_key,
    owner_id,
    unpack_positions,
)
from pabal.store.check import readable
from pabal.store.compaction import is_due, remove_unfinished, replace_by_copy, write_copy
from pabal.store.files import FILE_MODE, has_room, lock_directory, reason, write_error
from pabal.store.interface import Loaded, Size
from pabal.store.journal import Journal, QueueLog
from pabal.store.record import RecordReader, referred_content
from pabal.store.residency import FAULT_BYTES, Residency
from pabal.store.rows import read_in_a_row

FORMAT_VERSION: Final = 2
_FORMAT_WITHOUT_LOG: Final = 1
DATA_FILE: Final = "pabal.mdb"
_META_PAGES: Final = 2
_READ_FIRST: Final = 1
_READ_MOST: Final = 256
"""Records are read in steps, the first of so many, and later ones of so many at most: they may become larger."""
_BEYOND_KEYS: Final = b"\xff" * 18
_SPARE_BYTES: Final = 1024 * 1024

_QUEUE = Struct(">Q")
_CONTENT = Struct(">Q")
_REFERENCES = Struct(">Q")
_DROP = Struct(">QQQ")


class LmdbStore:
    """See Store. `directory` is made when missing; StoreError when it cannot be used, saying why."""

    def __init__(self, directory: Path, containers: Mapping[int, Container], map_bytes: int = MAP_BYTES) -> None:
        self.journal = Journal()
        self.directory = directory
        self.epoch = 0
        """How many commits the data file has had."""
        self.has_log = True
        """There is a log beside the data file; not so when the file is new, or from before there were logs."""
        self._reader = RecordReader(containers, self._content_of)
        self._reading: Any = None
        self._lock = lock_directory(directory)
        self._transaction: Any = None
        self._written = 0  # records put and deleted by the commit that is made
        self._logs: list[QueueLog] = []
        self._batches: list[Batch] = []  # what that consists of, for as long as the disk may prove too full for it
        self._drops_before: list[tuple[int, int, int]] = []
        self._no_room: DiskFull | None = None  # found before the commit itself
        self._drops: list[tuple[int, int, int]] = []
        self._residency = Residency(directory / DATA_FILE)
        self._env: Any = None
        try:
            self._open(directory / DATA_FILE, map_bytes)
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        if self._env is not None:
            self._env.close()
        self._lock.close()

    def compact(self) -> bool:
        """Gives free pages back to the system, if that is worth it: before anything else is done."""
        path = self.directory / DATA_FILE
        if not is_due(self.size()) or not write_copy(self._env, path):
            return False
        self._env.close()
        self._env = None
        try:
            replace_by_copy(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be replaced by its compacted copy: {error.strerror}") from None
        self._open(path, self._map_bytes)
        return True

    def size(self) -> Size:
        """See Store."""
        with self._env.begin() as transaction:
            databases = [self._env.stat(), *(transaction.stat(database) for database in self._databases)]
        pages = sum(d["branch_pages"] + d["leaf_pages"] + d["overflow_pages"] for d in databases)
        file_bytes = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        used_bytes = min(file_bytes, (pages + _META_PAGES) * self._page_bytes)
        return Size(file_bytes, used_bytes, file_bytes - used_bytes)

    def _open(self, path: Path, map_bytes: int) -> None:
        remove_unfinished(path)
        existing = path.stat().st_size if path.exists() else 0
        while map_bytes < existing * 2:
            map_bytes *= 2
        try:
            self._map_bytes = map_bytes
            self._env = lmdb.open(
                str(path), subdir=False, lock=False, max_dbs=8, map_size=map_bytes, readahead=False, mode=FILE_MODE
            )
            self._page_bytes = self._env.stat()["psize"]
            self._check_length(path)
            self._residency.mapped()
            version = self._check_format(path)
            self._messages = self._env.open_db(b"messages")
            self._queues = self._env.open_db(b"queues")
            self._definitions = self._env.open_db(b"definitions")
            self._dropping = self._env.open_db(b"drops")
            self._contents = self._env.open_db(b"contents")
            self._references = self._env.open_db(b"references")
            self._meta = self._env.open_db(b"meta")
            self._databases = [
                self._messages,
                self._queues,
                self._definitions,
                self._dropping,
                self._contents,
                self._references,
                self._meta,
            ]
            self.has_log = version == FORMAT_VERSION
            with self._env.begin() as transaction:
                self.epoch = int(transaction.get(b"epoch", b"0", db=self._meta))
            if not version:
                self._put_format(_FORMAT_WITHOUT_LOG)
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"{path} cannot be opened: {reason(error)}") from None

    def _check_length(self, path: Path) -> None:
        """A file that lost its end: a read beyond it would kill the process. LMDB may leave a file a page or two
        short, so such a one is given its length back (with zeros, which cost nothing) and read through once."""
        needed = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        size = path.stat().st_size
        if size >= needed:
            return
        os.truncate(path, needed)
        if not readable(path):
            os.truncate(path, size)
            raise StoreError(f"{path} is damaged: {size} bytes long where {needed} are needed")

    def use_log(self) -> None:
        """From now on there is a log beside the data file: earlier versions of Pabal must not open it any more."""
        if not self.has_log:
            self._put_format(FORMAT_VERSION)
            self.has_log = True

    def _put_format(self, version: int) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(b"format", str(version).encode(), db=self._meta)

    def _check_format(self, path: Path) -> int:
        """The format of the file, 0 when it is new. Refuses a later one before anything in the file is touched."""
        with self._env.begin() as transaction:
            names = {bytes(key) for key, _ in transaction.cursor()}
            if not names:
                return 0
            if b"meta" not in names:
                raise StoreError(f"{path} was not written by Pabal, or is damaged")
            meta = self._env.open_db(b"meta", txn=transaction, create=False)
            version = bytes(transaction.get(b"format", b"", db=meta))
        for known in (FORMAT_VERSION, _FORMAT_WITHOUT_LOG):
            if version == str(known).encode():
                return known
        if not version and self._never_used(names):
            return 0
        raise StoreError(
            f"{path} has format {version.decode(errors='replace')!r}; this Pabal reads format "
            f"{FORMAT_VERSION}. A newer Pabal wrote it: use that one, or another --data directory"
        )

    def _never_used(self, names: set[bytes]) -> bool:
        """The process that made the file ended before it had written the format."""
        if b"messages" not in names:
            return True
        messages = self._env.open_db(b"messages", create=False)
        with self._env.begin() as transaction:
            return bool(transaction.stat(messages)["entries"] == 0)

    # --- Reading --------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """See Store. Messages of queues that had no definition (they were not durable) begin to be removed."""
        loaded = Loaded()
        try:
            with self._env.begin() as transaction:
                for _, data in transaction.cursor(db=self._definitions):
                    loaded.definitions.append(decode_definition(data))
                for key, value in transaction.cursor(db=self._queues):
                    loaded.queues[_QUEUE.unpack(key)[0]] = decode_state(value)
                for key, _ in transaction.cursor(db=self._dropping):
                    self._drops.append(_DROP.unpack(key))
                contents = transaction.cursor(db=self._contents)
                if contents.last():
                    self.journal.next_content_id = _CONTENT.unpack(contents.key())[0] + 1
        except Exception as error:  # whatever a damaged file makes a decoder say
            raise StoreError(f"{self.directory / DATA_FILE} is damaged: {reason(error)}") from None
        durable = durable_ids(loaded.definitions)
        used = {*durable, *map(owner_id, loaded.queues), *(owner_id(drop[0]) for drop in self._drops)}
        loaded.next_queue_id = max(used, default=0) + 1
        for queue_id in [queue_id for queue_id in loaded.queues if owner_id(queue_id) not in durable]:
            self.journal.drop_queue(self.journal.queue_log(queue_id, loaded.queues.pop(queue_id)))
        return loaded

    def read(self, queue_id: int, after: int, before: int | None, most: int, most_bytes: int) -> list[Message]:
        prefix = key_prefix(queue_id)
        end = message_key(queue_id, before) if before is not None else prefix + _BEYOND_KEYS
        found: list[Message] = []
        size = 0
        try:
            with self._env.begin() as transaction:
                self._reading = transaction
                cursor = transaction.cursor(db=self._messages)
                start = self._beyond_drops(queue_id, after + 1)
                count = min(most, _READ_FIRST)
                in_a_row = not self._drops
                while len(found) < most and (size < most_bytes or not found):
                    if not cursor.set_range(message_key(queue_id, start)):
                        break
                    if in_a_row and (records := read_in_a_row(cursor, count, end)):
                        start = int.from_bytes(bytes(cursor.key())[8:], "big") + 1
                        messages = self._reader.decode_run(list(range(start - count, start)), records)
                        found += messages
                    else:
                        if in_a_row:
                            in_a_row = False
                            cursor.set_range(message_key(queue_id, start))
                        some = list(islice(cursor, count))
                        complete = len(some) == count
                        if some and some[-1][0] >= end:
                            some = [item for item in some if item[0] < end]
                            complete = False
                        messages = self._decode(some, queue_id)
                        found += messages
                        if not complete:
                            break
                        start = self._beyond_drops(queue_id, int.from_bytes(some[-1][0][8:], "big") + 1)
                    size += sum([len(message.content) for message in messages])
                    average = size // len(found) + 1 if found else 1
                    count = min(most - len(found), 8 * count, _READ_MOST, max(1, (most_bytes - size) // average))
                self._residency.touched(size)
                return found
        except lmdb.Error as error:
            raise StoreError(f"{self.directory / DATA_FILE} cannot be read: {reason(error)}") from None

    def _decode(self, some: list[tuple[bytes, bytes]], queue_id: int) -> list[Message]:
        """The messages of these records, but for those in ranges that are being removed."""
        positions = unpack_positions([key for key, _ in some])
        records = [record for _, record in some]
        if not self._drops:
            return self._reader.decode_run(positions, records)
        kept = [index for index, place in enumerate(positions) if self._beyond_drops(queue_id, place) == place]
        return self._reader.decode_run([positions[index] for index in kept], [records[index] for index in kept])

    def _content_of(self, content_id: int) -> bytes | None:
        content: bytes | None = self._reading.get(_CONTENT.pack(content_id), db=self._contents)
        return content

    def _beyond_drops(self, queue_id: int, position: int) -> int:
        """`position`, or the first one behind the ranges being removed that it lies in."""
        for dropped, first, last in self._drops:
            if dropped == queue_id and first <= position <= last:
                return self._beyond_drops(queue_id, last + 1)
        return position

    # --- Writing --------------------------------------------------------------------------------------------

    @property
    def in_need(self) -> bool:
        """See Store: this one does not look."""
        return False

    @property
    def busy(self) -> bool:
        """See Checkpoints: ranges are being removed."""
        return bool(self._drops)

    def recover(self, batches: list[Batch]) -> None:
        """See Checkpoints."""
        self._drops = []  # of an attempt for which there was no room
        self._apply(batches)
        self.finish()

    def begin(self) -> bool:
        if self.journal.empty and not self.journal.unstored and not self._drops:
            return False
        self._begin()
        return True

    def checkpoint(self) -> None:
        """See Checkpoints."""
        self._begin()

    def again(self) -> None:
        """See Store. LMDB forgot all of the failed commit, whose pages nothing refers to: it is made anew."""
        self._drops = self._drops_before
        self._begin()

    def _begin(self) -> None:
        batch, logs = self.journal.take()
        self._logs = list(dict.fromkeys([*self._logs, *logs]))
        self._batches.append(batch)
        self._written += len(batch.puts) + len(batch.deletes)
        self._written += sum([last - first + 1 for _, first, last in batch.rows])
        try:
            self._apply(self._batches)
        except DiskFull as error:
            self._no_room = error

    def finish(self) -> None:
        """See Store."""
        no_room, self._no_room = self._no_room, None
        if no_room is not None:
            raise no_room
        try:
            self._transaction.commit()
        except lmdb.Error as error:
            raise self._write_error("commit", error) from None
        finally:
            self._transaction = None
        self.epoch += 1

    def relieved(self) -> bool:
        """See Store: this one puts nothing by."""
        return True

    def done(self) -> None:
        self.journal.committing = False
        self._batches = []
        self._residency.touched(256 * self._written)
        for log in self._logs:
            log.durable_position = log.taken_position
            if log.on_durable is not None:
                log.on_durable()
        self._logs = []
        self._written = 0

    def close(self) -> None:
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        self._give_back()

    def _apply(self, batches: list[Batch]) -> None:
        """Writes batches into a transaction, in more address space when there is not enough for it. Grows ahead,
        since the commit itself needs pages too and must not remap the file from another thread."""
        drops = self._drops_before = list(self._drops)
        while True:
            used = self._env.info()["last_pgno"] * self._page_bytes
            if used + max(self._map_bytes // 8, _SPARE_BYTES) > self._map_bytes:
                self._grow()
            self._transaction = self._env.begin(write=True, buffers=True)
            try:
                for batch in batches:
                    self._write(self._transaction, batch)
                if self._drops:
                    self._remove_some(self._transaction)
                self._transaction.put(b"epoch", str(self.epoch + 1).encode(), db=self._meta)
                return
            except lmdb.MapFullError:
                self._transaction.abort()
                self._drops = list(drops)
                self._grow()
            except lmdb.Error as error:
                self._transaction.abort()
                self._transaction = None
                self._drops = list(drops)
                raise self._write_error("write", error) from None

    def _write_error(self, what: str, error: Exception) -> StoreError:
        """LMDB calls a write that was cut short an I/O error, and a disk that becomes full cuts one short. Should it
        be a real one, no harm is done either: what is tried again writes each of its pages anew."""
        text = f"{what} to {self.directory / DATA_FILE} failed: {reason(error)}"
        if str(error).endswith(os.strerror(EIO)) and not has_room(self.directory, RESERVE_BYTES_MAX):
            return DiskFull(f"{text} ({os.strerror(ENOSPC)})")
        return write_error(text, error)

    def _write(self, transaction: Any, batch: Batch) -> None:
        released = self._released(transaction, batch) if batch.released is None else batch.released
        if batch.deletes:
            delete = transaction.delete
            messages = self._messages
            for key in batch.deletes:
                delete(key, b"", messages)
        for row in batch.rows:
            self._delete_row(transaction, *row)
        if released:
            self._release(transaction, released)
        for content_id, content, references in batch.contents:
            transaction.put(_CONTENT.pack(content_id), content, db=self._contents)
            if references > 1:
                transaction.put(_CONTENT.pack(content_id), _REFERENCES.pack(references), db=self._references)
        if batch.puts:
            cursor = transaction.cursor(db=self._messages)
            cursor.putmulti(batch.puts)
        for queue_id, state in batch.states:
            transaction.put(_QUEUE.pack(queue_id), encode_state(state), db=self._queues)
        for name, value in batch.definitions:
            if value is None:
                transaction.delete(name, db=self._definitions)
            else:
                transaction.put(name, value, db=self._definitions)
        for queue_id, first, last in batch.drops:
            transaction.put(_DROP.pack(queue_id, first, last), b"", db=self._dropping)
            self._drops.append((queue_id, first, last))
        for queue_id in batch.gone:
            transaction.delete(_QUEUE.pack(queue_id), db=self._queues)

    def _delete_row(self, transaction: Any, queue_id: int, first: int, last: int) -> None:
        """One search for all of them, then from one to the next: no key is read but the last."""
        cursor = transaction.cursor(db=self._messages)
        cursor.set_range(message_key(queue_id, first))
        delete = cursor.delete
        for _ in range(last - first):
            delete()
        if bytes(cursor.key()) != message_key(queue_id, last):
            raise StoreError(f"{self.directory / DATA_FILE} is damaged: a message is missing from queue {queue_id}")
        delete()

    def _released(self, transaction: Any, batch: Batch) -> list[int]:
        keys = {*batch.deletes, *(key for key, _ in batch.puts)}
        records = [transaction.get(key, b"", db=self._messages) for key in keys]
        return [content_id for content_id in map(referred_content, records) if content_id]

    def _remove_some(self, transaction: Any) -> None:
        """Goes on removing the ranges that were dropped: LMDB removes keys one by one, so a commit does some."""
        left = DROPS_PER_COMMIT_MAX
        released: list[int] = []
        cursor = transaction.cursor(db=self._messages)
        while self._drops and left:
            queue_id, first, last = self._drops[0]
            end = message_key(queue_id, last)
            cursor.set_range(message_key(queue_id, first))
            while left and b"" < bytes(cursor.key()) <= end:  # at the end of all the key is empty
                if content_id := referred_content(cursor.value()):
                    released.append(content_id)
                cursor.delete()
                left -= 1
            if left:
                transaction.delete(_DROP.pack(queue_id, first, last), db=self._dropping)
                self._drops.pop(0)
        self._release(transaction, released)

    def _release(self, transaction: Any, released: list[int]) -> None:
        """So many references less, once for each time that a content is named; without one it goes."""
        for content_id, count in Counter(released).items():
            key = _CONTENT.pack(content_id)
            kept = transaction.get(key, db=self._references)
            left = (1 if kept is None else _REFERENCES.unpack(kept)[0]) - count
            if left > 1:
                transaction.put(key, _REFERENCES.pack(left), db=self._references)
            elif kept is not None:
                transaction.delete(key, db=self._references)
            if left < 1:
                transaction.delete(key, db=self._contents)
                self._residency.touched(FAULT_BYTES)

    def _grow(self) -> None:
        """Doubles the address space: the file itself grows only as it fills."""
        self._map_bytes *= 2
        try:
            self._env.set_mapsize(self._map_bytes)
            self._residency.mapped()
        except lmdb.Error as error:
            raise StoreError(
                f"{self.directory / DATA_FILE} is full at {self._map_bytes // 2} bytes and the system gives no "
                f"more address space: {reason(error)}"
            ) from None
