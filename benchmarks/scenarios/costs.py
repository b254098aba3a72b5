"""What a queue, a consumer, a connection and a channel cost in memory."""

from __future__ import annotations

import time

from amqp import AMQP, fresh_names
from brokers import Broker, OwnBroker
from client import Connection, method
from outcome import Outcome
from scenarios.base import Kept, Scale, Scenario
from shapes import short_string, table
from spec import LoadError

QUEUES = 10_000
CONNECTIONS = 1_000
CHANNELS = 10
SETTLE_S = 2.0


class Costs(Scenario):
    """Differences of resident memory over many of each, on a broker that has just begun anew."""

    def __init__(self) -> None:
        super().__init__("costs", Kept.FULL, rounds_max=1)

    def can(self, broker: Broker) -> bool:
        """Whether its memory can be seen and it can be begun anew."""
        return broker.protocol is AMQP and isinstance(broker, OwnBroker)

    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Make 10,000 queues, as many consumers, 1,000 connections and 10,000 channels."""
        assert isinstance(broker, OwnBroker)
        broker.begin_anew()
        outcome = Outcome()
        control = Connection(broker.port, timeout_s=60.0)
        names = fresh_names(QUEUES)
        before = self._resident(broker)

        began_ns = time.monotonic_ns()
        no_arguments = table({})
        _pipeline(control, [_declare(name, no_arguments) for name in names], b"\x00\x32\x00\x0b")
        seconds = (time.monotonic_ns() - began_ns) / 1e9
        outcome.figures["what a … costs: durable queues declared a second"] = QUEUES / seconds
        before = self._note(broker, outcome, "queue", before, QUEUES)

        _pipeline(control, [_consume(name, f"{number:05}") for number, name in enumerate(names)], b"\x00\x3c\x00\x15")
        before = self._note(broker, outcome, "consumer", before, QUEUES)

        connections = [Connection(broker.port, timeout_s=60.0) for _ in range(CONNECTIONS)]
        before = self._note(broker, outcome, "connection with a channel", before, CONNECTIONS)

        opens = [method(20, 10, b"\x00", number) for number in range(2, 2 + CHANNELS)]
        for each in connections:
            _pipeline(each, opens, b"\x00\x14\x00\x0b")
        self._note(broker, outcome, "channel", before, CONNECTIONS * CHANNELS)

        for each in connections:
            each.sock.close()
        control.sock.close()
        broker.begin_anew()
        return outcome

    def _resident(self, broker: Broker) -> int:
        time.sleep(SETTLE_S)
        usage = broker.usage()
        if not usage:
            raise LoadError("the memory of the broker cannot be seen here")
        return usage.resident_bytes

    def _note(self, broker: Broker, outcome: Outcome, what: str, before: int, count: int) -> int:
        """Note the growth of memory for one of `count`; returns the memory now."""
        now = self._resident(broker)
        outcome.figures[f"what a … costs: {what}, KiB"] = (now - before) / count / 1024
        return now


def _declare(name: str, arguments: bytes) -> bytes:
    return method(50, 10, b"\x00\x00" + short_string(name) + b"\x02" + arguments)


def _consume(name: str, consumer_tag: str) -> bytes:
    return method(60, 20, b"\x00\x00" + short_string(name) + short_string(consumer_tag) + b"\x00" + table({}))


def _pipeline(connection: Connection, requests: list[bytes], reply: bytes, at_once: int = 200) -> None:
    """Send requests some at a time and read as many replies of one kind."""
    for first in range(0, len(requests), at_once):
        some = requests[first : first + at_once]
        connection.send(b"".join(some))
        for _ in some:
            if (answer := connection.read_frame()[1][7:11]) != reply:
                raise LoadError(f"expected the method {reply.hex()}, got {answer.hex()}")
