"""What a load is, and what each worker that makes it reports."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

STAMP_BYTES = 8
"""A body begins with a number or a time of this size, if there is room."""
CYCLE_MESSAGES_MAX = 1_024
CYCLE_BYTES_MAX = 1_048_576


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

    def body_sizes(self) -> list[int]:
        """Bytes of each body in a cycle of messages; message n (from 0) is number n modulo its length."""
        cycle = max(1, min(CYCLE_MESSAGES_MAX, CYCLE_BYTES_MAX // self.size_bytes))
        if not self.mixed:
            return [self.size_bytes] * cycle
        choose = random.Random(cycle)
        return [choose.randint((self.size_bytes + 1) // 2, self.size_bytes * 3 // 2) for _ in range(cycle)]

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
