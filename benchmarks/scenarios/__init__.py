"""All scenarios, in the order in which they are run and shown."""

from __future__ import annotations

from dataclasses import replace

from scenarios.base import Kept, Scale, Scenario
from scenarios.costs import Costs
from scenarios.crowd import Growing, Thousand
from scenarios.fan_out import FanOut
from scenarios.flow import Drain, Flow, LatencyFlow
from scenarios.large import Large
from scenarios.ten_million import TenMillion
from spec import Load

_TRANSIENT = Load(0, messages=200_000)
_AUTO = replace(_TRANSIENT, prefetch=0)
_DURABLE = Load(0, messages=100_000, durable=True, window=500)
_LARGE = Load(0, messages=400, size_bytes=1_048_576, durable=True, window=32, prefetch=32, backlog=True)

SCENARIOS: tuple[Scenario, ...] = (
    Flow("transient-auto", "transient, auto acks", _AUTO),
    Flow("transient-acks", "transient, acks", _TRANSIENT),
    Flow("transient-mixed", "transient, mixed sizes", replace(_TRANSIENT, mixed=True)),
    Flow("transient-properties", "transient, own properties", replace(_TRANSIENT, own_properties=True)),
    Flow("single-acks", "transient, acks one by one", replace(_TRANSIENT, single_acks=True)),
    Flow("topic", "topic exchange, 100 bindings", replace(_TRANSIENT, exchange="topic")),
    Flow("headers", "headers exchange, 100 bindings", replace(_TRANSIENT, messages=100_000, exchange="headers")),
    Drain("get", "get and ack, one at a time", replace(_TRANSIENT, messages=20_000, get=True, backlog=True)),
    Flow("durable", "durable, confirms, acks", _DURABLE),
    Flow("durable-mixed", "durable, mixed sizes", replace(_DURABLE, mixed=True)),
    Flow("durable-properties", "durable, own properties", replace(_DURABLE, own_properties=True)),
    Flow("durable-4", "durable on 4 queues", replace(_DURABLE, queues=4)),
    Flow("backlog", "durable backlog", replace(_DURABLE, backlog=True)),
    Large("large", "1 MiB durable", _LARGE),
    FanOut("fan-out", "1 → 100 queues, 100 B", replace(_DURABLE, messages=1_000)),
    FanOut("fan-out-8k", "1 → 100 queues, 8 KiB", replace(_DURABLE, messages=300, size_bytes=8_192)),
    LatencyFlow("latency-durable", "5,000/s durable", replace(_DURABLE, messages=15_000, rate_per_s=5_000)),
    LatencyFlow("latency-transient", "5,000/s transient", replace(_AUTO, messages=15_000, rate_per_s=5_000)),
    Growing("queues", "queues, one connection", replace(_DURABLE, messages=100_000), connections=False),
    Growing("connections", "connections, a queue each", replace(_DURABLE, messages=100_000), connections=True),
    Thousand("thousand-durable", "1,000 × 10/s durable", replace(_DURABLE, messages=200_000, rate_per_s=10)),
    Thousand("thousand-transient", "1,000 × 10/s transient", replace(_AUTO, messages=200_000, rate_per_s=10)),
    Costs(),
    TenMillion(),
)

__all__ = ["SCENARIOS", "Kept", "Scale", "Scenario"]
