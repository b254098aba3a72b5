"""What the files of a data directory have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600
"""Messages and hashes of passwords are in them: they are their owner's alone."""


def sync_directory(path: Path) -> None:
    """The names of its files are durable from now on. OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
