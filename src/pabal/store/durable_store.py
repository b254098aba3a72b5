"""Opens the durable store: the data file and the log beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from pabal.model.limits import COMPACTION_FREE_BYTES_MIN
from pabal.model.message import Container
from pabal.store.files import SPOOL_FILE
from pabal.store.lmdb_store import LmdbStore
from pabal.store.logged_store import LoggedStore
from pabal.store.reserve import Reserve
from pabal.store.write_ahead_log import LOG_FILE, WriteAheadLog


def open_durable_store(
    directory: Path, containers: Mapping[int, Container], note: Callable[[str], None] = lambda line: None
) -> LoggedStore:
    """`directory` is made when missing. StoreError when it cannot be used, saying why. `note` is told what the log
    should say of it."""
    base = LmdbStore(directory, containers)
    with contextlib.suppress(OSError):
        (directory / SPOOL_FILE).unlink(missing_ok=True)
    try:
        before = base.size()
        if base.compact():
            note(f"data file compacted from {_mib(before.file_bytes)} to {_mib(base.size().file_bytes)}")
        elif before.free_bytes >= COMPACTION_FREE_BYTES_MIN:
            note(f"data file of {_mib(before.file_bytes)}, of which {_mib(before.free_bytes)} are free")
        log = WriteAheadLog(directory / LOG_FILE, new=not base.has_log)
        base.use_log()
    except BaseException:
        base.close()
        raise
    return LoggedStore(base, log, reserve=Reserve(directory))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
