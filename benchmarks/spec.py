"""What a load is, what a protocol has to offer for it, and what each worker that makes it reports."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

STAMP_BYTES = 8
"""A body begins with a number or a time of this size, if there is room."""
CYCLE_MESSAGES_MAX = 1_024
CYCLE_BYTES_MAX = 1_048_576
CYCLE_OF_PROPERTIES = 20_000
"""So many messages with properties of their own before they come again."""


class LoadError(Exception):
    """The broker refused or broke something, or the load did not come through in time."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent and how.

    Attributes:
        port: the broker's TCP port.
        messages: in total, over all queues.
        size_bytes: of a body.
        queues: with one publisher and one consumer each.
        durable: durable queue and persistent messages.
        window: messages that may be unconfirmed at once; 0 for no confirms.
        prefetch: messages that may be unacknowledged at once; 0 for automatic acknowledgement.
        backlog: publish everything first, then consume it.
        rate_per_s: messages a second and queue, with latency measured; 0 for as fast as it goes.
        mixed: bodies of half to one and a half times `size_bytes`, instead of all the same.
        single_acks: an ack for each message, instead of one for all that have come.
        get: fetch each message by itself, instead of having them delivered.
        own_properties: message_id, timestamp and a header of its own in each message.
        exchange: "topic" or "headers": through an exchange of that type with many bindings; "": the default one.
    """

    port: int
    messages: int = 100_000
    size_bytes: int = 100
    queues: int = 1
    durable: bool = False
    window: int = 0
    prefetch: int = 1000
    backlog: bool = False
    rate_per_s: int = 0
    mixed: bool = False
    single_acks: bool = False
    get: bool = False
    own_properties: bool = False
    exchange: str = ""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.rate_per_s and self.size_bytes < STAMP_BYTES:
            raise LoadError(f"latency needs bodies of {STAMP_BYTES} bytes or more, for their time stamp")
        if self.rate_per_s and (self.mixed or self.own_properties or self.exchange):
            raise LoadError("latency needs messages that are all the same")
        if self.messages_each < 1 or self.size_bytes < 1:
            raise LoadError("a load needs at least one message for each queue and one byte in it")

    def body_sizes(self) -> list[int]:
        """Bytes of each body in a cycle of messages; message n (from 0) is number n modulo its length."""
        cycle = max(1, min(CYCLE_MESSAGES_MAX, CYCLE_BYTES_MAX // self.size_bytes))
        if self.own_properties:
            cycle = CYCLE_OF_PROPERTIES
        if not self.mixed:
            return [self.size_bytes] * cycle
        choose = random.Random(cycle)
        return [choose.randint((self.size_bytes + 1) // 2, self.size_bytes * 3 // 2) for _ in range(cycle)]

    def bodies(self) -> list[bytes]:
        """A cycle of bodies, each with its number in front if there is room."""
        return [
            (number.to_bytes(STAMP_BYTES) if size_bytes >= STAMP_BYTES else b"").ljust(size_bytes, b"x")
            for number, size_bytes in enumerate(self.body_sizes())
        ]

    @property
    def messages_each(self) -> int:
        """Messages of one publisher or consumer."""
        return self.messages // self.queues


@dataclass(slots=True)
class Report:
    """What one worker did: monotonic times, CPU time (user and system) and latencies, all in nanoseconds."""

    started_ns: int
    ended_ns: int = 0
    cpu_ns: int = 0
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))

    @classmethod
    def begin(cls) -> Report:
        """A report that starts now."""
        return cls(time.monotonic_ns(), cpu_ns=-time.process_time_ns())

    def end(self) -> None:
        """Note the end of what is measured."""
        self.ended_ns = time.monotonic_ns()
        self.cpu_ns += time.process_time_ns()


Gate = Callable[[], None]
"""Tells the parent that this worker is connected, and waits until it may begin."""
Task = Callable[[Load, str, Gate], Report]
"""What a worker does with a queue."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a kind of broker is spoken to.

    Attributes:
        publish, consume: the tasks of workers.
        fresh_queues: empty queues for a load, deleted at the end; that one is not empty by then is an error.
        greet: opens and closes a connection to a port and returns the broker's version.
        can: whether this load has an equal in the protocol.
    """

    publish: Task
    consume: Task
    fresh_queues: Callable[[Load], AbstractContextManager[list[str]]]
    greet: Callable[[int], str]
    can: Callable[[Load], bool]
