"""Who is read how fast: connections that give much work, or that nobody knows yet, share a small part of each turn.

Two thousand channels to open and to close are few bytes and much work, so that bytes alone do not bound what the
others wait for. A connection is read in slices until its bytes have proved to be little work, and again when they
prove not to be. And who has not logged in, or has given more work of late than its bytes and its share of the time
are good for, waits when such connections had their part of the turn.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from pabal.model.limits import (
    BULK_SECONDS,
    BUSY_SECONDS,
    HEAVY_SECONDS,
    HEAVY_SHARE,
    SLOW_BYTES_FIRST,
    SLOW_BYTES_MIN,
    SLOW_BYTES_PER_SECOND,
    SLOW_SECONDS,
    STRANGERS_SECONDS,
    TURN_BYTES_MAX,
)

_RESUMED_MAX: Final = 4
"""In a turn: they may all have something to be read, which is seen only then."""


class Pace:
    """Of one connection. `slice_bytes`: to be read at once, 0 for a turn's share."""

    __slots__ = ("_debt_seconds", "_weighed_ms", "slice_bytes")

    def __init__(self) -> None:
        self.slice_bytes = SLOW_BYTES_FIRST
        self._debt_seconds = 0.0
        self._weighed_ms = 0

    @property
    def heavy(self) -> bool:
        """It gives more work than others should wait for."""
        return self._debt_seconds > HEAVY_SECONDS

    def weigh(self, nbytes: int, seconds: float, acted_on: bool, now_ms: int) -> None:
        """So many bytes took the processor so long. What is no whole slice, or was not `acted_on` yet, says nothing
        for a larger one."""
        debt = self._debt_seconds - (now_ms - self._weighed_ms) * (HEAVY_SHARE / 1000)
        self._debt_seconds = max(debt, 0.0) + max(seconds - nbytes / SLOW_BYTES_PER_SECOND, 0.0)
        self._weighed_ms = now_ms
        bound = BUSY_SECONDS if nbytes > SLOW_BYTES_PER_SECOND * seconds else SLOW_SECONDS
        if seconds > bound / 2:
            self.slice_bytes = max(SLOW_BYTES_MIN, int(nbytes * bound / 2 / seconds))
        elif 0 < self.slice_bytes <= nbytes and seconds < bound / 8 and acted_on:
            self.slice_bytes = self.slice_bytes * 2 if self.slice_bytes * 2 < TURN_BYTES_MAX else 0


class Waiting(Protocol):
    """A connection that waits for its slice."""

    def next_slice(self) -> None:
        """It is its turn: takes what was received, or reads on."""


class Slices:
    """Who waits, first come, first served, and what was done of this turn's work."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._slow_seconds = 0.0
        self._bulk_seconds = 0.0

    def did(self, nbytes: int, seconds: float) -> None:
        """So many bytes of one connection took so long."""
        if nbytes > SLOW_BYTES_PER_SECOND * seconds:
            self._bulk_seconds += seconds
        else:
            self._slow_seconds += seconds

    @property
    def spent(self) -> bool:
        """Strangers and heavy ones had their part of the turn."""
        return self._slow_seconds > STRANGERS_SECONDS

    @property
    def full(self) -> bool:
        """Much was taken in this turn: who comes with much more, waits."""
        return self._bulk_seconds > BULK_SECONDS

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait(self, connection: Waiting) -> None:
        self._waiting.append(connection)

    def serve(self) -> bool:
        """At the end of a turn: the next begins. Returns whether anybody waited."""
        self._slow_seconds = self._bulk_seconds = 0.0
        waited = bool(self._waiting)
        for _ in range(min(len(self._waiting), _RESUMED_MAX)):
            self._waiting.popleft().next_slice()
            if self.spent or self.full:
                break
        return waited
