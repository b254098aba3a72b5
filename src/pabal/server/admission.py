"""Who is let in, and when: connections a second, how many may be half open, file descriptors."""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pabal.model import limits


class Guest(Protocol):
    """A connection from accept on. `opening`: it has not shown yet who it is. `drop`: ends it at once, with a line of
    the log that says why."""

    @property
    def opening(self) -> bool: ...
    def drop(self, why: str) -> None: ...


class Admission:
    """For all listeners together. Who must wait does so in the system's backlog: nobody is refused for being many.

    `per_second`: connections a second, 0 for any number; a second's worth may come at once.
    """

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        self.per_second = per_second
        self._clock = clock
        self._room = float(per_second)
        self._refilled = clock()
        self._opening: deque[tuple[float, Guest]] = deque()

    def wait_seconds(self) -> float:
        """How long until the next connection may be taken, 0 when it may now."""
        return max(self._rate_wait(), self._opening_wait())

    def came(self, guest: Guest) -> None:
        """A connection was taken."""
        self._room -= 1.0
        self._opening.append((self._clock(), guest))

    def tidy(self) -> None:
        """Forgets those that have opened, or are gone."""
        if self._opening:
            self._opening = deque(entry for entry in self._opening if entry[1].opening)

    def forget(self) -> None:
        """The broker ends: those that have not opened do so at once."""
        for _, guest in self._opening:
            if guest.opening:
                guest.drop("the broker stops")
        self._opening.clear()

    def _rate_wait(self) -> float:
        if not self.per_second:
            return 0.0
        now = self._clock()
        self._room = min(float(self.per_second), self._room + (now - self._refilled) * self.per_second)
        self._refilled = now
        return 0.0 if self._room >= 1.0 else (1.0 - self._room) / self.per_second

    def _opening_wait(self) -> float:
        """The list is only gone through when it is long."""
        if len(self._opening) < limits.OPENING_CONNECTIONS_MAX:
            return 0.0
        self.tidy()
        if len(self._opening) < limits.OPENING_CONNECTIONS_MAX:
            return 0.0
        since, guest = self._opening[0]
        left = since + limits.OPENING_SECONDS_MIN - self._clock()
        if left > 0:
            return min(left, 0.05)  # one of the others may open meanwhile
        self._opening.popleft()
        guest.drop(f"not open after {limits.OPENING_SECONDS_MIN:.0f} s, and others wait")
        return 0.0


def raise_files_limit() -> int:
    """Lets this process have as many files as it may ask for. Returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft  # macOS has a limit of its own below the hard one
    return hard


def files_for_connections() -> int:
    """File descriptors from this number on are not for connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - limits.RESERVED_FILES)
