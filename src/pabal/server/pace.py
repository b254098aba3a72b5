"""Who is read how fast: connections that give much work, or that nobody knows yet, share a small part of each turn.

Two thousand channels to open and to close are few bytes and much work, so that bytes alone do not bound what the
others wait for. A connection is read in slices until its bytes have proved to be little work, and again when they
prove not to be. And who has not logged in, or has given more work of late than its bytes and its share of the time
are good for, waits when such connections had their part of the turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Final, Protocol

from pabal.model.limits import (
    BULK_SECONDS,
    BULK_SECONDS_CROWD,
    BUSY_SECONDS,
    CROWD_MIN,
    CROWD_MS,
    HEAVY_SECONDS,
    HEAVY_SECONDS_MAX,
    HEAVY_SHARE,
    LIGHT_SECONDS,
    SLOW_BYTES_FIRST,
    SLOW_BYTES_MIN,
    SLOW_BYTES_PER_SECOND,
    SLOW_SECONDS,
    STRANGERS_SECONDS,
    STRANGERS_SECONDS_CROWD,
    TURN_BYTES_MAX,
    WATCHED_MS,
)

_RESUMED_MAX: Final = 4
"""In a turn: they may all have something to be read, which is seen only then."""


class Pace:
    """Of one connection. `slice_bytes`: to be read at once, 0 for a turn's share. `clock`: what its work is to be
    measured by; `heavy`: it gives more than others should wait for. `counted_in`: see Slices."""

    __slots__ = ("_debt_seconds", "_watched_ms", "_weighed_ms", "clock", "counted_in", "heavy", "slice_bytes")

    def __init__(self) -> None:
        self.slice_bytes = SLOW_BYTES_FIRST
        self.clock = perf_counter
        self.heavy = False
        self.counted_in = -1
        self._debt_seconds = 0.0
        self._weighed_ms = 0
        self._watched_ms = 0  # when it last gave enough work to be measured closely

    def asks(self, nbytes: int, seconds: float) -> bool:
        """Whether what was done is to be told to `weigh`: mostly it is not worth the time that this takes."""
        return seconds > LIGHT_SECONDS or self.clock is not perf_counter or 0 < self.slice_bytes <= nbytes

    def weigh(self, nbytes: int, seconds: float, acted_on: bool, now_ms: int, crowded: bool = False) -> None:
        """So many bytes took so long. The time that is taken at first may have gone by while another process ran: who
        takes much of it is measured by the processor's time for a while, which takes longer to ask for; by that
        alone it may be heavy. What is no whole slice, or was not `acted_on` yet, says nothing for a larger one.
        `crowded`: see Slices."""
        bound = BUSY_SECONDS if nbytes > SLOW_BYTES_PER_SECOND * seconds else SLOW_SECONDS
        if crowded:
            bound /= 2
        if seconds > bound / 2:
            self.slice_bytes = max(SLOW_BYTES_MIN, int(nbytes * bound / 2 / seconds))
        elif 0 < self.slice_bytes <= nbytes and seconds < bound / 8 and acted_on:
            self.slice_bytes = self.slice_bytes * 2 if self.slice_bytes * 2 < TURN_BYTES_MAX else 0
        if self.clock is perf_counter:
            if seconds > LIGHT_SECONDS:
                self.clock = thread_time
                self._watched_ms = now_ms
            return
        debt = max(self._debt_seconds - (now_ms - self._weighed_ms) * (HEAVY_SHARE / 1000), 0.0)
        debt += max(seconds - nbytes / SLOW_BYTES_PER_SECOND, 0.0)
        self._debt_seconds = min(debt, HEAVY_SECONDS_MAX)
        self._weighed_ms = now_ms
        self.heavy = debt > HEAVY_SECONDS
        if seconds > LIGHT_SECONDS:
            self._watched_ms = now_ms
        elif now_ms - self._watched_ms > WATCHED_MS and not self.heavy:
            self.clock = perf_counter


class Waiting(Protocol):
    """A connection that waits for its slice."""

    def next_slice(self) -> None:
        """It is its turn: takes what was received, or reads on."""


class Slices:
    """Who waits, in two lines, each first come, first served, and what was done of this turn's work.

    `begin_turn`: sees to it that there is an end of a turn, where those that wait are served. `spent`: strangers and
    heavy ones had their part of the turn. `full`: much was taken in it: who comes with much more, waits. `crowded`:
    there were many strangers and heavy ones of late, so that all of these bounds are lower.
    """

    def __init__(self, begin_turn: Callable[[], None]) -> None:
        self._begin_turn = begin_turn
        self._strangers: deque[Waiting] = deque()
        self._others: deque[Waiting] = deque()
        self._slow_seconds = 0.0
        self._bulk_seconds = 0.0
        self._period = 0  # of CROWD_MS each
        self._met = 0  # strangers and heavy ones in this period
        self.crowded = False
        self.spent = False
        self.full = False

    def did(self, nbytes: int, seconds: float, stranger: bool, whose: Pace | None = None) -> None:
        """So many bytes of one connection took so long; `stranger`: or a heavy one's."""
        if nbytes > SLOW_BYTES_PER_SECOND * seconds:
            self._bulk_seconds += seconds
            self.full = self._bulk_seconds > (BULK_SECONDS_CROWD if self.crowded else BULK_SECONDS)
        elif stranger:
            self._slow_seconds += seconds
            self.spent = self._slow_seconds > (STRANGERS_SECONDS_CROWD if self.crowded else STRANGERS_SECONDS)
        if stranger and whose is not None and whose.counted_in != self._period:
            whose.counted_in = self._period
            self._met += 1
            if self._met == CROWD_MIN:
                self.crowded = True

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._strangers) + len(self._others)

    def wait(self, connection: Waiting, stranger: bool) -> None:
        (self._strangers if stranger else self._others).append(connection)
        self._begin_turn()

    def serve(self, now_ms: int) -> bool:
        """At the end of a turn: the next begins. Returns whether anybody waited."""
        if now_ms // CROWD_MS != self._period:
            self._period = now_ms // CROWD_MS
            self.crowded = self._met >= CROWD_MIN
            self._met = 0
        self._slow_seconds = self._bulk_seconds = 0.0
        self.spent = self.full = False
        waited = self.waiting > 0
        for _ in range(min(len(self._strangers), _RESUMED_MAX)):
            self._strangers.popleft().next_slice()
            if self.spent:
                break
        for _ in range(min(len(self._others), _RESUMED_MAX)):
            self._others.popleft().next_slice()
            if self.full:
                break
        return waited
