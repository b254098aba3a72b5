"""Opens the durable store: the data file and the log beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pabal.model.message import Container
from pabal.store.lmdb_store import LmdbStore
from pabal.store.logged_store import LoggedStore
from pabal.store.write_ahead_log import LOG_FILE, WriteAheadLog


def open_durable_store(directory: Path, containers: Mapping[int, Container]) -> LoggedStore:
    """`directory` is made when missing. StoreError when it cannot be used, saying why."""
    base = LmdbStore(directory, containers)
    try:
        log = WriteAheadLog(directory / LOG_FILE, new=not base.has_log)
        base.use_log()
    except BaseException:
        base.close()
        raise
    return LoggedStore(base, log)
