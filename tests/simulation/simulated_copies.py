"""Queues and messages as the simulation knows them from the outside, and how it finds the messages on disk.

A *copy* is a message in one queue of those it was routed to, wherever it is now: there, or dead-lettered.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pabal.model.arguments import QUORUM_DELIVERY_LIMIT
from pabal.model.definitions import ExchangeDefinition, QueueDefinition, decode_definition
from pabal.model.message import LEVEL_SHIFT
from pabal.session.amqp091.container import Amqp091Container
from pabal.store.batch import QueueState, position_kind, waiting_id
from pabal.store.entry import decode_entry
from pabal.store.memory import Disk
from pabal.store.record import RecordReader, referred_content

DEAD = "dead"
"""The queue of dead letters."""
LATER = "later"
"""The exchange that holds messages back."""
LETTER = 1
"""The kind of what waits in a queue that is a dead letter without a place to go."""
NO_STATE = QueueState(1, 0, 0)
CONTAINER = Amqp091Container()

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
        quorum = self.arguments.get("x-queue-type") == "quorum"
        return self.arguments.get("x-delivery-limit", QUORUM_DELIVERY_LIMIT if quorum else None)

    @property
    def lease_ms(self) -> int | None:
        return self.arguments.get("x-consumer-timeout")

    def retry_ms(self, failed: bool) -> int:
        """How long at least a message waits that came back: because it `failed`, or untried."""
        waits = self.arguments.get("x-delayed-retry-type") in ("all", "failed" if failed else "returned")
        return int(self.arguments["x-delayed-retry-min"]) if waits else 0

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
    `expires`: it has an expiration of its own.
    `handed_out`: in which life of the broker it was last delivered, by the queue it was delivered from.
    `delivered_for_good`: queues that it was delivered from, which a crash must not make the broker forget.
    `not_before_ms`: it waits until then; `waits_for_good_ms`: whatever happens. `stream`, `order`: what it is in
    order with, and how; None if nobody can tell."""

    __slots__ = (
        "born",
        "confirmed",
        "delivered_for_good",
        "deliveries",
        "ended_by",
        "expires",
        "gone",
        "handed_out",
        "key",
        "level",
        "may_go",
        "name",
        "not_before_ms",
        "order",
        "persistent",
        "publisher",
        "refused",
        "seq",
        "settled",
        "spec",
        "stream",
        "waits_for_good_ms",
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
        self.confirmed = self.refused = self.gone = self.may_go = self.expires = False
        self.settled = self.deliveries = 0
        self.ended_by: str | None = None
        self.not_before_ms = self.waits_for_good_ms = 0
        self.stream: Stream = (publisher, spec.name, self.level, False)
        self.order: int | None = seq
        self.handed_out: dict[str, int] = {}
        self.delivered_for_good: set[str] = set()

    def is_delayed(self, until_ms: int, certain: bool) -> None:
        """It is held back. Unless `certain`, perhaps longer than that."""
        self.not_before_ms = self.waits_for_good_ms = until_ms
        self.stream = (self.publisher, self.spec.name, self.level, True)
        self.order = until_ms << 32 | self.seq if certain else None

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
Stream = tuple[str, str, int, bool]
"""Publisher, queue, priority, and whether it was held back: such are in the order of their times."""


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


def recovered(disk: Disk) -> Disk:
    """What a restart makes of it: the log's entries put into the data."""
    entries = [payload for epoch, payload in disk.entries if epoch == disk.epoch]
    if not entries:
        return disk
    later = copy.deepcopy(disk)
    for payload in entries:
        later.apply(decode_entry(payload))
    return later


def on_disk(disk: Disk) -> dict[CopyKey, list[str]]:
    """In which durable queues on disk each copy is, or in which other place; their states must tell the same."""
    check_contents(disk)
    disk = recovered(disk)
    check_contents(disk)
    found: dict[CopyKey, list[str]] = {}
    for data in disk.definitions.values():
        definition = decode_definition(data)
        if isinstance(definition, QueueDefinition):
            name = definition.name
            messages = disk.messages.get(definition.queue_id, {})
            for record in messages.values():
                found.setdefault(identify(whole(disk, record), name), []).append(name)
            check_state(definition, disk, messages, disk.states.get(definition.queue_id) or NO_STATE)
            for position, record in waiting_in(disk, definition.queue_id, name).items():
                place = f"{name}'s letters" if position_kind(position) == LETTER else name
                found.setdefault(identify(whole(disk, record), name), []).append(place)
        elif isinstance(definition, ExchangeDefinition) and definition.name == LATER:
            for position, record in waiting_in(disk, definition.queue_id, LATER).items():
                queue = reader(disk).decode(position, record).envelope.routing_key
                found.setdefault(identify(whole(disk, record), queue), []).append(LATER)
    return found


def reader(disk: Disk) -> RecordReader:
    return RecordReader({CONTAINER.code: CONTAINER}, disk.contents.get)


def whole(disk: Disk, record: bytes) -> bytes:
    """The record, and behind it the content that it refers to."""
    content_id = referred_content(record)
    if content_id and content_id not in disk.contents:
        raise Violation(f"content {content_id} is gone and a record refers to it")
    return record + disk.contents[content_id] if content_id else record


def check_contents(disk: Disk) -> None:
    """Each content that is kept by itself is there as long as records refer to it, and no longer."""
    referred = Counter(
        referred_content(record) for messages in disk.messages.values() for record in messages.values()
    )
    del referred[0]
    if referred != disk.references or referred.keys() != disk.contents.keys():
        raise Violation(f"records refer to contents {dict(referred)}, and those kept have {disk.references}")


def waiting_in(disk: Disk, queue_id: int, name: str) -> dict[int, bytes]:
    """What waits for its time in this queue or exchange."""
    messages = disk.messages.get(waiting_id(queue_id), {})
    state = disk.states.get(waiting_id(queue_id)) or NO_STATE
    if state.messages != len(messages):
        raise Violation(f"in {name} {len(messages)} messages wait on disk and its state says {state}")
    kinds = Counter(map(position_kind, messages))
    if state.levels and kinds != Counter(dict(state.levels)):
        raise Violation(f"in {name} messages of the kinds {kinds} wait on disk and its state says {state}")
    return messages


def check_state(definition: QueueDefinition, disk: Disk, messages: dict[int, bytes], state: QueueState) -> None:
    """What is kept of the queue beside its messages tells how many there are, of which priority, of what size."""
    if state.messages != len(messages):
        raise Violation(f"{definition.name} has {len(messages)} messages on disk and its state says {state}")
    if "x-max-priority" in definition.arguments:
        levels = Counter(255 - (position >> LEVEL_SHIFT) for position in messages)
        if levels != Counter(dict(state.levels)):
            raise Violation(f"{definition.name} has the levels {levels} on disk and its state says {state}")
    if "x-max-length-bytes" in definition.arguments:
        decode = reader(disk).decode
        size = sum(CONTAINER.body_bytes(decode(place, record).content) for place, record in messages.items())
        if state.body_bytes != size:
            raise Violation(f"{definition.name} has {size} bytes of bodies on disk and its state says {state}")
