"""Gives mapped pages of the data file back: they are the system's cache, but count as this process's memory.

LMDB reads through a shared, read-only mapping, so every page that was ever read stays in the process's resident
set until the system wants it back. Telling the system that they are not needed (madvise) costs a soft page
fault when one is read again, and keeps the resident set flat however large the backlog is. Linux only; elsewhere
nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Final

_MADV_DONTNEED: Final = 4
_RELEASE_BYTES: Final = 24 * 1024 * 1024
"""Pages are given back after about this many bytes were read or written."""

FAULT_BYTES: Final = 512 * 1024
"""What comes into the mapping with one page of a large value, about: the system maps what it holds in one piece."""


class Residency:
    """`touched` counts what was read or written; now and then it gives back the pages of `path`'s mapping."""

    def __init__(self, path: Path) -> None:
        self._path = str(path.resolve())
        self._touched_bytes = 0
        self._ranges: list[tuple[int, int]] = []
        self._madvise: Any = None
        if sys.platform == "linux":
            self._madvise = ctypes.CDLL(None, use_errno=True).madvise
            self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def mapped(self) -> None:
        """The file was mapped, perhaps anew: find out where."""
        self._ranges = []
        if self._madvise is None:
            return
        try:
            lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            if line.endswith(self._path):
                start, _, end = line.split(" ", 1)[0].partition("-")
                self._ranges.append((int(start, 16), int(end, 16) - int(start, 16)))

    def touched(self, count: int) -> None:
        """So many bytes of the mapping were read or written."""
        self._touched_bytes += count
        if self._touched_bytes > _RELEASE_BYTES:
            self._touched_bytes = 0
            for start, size in self._ranges:
                self._madvise(start, size, _MADV_DONTNEED)
