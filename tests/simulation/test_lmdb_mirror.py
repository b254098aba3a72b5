"""The simulation over LMDB: everything is committed to a MemoryStore and to an LmdbStore, which must agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import simulate

from pabal.model.message import Container, Message
from pabal.store import lmdb_store
from pabal.store.batch import Batch
from pabal.store.interface import Loaded
from pabal.store.lmdb_store import LmdbStore
from pabal.store.memory import Disk, MemoryStore

DROPS = 3
CRASHES = 40


class MirrorStore(MemoryStore):
    """`directory` is set by the test; each new store over a new disk begins a new one in it."""

    directory: ClassVar[Path]
    last: ClassVar[LmdbStore | None] = None
    disks: ClassVar[list[Disk]] = []

    def __init__(self, containers: Mapping[int, Container], disk: Disk | None = None) -> None:
        super().__init__(containers, disk)
        cls = type(self)
        if cls.last is not None:
            cls.last.close()  # forgets a commit that was not finished, as a crash does
        if self.disk not in cls.disks:
            cls.disks.append(self.disk)
        path = cls.directory / str(cls.disks.index(self.disk))
        self.mirror = cls.last = LmdbStore(path, containers, map_bytes=1 << 20)

    def load(self) -> Loaded:
        mine, other = super().load(), self.mirror.load()
        next_content_id = self.mirror.journal.next_content_id  # what is being removed there is in use yet
        self.mirror.journal = type(self.journal)()  # the same was put into ours
        assert mine.queues == other.queues
        assert sorted(map(repr, mine.definitions)) == sorted(map(repr, other.definitions))
        mine.next_queue_id = max(mine.next_queue_id, other.next_queue_id)
        self.journal.next_content_id = max(self.journal.next_content_id, next_content_id)
        return mine

    def read(self, queue_id: int, after: int, before: int | None, most: int, most_bytes: int) -> list[Message]:
        found = super().read(queue_id, after, before, most, most_bytes)
        mirrored = self.mirror.read(queue_id, after, before, most, most_bytes)
        assert [self._seen(message) for message in found] == [self._seen(message) for message in mirrored]
        return found

    def _seen(self, message: Message) -> tuple[object, ...]:
        envelope = message.envelope
        return (
            message.position,
            message.content,
            message.attempts,
            message.expires_at_ms,
            envelope.exchange,
            envelope.routing_key,
            envelope.persistent,
        )

    @property
    def busy(self) -> bool:
        return self.mirror.busy

    def recover(self, batches: Iterable[Batch]) -> None:
        kept = list(batches)
        super().recover(kept)
        self.mirror.recover(kept)

    def begin(self) -> bool:
        if super().begin():
            return True
        if self.mirror.begin():  # goes on removing what was dropped
            self._batches, self._logs = [Batch()], []
            self.journal.committing = True
            return True
        return False

    def again(self) -> None:
        super().again()
        if self.mirror._transaction is not None:  # the disk was full
            self.mirror._transaction.abort()
            self.mirror._drops = self.mirror._drops_before
        self.mirror._apply(self._batches)

    def finish(self) -> None:
        super().finish()
        self.mirror.finish()

    def done(self) -> None:
        super().done()
        self.mirror.done()


@pytest.mark.parametrize("seed", [1, 500])
def test_both_stores_agree(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_store, "DROPS_PER_COMMIT_MAX", DROPS)
    MirrorStore.directory, MirrorStore.last, MirrorStore.disks = tmp_path, None, []
    try:
        simulate.run_many(seed, CRASHES, MirrorStore)
    except simulate.Failure as failure:
        print("\n".join(failure.steps))
        raise
    finally:
        if MirrorStore.last is not None:
            MirrorStore.last.close()
