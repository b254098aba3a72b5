"""What the server measures beside the broker, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field


class Durations:
    """How many things took up to how long. `bounds`: in seconds, ascending; `counts` has one more, for the rest."""

    __slots__ = ("bounds", "counts", "longest_s", "total_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total_s = 0.0
        self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds
        if seconds > self.longest_s:
            self.longest_s = seconds


@dataclass(slots=True)
class ProcessFacts:
    """What `metrics` has to know that the broker does not. Sizes in bytes; a limit of 0 is none. `durations`: by
    name, "turn", "commit" and "loop_lag"."""

    node: str = "pabal@localhost"
    cluster: str = "pabal@localhost"
    cluster_id: str = ""
    version: str = "0"
    rabbitmq_version: str = "3.12.0"
    python_version: str = ""
    compiled: bool = False
    started_ms: int = 0
    memory_bytes: int = 0
    memory_bytes_max: int = 0
    disk_free_bytes: int = 0
    disk_free_bytes_min: int = 0
    files: int = 0
    files_max: int = 0
    sockets: int = 0
    sockets_max: int = 0
    cpu_seconds: float = 0.0
    store_bytes: int = 0
    store_free_bytes: int = 0
    durations: dict[str, Durations] = field(default_factory=dict)
