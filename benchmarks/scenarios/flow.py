"""Messages from publishers through queues to consumers, as fast as it goes or at a given rate."""

from __future__ import annotations

from dataclasses import replace

import machine
from brokers import Broker
from load import Titles, run_load
from outcome import Latency, Outcome
from scenarios.base import Kept, Scale, Scenario
from spec import Load

FULL_SIZE_BYTES = 2_000
"""Bodies larger than this get fewer messages, so that a run takes no longer for them."""


class Flow(Scenario):
    """A load as fast as it goes.

    Args:
        name: for the command line.
        title: of its row; for a backlog what comes before ": publish" and ": drain".
        load: for any port; its messages are those of a full run with small bodies.
        kept: whether it is part of every run.
    """

    def __init__(self, name: str, title: str, load: Load, kept: Kept = Kept.ALWAYS) -> None:
        super().__init__(name, kept)
        self.titles = Titles(title, f"{title}: publish", f"{title}: drain")
        self.load = load

    def can(self, broker: Broker) -> bool:
        """Whether the broker's protocol has an equal to this load."""
        return broker.protocol.can(self.load)

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Put the load on the broker."""
        return run_load(self.load_for(broker, scale), broker.protocol, self.titles, broker.cpu_s)

    def load_for(self, broker: Broker, scale: Scale) -> Load:
        """The load with the number and size of messages that this broker gets."""
        messages = scale.of(self.load.messages)
        if scale.size_bytes > FULL_SIZE_BYTES and not scale.messages:
            messages = messages * FULL_SIZE_BYTES // scale.size_bytes
        if self.load.durable:
            messages = int(messages * broker.durable_share)
        messages = max(messages, 100 * self.load.queues)
        return replace(self.load, port=broker.port, messages=messages, size_bytes=scale.size_bytes)


class Drain(Flow):
    """A transient backlog, of which only the consuming is shown: publishing it waits for nothing."""

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Put the load on the broker."""
        outcome = super().run(broker, scale)
        outcome.speeds = {self.titles.both: outcome.speeds[self.titles.drain]}
        return outcome


class LatencyFlow(Flow):
    """A load at a given rate, and how long its messages take."""

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Put the load on the broker; with durable messages measure the disk first."""
        outcome = Outcome()
        if self.load.durable:
            disk = Latency.of(machine.fsyncs_ns(scale.data))
            if disk:
                outcome.latencies[f"{self.titles.both}: fdatasync of 4 KiB by itself"] = disk
        load = replace(
            self.load, port=broker.port, messages=scale.of(self.load.messages), size_bytes=scale.size_bytes
        )
        came = run_load(load, broker.protocol, self.titles, broker.cpu_s)
        outcome.latencies |= came.latencies
        speed = came.speeds[self.titles.both]
        outcome.figures[f"{self.titles.both}: messages a second reached"] = speed.per_s
        if speed.broker_us is not None:
            outcome.figures[f"{self.titles.both}: CPU µs a message"] = speed.broker_us
        return outcome
