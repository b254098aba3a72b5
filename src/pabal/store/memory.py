"""A store that forgets everything when the process ends: for `--memory`, tests and simulations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import islice

from pabal.model.definitions import decode_definition, durable_ids
from pabal.model.errors import DiskFull
from pabal.model.message import Container, Message
from pabal.store.batch import Batch, QueueState, owner_id, unpack_key
from pabal.store.interface import Loaded, Size
from pabal.store.journal import Journal, QueueLog
from pabal.store.record import RecordReader, referred_content


class Disk:
    """What a MemoryStore has committed. Handed to another MemoryStore, it is as a data file after a crash."""

    def __init__(self) -> None:
        self.messages: dict[int, dict[int, bytes]] = {}
        self.order: dict[int, list[int]] = {}
        self._unsorted: set[int] = set()
        self.states: dict[int, QueueState] = {}
        self.definitions: dict[bytes, bytes] = {}
        self.epoch = 0
        """How many batches were applied."""
        self.entries: list[tuple[int, bytes]] = []
        """The log: epoch and payload of each entry."""
        self.contents: dict[int, bytes] = {}
        self.references: dict[int, int] = {}
        self.full = False
        """Nothing can be written."""

    def check_room(self) -> None:
        """DiskFull when there is none."""
        if self.full:
            raise DiskFull("planned: no space left")

    def apply(self, batch: Batch) -> None:
        self.epoch += 1
        for content_id in self._released(batch) if batch.released is None else batch.released:
            self._release(content_id)
        in_rows = [(queue_id, place) for queue_id, first, last in batch.rows for place in range(first, last + 1)]
        for queue_id, position in [*map(unpack_key, batch.deletes), *in_rows]:
            messages = self.messages[queue_id]
            del messages[position]
            order = self.order[queue_id]  # keeps deleted positions for a while: deleting each would move the rest
            if len(order) > 2 * len(messages) + 1024:
                self.order[queue_id] = [position for position in order if position in messages]
        for content_id, content, references in batch.contents:
            self.contents[content_id] = content
            self.references[content_id] = references
        for key, record in batch.puts:
            queue_id, position = unpack_key(key)
            messages = self.messages.setdefault(queue_id, {})
            if position not in messages:
                order = self.order.setdefault(queue_id, [])
                if order and position <= order[-1]:
                    self._unsorted.add(queue_id)
                order.append(position)
            messages[position] = record
        for queue_id, state in batch.states:
            self.states[queue_id] = state
        for queue_id, first, last in batch.drops:
            order = self.positions(queue_id)
            low, high = bisect_left(order, first), bisect_left(order, last + 1)
            for position in order[low:high]:
                self._release_record(self.messages[queue_id].pop(position, None))
            del order[low:high]
        for queue_id in batch.gone:
            self.states.pop(queue_id, None)
            for record in self.messages.pop(queue_id, {}).values():
                self._release_record(record)
            self.order.pop(queue_id, None)
        for name, value in batch.definitions:
            if value is None:
                self.definitions.pop(name, None)
            else:
                self.definitions[name] = value

    def _released(self, batch: Batch) -> list[int]:
        keys = {*batch.deletes, *(key for key, _ in batch.puts)}
        places = [unpack_key(key) for key in keys]
        records = [self.messages.get(queue_id, {}).get(position, b"") for queue_id, position in places]
        return [content_id for content_id in map(referred_content, records) if content_id]

    def _release_record(self, record: bytes | None) -> None:
        if record is not None and (content_id := referred_content(record)):
            self._release(content_id)

    def _release(self, content_id: int) -> None:
        self.references[content_id] -= 1
        if not self.references[content_id]:
            del self.references[content_id], self.contents[content_id]

    def positions(self, queue_id: int) -> list[int]:
        """Those of a queue in order; some may have been deleted."""
        if queue_id in self._unsorted:
            self._unsorted.discard(queue_id)
            self.order[queue_id] = sorted(self.messages.get(queue_id, {}))
        return self.order.get(queue_id, [])


class MemoryStore:
    """See Store. `begin` holds the batch back and `finish` applies it, so an unfinished commit leaves no trace."""

    def __init__(self, containers: Mapping[int, Container], disk: Disk | None = None) -> None:
        self.journal = Journal()
        self.disk = disk or Disk()
        self._reader = RecordReader(containers, self.disk.contents.get)
        self._batches: list[Batch] = []
        self._logs: list[QueueLog] = []

    @property
    def in_need(self) -> bool:
        return self.disk.full

    @property
    def epoch(self) -> int:
        """See Checkpoints."""
        return self.disk.epoch

    @property
    def busy(self) -> bool:
        """See Checkpoints."""
        return False

    def recover(self, batches: list[Batch]) -> None:
        """See Checkpoints."""
        for batch in batches:
            self.disk.apply(batch)

    def load(self) -> Loaded:
        definitions = [decode_definition(data) for data in self.disk.definitions.values()]
        durable = durable_ids(definitions)
        used = {*durable, *map(owner_id, self.disk.states), *map(owner_id, self.disk.messages)}
        self.journal.next_content_id = max(self.disk.contents, default=0) + 1
        loaded = Loaded(definitions, dict(self.disk.states), max(used, default=0) + 1)
        for queue_id in [queue_id for queue_id in loaded.queues if owner_id(queue_id) not in durable]:
            self.journal.drop_queue(self.journal.queue_log(queue_id, loaded.queues.pop(queue_id)))
        return loaded

    def read(self, queue_id: int, after: int, before: int | None, most: int, most_bytes: int) -> list[Message]:
        order = self.disk.positions(queue_id)
        messages = self.disk.messages.get(queue_id, {})
        found: list[Message] = []
        size = 0
        low = bisect_left(order, after + 1)
        high = len(order) if before is None else bisect_left(order, before)
        for position in islice(order, low, high):
            if len(found) == most or (size >= most_bytes and found):
                break
            record = messages.get(position)
            if record is None:
                continue
            size += len(record)
            found.append(self._reader.decode(position, record))
        return found

    def size(self) -> Size:
        """See Store."""
        return Size(0, 0, 0)

    def begin(self) -> bool:
        if self.journal.empty and not self.journal.unstored:
            return False
        self.again()
        return True

    def checkpoint(self) -> None:
        """See Checkpoints."""
        self.again()

    def again(self) -> None:
        batch, logs = self.journal.take()
        self._batches.append(batch)
        self._logs = list(dict.fromkeys([*self._logs, *logs]))

    def finish(self) -> None:
        assert self._batches
        self.disk.check_room()
        for batch in self._batches:
            self.disk.apply(batch)

    def relieved(self) -> bool:
        return not self.disk.full

    def done(self) -> None:
        self.journal.committing = False
        self._batches = []
        for log in self._logs:
            log.durable_position = log.taken_position
            if log.on_durable is not None:
                log.on_durable()
        self._logs = []

    def close(self) -> None:
        self._batches = []


class MemoryLog:
    """See WriteAheadLog. Its entries are on the disk."""

    def __init__(self, disk: Disk) -> None:
        self.used_bytes = 0
        self._disk = disk
        self._epoch = 0

    def recover(self, epoch: int) -> Iterator[bytes]:
        return iter([payload for found, payload in self._disk.entries if found == epoch])

    def restart(self, epoch: int) -> None:
        self._epoch = epoch
        self.used_bytes = 0
        self._disk.entries = [entry for entry in self._disk.entries if entry[0] == epoch]

    def encode(self, chunks: list[bytes]) -> bytes:
        return b"".join(chunks)

    def append(self, entry: bytes) -> None:
        self._disk.check_room()
        self._disk.entries.append((self._epoch, entry))
        self.used_bytes += len(entry)

    def close(self) -> None:
        pass
