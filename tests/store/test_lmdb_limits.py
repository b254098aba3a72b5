"""Limits of the LMDB store: the map full, the disk full, the directory in use or unusable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest
from stores import ALL, CONTAINERS, LmdbMaker, Opened
from test_lmdb_damage import CHILD

from pabal.model.definitions import QueueDefinition
from pabal.model.errors import StoreError
from pabal.store import lmdb_store
from pabal.store.files import LOCK_FILE
from pabal.store.lmdb_store import DATA_FILE, LmdbStore

SMALL_MAP_BYTES = 16 * 4096


# --- The map ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 40, 1000])
def test_a_full_map_grows_without_loss(tmp_path: Path, batch: int) -> None:
    maker = LmdbMaker(tmp_path, map_bytes=SMALL_MAP_BYTES)
    opened = Opened(maker.open())
    opened.define(1)
    contents = [b"%d " % number + bytes(2000) for number in range(batch * 3 + 200)]
    for at in range(0, len(contents), batch):
        opened.append(1, contents[at : at + batch])
        opened.commit()
    assert opened.contents(1) == contents
    reopened = Opened(maker.open())
    assert reopened.contents(1) == contents
    reopened.append(1, [bytes(1_000_000)])  # a file larger than the map asked for is no trouble
    reopened.commit()
    assert len(Opened(maker.open()).read(1)) == len(contents) + 1
    maker.close()


def test_a_full_map_while_ranges_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_store, "DROPS_PER_COMMIT_MAX", 7)
    maker = LmdbMaker(tmp_path, map_bytes=SMALL_MAP_BYTES)
    opened = Opened(maker.open())
    opened.define(1)
    opened.define(2)
    opened.append(1, [bytes(50)] * 60)
    opened.commit()
    opened.store.journal.drop_range(1, 1, 55)
    opened.log(1).forget(55)
    for _ in range(12):
        opened.append(2, [bytes(20_000)])
        opened.commit()
        assert opened.positions(1) == [56, 57, 58, 59, 60]
    reopened = Opened(maker.open())
    reopened.settle_down()
    assert reopened.positions(1) == [56, 57, 58, 59, 60]
    assert len(reopened.read(2)) == 12
    maker.close()


class FullAtCommit:
    """A transaction whose commit finds the map full: LMDB may need pages for its own lists as late as that."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    def commit(self) -> None:
        self._transaction.abort()
        raise lmdb.MapFullError("mdb_txn_commit: MDB_MAP_FULL: Environment mapsize limit reached")

    def abort(self) -> None:
        self._transaction.abort()


def test_a_map_that_is_full_at_the_commit_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store grows ahead so that this does not happen. If it does: an error, and all is as it was before."""
    monkeypatch.setattr(lmdb_store, "DROPS_PER_COMMIT_MAX", 20)
    maker = LmdbMaker(tmp_path)
    store = maker.open()
    opened = Opened(store)
    opened.define(1)
    opened.define(2)
    opened.append(1, [b"m%d" % number for number in range(1, 51)])
    opened.commit()
    opened.store.journal.drop_range(1, 1, 10)
    opened.store.journal.drop_range(1, 21, 45)
    opened.log(1).forget(35)
    opened.append(2, [b"x"])
    assert store.begin()
    store._transaction = FullAtCommit(store._transaction)
    with pytest.raises(StoreError, match="MAP_FULL"):
        store.finish()
    reopened = Opened(maker.open())
    assert reopened.positions(1) == list(range(1, 51))
    assert reopened.contents(2) == []
    assert reopened.loaded.queues[1].messages == 50
    maker.close()


# --- The disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_bytes", [200_000, 1_000_000])
def test_a_full_disk_is_a_clear_error_and_loses_nothing_that_was_durable(tmp_path: Path, limit_bytes: int) -> None:
    """In a process whose files may not grow: write gives EFBIG as it would give ENOSPC."""
    command = [sys.executable, str(CHILD), "fill", str(tmp_path), str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    commits, text = done.stdout.splitlines()
    assert int(commits) > 5
    assert DATA_FILE in text
    assert "commit" in text or "write" in text
    opened = Opened(LmdbStore(tmp_path, CONTAINERS))
    assert opened.contents(1) == [bytes(7000)] * int(commits)
    assert opened.loaded.queues[1].messages == int(commits)
    opened.append(1, [b"goes on"])
    opened.commit()
    assert opened.contents(1)[-1] == b"goes on"
    opened.store.close()


def test_a_failed_commit_leaves_nothing_and_the_store_can_be_closed(tmp_path: Path) -> None:
    class Failing(FullAtCommit):
        def commit(self) -> None:
            self._transaction.abort()
            raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    maker = LmdbMaker(tmp_path)
    store = maker.open()
    opened = Opened(store)
    opened.define(1)
    opened.append(1, [b"a"])
    opened.commit()
    opened.append(1, [b"b"])
    store.begin()
    store._transaction = Failing(store._transaction)
    with pytest.raises(StoreError, match=DATA_FILE) as caught:
        store.finish()
    assert "Input/output error" in str(caught.value)
    assert Opened(maker.open()).contents(1) == [b"a"]
    maker.close()


def test_closing_during_a_commit_forgets_it(tmp_path: Path) -> None:
    maker = LmdbMaker(tmp_path)
    opened = Opened(maker.open())
    opened.define(1)
    opened.append(1, [b"a"])
    opened.commit()
    opened.append(1, [b"b"])
    opened.store.begin()
    assert Opened(maker.open()).contents(1) == [b"a"]
    maker.close()


# --- The directory ------------------------------------------------------------------------------------------


def test_a_second_store_in_one_directory_is_refused(tmp_path: Path) -> None:
    first = Opened(LmdbStore(tmp_path, CONTAINERS))
    with pytest.raises(StoreError) as caught:
        LmdbStore(tmp_path, CONTAINERS)
    assert str(tmp_path) in str(caught.value)
    assert "in use" in str(caught.value)
    assert str(os.getpid()) in str(caught.value)
    first.append(1, [b"a"])
    first.commit()
    assert first.contents(1) == [b"a"], "the first does not notice"
    first.store.close()
    LmdbStore(tmp_path, CONTAINERS).close()


def test_another_process_in_the_directory_is_refused(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, CONTAINERS)
    command = [sys.executable, str(CHILD), "read", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("refused ")
    assert f"process {os.getpid()}" in done.stdout
    store.close()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ok 0\n"


def test_a_lock_file_left_by_a_dead_process_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("1\n")
    store = LmdbStore(tmp_path, CONTAINERS)
    assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    store.close()


def test_a_directory_is_made(tmp_path: Path) -> None:
    LmdbStore(tmp_path / "not" / "there", CONTAINERS).close()
    assert (tmp_path / "not" / "there" / DATA_FILE).exists()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot be used"):
            LmdbStore(path, CONTAINERS)


def test_a_data_file_that_is_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / DATA_FILE).mkdir()
    with pytest.raises(StoreError):
        LmdbStore(tmp_path, CONTAINERS)
    (tmp_path / DATA_FILE).rmdir()
    LmdbStore(tmp_path, CONTAINERS).close()  # the lock was given back


# --- Size ---------------------------------------------------------------------------------------------------


def test_a_large_queue_is_dropped_with_the_real_limit(tmp_path: Path) -> None:
    """More than DROPS_PER_COMMIT_MAX as it is, with a reopen in the middle."""
    maker = LmdbMaker(tmp_path)
    opened = Opened(maker.open())
    opened.define(1)
    count = lmdb_store.DROPS_PER_COMMIT_MAX * 2 + 500
    opened.append(1, [b"x"] * count)
    opened.commit()
    opened.store.journal.undefine(QueueDefinition("/", "q1", 1))
    opened.store.journal.drop_queue(opened.log(1))
    opened.commit()
    opened = Opened(maker.open())
    assert opened.loaded.queues == {}
    assert opened.settle_down() == 2
    assert maker.open().read(1, 0, None, ALL, ALL) == []
    maker.close()


def test_settled_messages_give_their_place_back(tmp_path: Path) -> None:
    """The file does not grow for ever under a steady flow."""
    maker = LmdbMaker(tmp_path)
    opened = Opened(maker.open())
    for _ in range(60):
        opened.log(1).remove(opened.append(1, [bytes(500)] * 20))
        messages = opened.append(1, [bytes(500)] * 20)
        opened.commit()
        opened.log(1).remove(messages)
        opened.commit()
    assert (tmp_path / DATA_FILE).stat().st_size < 250_000
    maker.close()
