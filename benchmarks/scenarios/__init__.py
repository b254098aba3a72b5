"""All scenarios, in the order in which they are run and shown."""

from __future__ import annotations

from scenarios.base import Kept, Scale, Scenario
from scenarios.flow import Flow, LatencyFlow
from spec import Load

_DURABLE = Load(0, messages=100_000, durable=True, window=500)
_TRANSIENT = Load(0, messages=200_000)


SCENARIOS: tuple[Scenario, ...] = (
    Flow("transient-auto", "transient, auto acks", Load(0, messages=200_000, prefetch=0)),
    Flow("transient-acks", "transient, acks", _TRANSIENT),
    Flow("transient-mixed", "transient, mixed sizes", Load(0, messages=200_000, mixed=True)),
    Flow("durable", "durable, confirms, acks", _DURABLE),
    Flow("durable-mixed", "durable, mixed sizes", Load(0, durable=True, window=500, mixed=True)),
    Flow("durable-4", "durable on 4 queues", Load(0, durable=True, window=500, queues=4)),
    Flow("backlog", "durable backlog", Load(0, durable=True, window=500, backlog=True)),
    LatencyFlow(
        "latency-durable",
        "5,000/s durable",
        Load(0, messages=15_000, durable=True, window=500, rate_per_s=5_000),
    ),
    LatencyFlow(
        "latency-transient",
        "5,000/s transient",
        Load(0, messages=15_000, prefetch=0, rate_per_s=5_000),
    ),
)

__all__ = ["SCENARIOS", "Kept", "Scale", "Scenario"]
