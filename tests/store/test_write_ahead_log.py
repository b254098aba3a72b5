"""The write-ahead log and the store over it: what a crash leaves, and what does not belong together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from stores import CONTAINERS, Opened

from pabal.model.errors import StoreError
from pabal.model.limits import UNSTORED_CHANGES_MAX
from pabal.model.message import STORED
from pabal.store import durable_store, write_ahead_log
from pabal.store.durable_store import open_durable_store
from pabal.store.lmdb_store import DATA_FILE, LmdbStore
from pabal.store.write_ahead_log import LOG_FILE, WriteAheadLog


def opened_in(directory: Path) -> Opened:
    return Opened(open_durable_store(directory, CONTAINERS))


def crash(opened: Opened, directory: Path) -> Path:
    """The files as kill -9 leaves them."""
    after = directory.with_name(directory.name + "+")
    shutil.copytree(directory, after)
    opened.store.close()
    return after


def checkpoints(directory: Path) -> int:
    store = LmdbStore(directory, CONTAINERS)
    store.close()
    return store.epoch


def test_a_small_commit_goes_to_the_log_alone_and_is_there_after_a_crash(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    messages = opened.append(1, [b"a", b"bb", b"ccc"])
    opened.commit()
    opened.log(1).remove(messages[1:2])
    opened.commit()
    assert opened.contents(1) == [], "nothing of it is in the data file"
    after = crash(opened, tmp_path / "d")
    assert checkpoints(after) == 0
    again = opened_in(after)
    assert again.contents(1) == [b"a", b"ccc"]
    assert again.loaded.queues[1].messages == 2
    assert again.loaded.queues[1].next_position == 4
    again.store.close()
    assert checkpoints(after) == 1, "it was put into the data file once"


def test_what_is_settled_waits_for_a_checkpoint_no_longer_than_what_is_published(tmp_path: Path) -> None:
    """Removals in order take a few bytes of the log, however many they are: they count all the same."""
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    step = UNSTORED_CHANGES_MAX // 4
    for _ in range(12):
        opened.append(1, [b"a"] * step)
        opened.commit()
    opened.store.journal.unstored = 10**6
    opened.commit()
    assert opened.store.journal.unstored == 0
    messages = opened.read(1)
    for begin in range(0, len(messages), step):
        opened.log(1).remove(messages[begin : begin + step])
        opened.commit()
        assert opened.store.journal.unstored <= UNSTORED_CHANGES_MAX + step
    assert len(opened.read(1)) <= UNSTORED_CHANGES_MAX + step
    opened.store.close()


def test_what_was_recovered_is_not_recovered_again(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    opened.append(1, [b"a"])
    opened.commit()
    after = crash(opened, tmp_path / "d")
    again = opened_in(after)
    (message,) = again.read(1)
    again.log(1).remove([message])
    again.commit()
    again.store.close()
    last = opened_in(after)
    assert last.contents(1) == []
    last.store.close()


def test_a_checkpoint_ends_the_entries_before_it(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    kept = opened.append(1, [b"%d" % number for number in range(5000)])
    opened.commit()  # 5,000 changes wait for a checkpoint now
    gone = opened.append(1, [b"gone"])
    opened.log(1).remove(kept[:10])
    opened.commit()  # ... which this is
    assert all(message.state == STORED for message in kept[10:])
    opened.log(1).remove(gone)
    opened.commit()
    after = crash(opened, tmp_path / "d")
    again = opened_in(after)
    assert again.contents(1) == [b"%d" % number for number in range(10, 5000)]
    assert again.loaded.queues[1].messages == 4990
    again.store.close()


def test_a_large_commit_goes_to_the_data_file_at_once(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    opened.append(1, [b"small"])
    opened.commit()
    opened.append(1, [bytes(1_000_000)])
    opened.commit()
    opened.store.close()
    assert (tmp_path / "d" / LOG_FILE).stat().st_size <= 1024 * 1024
    assert checkpoints(tmp_path / "d") == 1
    again = opened_in(tmp_path / "d")
    assert [len(content) for content in again.contents(1)] == [5, 1_000_000]
    again.store.close()


def test_everything_that_an_entry_can_say_is_recovered(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    for queue_id in (1, 2, 3):
        opened.define(queue_id)
    many = opened.append(1, [b"m%d" % number for number in range(20)])
    opened.append(2, [b"x", b"y"])
    gone = opened.append(3, [b"z"])
    opened.commit()
    again = many[7]
    again.attempts = 3
    opened.log(1).update(again)
    opened.log(1).remove([*many[0:3], many[10], many[12], many[11]])
    opened.log(1).delivered(9)
    opened.store.journal.drop_queue(opened.log(3))
    opened.commit()
    last = many[15]
    opened.log(1).remove([last])
    opened.commit()
    assert gone[0].position == 1
    after = crash(opened, tmp_path / "d")
    recovered = opened_in(after)
    expected = [number for number in range(20) if number not in (0, 1, 2, 10, 11, 12, 15)]
    assert recovered.contents(1) == [b"m%d" % number for number in expected]
    assert {message.position: message.attempts for message in recovered.read(1)}[again.position] == 3
    assert recovered.loaded.queues[1].delivered_position == 9
    assert recovered.loaded.queues[1].messages == len(expected)
    assert recovered.contents(2) == [b"x", b"y"]
    assert 3 not in recovered.loaded.queues
    recovered.settle_down()
    assert recovered.contents(3) == []
    recovered.store.close()


@pytest.mark.parametrize("cut", [1, 20, 24, 25, 60, 200])
def test_an_entry_that_was_cut_short_never_was(tmp_path: Path, cut: int) -> None:
    """The last one; what was before it was confirmed, and is there."""
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    opened.append(1, [b"first"])
    opened.commit()
    log: Any = opened.store._log  # type: ignore[attr-defined]
    begin = log.used_bytes
    opened.append(1, [b"second" * 50])
    opened.commit()
    end = log.used_bytes
    assert end - begin > 200
    after = crash(opened, tmp_path / "d")
    with open(after / LOG_FILE, "r+b") as file:
        file.seek(begin + cut)
        file.write(bytes(end - begin - cut))
    again = opened_in(after)
    assert again.contents(1) == [b"first"]
    again.append(1, [b"third"])
    again.commit()
    later = crash(again, after)
    last = opened_in(later)
    assert last.contents(1) == [b"first", b"third"], "what stood behind the cut is not taken for an entry"
    last.store.close()


def test_entries_of_an_earlier_epoch_that_were_not_overwritten_are_not_taken(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    for number in range(10):
        opened.append(1, [b"old %d" % number])
        opened.commit()
    opened.append(1, [bytes(1_000_000)])
    opened.commit()
    opened.append(1, [b"new"])
    opened.commit()
    after = crash(opened, tmp_path / "d")
    again = opened_in(after)
    contents = again.contents(1)
    assert contents[:10] == [b"old %d" % number for number in range(10)]
    assert contents[11:] == [b"new"]
    again.store.close()


def test_transient_queues_need_no_entries(tmp_path: Path) -> None:
    """What a queue puts on disk for want of memory alone need not be there after a crash."""
    opened = opened_in(tmp_path / "d")
    log = opened.store.journal.queue_log(7, durable=False)
    opened._logs[7] = log
    opened.append(7, [b"transient"] * 10)
    assert not opened.commit(), "there is nothing to wait for"
    assert not (tmp_path / "d" / LOG_FILE).stat().st_size
    opened.append(7, [b"transient"] * 5000)
    opened.commit()
    opened.append(7, [b"transient"])
    assert opened.commit(), "a checkpoint, so that memory need not hold them"
    assert len(opened.contents(7)) == 5011
    opened.store.close()


def test_what_needs_no_entries_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A transient backlog of large messages goes to the data file by its bytes, not by its messages alone."""
    opened = opened_in(tmp_path)
    log = opened.store.journal.queue_log(7, durable=False)
    opened._logs[7] = log
    for _ in range(40):
        opened.append(7, [bytes(30_000)] * 10)
        opened.commit()
    assert opened.store.journal.unstored_bytes < 9 * 1024 * 1024
    assert len(opened.contents(7)) >= 100
    opened.store.close()


def test_the_name_of_a_new_log_is_durable_and_its_bytes_are_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    WriteAheadLog(tmp_path / LOG_FILE, new=True).close()
    assert synced == [tmp_path.stat().st_ino]
    WriteAheadLog(tmp_path / LOG_FILE, new=False).close()
    assert len(synced) == 1
    assert (tmp_path / LOG_FILE).stat().st_mode & 0o077 == 0


# --- Files that are not as they should be -------------------------------------------------------------------


def test_a_log_that_is_missing_is_refused_and_an_empty_one_goes(tmp_path: Path) -> None:
    opened = opened_in(tmp_path)
    opened.define(1)
    opened.append(1, [b"a"])
    opened.commit()
    opened.store.close()
    (tmp_path / LOG_FILE).unlink()
    with pytest.raises(StoreError, match=r"pabal\.log is missing: it has what was confirmed last"):
        open_durable_store(tmp_path, CONTAINERS)
    (tmp_path / LOG_FILE).touch()
    opened_in(tmp_path).store.close()


def test_an_entry_that_was_damaged_later_is_not_taken_for_one_cut_short(tmp_path: Path) -> None:
    """What came after it was confirmed too: better no start than a silent loss."""
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    for number in range(5):
        opened.append(1, [b"message %d" % number])
        opened.commit()
    after = crash(opened, tmp_path / "d")
    content = (after / LOG_FILE).read_bytes()
    (after / LOG_FILE).write_bytes(content.replace(b"message 2", b"massage 2"))
    store = open_durable_store(after, CONTAINERS)
    with pytest.raises(StoreError, match=r"pabal\.log is damaged at byte \d+"):
        store.load()
    store.close()
    (after / LOG_FILE).write_bytes(content.replace(b"message 4", b"massage 4"))
    last = opened_in(after)
    assert last.contents(1) == [b"message %d" % number for number in range(4)]
    last.store.close()


def test_a_log_of_another_data_file_is_refused(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.define(1)
    opened.append(1, [bytes(1_000_000)])
    opened.commit()
    opened.append(1, [b"a"])
    opened.commit()
    after = crash(opened, tmp_path / "d")
    opened_in(tmp_path / "e").store.close()
    shutil.copy(tmp_path / "e" / DATA_FILE, after / DATA_FILE)
    store = open_durable_store(after, CONTAINERS)
    with pytest.raises(StoreError, match="do not belong together"):
        store.load()
    store.close()


def test_a_data_file_from_before_there_were_logs_is_taken_over(tmp_path: Path) -> None:
    old = Opened(LmdbStore(tmp_path, CONTAINERS))
    old.define(1)
    old.append(1, [b"old"])
    old.commit()
    old.store.close()
    opened = opened_in(tmp_path)
    assert opened.contents(1) == [b"old"]
    opened.append(1, [b"new"])
    opened.commit()
    opened.store.close()
    again = opened_in(tmp_path)
    assert again.contents(1) == [b"old", b"new"]
    again.store.close()


def test_a_failed_write_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_in(tmp_path)
    opened.define(1)
    opened.append(1, [b"a"])
    opened.store.begin()

    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StoreError, match=r"pabal\.log failed: No space left on device"):
        opened.store.finish()
    opened.store.close()


def test_a_write_in_parts_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, bytes(data[:1000]), at))
    log = WriteAheadLog(tmp_path / LOG_FILE, new=True)
    log.restart(0)
    for number in range(3):
        log.append(log.encode([b"%d" % number * 3000]))
    monkeypatch.undo()
    assert list(log.recover(0)) == [b"%d" % number * 3000 for number in range(3)]
    log.close()


def test_the_file_grows_ahead_and_is_written_over(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path / LOG_FILE, new=True)
    log.restart(0)
    for _ in range(30):
        log.append(log.encode([bytes(100_000)]))
    size = (tmp_path / LOG_FILE).stat().st_size
    assert size % (1024 * 1024) == 0
    assert len(list(log.recover(0))) == 30
    log.restart(1)
    assert list(log.recover(1)) == []
    for _ in range(20):
        log.append(log.encode([bytes(100_000)]))
    assert len(list(log.recover(1))) == 20
    assert (tmp_path / LOG_FILE).stat().st_size == size
    log.close()


def test_an_entry_of_a_later_version_is_refused(tmp_path: Path) -> None:
    opened = opened_in(tmp_path / "d")
    opened.store.close()
    log = WriteAheadLog(tmp_path / "d" / LOG_FILE, new=False)
    log.restart(0)
    log.append(log.encode([b"\x63 from the future"]))
    log.close()
    store = open_durable_store(tmp_path / "d", CONTAINERS)
    with pytest.raises(StoreError, match="a newer Pabal wrote it"):
        store.load()
    store.close()


@pytest.mark.plain
def test_the_directory_is_free_again_when_the_log_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("no log today")

    monkeypatch.setattr(durable_store, "WriteAheadLog", fail)
    with pytest.raises(StoreError, match="no log today"):
        open_durable_store(tmp_path, CONTAINERS)
    monkeypatch.undo()
    assert write_ahead_log.LOG_FILE not in os.listdir(tmp_path)
    opened_in(tmp_path).store.close()
