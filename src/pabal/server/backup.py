"""A backup of the living broker, as of one moment: the data file is held still while a thread copies it.

Commits go to the log meanwhile. When that has taken as much as it may, publishers wait for the end of the copy.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pabal import __version__
from pabal.store.backup import BackupError, BackupSummary, write_backup
from pabal.store.files import FILE_MODE, SPOOL_FILE
from pabal.store.lmdb_store import DATA_FILE
from pabal.store.logged_store import LoggedStore

if TYPE_CHECKING:
    from pabal.server.server import Server


class _Durable:
    """Waits for a commit (broker.Waiter)."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def durable(self, upto: int) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Backups:
    """One backup at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._running = False

    async def write(self, file: IO[bytes]) -> BackupSummary:
        """Writes a backup to `file`: all that was confirmed when this was called, and is not settled, is in it.
        BackupError; OSError."""
        server = self._server
        store = server.store
        if not isinstance(store, LoggedStore):
            raise BackupError("this broker keeps nothing on disk")
        if self._running:
            raise BackupError("a backup is being made already")
        self._running = True
        directory = Path(server.settings.data)
        try:
            store.hold()
            await self._commit()
            if not store.held:
                raise BackupError("the disk is full: a backup can be made when there is room again")
            size = store.size().file_bytes
            now = datetime.now(UTC).isoformat(timespec="seconds")
            summary = await asyncio.to_thread(
                write_backup, directory / DATA_FILE, size, file, __version__, now, lambda: store.held
            )
            if not store.release():
                raise BackupError("the backup was given up: the disk became full")
            server.log.info("backup made: %d bytes", size)
            return summary
        finally:
            store.release()
            self._running = False
            server.begin_turn()  # what has gathered goes to the data file
            server.loop.call_later(_RELIEF_SECONDS, server.alarms.heed)

    def stop(self) -> None:
        """Gives up what is being made: the broker ends."""
        if isinstance(self._server.store, LoggedStore):
            self._server.store.release()

    async def _commit(self) -> None:
        waiter = _Durable()
        self._server.begin_turn()
        self._server.broker.await_durable(waiter, 0)
        await waiter.done

    async def spooled(self) -> tuple[IO[bytes], int, str]:
        """A backup in a file of its own, from its beginning; its bytes, and a name for it. BackupError; OSError."""
        file = self._spool()
        try:
            summary = await self.write(file)
            size = file.tell()
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file, size, f"pabal-{summary.time[:19].replace(':', '')}.tar"

    def _spool(self) -> IO[bytes]:
        """A file of no name on the disk of the data directory, for a backup that is sent somewhere: a slow receiver
        does not make the broker wait. OSError."""
        path = Path(self._server.settings.data) / SPOOL_FILE
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE), "w+b")
        path.unlink()
        return file


_RELIEF_SECONDS = 0.1
