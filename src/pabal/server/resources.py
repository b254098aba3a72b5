"""What the machine must have for the broker to take messages in: free disk space, and memory if it is limited."""

from __future__ import annotations

import os
from pathlib import Path

from pabal.server.settings import Settings


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
