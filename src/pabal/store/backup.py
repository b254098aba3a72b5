"""A copy of a data directory as one file, made while the broker runs, and the way back.

The file is a plain tar: `backup.json` (format, version of Pabal, time, bytes), `pabal.mdb` (the data file as of one
moment, all that was in the log included) and `SHA256SUMS`, by which `tar -x` and `sha256sum -c` check it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from pabal.model.errors import StoreError
from pabal.store.files import FILE_MODE, lock_directory, sync_directory
from pabal.store.lmdb_store import DATA_FILE
from pabal.store.write_ahead_log import LOG_FILE

BACKUP_FORMAT: Final = 1
_HEAD: Final = "backup.json"
_SUMS: Final = "SHA256SUMS"
_HEAD_BYTES_MAX: Final = 64 * 1024
_STEP_BYTES: Final = 1024 * 1024
_SYNC_BYTES: Final = 16 * 1024 * 1024


class BackupError(Exception):
    """`str(error)` says what is wrong with the backup or the directory, and what to do."""


class BackupSummary(NamedTuple):
    """`time`: ISO 8601, UTC. `version`: of the Pabal that made it."""

    version: str
    time: str
    data_bytes: int
    sha256: str


class _Reader:
    """The first `left` bytes of a file, and what their checksum is."""

    def __init__(self, file: IO[bytes], left: int, lasts: Callable[[], bool]) -> None:
        self._file, self._left, self._lasts = file, left, lasts
        self.digest = hashlib.sha256()

    def read(self, count: int = _STEP_BYTES, /) -> bytes:
        if not self._lasts():
            raise BackupError("the backup was given up: the disk became full, or the broker stops")
        data = self._file.read(min(count, self._left))
        if not data and self._left:
            # LMDB may leave its file a page or two short; what is missing there is not in use.
            data = bytes(min(count, self._left))
        self._left -= len(data)
        self.digest.update(data)
        return data


class _Writer:
    """Writes to a file, and waits for the disk again and again: much to be written at once would make the
    commits of the broker wait behind it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unsynced = 0

    def write(self, data: bytes) -> int:
        self._unsynced += len(data)
        if self._unsynced > _SYNC_BYTES:
            self.sync()
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0


def write_backup(
    data_file: Path, data_bytes: int, file: IO[bytes], version: str, time: str, lasts: Callable[[], bool]
) -> BackupSummary:
    """Writes a backup of the data file, which must not change meanwhile, and makes it durable. BackupError as soon as
    `lasts` denies that; OSError."""
    head = {"format": BACKUP_FORMAT, "version": version, "time": time, "data_bytes": data_bytes}
    writer: Any = _Writer(file)
    with tarfile.open(fileobj=writer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.copybufsize = _STEP_BYTES  # type: ignore[attr-defined]
        _add(tar, _HEAD, json.dumps(head, indent=1).encode() + b"\n")
        member = _member(DATA_FILE, data_bytes)
        with data_file.open("rb", buffering=0) as source:
            reader = _Reader(source, data_bytes, lasts)
            tar.addfile(member, reader)
        sha256 = reader.digest.hexdigest()
        _add(tar, _SUMS, f"{sha256}  {DATA_FILE}\n".encode())
    writer.sync()
    return BackupSummary(version, time, data_bytes, sha256)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = FILE_MODE
    return member


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_member(name, len(data)), io.BytesIO(data))


def restore(file: Path, directory: Path) -> BackupSummary:
    """Makes the data directory from the backup: complete, or not at all. BackupError: the directory has data or is in
    use, or the file is no backup or damaged."""
    if not file.is_file():
        raise BackupError(f"{file}: there is no such file")
    try:
        lock = lock_directory(directory)
    except StoreError as error:
        raise BackupError(str(error)) from None
    try:
        for name in (DATA_FILE, LOG_FILE):
            if (directory / name).exists():
                raise BackupError(f"{directory} has data ({name}): restore into an empty directory")
        return _restore(file, directory)
    finally:
        lock.close()


def _restore(file: Path, directory: Path) -> BackupSummary:
    part = directory / (DATA_FILE + ".restoring")
    log = directory / LOG_FILE
    done = False
    try:
        with tarfile.open(file, mode="r:") as tar:
            head = json.loads(_read(tar, _HEAD))
            if not isinstance(head, dict) or head.get("format") != BACKUP_FORMAT:
                raise BackupError(f"{file}: a backup of a format that this Pabal does not know")
            sha256 = _copy(tar, part, head)
            if _read(tar, _SUMS).split()[:2] != [sha256.encode(), DATA_FILE.encode()]:
                raise BackupError(f"{file} is damaged: its checksum does not agree")
        with open(log, "xb") as empty:
            os.chmod(empty.fileno(), FILE_MODE)
            os.fsync(empty.fileno())
        os.rename(part, directory / DATA_FILE)  # until here there is no data directory, from here on it is complete
        sync_directory(directory)
        done = True
        return BackupSummary(str(head.get("version")), str(head.get("time")), int(head["data_bytes"]), sha256)
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BackupError(f"{file} is no backup of Pabal, or damaged: {error}") from None
    except OSError as error:
        raise BackupError(f"{error.filename or file}: {error.strerror}") from None
    finally:
        if not done:
            for left in (part, log):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.next()
    if member is None or member.name != name or member.size > _HEAD_BYTES_MAX:
        raise ValueError(f"there is no {name} where it should be")
    source = tar.extractfile(member)
    assert source is not None
    return source.read()


def _copy(tar: tarfile.TarFile, to: Path, head: dict[str, Any]) -> str:
    member = tar.next()
    if member is None or member.name != DATA_FILE or member.size != head["data_bytes"]:
        raise ValueError(f"there is no {DATA_FILE} of that length where it should be")
    source = tar.extractfile(member)
    assert source is not None
    digest = hashlib.sha256()
    left = member.size
    with open(to, "wb") as target:
        os.chmod(target.fileno(), FILE_MODE)
        while left:
            data = source.read(min(left, _STEP_BYTES))
            if not data:
                raise ValueError("it ends too soon")
            left -= len(data)
            digest.update(data)
            target.write(data)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()
