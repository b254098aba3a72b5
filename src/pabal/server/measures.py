"""How long turns and commits take, and how late the event loop is."""

from __future__ import annotations

from pabal.management.measured import Durations

_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_TURN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Measures:
    """`turns`: from the first thing decided in a pass of the loop to the end of its turn. `commits`: from their
    begin to when the loop knows that they are durable. `lags`: how much later than due a timer of every second was
    served."""

    def __init__(self) -> None:
        self.turns = Durations(_TURN_SECONDS)
        self.commits = Durations(_COMMIT_SECONDS)
        self.lags = Durations(_LAG_SECONDS)
