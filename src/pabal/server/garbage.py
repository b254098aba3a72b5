"""When Python looks for cycles of garbage: a little at a time, since everybody waits meanwhile.

Messages are in no cycles, and channels in none once they are closed; compiled, the collector does not even know of
them. Connections are, and requests over HTTP. Those that end young are found by the small collections, which look at
what is new. What has lived for a while is old, and is looked through as a whole seldom: that takes as long as there
is much of it.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_MAX: Final = 2_000
"""More new objects than there were freed: look through them. That takes half a millisecond."""
_LOOKS_MAX: Final = 10
"""What was new, so often, is looked through once more, in some milliseconds. What is in use then is old."""
_NEVER: Final = 1_000_000_000
_OLD_LOOKS_MIN: Final = 10
"""So often something has become old, 200,000 objects or so: then all is looked through ..."""
_BETWEEN_MS: Final = 600_000
"""... if the last time is so long ago."""


class Garbage:
    """`now_ms`: any clock's, here and in `tidy`."""

    def __init__(self, now_ms: int) -> None:
        self._looked_ms = now_ms

    def begin(self) -> None:
        """What there is now stays: it is not looked at any more."""
        gc.freeze()
        gc.set_threshold(_NEW_MAX, _LOOKS_MAX, _NEVER)
        gc.enable()

    def tidy(self, now_ms: int) -> None:
        """Once a second."""
        if now_ms - self._looked_ms >= _BETWEEN_MS and gc.get_count()[2] >= _OLD_LOOKS_MIN:
            self._looked_ms = now_ms
            gc.collect()
