"""Space put by for the day when the disk is full: a file of nothing, given up then and made again later.

What consumers settle frees space, but writing it down takes some first: LMDB writes changed pages beside the old
ones. The log has its blocks from the start, for the same reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Any, Final

from pabal.model.limits import LOG_BYTES_MAX, RESERVE_BYTES_MAX
from pabal.store.files import FILE_MODE

RESERVE_FILE: Final = "pabal.reserve"
_PARTS: Final = 8
"""On a small disk the reserve is this part of it ..."""
_BYTES_MIN: Final = 2 * LOG_BYTES_MAX
"""... but has room for what a start finds in the log, which must all go into the data file."""
_STEPS: Final = 4
"""It is given up in so many: what found no room may be little, and another such day may come before there is more."""
_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE
_ZEROS: Final = bytes(1024 * 1024)


class Reserve:
    """`held`: all of it is there. `was_given_up`: some was missing when it was opened, and no room for that."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / RESERVE_FILE
        self._directory = directory
        self.size_bytes = RESERVE_BYTES_MAX
        self.held = False
        self._left_bytes = 0
        known = -1
        with contextlib.suppress(OSError):
            system = os.statvfs(directory)
            part = system.f_blocks * system.f_frsize // _PARTS
            self.size_bytes = min(RESERVE_BYTES_MAX, max(_BYTES_MIN, part))
            known = self._left_bytes = self._path.stat().st_size
        self.held = known >= self.size_bytes
        self.make()
        self.was_given_up = known >= 0 and not self.held

    def disk_free_bytes(self) -> int:
        """Free on its disk; 0 when that cannot be found out."""
        try:
            system = os.statvfs(self._directory)
        except OSError:
            return 0
        return system.f_bavail * system.f_frsize

    def make(self) -> bool:
        """Takes the space that is missing if there is twice as much. Returns whether all is there now."""
        if self.held:
            return True
        try:
            if self.disk_free_bytes() < 2 * (self.size_bytes - self._left_bytes):
                return False
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            try:
                _fill(file, self.size_bytes)
            finally:
                os.close(file)
        except OSError:
            self._cut(self._left_bytes)
            return False
        self._left_bytes = self.size_bytes
        self.held = True
        return True

    def give_up(self) -> bool:
        """Gives a part of the space back. False when there was none left. An empty file stays, as a sign."""
        if not self._left_bytes:
            return False
        self.held = False
        self._left_bytes = max(0, self._left_bytes - self.size_bytes // _STEPS - 1)
        self._cut(self._left_bytes)
        return True

    def _cut(self, left: int) -> None:
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(file).st_size > left:
                    os.ftruncate(file, left)
                    os.fsync(file)  # some file systems give blocks back only with their next commit
            finally:
                os.close(file)


def _fill(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    for at in range(0, size, len(_ZEROS)):
        os.pwrite(file, _ZEROS[: size - at], at)


def reserve_blocks(file: int, size: int) -> None:
    """Sees to it that the file may grow to `size` bytes without asking for room, if the system can do that. Its
    length stays: where it ends is known to whoever reads it."""
    if sys.platform != "linux":
        return
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if function is not None:
        function(file, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size))
