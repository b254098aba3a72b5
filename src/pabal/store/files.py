"""What the files of a data directory have in common, and the lock on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Any, Final

from pabal.model.errors import DiskFull, StoreError

FILE_MODE: Final = 0o600
"""Messages and hashes of passwords are in them: they are their owner's alone."""

SPOOL_FILE: Final = "pabal.backup"
"""A backup that is being made, or sent."""
LOCK_FILE: Final = "pabal.lock"
_PROBE_FILE: Final = "pabal.probe"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM_TEXTS: Final = tuple(os.strerror(code) for code in _NO_ROOM)


def has_no_room(error: Exception) -> bool:
    """The disk is full, or a quota used up: the one failure of a write that passes by itself.

    It may be tried again, if all of it is written again. Any other must never be: after a failed fsync the system
    takes pages that it could not write for clean, and the next one would succeed without them."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return str(error).endswith(_NO_ROOM_TEXTS)  # LMDB's end with the system's text


def write_error(text: str, error: Exception) -> StoreError:
    """The StoreError for a write that failed."""
    return DiskFull(text) if has_no_room(error) else StoreError(text)


def has_room(directory: Path, size: int) -> bool:
    """Whether so many bytes more could be written, as far as can be found out (a quota shows only when one tries)."""
    probe = directory / _PROBE_FILE
    try:
        system = os.statvfs(directory)
        if system.f_bavail * system.f_frsize < size:
            return False
        if hasattr(os, "posix_fallocate"):
            with open(probe, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        return not has_no_room(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def sync_directory(path: Path) -> None:
    """The names of its files are durable from now on. OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def lock_directory(directory: Path) -> Any:
    """The open lock file: the directory, made when missing, is this process's until it is closed. StoreError when it
    cannot be used or is another's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / LOCK_FILE, "a+")  # noqa: SIM115 - held open for as long as the lock is
    except OSError as error:
        raise StoreError(f"the data directory {directory} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StoreError(
            f"the data directory {directory} is in use by another Pabal (process {owner}); stop that one, or "
            f"give this one its own with --data"
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the number only helps who is refused
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"{os.getpid()}\n".encode())
    return file


def reason(error: Exception) -> str:
    """What an error of LMDB says, if anything."""
    return str(error) or type(error).__name__
