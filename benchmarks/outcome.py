"""What came of a scenario on a broker."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from spec import Report


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a latency in milliseconds."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, latencies_ns: Iterable[int]) -> Latency | None:
        """Percentiles of at least two latencies; None of fewer."""
        all_ns = sorted(latencies_ns)
        if len(all_ns) < 2:
            return None

        def at(share: float) -> float:
            return all_ns[min(len(all_ns) - 1, int(len(all_ns) * share))] / 1e6

        return cls(at(0.5), at(0.99), at(0.999), all_ns[-1] / 1e6)


@dataclass(frozen=True, slots=True)
class Speed:
    """Messages a second, and the broker's CPU time in µs for one; None when not known."""

    per_s: float
    broker_us: float | None


@dataclass(slots=True)
class Outcome:
    """What came of a scenario. The keys of all are titles of rows.

    Attributes:
        speeds: how fast it went.
        latencies: at a given rate.
        figures: others, with their unit in the title.
        publisher_us, consumer_us: the generator's own CPU time in µs per message; None when not measured.
        peak_bytes: the broker's memory at most while it ran; None when not known.
    """

    speeds: dict[str, Speed] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    publisher_us: float | None = None
    consumer_us: float | None = None
    peak_bytes: int | None = None

    def add_latency(self, title: str, reports: list[Report]) -> None:
        """Note percentiles over all messages of all workers, if any were measured."""
        latencies_ns: array[int] = array("q")
        for each in reports:
            latencies_ns.extend(each.latencies_ns)
        latency = Latency.of(latencies_ns)
        if latency:
            self.latencies[title] = latency


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [each for each in values if each is not None]
    return statistics.median(known) if known else None
