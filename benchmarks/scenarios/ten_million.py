"""Ten million durable messages, a kill -9 in between, and everything back in order."""

from __future__ import annotations

import time

import machine
from amqp import AMQP
from brokers import Broker, OwnBroker
from client import Connection
from consumer import Deliveries, ack_as_they_come
from outcome import Outcome
from publisher import Confirms, supply_of
from scenarios.base import Kept, Scale, Scenario
from spec import Load

MESSAGES = 10_000_000
PARTS = 10
MIB = 1_048_576
QUEUE = "bench.ten-million"
SETTLE_S = 3.0


class TenMillion(Scenario):
    """Published with confirms, killed, restarted, drained."""

    def __init__(self) -> None:
        super().__init__("ten-million", Kept.NAMED, rounds_max=1)

    def can(self, broker: Broker) -> bool:
        """Whether it can be killed and started again."""
        return broker.protocol is AMQP and isinstance(broker, OwnBroker)

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Publish a tenth at a time, kill, start, drain; note what there is on the disk."""
        assert isinstance(broker, OwnBroker)
        outcome = Outcome()
        broker.begin_anew()
        load = Load(broker.port, scale.of(MESSAGES), scale.size_bytes, durable=True, window=500)
        self._publish(broker, load, outcome)
        self._note(broker, outcome, "published")

        broker.crash()
        began = time.monotonic()
        broker.launch()
        ready_s = time.monotonic() - began
        connection = Connection(broker.port, timeout_s=60.0)
        connection.consume(QUEUE, prefetch=load.prefetch)
        deliveries = Deliveries(connection, load, QUEUE)
        first_s = time.monotonic() - began
        self._figure(outcome, "accepting after kill -9, s", ready_s)
        self._figure(outcome, "first delivery after kill -9, s", first_s)

        before_s, began = broker.cpu_s(), time.monotonic()
        ack_as_they_come(connection, load, deliveries)
        connection.ack(deliveries.count)
        self._figure(outcome, "drained, thousand/s", load.messages / (time.monotonic() - began) / 1e3)
        after_s = broker.cpu_s()
        if before_s is not None and after_s is not None:
            self._figure(outcome, "drained, CPU µs a message", (after_s - before_s) / load.messages * 1e6)
        connection.close()
        self._note(broker, outcome, "drained")
        broker.begin_anew()
        return outcome

    def _publish(self, broker: Broker, load: Load, outcome: Outcome) -> None:
        connection = Connection(broker.port, timeout_s=60.0)
        connection.declare(QUEUE, durable=True)
        connection.select_confirms()
        supply = supply_of(load, QUEUE, connection.frame_bytes_max)
        confirms = Confirms(connection)
        part = load.messages // PARTS
        sent = 0
        for number in range(1, PARTS + 1):
            end = load.messages if number == PARTS else part * number
            before_s, began = broker.cpu_s(), time.monotonic()
            while confirms.confirmed < end:
                room = min(load.window - (sent - confirms.confirmed), end - sent)
                if room >= load.window // 5 or (room and sent + room == end):
                    supply.send(connection, sent, sent + room)
                    sent += room
                confirms.receive()
            per_s, after_s = part / (time.monotonic() - began), broker.cpu_s()
            if number in (1, PARTS):
                which = "first" if number == 1 else "last"
                self._figure(outcome, f"{which} tenth published, thousand/s", per_s / 1e3)
                if before_s is not None and after_s is not None:
                    self._figure(
                        outcome, f"{which} tenth published, CPU µs a message", (after_s - before_s) / part * 1e6
                    )
        connection.close()

    def _note(self, broker: OwnBroker, outcome: Outcome, when: str) -> None:
        time.sleep(SETTLE_S)
        usage = broker.usage()
        if usage:
            self._figure(outcome, f"memory at most until {when}, MB", max(usage.peak_bytes, 0) / 1e6)
            self._figure(outcome, f"memory when {when}, MB", usage.resident_bytes / 1e6)
        self._figure(outcome, f"on disk when {when}, MiB", machine.disk_bytes(broker.data) / MIB)

    def _figure(self, outcome: Outcome, title: str, value: float) -> None:
        outcome.figures[f"ten million: {title}"] = value
