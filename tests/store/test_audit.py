"""`check`: a sound directory is found sound, each kind of damage is named, and nothing is changed."""

from __future__ import annotations

from pathlib import Path
from struct import Struct

import lmdb
import pytest
from stores import CONTAINERS, Opened

from pabal.model.definitions import BindingDefinition
from pabal.store.audit import FAULTY, NOT_CHECKED, SOUND, check
from pabal.store.batch import QueueState, encode_state, message_key
from pabal.store.durable_store import open_durable_store
from pabal.store.lmdb_store import DATA_FILE
from pabal.store.write_ahead_log import LOG_FILE

ID = Struct(">Q")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With messages in the data file, a shared content, and entries in the log."""
    path = tmp_path / "d"
    opened = Opened(open_durable_store(path, CONTAINERS))
    opened.define(1)
    opened.define(2)
    shared = bytes(9000)
    opened.append(1, [b"a", shared, b"c"])
    opened.append(2, [shared])
    opened.store.journal.unsaved_bytes += 10**7  # a checkpoint
    opened.commit()
    opened.append(1, [b"d"])
    opened.commit()
    opened.store.close()
    return path


def checked(path: Path) -> tuple[int, str]:
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    lines: list[str] = []
    code = check(path, lines.append)
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before, "nothing is changed"
    return code, "\n".join(lines)


def change(path: Path, database: bytes, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(path / DATA_FILE), subdir=False, lock=False, max_dbs=8) as environment:
        opened = environment.open_db(database)
        with environment.begin(write=True) as transaction:
            if value is None:
                assert transaction.delete(key, db=opened)
            else:
                transaction.put(key, value, db=opened)


def test_a_sound_directory(directory: Path) -> None:
    code, text = checked(directory)
    assert code == SOUND, text
    assert "no faults" in text
    assert "messages     5; 4 in the data file" in text
    assert "log          1 entries" in text


def test_one_that_cannot_be_checked(directory: Path, tmp_path: Path) -> None:
    assert check(tmp_path, print) == NOT_CHECKED
    store = open_durable_store(directory, CONTAINERS)
    lines: list[str] = []
    assert check(directory, lines.append) == NOT_CHECKED
    assert "in use" in lines[0]
    store.close()


def test_each_fault_is_named(directory: Path) -> None:
    change(directory, b"messages", message_key(1, 3), None)
    assert "queue 'q1' in vhost '/': 2 messages, and its state says 3" in checked(directory)[1]
    change(directory, b"messages", message_key(1, 3), b"\x09garbage")
    assert "the record at position 3 is damaged" in checked(directory)[1]
    change(directory, b"references", ID.pack(1), ID.pack(5))
    assert "content 1: 2 messages refer to it, 5 are noted" in checked(directory)[1]
    change(directory, b"contents", ID.pack(1), None)
    code, text = checked(directory)
    assert code == FAULTY
    assert "there is no content 1" in text
    change(directory, b"definitions", b"binding:x", b"no json")
    assert "binding:x" in checked(directory)[1]
    change(directory, b"queues", ID.pack(9), encode_state(QueueState(2, 1, 0)))
    assert "queue 9: 0 messages, and its state says 1" in checked(directory)[1]


def test_a_binding_to_nothing(directory: Path) -> None:
    opened = Opened(open_durable_store(directory, CONTAINERS))
    opened.store.journal.define(BindingDefinition("/", "gone", "nowhere", False, "k"))
    opened.commit()
    opened.store.close()
    text = checked(directory)[1]
    assert "leads to 'nowhere'" in text
    assert "exchange 'gone'" in text


def test_a_damaged_log(directory: Path) -> None:
    opened = Opened(open_durable_store(directory, CONTAINERS))
    for _ in range(3):
        opened.append(1, [b"e" * 100])
        opened.commit()
    opened.store.close()
    log = bytearray((directory / LOG_FILE).read_bytes())
    log[60] ^= 1
    (directory / LOG_FILE).write_bytes(log)
    code, text = checked(directory)
    assert code == FAULTY
    assert "damaged at byte 0" in text


def test_a_file_that_lmdb_will_not_read(directory: Path) -> None:
    data = bytearray((directory / DATA_FILE).read_bytes())
    for at in range(2 * 4096, len(data), 4096):
        data[at : at + 4096] = b"\xff" * 4096
    (directory / DATA_FILE).write_bytes(data)
    code, text = checked(directory)
    assert code == FAULTY
    assert "fault: " in text
    (directory / DATA_FILE).write_bytes(data[:9000])
    assert checked(directory)[0] == FAULTY


def cut(path: Path, size: int) -> None:
    with (path / DATA_FILE).open("r+b") as file:
        file.truncate(size)


def test_pages_that_were_taken_and_not_used_may_be_missing_at_the_end(directory: Path) -> None:
    """As after a commit that waited for room: what it puts is settled when there is some."""
    path = directory / DATA_FILE
    with lmdb.open(str(path), subdir=False, lock=False, max_dbs=8) as environment:
        contents = environment.open_db(b"contents")
        with environment.begin(write=True) as transaction:
            transaction.put(ID.pack(99), bytes(200_000), db=contents)
            transaction.delete(ID.pack(99), db=contents)
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    assert path.stat().st_size < needed - 100_000
    code, text = checked(directory)
    assert code == SOUND, text


def test_an_end_that_is_missing(directory: Path) -> None:
    size = (directory / DATA_FILE).stat().st_size
    for left in (size - 100, size // 2 // 4096 * 4096):
        cut(directory, left)
        code, text = checked(directory)
        assert code == FAULTY
        assert "has lost its end" in text or "is damaged" in text
        assert f"{left} bytes of" in text
