"""One publisher, a hundred queues."""

from __future__ import annotations

import time
from dataclasses import replace

from brokers import Broker
from client import Connection
from endpoint import Crowd, Endpoint
from outcome import Outcome, Speed
from scenarios.base import Scale, Scenario
from scenarios.crowd import fresh
from shapes import table
from spec import Load

QUEUES = 100
WINDOW_BYTES = 500_000


class FanOut(Scenario):
    """Publishes through a fanout exchange to 100 durable queues, then consumes from all of them.

    The queues have no consumers at first, so that everything has to be stored. Speed is in copies a second.

    Args:
        name: for the command line.
        title: of its rows.
        load: its messages are those published, its size is kept.
    """

    def __init__(self, name: str, title: str, load: Load) -> None:
        super().__init__(name)
        self._title = title
        self._load = load

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Publish, and note what that writes to the disk; drain."""
        outcome = Outcome()
        load = replace(self._load, port=broker.port, messages=scale.of(self._load.messages))
        control = Connection(broker.port)
        with fresh(broker, load, QUEUES) as queues:
            exchange = f"{queues[0]}.fanout"
            control.declare_exchange(exchange, "fanout")
            for queue in queues:
                control.bind(queue, exchange, "", table({}))
            self._publish(broker, load, queues[0], exchange, outcome)
            self._drain(broker, load, queues, exchange, outcome)
        control.delete_exchange(exchange)
        control.close()
        return outcome

    def _publish(self, broker: Broker, load: Load, key: str, exchange: str, outcome: Outcome) -> None:
        crowd = Crowd([Endpoint(load, [key], exchange)])
        before, began_ns = broker.usage(), time.monotonic_ns()
        window = max(10, min(load.window, WINDOW_BYTES // load.size_bytes))
        crowd.run(load.messages, max(1, window // 5), window, confirms=True, deliveries=False)
        per_s, after = load.messages * QUEUES / (time.monotonic_ns() - began_ns) * 1e9, broker.usage()
        crowd.close()
        used_us = None
        if before and after:
            used_us = (after.cpu_s - before.cpu_s) / load.messages / QUEUES * 1e6
            written_bytes = after.written_bytes - before.written_bytes
            outcome.figures[f"{self._title}: KiB written for a message"] = written_bytes / load.messages / 1024
        outcome.speeds[f"{self._title}: publish"] = Speed(per_s, used_us)

    def _drain(self, broker: Broker, load: Load, queues: list[str], exchange: str, outcome: Outcome) -> None:
        # The routing key of all copies is that of their publish: as long as the names of the queues.
        crowd = Crowd([Endpoint(load, queues, exchange)])
        before_s, began_ns = broker.cpu_s(), time.monotonic_ns()
        crowd.subscribe()
        crowd.drain(load.messages * QUEUES)
        per_s, after_s = load.messages * QUEUES / (time.monotonic_ns() - began_ns) * 1e9, broker.cpu_s()
        crowd.close()
        used_us = None
        if before_s is not None and after_s is not None:
            used_us = (after_s - before_s) / load.messages / QUEUES * 1e6
        outcome.speeds[f"{self._title}: drain"] = Speed(per_s, used_us)
