"""When Python looks for cycles of garbage: a little at a time, since everybody waits meanwhile.

Messages are in no cycles. Connections are: those that end young are found by the small collections, which look at
what is new. One that has lived for a while is among the old, and these are looked through only when many such have
ended.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_MAX: Final = 20_000
"""More new objects than there were freed: look through them. That takes some milliseconds."""
_LOOKS_MAX: Final = 2
"""What was found in use so often is old."""
_OLD_LOOKS_MAX: Final = 1_000_000
_YOUNG_MS: Final = 10_000
_ENDED_MAX: Final = 500
"""Connections that were no longer young and have ended: some megabytes."""


class Garbage:
    def __init__(self) -> None:
        self._ended = 0

    def begin(self) -> None:
        """What there is now stays: it is not looked at any more."""
        gc.freeze()
        gc.set_threshold(_NEW_MAX, _LOOKS_MAX, _OLD_LOOKS_MAX)
        gc.enable()

    def ended(self, age_ms: int) -> None:
        """A connection of this age has ended."""
        if age_ms > _YOUNG_MS:
            self._ended += 1

    def tidy(self) -> None:
        """Once a second."""
        if self._ended >= _ENDED_MAX:
            self._ended = 0
            gc.collect()
