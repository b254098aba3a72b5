"""Who is read how fast: connections that give much work, or that nobody knows yet, share a small part of each turn.

Two thousand channels to open and to close are few bytes and much work, so that bytes alone do not bound what the
others wait for. A connection is read in slices until its bytes have proved to be little work, and again when they
prove not to be. And a stranger, who has not logged in or was found slow, waits when strangers had their part of the
turn.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter, thread_time
from typing import Final, Protocol

from pabal.model.limits import (
    BUSY_SECONDS,
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
    """Of one connection. `slice_bytes`: to be read at once, 0 for a turn's share. `slow`: it was found to be. What it
    does is to be measured by `clock`, and `weigh` to be told of it as long as it is `watched`."""

    __slots__ = ("clock", "slice_bytes", "slow")

    def __init__(self) -> None:
        self.slice_bytes = SLOW_BYTES_FIRST
        self.slow = False
        self.clock = perf_counter

    @property
    def watched(self) -> bool:
        return self.slice_bytes > 0 or self.clock is not perf_counter

    def weigh(self, nbytes: int, seconds: float, acted_on: bool) -> None:
        """So many bytes took so long. The time that is taken at first may have gone by while another process ran: who
        may be slow is measured by the processor's time, which takes longer to ask for. What is no whole slice, or was
        not `acted_on` yet, says nothing for a larger one."""
        bound = BUSY_SECONDS if nbytes > SLOW_BYTES_PER_SECOND * seconds else SLOW_SECONDS
        if seconds > bound / 2:
            if self.clock is not perf_counter:
                self.slow = True
                self.slice_bytes = max(SLOW_BYTES_MIN, int(nbytes * bound / 2 / seconds))
            self.clock = thread_time
        elif seconds < bound / 4:
            self.slow = False
            self.clock = perf_counter
            if seconds < bound / 8 and acted_on and nbytes >= self.slice_bytes:
                self.slice_bytes = self.slice_bytes * 2 if self.slice_bytes * 2 < TURN_BYTES_MAX else 0


class Waiting(Protocol):
    """A connection that waits for its slice."""

    def next_slice(self) -> None:
        """It is its turn: takes what was received, or reads on."""


class Slices:
    """Who waits, first come, first served. `seconds`: what strangers had of this turn."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self.seconds = 0.0

    @property
    def spent(self) -> bool:
        """Strangers had their part of this turn."""
        return self.seconds > STRANGERS_SECONDS

    def wait(self, connection: Waiting) -> None:
        self._waiting.append(connection)

    def serve(self) -> bool:
        """At the end of a turn: strangers' part of the next begins. Returns whether anybody waited."""
        self.seconds = 0.0
        waited = bool(self._waiting)
        for _ in range(min(len(self._waiting), _RESUMED_MAX)):
            self._waiting.popleft().next_slice()
            if self.spent:
                break
        return waited
