"""The ledger: settles each entry once, however often it is asked to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id TEXT PRIMARY KEY, merchant TEXT NOT NULL, cents INTEGER NOT NULL, worker TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS balances (
    merchant TEXT PRIMARY KEY, cents INTEGER NOT NULL, entries INTEGER NOT NULL
);
-- The audit trail: one row for each time that a worker was given an entry and finished with it.
CREATE TABLE IF NOT EXISTS attempts (
    entry TEXT NOT NULL, worker TEXT NOT NULL, outcome TEXT NOT NULL, redelivered INTEGER NOT NULL
);
"""

SETTLED, REPEATED, REJECTED, RETURNED = "settled", "repeated", "rejected", "returned"


class Settlement(NamedTuple):
    """What an entry is worth. `redelivered`: somebody was given it before; only told in the audit trail."""

    entry: str
    merchant: str
    cents: int
    redelivered: bool


class Ledger:
    """One SQLite file that any number of processes share."""

    def __init__(self, path: Path | str) -> None:
        self._database = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        # The acknowledgement that follows tells the broker to forget the entry: from then on the ledger alone
        # has it, so it must be on the disk and not merely on its way there.
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)

    def settle(self, settlements: Iterable[Settlement], worker: str) -> None:
        """Credits the merchants, but for entries that have been settled before.

        A queue delivers *at least* once: a worker may die between this and its acknowledgement, and the
        producer may send an entry again whose confirmation it never saw. Entry and balance change in one
        transaction, keyed by the entry's id, and that makes of it *exactly* once.
        """
        with self._transaction() as database:
            for entry, merchant, cents, redelivered in settlements:
                is_new = database.execute(
                    "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                    (entry, merchant, cents, worker),
                ).rowcount
                if is_new:
                    database.execute(
                        "INSERT INTO balances VALUES (?, ?, 1) ON CONFLICT (merchant)"
                        " DO UPDATE SET cents = cents + excluded.cents, entries = entries + 1",
                        (merchant, cents),
                    )
                self._note(entry, worker, SETTLED if is_new else REPEATED, redelivered)

    def note_failure(self, entry: str, worker: str, outcome: str, redelivered: bool) -> None:
        """Writes down an attempt that settled nothing."""
        with self._transaction():
            self._note(entry, worker, outcome, redelivered)

    def _note(self, entry: str, worker: str, outcome: str, redelivered: bool) -> None:
        attempt = (entry, worker, outcome, redelivered)
        self._database.execute("INSERT INTO attempts VALUES (?, ?, ?, ?)", attempt)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # IMMEDIATE: wait for the other workers here, rather than fail half-way through.
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # --- Reading --------------------------------------------------------------------------------------------

    def settled(self) -> set[str]:
        """The ids of all settled entries."""
        return {entry for (entry,) in self._database.execute("SELECT id FROM entries")}

    def balances(self) -> dict[str, tuple[int, int]]:
        """Merchant → balance in cents, and how many entries made it."""
        rows = self._database.execute("SELECT merchant, cents, entries FROM balances ORDER BY merchant")
        return {merchant: (cents, entries) for merchant, cents, entries in rows}

    def attempts(self) -> dict[tuple[str, str, bool], int]:
        """How many attempts there were, by worker, outcome, and whether the entry was a redelivery."""
        rows = self._database.execute("SELECT worker, outcome, redelivered, count(*) FROM attempts GROUP BY 1, 2, 3")
        return {(worker, outcome, bool(redelivered)): count for worker, outcome, redelivered, count in rows}

    def is_locked(self) -> bool:
        """Whether somebody holds the write lock and does not let go of it."""
        self._database.execute("PRAGMA busy_timeout = 300")
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            self._database.execute("PRAGMA busy_timeout = 30000")
        return False
