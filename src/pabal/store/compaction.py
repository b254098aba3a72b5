"""Gives free pages of the data file back, when it is opened: LMDB uses them again, but never shortens the file.

The file is copied without them beside itself and then takes the old one's name: whenever that ends, there is one
whole file of that name. An unfinished copy is removed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any, Final

import lmdb

from pabal.model.limits import COMPACTED_BYTES_MAX, COMPACTION_FREE_BYTES_MIN
from pabal.store.files import sync_directory
from pabal.store.interface import Size

_COPY_SUFFIX: Final = ".compact"


def is_due(size: Size) -> bool:
    """Much is free, more than is used, and what is used is copied in about a second."""
    return (
        size.free_bytes >= COMPACTION_FREE_BYTES_MIN
        and size.free_bytes > size.used_bytes
        and size.used_bytes <= COMPACTED_BYTES_MAX
    )


def copy_path(path: Path) -> Path:
    """Where the copy of the data file is made."""
    return path.with_name(path.name + _COPY_SUFFIX)


def write_copy(environment: Any, path: Path) -> bool:
    """A copy of the data file without its free pages, durable. False when there is no room for it, or LMDB refuses:
    then there is none, and the file is as good as before."""
    copy = copy_path(path)
    try:
        with open(copy, "wb") as file:
            os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            environment.copyfd(file.fileno(), compact=True)
            os.fsync(file.fileno())
    except (OSError, lmdb.Error):
        copy.unlink(missing_ok=True)
        return False
    return True


def replace_by_copy(path: Path) -> None:
    """The copy is the data file from now on, also after a power loss. Nobody may have the file open."""
    os.replace(copy_path(path), path)
    sync_directory(path.parent)


def remove_unfinished(path: Path) -> None:
    """A copy that was being made when the process ended."""
    with contextlib.suppress(OSError):
        copy_path(path).unlink(missing_ok=True)
