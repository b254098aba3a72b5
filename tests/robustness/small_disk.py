"""A small file system of its own for a broker's data: an ext4 image over a loop device, or else a tmpfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class NoSmallDisk(Exception):
    """Why there can be none here."""


def _mounted(*command: str) -> bool:
    return subprocess.run(["mount", *command], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def small_disk(directory: Path, size_mib: int) -> Iterator[Path]:
    """A file system of that size, mounted below `directory` until the end. NoSmallDisk."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoSmallDisk("only root on Linux may mount a small file system")
    image, point = directory / "disk.image", directory / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    mounted = False
    if shutil.which("mkfs.ext4"):
        make = ["mkfs.ext4", "-q", "-m", "0", str(image)]
        mounted = subprocess.run(make, capture_output=True, check=False).returncode == 0
        mounted = mounted and _mounted("-o", "loop", str(image), str(point))
    if not mounted and not _mounted("-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(point)):
        raise NoSmallDisk("this root may not mount: neither a loop device nor a tmpfs")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=False)
        image.unlink()
