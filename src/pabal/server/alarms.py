"""Alarms: what the machine has too little of, and a commit for which the disk has no room."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pabal.model.errors import DiskFull, StoreError
from pabal.model.limits import COMMIT_RETRY_SECONDS
from pabal.server.resources import Watch
from pabal.server.settings import Settings
from pabal.store.interface import Store

if TYPE_CHECKING:
    from pabal.server.server import Server


class Alarms:
    """Tells the broker and the connections when publishers are to wait, and when no longer."""

    def __init__(self, server: Server, settings: Settings, store: Store) -> None:
        self._server = server
        self._watch = Watch(settings, store)
        self._shortages: dict[str, str] = {}
        self._was_full = False

    @property
    def memory_bytes_max(self) -> int:
        """With more memory than that publishers wait; 0: never."""
        return self._watch.memory_bytes_max

    def check(self) -> None:
        """Now, and from now on now and then."""
        self.heed()
        self._server.loop.call_later(self._watch.next_seconds, self.check)

    def heed(self) -> None:
        """Whether there is disk space and memory for more messages: tells the connections when that changes."""
        server, before = self._server, self._shortages
        self._shortages = self._watch.shortages(server.loop.time(), server.turn.waits_for_room)
        for name in self._shortages.keys() - before.keys():
            server.log.warning("low on %s: publishers are blocked (%s)", name, self._shortages[name])
        for name in before.keys() - self._shortages.keys():
            server.log.warning("no longer low on %s", name)
        if before.keys() != self._shortages.keys():
            server.begin_turn()
            server.broker.alarms = tuple(self._shortages)
            server.heed_alarms()

    def disk_full(self, error: DiskFull) -> None:
        """A commit found no room. All goes on but publishers and what waits for the disk; consumers above all, since
        what they settle makes room. At once once more: the store has put some space by for that."""
        server = self._server
        if not self._was_full:
            server.log.error("%s: publishers are blocked, nothing is confirmed until there is room", error)
        server.loop.call_later(COMMIT_RETRY_SECONDS if self._was_full else 0.0, self._retry)
        self._was_full = True
        self.heed()
        server.read_on()

    def _retry(self) -> None:
        try:
            self._server.turn.retry()
        except StoreError as error:
            self._server.fatal(error)

    def committed(self, in_need: bool) -> None:
        """A commit has ended. `in_need`: see Store."""
        if in_need and "disk" not in self._shortages:
            self.heed()
        if self._was_full and not self._server.turn.waits_for_room:
            self._was_full = False
            self._server.log.warning("the disk has taken what waited for room on it")

    def commit_last(self, store: Store) -> None:
        """At the end: everything, or if there is no room for that, as much as was confirmed already."""
        if not self._server.turn.waits_for_room:
            if not store.begin():
                return
            with contextlib.suppress(DiskFull):
                store.finish()
                return
        try:
            store.again()
            store.finish()
        except DiskFull as error:
            self._server.log.error("%s: what was not confirmed yet is lost", error)
