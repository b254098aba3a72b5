"""Data files that are damaged, or of a newer Pabal: refused with a clear text, never a crash, never changed."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from stores import ALL, CONTAINERS, Opened

from pabal.model.errors import StoreError
from pabal.store.batch import message_key
from pabal.store.lmdb_store import DATA_FILE, LmdbStore

PAGE_BYTES = 4096
CHILD = Path(__file__).with_name("store_child.py")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A data file with some thousand messages, small and large, in two queues, after many commits."""
    directory = tmp_path_factory.mktemp("whole")
    opened = Opened(LmdbStore(directory, CONTAINERS))
    opened.define(1)
    opened.define(2)
    for _ in range(30):
        messages = opened.append(1, [bytes(100)] * 50 + [bytes(9000)])
        opened.append(2, [bytes(300)] * 20)
        opened.commit()
        opened.log(1).remove(messages[::5])
        opened.commit()
    opened.store.close()
    return (directory / DATA_FILE).read_bytes()


def make(directory: Path, data: bytes) -> Path:
    directory.mkdir()
    (directory / DATA_FILE).write_bytes(data)
    return directory


def outcomes(directories: list[Path]) -> list[str]:
    """What comes of opening and reading each whole, in processes of their own."""
    command = [sys.executable, str(CHILD), "read", *map(str, directories)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def digest(directory: Path) -> str:
    return hashlib.blake2b((directory / DATA_FILE).read_bytes()).hexdigest()


def test_the_whole_file_is_good(whole_file: bytes, tmp_path: Path) -> None:
    assert outcomes([make(tmp_path / "d", whole_file)]) == ["ok 1800"]


def test_truncated_files_are_refused_and_left_alone(whole_file: bytes, tmp_path: Path) -> None:
    pages = len(whole_file) // PAGE_BYTES
    lengths = [1, 16, 100, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 100, 2 * PAGE_BYTES, 3 * PAGE_BYTES]
    lengths += [pages * PAGE_BYTES // 4, pages // 2 * PAGE_BYTES, pages * 3 // 4 * PAGE_BYTES + 7]
    directories = [make(tmp_path / str(length), whole_file[:length]) for length in lengths]
    before = [digest(directory) for directory in directories]
    found = dict(zip(lengths, outcomes(directories), strict=True))
    bad = {length: text for length, text in found.items() if not text.startswith("refused ")}
    assert not bad, f"of a file of {len(whole_file)} bytes"
    assert all(DATA_FILE in text for text in found.values())
    assert [digest(directory) for directory in directories] == before


def test_a_file_cut_anywhere_is_never_a_crash(whole_file: bytes, tmp_path: Path) -> None:
    """By a little: the end of a file may hold nothing that is needed, so it may be good; then all is there."""
    lengths = [len(whole_file) - cut for cut in (1, 100, PAGE_BYTES, 2 * PAGE_BYTES, 5 * PAGE_BYTES + 1)]
    directories = [make(tmp_path / str(length), whole_file[:length]) for length in lengths]
    found = dict(zip(lengths, outcomes(directories), strict=True))
    bad = {n: text for n, text in found.items() if text != "ok 1800" and not text.startswith("refused ")}
    assert not bad, f"of a file of {len(whole_file)} bytes"


def test_garbage_is_refused_and_left_alone(whole_file: bytes, tmp_path: Path) -> None:
    chance = random.Random(1)
    cases = {
        "text": b"this is no data file\n" * 3000,
        "random": chance.randbytes(100_000),
        "zeros": bytes(10 * PAGE_BYTES),
        "one zero": b"\0",
        "sqlite": b"SQLite format 3\0".ljust(8 * PAGE_BYTES, b"\0"),
        "head overwritten": bytes(2 * PAGE_BYTES) + whole_file[2 * PAGE_BYTES :],
    }
    directories = [make(tmp_path / name.replace(" ", "-"), data) for name, data in cases.items()]
    before = [digest(directory) for directory in directories]
    found = dict(zip(cases, outcomes(directories), strict=True))
    assert not {name: text for name, text in found.items() if not text.startswith("refused ")}
    assert [digest(directory) for directory in directories] == before


def test_a_file_that_shrank_to_zeros_is_never_a_crash(whole_file: bytes, tmp_path: Path) -> None:
    """Pages that a power loss left empty: what is met of them is refused."""
    half = len(whole_file) // PAGE_BYTES // 2 * PAGE_BYTES
    found = outcomes([make(tmp_path / "d", whole_file[:half] + bytes(len(whole_file) - half))])
    assert found[0].startswith("refused "), found


def test_legitimate_files_are_taken(tmp_path: Path) -> None:
    """LMDB leaves out pages at the end that were allocated and freed within one commit: that is no damage."""
    chance = random.Random(2)
    directories = []
    for number in range(12):
        directory = tmp_path / str(number)
        opened = Opened(LmdbStore(directory, CONTAINERS))
        opened.define(1)
        alive: list[Any] = []
        for _ in range(chance.randint(1, 6)):
            sizes = [chance.choice((100, 100, 6000)) for _ in range(chance.choice((1, 10, 200, 1000)))]
            alive += opened.append(1, [bytes(size) for size in sizes])
            gone = chance.choice((0, 1, 200, 2000))
            opened.log(1).remove(alive[:gone])
            del alive[:gone]
            opened.commit()
        opened.store.close()
        directories.append((directory, f"ok {len(alive)}"))
    assert outcomes([directory for directory, _ in directories]) == [text for _, text in directories]


def test_a_row_of_which_a_message_is_missing_removes_no_other(tmp_path: Path) -> None:
    opened = Opened(LmdbStore(tmp_path, CONTAINERS))
    opened.define(1)
    messages = opened.append(1, [b"%d" % number for number in range(10)])
    opened.commit()
    environment, records = opened.store._env, opened.store._messages  # type: ignore[attr-defined]
    with environment.begin(write=True) as transaction:
        transaction.delete(message_key(1, 4), db=records)
    opened.log(1).remove(messages[2:6])
    with pytest.raises(StoreError, match="a message is missing from queue 1"):
        opened.commit()
    opened.store.close()
    assert Opened(LmdbStore(tmp_path, CONTAINERS)).positions(1) == [1, 2, 3, 5, 6, 7, 8, 9, 10]


# --- Newer ones ---------------------------------------------------------------------------------------------


def edit(directory: Path, change: Callable[[lmdb.Environment, lmdb.Transaction], None]) -> None:
    environment = lmdb.open(str(directory / DATA_FILE), subdir=False, lock=False, max_dbs=20)
    with environment.begin(write=True) as transaction:
        change(environment, transaction)
    environment.close()


def refusal(directory: Path) -> str:
    """The text of the StoreError on opening; the file must be as it was."""
    before = digest(directory)
    with pytest.raises(StoreError) as caught:
        LmdbStore(directory, CONTAINERS)
    assert digest(directory) == before, "refused and changed all the same"
    assert DATA_FILE in str(caught.value)
    return str(caught.value)


def test_a_newer_format_is_refused(whole_file: bytes, tmp_path: Path) -> None:
    directory = make(tmp_path / "d", whole_file)

    def change(environment: lmdb.Environment, transaction: lmdb.Transaction) -> None:
        meta = environment.open_db(b"meta", transaction)
        transaction.put(b"format", b"3", db=meta)

    edit(directory, change)
    text = refusal(directory)
    assert "format '3'" in text
    assert "newer" in text


def test_a_newer_format_with_other_databases_is_refused_and_left_alone(tmp_path: Path) -> None:
    directory = make(tmp_path / "d", b"")

    def change(environment: lmdb.Environment, transaction: lmdb.Transaction) -> None:
        meta = environment.open_db(b"meta", transaction)
        transaction.put(b"format", b"17", db=meta)
        transaction.put(b"x", b"y", db=environment.open_db(b"logs", transaction))

    edit(directory, change)
    assert "format '17'" in refusal(directory)


def test_a_format_that_is_no_number_is_refused(whole_file: bytes, tmp_path: Path) -> None:
    directory = make(tmp_path / "d", whole_file)

    def change(environment: lmdb.Environment, transaction: lmdb.Transaction) -> None:
        meta = environment.open_db(b"meta", transaction)
        transaction.put(b"format", b"\xff\x00", db=meta)

    edit(directory, change)
    refusal(directory)


def test_messages_without_a_format_are_refused(whole_file: bytes, tmp_path: Path) -> None:
    directory = make(tmp_path / "d", whole_file)

    def change(environment: lmdb.Environment, transaction: lmdb.Transaction) -> None:
        transaction.drop(environment.open_db(b"meta", transaction), delete=False)

    edit(directory, change)
    refusal(directory)


def test_a_refused_directory_can_be_used_again(whole_file: bytes, tmp_path: Path) -> None:
    directory = make(tmp_path / "d", b"garbage" * 1000)
    refusal(directory)
    (directory / DATA_FILE).write_bytes(whole_file)
    store = LmdbStore(directory, CONTAINERS)
    assert len(store.load().queues) == 2
    store.close()


RECORDS = {
    "a later version": b"\x04\x01\x01" + bytes(40),
    "version 0": bytes(40),
    "empty": b"",
    "cut short": b"\x01\x01\x01\x00",
    "an unknown container": b"\x01\x63\x01" + bytes(40),
    "an exchange name that leads too far": b"\x01\x01\x01" + bytes(12) + b"\xff\x00",
    "a routing key that leads too far": b"\x01\x01\x01" + bytes(12) + b"\x00\xff",
    "copies that lead too far": b"\x02\x01\x01" + bytes(14) + b"\x00\x00\x00\x01\x00\x00\xff\xff",
    "copies cut short": b"\x02\x01\x01" + bytes(14) + b"\x00\x00\x00\x02\x00\x00\x00\x01a",
    "a content that is not there": b"\x03\x01\x01" + bytes(18) + (7).to_bytes(8, "big"),
    "a content without an id": b"\x03\x01\x01" + bytes(18),
    "no routing key": b"\x01\x01\x01" + bytes(12) + b"\x00",
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_cannot_be_read_is_an_error(tmp_path: Path, case: str) -> None:
    opened = Opened(LmdbStore(tmp_path, CONTAINERS))
    opened.define(1)
    opened.append(1, [b"good", b"bad"])
    opened.commit()
    opened.store.close()
    key = (1).to_bytes(8, "big") + (2).to_bytes(8, "big")

    def change(environment: lmdb.Environment, transaction: lmdb.Transaction) -> None:
        messages = environment.open_db(b"messages", transaction)
        transaction.put(key, RECORDS[case], db=messages)

    edit(tmp_path, change)
    opened = Opened(LmdbStore(tmp_path, CONTAINERS))
    assert [m.content for m in opened.read(1, 0, 2)] == [b"good"]
    with pytest.raises(StoreError) as caught:
        opened.read(1)
    assert "position 2" in str(caught.value)
    if case == "a later version":
        assert "version 4" in str(caught.value)
        assert "newer" in str(caught.value)
    opened.store.close()


VALUES: dict[str, tuple[bytes, bytes, bytes]] = {
    "a state of another size": (b"queues", (1).to_bytes(8, "big"), bytes(24)),
    "a state that is empty": (b"queues", (1).to_bytes(8, "big"), b""),
    "a queue id of another size": (b"queues", b"\x01", bytes(24)),
    "a drop of another size": (b"drops", (1).to_bytes(16, "big"), b"\x01"),
    "a definition that is no JSON": (b"definitions", b"x", b"\xff\xfe"),
    "a definition of an unknown kind": (b"definitions", b"x", b'{"kind":"shovel"}'),
    "a definition without fields": (b"definitions", b"x", b'{"kind":"queue"}'),
    "a decimal that is none": (b"definitions", b"x", b'{"kind":"vhost","name":{"$decimal":"x"}}'),
    "a time beyond all time": (b"definitions", b"x", b'{"kind":"vhost","name":{"$time":1e30}}'),
    "a time that is none": (b"definitions", b"x", b'{"kind":"vhost","name":{"$time":[]}}'),
    "bytes that are none": (b"definitions", b"x", b'{"kind":"vhost","name":{"$bytes":5}}'),
    "a definition nested too deeply": (b"definitions", b"x", b"[" * 100_000),
}


@pytest.mark.parametrize("case", VALUES)
def test_what_cannot_be_loaded_is_refused(tmp_path: Path, case: str) -> None:
    LmdbStore(tmp_path, CONTAINERS).close()
    database, key, value = VALUES[case]

    def change(environment: lmdb.Environment, transaction: lmdb.Transaction) -> None:
        transaction.put(key, value, db=environment.open_db(database, transaction))

    edit(tmp_path, change)
    before = digest(tmp_path)
    store = LmdbStore(tmp_path, CONTAINERS)
    with pytest.raises(StoreError) as caught:
        store.load()
    store.close()
    assert DATA_FILE in str(caught.value)
    assert digest(tmp_path) == before


def test_reading_a_range_that_is_not_there_is_no_error(whole_file: bytes, tmp_path: Path) -> None:
    store = LmdbStore(make(tmp_path / "d", whole_file), CONTAINERS)
    assert store.read(99, 0, None, ALL, ALL) == []
    store.close()
