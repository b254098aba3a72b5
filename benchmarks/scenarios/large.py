"""Large bodies, beside what the disk does by itself."""

from __future__ import annotations

from dataclasses import replace

import machine
from brokers import Broker
from load import run_load
from outcome import Outcome
from scenarios.base import Scale
from scenarios.flow import Flow

MIB = 1_048_576


class Large(Flow):
    """A durable backlog of large bodies: MiB a second, and which share of the disk's own speed that is."""

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Measure the disk before and after, and put the load on the broker in between."""
        before = machine.sequential_mib_s(scale.data)
        load = replace(self.load, port=broker.port, messages=scale.of(self.load.messages))
        outcome = run_load(load, broker.protocol, self.titles, broker.cpu_s)
        disk = (before + machine.sequential_mib_s(scale.data)) / 2
        title = self.titles.both
        for phase, row in (("published", self.titles.publish), ("drained", self.titles.drain)):
            outcome.figures[f"{title}: {phase}, MiB/s"] = outcome.speeds[row].per_s * load.size_bytes / MIB
        outcome.figures[f"{title}: the disk by itself (O_DSYNC), MiB/s"] = disk
        published = outcome.figures[f"{title}: published, MiB/s"]
        outcome.figures[f"{title}: published, share of the disk's, %"] = published / disk * 100
        return outcome
