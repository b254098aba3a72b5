"""What the machine must have for the broker to take messages in: free disk space, and memory if it is limited."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Final

from pabal.model.limits import RESOURCES_CHECK_SECONDS, RESOURCES_CHECK_SECONDS_MIN
from pabal.server.settings import Settings
from pabal.store.interface import Store

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 64 * 1024 * 1024
_MAPPED_BYTES_MIN: Final = 32 * 1024 * 1024
"""Larger blocks than this glibc does not take from its heap, whatever it is told."""

_SHORT_SECONDS: Final = 1.0
_FREE_PAGES_COUNTED_MIN: Final = 1024 * 1024
"""Fewer free pages of the data file are what its commits need for themselves."""


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
    """Memory of this process's own, without the pages of files that it has mapped (they are the system's cache);
    None where /proc does not tell."""
    try:
        words = Path("/proc/self/statm").read_text(encoding="ascii").split()
        pages = int(words[1]) - int(words[2])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_memory_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What memory there is: the machine's, or less where a control group (a container) has less: version 2, this
    process's own group and those above it, and version 1. None where the system does not tell."""
    found: list[int] = []
    try:
        line = next(line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError, StopIteration):  # OSError: under systemd's ProcSubset=pid, for one
        with contextlib.suppress(OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    files = [groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"]
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                inside = Path(path.strip("/"))
                files += [groups / part / "memory.max" for part in (inside, *inside.parents)]
            elif "memory" in kinds.split(","):
                files.append(groups / "memory" / path.strip("/") / "memory.limit_in_bytes")
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(file.read_text()))
    return min(found) if found else None


def give_back_memory() -> None:
    """What Python and the C library keep of freed memory goes back to the system, so that the process is seen to use
    less when it does."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class Watch:
    """Looks at disk and memory. `next_seconds`: when to look again: sooner when free space is short or falls fast."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._free_before: int | None = None
        self._looked_s = 0.0
        self.next_seconds: float = RESOURCES_CHECK_SECONDS
        self.memory_bytes_max = settings.memory_bytes_max
        if not self.memory_bytes_max and settings.memory_percent_max:
            self.memory_bytes_max = (machine_memory_bytes() or 0) * settings.memory_percent_max // 100

    def shortages(self, now_s: float, waits_for_room: bool = False) -> dict[str, str]:
        """What there is too little of, "disk" or "memory", and how much too little. `waits_for_room`: a commit found
        the disk full and is not done yet."""
        found: dict[str, str] = {}
        self.next_seconds = RESOURCES_CHECK_SECONDS
        if waits_for_room:
            found["disk"] = "the disk is full"
        elif not self._store.relieved():
            found["disk"] = "no room for the reserve and few free pages in the data file, or a backup takes long"
        elif not self._settings.memory and self._settings.disk_free_bytes_min:
            self._look_at_disk(now_s, found)
        if self.memory_bytes_max:
            used = memory_bytes()
            if used is not None and used > self.memory_bytes_max:
                give_back_memory()
                used = memory_bytes()
            if used is not None and used > self.memory_bytes_max:
                found["memory"] = f"{used} bytes used, and {self.memory_bytes_max} may be"
        if found:
            self.next_seconds = min(self.next_seconds, _SHORT_SECONDS)
        return found

    def _look_at_disk(self, now_s: float, found: dict[str, str]) -> None:
        """Free pages of the data file count: they are used again before the file grows."""
        least = self._settings.disk_free_bytes_min
        on_disk = disk_free_bytes(Path(self._settings.data))
        if on_disk is None:
            return
        in_file = self._store.size().free_bytes
        free = on_disk + (in_file if in_file >= _FREE_PAGES_COUNTED_MIN else 0)
        if free < least:
            within = f" and {in_file} in the data file" if free != on_disk else ""
            found["disk"] = f"{on_disk} bytes free{within}, and disk_free_bytes_min is {least}"
        before, self._free_before = self._free_before, free
        if before is not None and free < before and free > least:
            seconds_left = (free - least) / (before - free) * (now_s - self._looked_s)
            self.next_seconds = max(RESOURCES_CHECK_SECONDS_MIN, min(RESOURCES_CHECK_SECONDS, seconds_left / 4))
        if free < 4 * least:
            self.next_seconds = min(self.next_seconds, _SHORT_SECONDS)
        self._looked_s = now_s
