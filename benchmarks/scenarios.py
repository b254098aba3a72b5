"""What is measured: the scenarios, as a table, and one run of one of them."""

from __future__ import annotations

from dataclasses import dataclass

from spec import Load

FULL_SIZE_BYTES = 2_000
"""Bodies larger than this get fewer messages, so that a run takes no longer for them."""
QUICK_SHARE = 4


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load with a name for the command line and a title for the tables.

    Attributes:
        load: for any port; its messages are those of a full run with small bodies.
        phases: the figures that come of it, with the titles of their rows.
    """

    name: str
    load: Load
    phases: dict[str, str]

    @property
    def is_latency(self) -> bool:
        """Whether it measures latency at a given rate instead of speed."""
        return self.load.rate_per_s > 0


SCENARIOS = (
    Scenario(
        "transient-auto",
        Load(0, messages=200_000, prefetch=0),
        {"both": "transient, auto acks"},
    ),
    Scenario(
        "transient-acks",
        Load(0, messages=200_000, prefetch=1000),
        {"both": "transient, acks"},
    ),
    Scenario(
        "transient-mixed",
        Load(0, messages=200_000, prefetch=1000, mixed=True),
        {"both": "transient, mixed sizes"},
    ),
    Scenario(
        "durable",
        Load(0, messages=100_000, durable=True, window=500),
        {"both": "durable, confirms, acks"},
    ),
    Scenario(
        "durable-mixed",
        Load(0, messages=100_000, durable=True, window=500, mixed=True),
        {"both": "durable, mixed sizes"},
    ),
    Scenario(
        "durable-4",
        Load(0, messages=100_000, durable=True, window=500, queues=4),
        {"both": "durable on 4 queues"},
    ),
    Scenario(
        "backlog",
        Load(0, messages=100_000, durable=True, window=500, backlog=True),
        {"publish": "durable backlog: publish", "drain": "durable backlog: drain"},
    ),
    Scenario(
        "latency-durable",
        Load(0, messages=15_000, durable=True, window=500, rate_per_s=5_000),
        {"both": "durable, confirms, acks"},
    ),
    Scenario(
        "latency-transient",
        Load(0, messages=15_000, prefetch=0, rate_per_s=5_000),
        {"both": "transient, auto acks"},
    ),
)


def messages_of(scenario: Scenario, size_bytes: int, *, quick: bool) -> int:
    """How many messages to send when nothing else is asked for: fewer when large, or when in a hurry."""
    messages = scenario.load.messages
    if quick:
        messages //= QUICK_SHARE
    if not scenario.is_latency and size_bytes > FULL_SIZE_BYTES:
        messages = messages * FULL_SIZE_BYTES // size_bytes
    return max(messages, 100 * scenario.load.queues)
