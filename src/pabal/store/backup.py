"""A copy of a data directory as one file, made while the broker runs, and the way back.

The file is a plain tar: `backup.json` (format, version of Pabal, time, sizes), `pabal.mdb` (the data file as of one
moment, all that was in the log included) and `SHA256SUMS`, by which `tar -x` and `sha256sum -c` check it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class BackupError(Exception):
    """`str(error)` says what is wrong with the backup or the directory, and what to do."""


class BackupSummary(NamedTuple):
    """`time`: ISO 8601, UTC. `version`: of the Pabal that made it."""

    version: str
    time: str
    data_bytes: int
    sha256: str


def restore(file: Path, directory: Path) -> BackupSummary:
    """Makes the data directory from the backup: complete, or not at all. BackupError: the directory has data or is in
    use, or the file is no backup or damaged."""
    raise NotImplementedError
