"""A disk that is full at any point of a commit, for a while: all comes through, once and in order; also when the
process is killed meanwhile."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest
from stores import CONTAINERS, Opened

from pabal.model.errors import DiskFull, StoreError
from pabal.model.message import Message
from pabal.store import write_ahead_log
from pabal.store.durable_store import open_durable_store
from pabal.store.lmdb_store import LmdbStore
from pabal.store.logged_store import LoggedStore
from pabal.store.reserve import RESERVE_FILE, Reserve

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Full when chance says so, from then on for some writes."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.likely = 0.0
        self.left = 0
        self.refused = 0

    def is_full(self) -> bool:
        if not self.left and self.chance.random() < self.likely:
            self.left = self.chance.randint(1, 4)
        if self.left:
            self.left -= 1
            self.refused += 1
            return True
        return False


class FullTransaction:
    """An LMDB transaction on it: full while pages are spilled, or at the commit, told in one of three ways."""

    def __init__(self, transaction: Any, disk: Disk) -> None:
        self._transaction, self._disk = transaction, disk

    def put(self, *arguments: Any, **options: Any) -> Any:
        if options.get("db") is not None and self._disk.chance.random() < 0.02 and self._disk.is_full():
            raise lmdb.DiskError("mdb_put: No space left on device")
        return self._transaction.put(*arguments, **options)

    def commit(self) -> None:
        if self._disk.is_full():
            self._transaction.abort()
            text = self._disk.chance.choice(("No space left on device", "Disk quota exceeded"))
            raise lmdb.Error(f"mdb_txn_commit: {text}")
        self._transaction.commit()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)


class FullEnvironment:
    def __init__(self, environment: Any, disk: Disk) -> None:
        self._environment, self._disk = environment, disk

    def begin(self, write: bool = False, **options: Any) -> Any:
        transaction = self._environment.begin(write=write, **options)
        return FullTransaction(transaction, self._disk) if write else transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)


class FullOs:
    """`os` for the log, whose writes may be cut short, and fail."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def pwrite(self, file: int, data: memoryview, at: int) -> int:
        if self._disk.is_full():
            part = self._disk.chance.choice((0, 0, 10, len(data) // 2))
            if part:
                return os.pwrite(file, data[:part], at)
            raise NO_SPACE
        return os.pwrite(file, data, at)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Model:
    """A store on that disk, and what must be in it. `durable`: contents by queue as of the last commit that was done;
    `next`: as they will be with what was gathered since."""

    def __init__(self, directory: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(seed)
        self.directory = directory
        self.disk = Disk(self.chance)
        monkeypatch.setattr(write_ahead_log, "os", FullOs(self.disk))
        self.durable: dict[int, list[bytes]] = {1: [], 2: []}
        self.maybe: list[dict[int, list[bytes]]] = []
        self.count = 0
        self.open()
        self.opened.define(1)
        self.opened.define(2)
        self.opened.commit()
        self.disk.likely = 0.3

    def open(self) -> None:
        likely, self.disk.likely, self.disk.left = self.disk.likely, 0.0, 0
        store = open_durable_store(self.directory, CONTAINERS)
        store._unstored_max = self.chance.choice((0, 5, 40))
        self.opened = Opened(store)
        base = store._base
        assert isinstance(base, LmdbStore)
        base._env = FullEnvironment(base._env, self.disk)
        self.held = {queue: self.opened.read(queue) for queue in (1, 2)}
        self.disk.likely = likely

    def change(self) -> None:
        """Publishes, settles, or moves from one queue to the other in one commit."""
        chance, opened = self.chance, self.opened
        queue = chance.choice((1, 2))
        what = chance.random()
        if what < 0.5:
            contents = []
            for _ in range(chance.randint(1, 5)):
                self.count += 1
                size = chance.choice((10, 10, 5000, 70_000))
                contents.append(f"{self.count} ".encode().ljust(size))
            self.held[queue] += opened.append(queue, contents)
        elif self.held[queue]:
            some = self.held[queue][: chance.randint(1, len(self.held[queue]))]
            self.held[queue] = self.held[queue][len(some) :]
            opened.log(queue).remove(some)
            if what > 0.8:
                self.held[3 - queue] += opened.append(3 - queue, [message.content for message in some])

    def contents(self) -> dict[int, list[bytes]]:
        return {queue: [message.content for message in messages] for queue, messages in self.held.items()}

    def commit(self, kills: bool) -> None:
        """Until it is done, with changes in between; or the process is killed at some point."""
        store = self.opened.store
        if not store.begin():
            return
        self.maybe = [self.contents()]
        while True:
            if kills and self.chance.random() < 0.05:
                self.kill()
                return
            try:
                store.finish()
                break
            except DiskFull:
                if self.chance.random() < 0.5:
                    self.change()
                store.again()
                self.maybe.append(self.contents())
        self.durable = self.maybe[-1]
        if kills and self.chance.random() < 0.05:
            self.kill()
            return
        store.done()
        assert store.journal.empty
        self.maybe = []

    def kill(self) -> None:
        """What was done is there; what was tried may be, whole or not at all."""
        after = self.directory.with_name(self.directory.name + "+")
        shutil.copytree(self.directory, after)
        self.opened.store.close()
        shutil.rmtree(self.directory)
        after.rename(self.directory)
        self.open()
        found = self.contents()
        assert found in [self.durable, *self.maybe], f"seed: {found} is none of what may be"
        self.durable, self.maybe = found, []

    def check(self) -> None:
        self.opened.settle_down()
        for queue in (1, 2):
            assert self.opened.contents(queue) == [] or self.opened.log(queue).count == len(self.held[queue])


@pytest.mark.plain
@pytest.mark.parametrize("kills", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_and_nothing_is_there_twice(
    tmp_path: Path, seed: int, kills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tmp_path / "d", seed, monkeypatch)
    for _ in range(120):
        for _ in range(model.chance.randint(1, 3)):
            model.change()
        model.commit(kills)
        if model.chance.random() < 0.05:
            model.opened.store.relieved()
    assert model.disk.refused > 20
    model.disk.likely, model.disk.left = 0.0, 0
    model.commit(False)
    model.check()
    expected = model.contents()
    model.kill()
    assert model.contents() == expected
    model.opened.store.close()


@pytest.mark.plain
def test_another_error_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write to the log that the disk is to blame for is not to be tried again."""

    class BrokenOs(FullOs):
        def pwrite(self, file: int, data: memoryview, at: int) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    opened = Opened(open_durable_store(tmp_path, CONTAINERS))
    opened.define(1)
    opened.append(1, [b"x"])
    monkeypatch.setattr(write_ahead_log, "os", BrokenOs(Disk(random.Random(1))))
    assert opened.store.begin()
    with pytest.raises(StoreError) as caught:
        opened.store.finish()
    assert not isinstance(caught.value, DiskFull)
    opened.store.close()


def test_the_reserve_is_given_up_in_parts_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / RESERVE_FILE
    reserve = Reserve(tmp_path)
    whole = path.stat().st_size
    assert reserve.held
    assert path.stat().st_blocks * 512 >= whole == reserve.size_bytes
    assert reserve.give_up()
    assert not reserve.held
    assert 0 < path.stat().st_size < whole
    while reserve.give_up():
        pass
    assert path.stat().st_size == 0
    assert reserve.make()
    assert path.stat().st_size == whole
    assert Reserve(tmp_path).held


def store_of(directory: Path) -> LoggedStore:
    return open_durable_store(directory, CONTAINERS)


@pytest.mark.plain
def test_without_a_reserve_all_goes_to_the_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing is in the log when it is started on a full disk."""
    Reserve(tmp_path).give_up()
    monkeypatch.setattr(Reserve, "disk_free_bytes", lambda self: 0)
    opened = Opened(store_of(tmp_path))
    assert opened.store.in_need
    opened.define(1)
    messages: list[Message] = opened.append(1, [b"x"])
    opened.commit()
    assert opened.contents(1) == [b"x"], "it is in the data file"
    opened.log(1).remove(messages)
    opened.commit()
    assert not opened.store.relieved()
    monkeypatch.undo()
    assert opened.store.relieved()
    assert not opened.store.in_need
    opened.append(1, [b"y"])
    opened.commit()
    assert opened.contents(1) == [], "it is in the log"
    opened.store.close()
