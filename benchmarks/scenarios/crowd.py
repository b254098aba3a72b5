"""The same total load over more and more queues or connections, and a thousand connections with little each."""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace

from amqp import fresh_names, wait_empty
from brokers import Broker
from client import Connection
from endpoint import Crowd, Endpoint
from outcome import Latency, Outcome, Speed
from scenarios.base import Kept, Scale, Scenario
from spec import Load

BURST = 50
WINDOW = 10_000
COUNTS = (1, 10, 100, 1_000)


@contextlib.contextmanager
def fresh(broker: Broker, load: Load, count: int) -> Iterator[list[str]]:
    """Fresh queues; empty after a good run, and deleted."""
    names = fresh_names(count)
    control = Connection(broker.port, timeout_s=60.0)
    for name in names:
        control.declare(name, durable=load.durable)
    try:
        yield names
        for name in names:
            wait_empty(control, name)
    finally:
        for name in names:
            control.delete(name)
        control.close()


class Growing(Scenario):
    """The same number of messages over 1, 10, 100 and 1,000 of something.

    Args:
        name: for the command line.
        title: what there is more and more of.
        load: durable or not; its messages are those of each step.
        connections: whether each queue has a connection of its own; else all are on one.
    """

    def __init__(self, name: str, title: str, load: Load, *, connections: bool) -> None:
        super().__init__(name, Kept.FULL)
        self._title = title
        self._load = load
        self._connections = connections

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Run all steps."""
        outcome = Outcome()
        load = replace(self._load, port=broker.port, messages=scale.of(self._load.messages))
        for count in COUNTS:
            with fresh(broker, load, count) as queues:
                shares = [[each] for each in queues] if self._connections else [queues]
                outcome.speeds[f"{self._title}: {count:,}"] = self._step(broker, load, shares)
        first, *_, last = (each.broker_us for each in outcome.speeds.values())
        if first and last:
            outcome.figures[f"{self._title}: CPU a message with 1,000, times that with 1"] = last / first
        return outcome

    def _step(self, broker: Broker, load: Load, shares: list[list[str]]) -> Speed:
        crowd = Crowd([Endpoint(load, queues) for queues in shares], subscribed=True)
        before_s, began_ns = broker.cpu_s(), time.monotonic_ns()
        crowd.run(load.messages, BURST, WINDOW, confirms=load.window > 0, deliveries=True)
        seconds, after_s = (time.monotonic_ns() - began_ns) / 1e9, broker.cpu_s()
        crowd.close()
        used_us = None if before_s is None or after_s is None else (after_s - before_s) / load.messages * 1e6
        return Speed(load.messages / seconds, used_us)


class Thousand(Scenario):
    """1,000 connections, each with a queue of its own, publishing and consuming 10 messages a second.

    Args:
        name: for the command line.
        title: of its rows.
        load: its messages are those of all connections, its rate that of one.
    """

    CONNECTIONS = 1_000

    def __init__(self, name: str, title: str, load: Load) -> None:
        super().__init__(name, Kept.FULL, rounds_max=1)
        self._title = title
        self._load = load

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Run it, and note latency and what the broker took."""
        outcome, title = Outcome(), self._title
        load = replace(self._load, port=broker.port, messages=scale.of(self._load.messages))
        with fresh(broker, load, self.CONNECTIONS) as queues:
            endpoints = [Endpoint(load, [queue]) for queue in queues]
            crowd = Crowd(endpoints, subscribed=True)
            before_s, began_ns = broker.cpu_s(), time.monotonic_ns()
            crowd.run_at_rate(load.messages, load.rate_per_s * self.CONNECTIONS, confirms=load.window > 0)
            seconds, after_s = (time.monotonic_ns() - began_ns) / 1e9, broker.cpu_s()
            crowd.close()
        outcome.figures[f"{title}: messages a second reached"] = load.messages / seconds
        if before_s is not None and after_s is not None:
            outcome.figures[f"{title}: CPU µs a message"] = (after_s - before_s) / load.messages * 1e6
            outcome.figures[f"{title}: share of a core, %"] = (after_s - before_s) / seconds * 100
        for kind in ("end to end", "confirm"):
            all_ns: array[int] = array("q")
            for each in endpoints:
                all_ns.extend(each.end_to_end_ns if kind == "end to end" else each.confirm_ns)
            if latency := Latency.of(all_ns):
                outcome.latencies[f"{title}: {kind}"] = latency
        return outcome
