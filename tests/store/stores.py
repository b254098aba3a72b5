"""What the tests of stores share: a container of no protocol, both stores, and a queue's side of one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pabal.model.definitions import QueueDefinition, VhostDefinition
from pabal.model.message import PENDING, Death, Envelope, Message
from pabal.store.batch import QueueState
from pabal.store.interface import Loaded, Store
from pabal.store.journal import QueueLog
from pabal.store.lmdb_store import LmdbStore
from pabal.store.memory import Disk, MemoryStore


class PlainContainer:
    """Contents are plain bytes, without headers."""

    code = 1

    def headers(self, content: bytes, names: Collection[str] | None = None) -> dict[str, Any]:
        return {}

    def deaths(self, content: bytes) -> list[Death]:
        return []

    def ttl(self, content: bytes) -> str | None:
        return None

    def with_death(self, content: bytes, death: Death) -> bytes:
        return content


PLAIN = PlainContainer()
CONTAINERS = {PLAIN.code: PLAIN}
ALL = 10**9


class MemoryMaker:
    """Opens MemoryStores over one Disk. Opening again is as after kill -9: only what was committed is there."""

    name = "memory"

    def __init__(self) -> None:
        self.disk = Disk()

    def open(self) -> MemoryStore:
        return MemoryStore(CONTAINERS, self.disk)


class LmdbMaker:
    """Opens LmdbStores in one directory, closing the one before."""

    name = "lmdb"

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = options
        self.last: LmdbStore | None = None

    def open(self) -> LmdbStore:
        self.close()
        self.last = LmdbStore(self.directory, CONTAINERS, **self.options)
        return self.last

    def close(self) -> None:
        if self.last is not None:
            self.last.close()
            self.last = None


class Opened:
    """A store that was opened and loaded, and the logs of its queues."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.loaded: Loaded = store.load()
        self._logs: dict[int, QueueLog] = {}

    def log(self, queue_id: int) -> QueueLog:
        if queue_id not in self._logs:
            log = self.store.journal.queue_log(queue_id, self.loaded.queues.get(queue_id))
            log.counts_attempts = True
            self._logs[queue_id] = log
        return self._logs[queue_id]

    def define(self, queue_id: int) -> None:
        """A durable queue of this id, so that its messages are not taken for a dead process's."""
        self.store.journal.define(VhostDefinition("/"))
        self.store.journal.define(QueueDefinition("/", f"q{queue_id}", queue_id))

    def append(self, queue_id: int, contents: list[bytes], envelope: Envelope | None = None) -> list[Message]:
        log = self.log(queue_id)
        first = log.next_position
        messages = [
            Message(envelope or plain_envelope(), content, place, 0, PENDING)
            for place, content in enumerate(contents, first)
        ]
        log.next_position += len(messages)
        log.append(messages, sum(map(len, contents)))
        return messages

    def commit(self) -> bool:
        if not self.store.begin():
            return False
        self.store.finish()
        self.store.done()
        return True

    def settle_down(self) -> int:
        """Commits until there is nothing more to do; returns how many commits that took."""
        commits = 0
        while self.commit():
            commits += 1
            assert commits < 10_000, "the store never comes to rest"
        return commits

    def read(self, queue_id: int, after: int = 0, before: int | None = None, most: int = ALL) -> list[Message]:
        return self.store.read(queue_id, after, before, most, ALL)

    def contents(self, queue_id: int) -> list[bytes]:
        return [message.content for message in self.read(queue_id)]

    def positions(self, queue_id: int) -> list[int]:
        return [message.position for message in self.read(queue_id)]


def plain_envelope(exchange: str = "", routing_key: str = "q") -> Envelope:
    return Envelope(exchange, routing_key, True, None, PLAIN)


def state_of(opened: Opened, queue_id: int) -> QueueState | None:
    return opened.loaded.queues.get(queue_id)
