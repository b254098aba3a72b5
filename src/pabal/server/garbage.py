"""When Python looks for cycles of garbage: a little at a time, since everybody waits meanwhile.

Messages are in no cycles, and channels in none once they are closed. Connections are, and HTTP requests. Those that
end young are found by looking through what is new, which is done often and takes half a millisecond. What has lived
for a while is looked through seldom, as that takes as long as there is much of it.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_MAX: Final = 2_000
"""More new objects than there were freed: look through them."""
_NEVER: Final = 1_000_000_000
_LOOKS_MAX: Final = 100
"""What was in use then is looked at once more after so many looks, 200,000 objects or so, and then is old ..."""
_LOOKS_MIN: Final = 5
_BETWEEN_LOOKS_MS: Final = 30_000
"""... or so often, if the last time is so long ago."""
_OLD_LOOKS_MIN: Final = 5
"""So often something has become old, a million objects at most: then all is looked through ..."""
_BETWEEN_MS: Final = 600_000
"""... if the last time is so long ago."""


class Garbage:
    """`now_ms`: any clock's, here and in `tidy`."""

    def __init__(self, now_ms: int) -> None:
        self._looked_ms = now_ms
        self._looked_at_all_ms = now_ms

    def begin(self) -> None:
        """What there is now stays: it is not looked at any more."""
        gc.freeze()
        gc.set_threshold(_NEW_MAX, _NEVER, _NEVER)
        gc.enable()

    def tidy(self, now_ms: int) -> None:
        """Once a second."""
        _, looks, old_looks = gc.get_count()
        if now_ms - self._looked_at_all_ms >= _BETWEEN_MS and old_looks >= _OLD_LOOKS_MIN:
            self._looked_at_all_ms = self._looked_ms = now_ms
            gc.collect()
        elif looks >= _LOOKS_MAX or (looks >= _LOOKS_MIN and now_ms - self._looked_ms >= _BETWEEN_LOOKS_MS):
            self._looked_ms = now_ms
            gc.collect(1)
