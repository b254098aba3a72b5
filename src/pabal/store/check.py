"""Reads a data file from end to end, in a process of its own: `python -m pabal.store.check FILE`.

LMDB ends the process when it meets certain damage, so this must not be the broker's. Exit code 0: all of it can
be read. Changes nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lmdb


def readable(path: Path) -> bool:
    """Whether another process could read all of the data file."""
    command = [sys.executable, "-m", "pabal.store.check", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def read_through(path: Path) -> None:
    """Reads every key and value. Raises, or ends the process, when the file is damaged."""
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True, max_dbs=8) as environment:
        names = []
        with environment.begin() as transaction:
            names = [bytes(key) for key, _ in transaction.cursor()]
        for name in names:
            database = environment.open_db(name, create=False)
            with environment.begin() as transaction:
                for _, value in transaction.cursor(db=database):
                    if name == b"messages" and not any(value[:1]):
                        raise ValueError("a record of zeros")


if __name__ == "__main__":
    read_through(Path(sys.argv[1]))
