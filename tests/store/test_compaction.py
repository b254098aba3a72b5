"""Free pages of the data file: they can be seen, and are given back at the start, whenever that is interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from stores import CONTAINERS, Opened

from pabal.model.limits import COMPACTED_BYTES_MAX, COMPACTION_FREE_BYTES_MIN
from pabal.store.compaction import copy_path, is_due
from pabal.store.durable_store import open_durable_store
from pabal.store.interface import Size
from pabal.store.lmdb_store import DATA_FILE

MIB = 2**20
KEPT = [b"first", b"last" * 1000]


def filled(directory: Path) -> None:
    """A data file of which much more is free than used."""
    opened = Opened(open_durable_store(directory, CONTAINERS))
    opened.define(1)
    for _ in range(COMPACTION_FREE_BYTES_MIN // (8 * MIB) + 1):
        opened.append(1, [bytes(MIB) for _ in range(8)])
        opened.commit()
    messages = opened.read(1)
    opened.append(1, KEPT)
    opened.commit()
    opened.log(1).remove(messages)
    opened.store.journal.unstored = 10**6
    opened.commit()
    size = opened.store.size()
    assert size.free_bytes > COMPACTION_FREE_BYTES_MIN
    assert size.used_bytes + size.free_bytes == size.file_bytes
    assert abs(size.file_bytes - (directory / DATA_FILE).stat().st_size) < MIB
    opened.append(1, [b"in the log"])
    opened.commit()
    opened.store.close()


def check(directory: Path) -> list[str]:
    """Opens it and sees that everything is there. What it said."""
    said: list[str] = []
    opened = Opened(open_durable_store(directory, CONTAINERS, said.append))
    assert opened.contents(1) == [*KEPT, b"in the log"]
    assert (directory / DATA_FILE).stat().st_size < 2 * MIB
    assert not copy_path(directory / DATA_FILE).exists()
    opened.append(1, [b"more"])
    opened.commit()
    opened.store.close()
    return said


def test_free_pages_are_given_back_at_the_start(tmp_path: Path) -> None:
    filled(tmp_path)
    [line] = check(tmp_path)
    assert line.startswith("data file compacted from ")
    assert line.endswith(" to 0 MiB")
    assert Opened(open_durable_store(tmp_path, CONTAINERS, pytest.fail)).contents(1)[-1] == b"more"


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_the_middle_of_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(file: int) -> None:
        os.ftruncate(file, os.fstat(file).st_size // 2)
        kill()

    monkeypatch.setattr(os, "fsync", fsync)


def before_the_copy_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda source, target: kill())


def when_the_copy_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def replace(source: Path, target: Path) -> None:
        rename(source, target)
        kill()

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize(
    "moment", [in_the_middle_of_the_copy, before_the_copy_has_the_name, when_the_copy_has_the_name]
)
def test_a_kill_in_between_loses_nothing(
    moment: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    child = os.fork()
    if not child:
        try:
            moment(monkeypatch)
            open_durable_store(tmp_path, CONTAINERS)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    said = check(tmp_path)
    assert bool(said) is (moment is not when_the_copy_has_the_name)


def test_without_room_for_the_copy_it_goes_on_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    before = (tmp_path / DATA_FILE).stat().st_size

    def fsync(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        said: list[str] = []
        opened = Opened(open_durable_store(tmp_path, CONTAINERS, said.append))
    [line] = said
    assert line.endswith(" MiB are free")
    assert opened.contents(1) == [*KEPT, b"in the log"]
    assert (tmp_path / DATA_FILE).stat().st_size == before
    opened.store.close()
    check(tmp_path)


@pytest.mark.parametrize(
    ("used", "free", "due"),
    [
        (MIB, COMPACTION_FREE_BYTES_MIN, True),
        (MIB, COMPACTION_FREE_BYTES_MIN - 1, False),
        (COMPACTION_FREE_BYTES_MIN, COMPACTION_FREE_BYTES_MIN, False),
        (COMPACTED_BYTES_MAX, 2 * COMPACTED_BYTES_MAX, True),
        (COMPACTED_BYTES_MAX + 1, 2 * COMPACTED_BYTES_MAX, False),
    ],
)
def test_when_it_is_worth_it(used: int, free: int, due: bool) -> None:
    assert is_due(Size(used + free, used, free)) is due
