"""Queues and messages as the simulation knows them from the outside, and how it finds the messages on disk.

A *copy* is a message in one queue of those it was routed to, wherever it is now: there, or dead-lettered.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pabal.model.definitions import QueueDefinition, decode_definition
from pabal.model.message import LEVEL_SHIFT
from pabal.session.amqp091.container import Amqp091Container
from pabal.store.journal import QueueState
from pabal.store.memory import Disk
from pabal.store.record import RecordReader

DEAD = "dead"
"""The queue of dead letters."""
CONTAINER = Amqp091Container()
READER = RecordReader({CONTAINER.code: CONTAINER})

_ID = re.compile(rb"id=([a-z]+\d+)-(\d+);")
_DEATH = b"\x13x-first-death-queueS"


class Violation(Exception):
    """The broker broke a promise."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue of the run, and what may happen to its messages. `lossy`: some may go without anybody's word."""

    name: str
    durable: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def dead_letters(self) -> bool:
        return "x-dead-letter-exchange" in self.arguments

    @property
    def limit(self) -> int | None:
        return self.arguments.get("x-delivery-limit")

    @property
    def lease_ms(self) -> int | None:
        return self.arguments.get("x-consumer-timeout")

    @property
    def max_priority(self) -> int:
        return int(self.arguments.get("x-max-priority", 0))

    @property
    def single(self) -> bool:
        return "x-single-active-consumer" in self.arguments

    @property
    def bounded(self) -> bool:
        return "x-max-length" in self.arguments or "x-max-length-bytes" in self.arguments

    @property
    def refuses(self) -> bool:
        return self.bounded and "x-overflow" in self.arguments

    @property
    def keeps_refused(self) -> bool:
        """Among the dead letters."""
        return self.dead_letters and self.arguments.get("x-overflow") == "reject-publish-dlx"

    @property
    def expires(self) -> bool:
        return self.bounded or "x-message-ttl" in self.arguments

    @property
    def lossy(self) -> bool:
        drops = self.bounded and not self.refuses
        return not self.dead_letters and (drops or "x-message-ttl" in self.arguments)


class Copy:
    """`settled`: how many settles of it were processed, durable or not. `gone`: for good. `may_go`: it may be there
    or not. `level`: its priority in the queue. `born`: in which life of the broker. `ended_by`: the transaction.
    `handed_out`: in which life of the broker it was last delivered, by the queue it was delivered from.
    `delivered_for_good`: queues that it was delivered from, which a crash must not make the broker forget."""

    __slots__ = (
        "born",
        "confirmed",
        "delivered_for_good",
        "deliveries",
        "ended_by",
        "gone",
        "handed_out",
        "key",
        "level",
        "may_go",
        "name",
        "persistent",
        "publisher",
        "refused",
        "seq",
        "settled",
        "spec",
    )

    def __init__(self, publisher: str, seq: int, spec: QueueSpec, persistent: bool, priority: int, born: int) -> None:
        self.publisher = publisher
        self.seq = seq
        self.name = f"{publisher}-{seq} of {spec.name}"
        self.key = (publisher, seq, spec.name)
        self.spec = spec
        self.persistent = persistent
        self.level = min(priority, spec.max_priority)
        self.born = born
        self.confirmed = self.refused = self.gone = self.may_go = False
        self.settled = self.deliveries = 0
        self.ended_by: str | None = None
        self.handed_out: dict[str, int] = {}
        self.delivered_for_good: set[str] = set()

    @property
    def must_be_kept(self) -> bool:
        return self.confirmed and self.is_kept_once_durable

    @property
    def is_kept_once_durable(self) -> bool:
        if not (self.persistent and self.spec.durable):
            return False
        if self.settled or self.gone or self.may_go or self.spec.lossy:
            return False
        limit = self.spec.limit
        return limit is None or self.spec.dead_letters or self.deliveries <= limit


CopyKey = tuple[str, int, str]
"""Publisher, its number, and the queue it was routed to."""


def identify(data: bytes, queue: str) -> CopyKey:
    """Which copy a content or a stored record in `queue` is."""
    match = _ID.search(data)
    if match is None:
        raise Violation(f"a message in {queue} that nobody sent: {data!r}")
    at = data.find(_DEATH)
    if at >= 0:
        start = at + len(_DEATH) + 4
        queue = data[start : start + int.from_bytes(data[start - 4 : start], "big")].decode()
    return match[1].decode(), int(match[2]), queue


def on_disk(disk: Disk) -> dict[CopyKey, list[str]]:
    """In which durable queues on disk each copy is; their states must tell the same numbers."""
    found: dict[CopyKey, list[str]] = {}
    for data in disk.definitions.values():
        definition = decode_definition(data)
        if not isinstance(definition, QueueDefinition):
            continue
        messages = disk.messages.get(definition.queue_id, {})
        for record in messages.values():
            found.setdefault(identify(record, definition.name), []).append(definition.name)
        check_state(definition, messages, disk.states.get(definition.queue_id) or QueueState(1, 0, 0))
    return found


def check_state(definition: QueueDefinition, messages: dict[int, bytes], state: QueueState) -> None:
    """What is kept of the queue beside its messages tells how many there are, of which priority, of what size."""
    if state.messages != len(messages):
        raise Violation(f"{definition.name} has {len(messages)} messages on disk and its state says {state}")
    if "x-max-priority" in definition.arguments:
        levels = Counter(255 - (position >> LEVEL_SHIFT) for position in messages)
        if levels != Counter(dict(state.levels)):
            raise Violation(f"{definition.name} has the levels {levels} on disk and its state says {state}")
    if "x-max-length-bytes" in definition.arguments:
        size = sum(CONTAINER.body_bytes(READER.decode(place, record).content) for place, record in messages.items())
        if state.body_bytes != size:
            raise Violation(f"{definition.name} has {size} bytes of bodies on disk and its state says {state}")
