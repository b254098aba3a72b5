"""Reads all of a data directory and tells what is in it and what is wrong with it; changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def check(directory: Path, out: Callable[[str], None]) -> int:
    """Calls `out` with each line of a summary and of each fault. Returns the exit code: 0 sound, 1 faults found, 2 it
    cannot be checked (in use by a broker, or no data directory)."""
    raise NotImplementedError
