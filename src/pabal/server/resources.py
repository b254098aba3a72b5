"""What the machine must have for the broker to take messages in: free disk space, and memory if it is limited."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

from pabal.server.settings import Settings

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 64 * 1024 * 1024
_MAPPED_BYTES_MIN: Final = 32 * 1024 * 1024
"""Larger blocks than this glibc does not take from its heap, whatever it is told."""


def keep_freed_memory() -> None:
    """Has the C library keep some of the memory that large bodies leave behind. By itself it gives each such block
    back to the system and takes it anew for the next body, page fault by page fault: more work than the copies of
    the body. Linux with glibc only; elsewhere nothing is done."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def disk_free_bytes(directory: Path) -> int | None:
    """Free for this process on the file system of `directory`; None when that cannot be found out."""
    try:
        system = os.statvfs(directory)
    except OSError:
        return None
    return system.f_bavail * system.f_frsize


def memory_bytes() -> int | None:
    """Resident memory of this process; None where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_memory_bytes() -> int:
    """All of the machine's; 0 where that cannot be found out."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def shortages(settings: Settings) -> dict[str, str]:
    """What there is too little of, "disk" or "memory", and how much too little."""
    found: dict[str, str] = {}
    if not settings.memory and settings.disk_free_bytes_min:
        free = disk_free_bytes(Path(settings.data))
        if free is not None and free < settings.disk_free_bytes_min:
            found["disk"] = f"{free} bytes free, and disk_free_bytes_min is {settings.disk_free_bytes_min}"
    if settings.memory_bytes_max:
        used = memory_bytes()
        if used is not None and used > settings.memory_bytes_max:
            found["memory"] = f"{used} bytes used, and memory_bytes_max is {settings.memory_bytes_max}"
    return found
