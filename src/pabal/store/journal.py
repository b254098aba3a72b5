"""What the next commit will contain: gathered during a turn, taken as one self-contained batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from pabal.model.definitions import Definition, definition_key, encode_definition
from pabal.model.message import LEVEL_SHIFT, PENDING, SEQUENCE_MASK, STORED, UNSTORED, Message
from pabal.store.record import encode_record

_PREFIX = Struct(">Q")
_POSITION = Struct(">Q")
_TIMED_POSITION = Struct(">QBQ")
_KIND_SHIFT: Final = 64
_TIME_SHIFT: Final = 72
_WAITING: Final = 1 << 63


def message_key(queue_id: int, position: int) -> bytes:
    """The key of a message: sorts by queue, then by place in it."""
    return _PREFIX.pack(queue_id) + (_pack_timed(position) if position >> _TIME_SHIFT else _POSITION.pack(position))


def waiting_id(queue_id: int) -> int:
    """The id under which the messages of a queue that wait for their time are kept, in a range of their own."""
    return queue_id | _WAITING


def owner_id(queue_id: int) -> int:
    """The id of the queue to which a range belongs: the inverse of `waiting_id`."""
    return queue_id & ~_WAITING


def timed_position(at_ms: int, sequence: int, kind: int = 0) -> int:
    """A place in a range that is sorted by time: `at_ms` (since the epoch, above 0), then `kind` (what it is that
    waits, 8 bits), then `sequence` (64 bits)."""
    return at_ms << _TIME_SHIFT | kind << _KIND_SHIFT | sequence


def position_ms(position: int) -> int:
    """The time in such a place."""
    return position >> _TIME_SHIFT


def position_kind(position: int) -> int:
    """The kind in it."""
    return position >> _KIND_SHIFT & 0xFF


def position_sequence(position: int) -> int:
    """The sequence in it."""
    return position & (1 << _KIND_SHIFT) - 1


def _pack_timed(position: int) -> bytes:
    return _TIMED_POSITION.pack(position_ms(position), position_kind(position), position_sequence(position))


class QueueState(NamedTuple):
    """What is kept of a queue beside its messages, written with each commit that touches it.

    `messages`: how many are in the store, ready and leased. `delivered_position`: no message beyond it was ever
    delivered, so after a crash those up to it may have been. `body_bytes`: of these messages, if the queue counts
    them, else 0. `levels`: of a priority queue, how many messages there are of each priority; of what waits,
    of each kind.
    """

    next_position: int
    messages: int
    delivered_position: int
    body_bytes: int = 0
    levels: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Batch:
    """One commit, whole: it could be encoded and applied elsewhere. Deletes go before puts (a message may leave and
    come back to its place between two commits), drops come last."""

    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    deletes: list[bytes] = field(default_factory=list)
    states: list[tuple[int, QueueState]] = field(default_factory=list)
    definitions: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    drops: list[tuple[int, int, int]] = field(default_factory=list)
    """Ranges to remove: queue id, first position, last position; the state goes too when it is the whole queue."""
    gone: list[int] = field(default_factory=list)
    """Ids of deleted queues, whose state goes."""


class Journal:
    """Gathers changes between two commits. `unsaved_bytes`: contents waiting, for back-pressure. `committing`: a
    commit has begun and is not done."""

    def __init__(self) -> None:
        self.dirty: list[QueueLog] = []
        self.unsaved_bytes = 0
        self.committing = False
        self._definitions: dict[bytes, bytes | None] = {}
        self._drops: list[tuple[int, int, int]] = []
        self._gone: list[int] = []

    def queue_log(self, queue_id: int, state: QueueState | None = None, timed: bool = False) -> QueueLog:
        """`timed`: its positions are those of `timed_position`."""
        return QueueLog(self, queue_id, state or QueueState(1, 0, 0), timed)

    def define(self, definition: Definition) -> None:
        self._definitions[definition_key(definition)] = encode_definition(definition)

    def undefine(self, definition: Definition) -> None:
        self._definitions[definition_key(definition)] = None

    def drop_range(self, queue_id: int, first: int, last: int) -> None:
        """Remove all messages from `first` to `last`, both included."""
        self._drops.append((queue_id, first, last))

    def drop_queue(self, log: QueueLog) -> None:
        """Remove a queue's messages and state. Its log must not be used any more."""
        log.unsaved.clear()
        log.updated.clear()
        log.removed.clear()
        log.dropped = True
        self._drops.append((log.queue_id, 0, 2**64 - 1))
        self._gone.append(log.queue_id)

    @property
    def empty(self) -> bool:
        return not (self.dirty or self._definitions or self._drops or self._gone)

    @property
    def durable(self) -> bool:
        """All that was ever gathered is in the store for good."""
        return self.empty and not self.committing

    def take(self) -> tuple[Batch, list[QueueLog]]:
        """All that was gathered, as one batch; and the logs it came from, to be told when it is durable."""
        batch = Batch(definitions=list(self._definitions.items()), drops=self._drops, gone=self._gone)
        self.committing = True
        logs = self.dirty
        self.dirty = []
        self._definitions = {}
        self._drops = []
        self._gone = []
        self.unsaved_bytes = 0
        for log in logs:
            log.write(batch)
        return batch, logs


class QueueLog:
    """One queue's side of the journal: what to put and to delete, and the state that goes with it.

    `durable_position`: all messages up to it that were appended are in the store for good. `on_durable` is called
    when that has moved, if set. `counts_attempts`: attempts are kept, and a message that is leased when it is written
    counts as attempted once more, so that one which brings the broker down does not do so for ever.
    `counts_bytes`: keep count of bodies. `levels`: messages of each priority, or of each kind that waits; None when
    there are no such things.
    Positions here (next, delivered, durable) are orders of arrival, without the priority.
    """

    __slots__ = (
        "_dirty",
        "_journal",
        "body_bytes",
        "count",
        "counts_attempts",
        "counts_bytes",
        "delivered_position",
        "dropped",
        "durable_position",
        "levels",
        "next_position",
        "on_durable",
        "prefix",
        "queue_id",
        "removed",
        "taken_position",
        "timed",
        "unsaved",
        "updated",
    )

    def __init__(self, journal: Journal, queue_id: int, state: QueueState, timed: bool = False) -> None:
        self._journal = journal
        self._dirty = False
        self.timed = timed
        self.queue_id = queue_id
        self.prefix = _PREFIX.pack(queue_id)
        self.next_position = state.next_position
        self.count = state.messages
        self.delivered_position = state.delivered_position
        self.durable_position = state.next_position - 1
        self.taken_position = state.next_position - 1
        self.unsaved: list[Message] = []
        self.updated: list[Message] = []
        self.removed: list[int] = []
        self.body_bytes = state.body_bytes
        self.levels: dict[int, int] | None = dict(state.levels) or None
        self.dropped = False
        self.counts_attempts = False
        self.counts_bytes = False
        self.on_durable: Callable[[], None] | None = None

    def append(self, messages: list[Message], content_bytes: int) -> None:
        """Put these, which are PENDING, with the next commit."""
        self.unsaved += messages
        self._journal.unsaved_bytes += content_bytes
        if not self._dirty:
            self._touch()

    def update(self, message: Message) -> None:
        """Write this STORED message again: its attempts changed. (One not yet written is written as it is then.)"""
        if message.state == STORED:
            self.updated.append(message)
            self._journal.unsaved_bytes += len(message.content)
            if not self._dirty:
                self._touch()

    def remove(self, messages: list[Message]) -> None:
        """Settled: delete what was stored; what was not written yet never will be."""
        removed = self.removed
        counts_bytes = self.counts_bytes
        for message in messages:
            if message.state == STORED:
                removed.append(message.position)
                message.state = UNSTORED
                if counts_bytes:
                    self.body_bytes -= message.envelope.container.body_bytes(message.content)
            elif message.state == PENDING:
                message.state = UNSTORED
        if removed and not self._dirty:
            self._touch()

    def delivered(self, position: int) -> None:
        """Messages up to `position` may have been seen by a consumer."""
        position &= SEQUENCE_MASK
        if position > self.delivered_position:
            self.delivered_position = position
            if not self._dirty:
                self._touch()

    def count_bytes(self, body_bytes: int | None) -> None:
        """Keep count of bodies from now on, those in the store having `body_bytes`; None: do not, or no more."""
        self.counts_bytes = body_bytes is not None
        self.body_bytes = body_bytes or 0
        if not self._dirty:
            self._touch()

    def keep_position(self) -> None:
        """Positions up to `next_position` are in use, also if nothing is stored there now."""
        if not self._dirty:
            self._touch()

    def forget(self, count: int, body_bytes: int = 0, first: int = 0) -> None:
        """`count` messages of this queue were dropped as a range that begins at `first`."""
        self.count -= count
        self.body_bytes -= body_bytes
        if self.levels is not None:
            self.levels[255 - (first >> LEVEL_SHIFT)] -= count
        if not self._dirty:
            self._touch()

    def write(self, batch: Batch) -> None:
        """Add this queue's changes to `batch` and begin anew."""
        self._dirty = False
        if self.dropped:
            return
        prefix = self.prefix
        pack = _pack_timed if self.timed else _POSITION.pack
        before = len(batch.puts)
        put = batch.puts.append
        leases = self.counts_attempts
        counts_bytes = self.counts_bytes
        for message in self.unsaved:
            if message.state == PENDING:
                message.state = STORED
                begun = 1 if leases and message.consumer is not None else 0
                put((prefix + pack(message.position), encode_record(message, begun)))
                if counts_bytes:
                    self.body_bytes += message.envelope.container.body_bytes(message.content)
        self.count += len(batch.puts) - before - len(self.removed)
        if self.levels is not None:
            self._count_levels(batch.puts[before:])
        for message in self.updated:
            if message.state == STORED:
                begun = 1 if leases and message.consumer is not None else 0
                put((prefix + pack(message.position), encode_record(message, begun)))
        batch.deletes += [prefix + pack(position) for position in self.removed]
        batch.states.append((self.queue_id, self.state()))
        self.taken_position = self.next_position - 1
        self.unsaved = []
        self.updated = []
        self.removed = []

    def state(self) -> QueueState:
        """What is to be kept of the queue now."""
        levels = () if self.levels is None else tuple(sorted(self.levels.items()))
        body_bytes = self.body_bytes if self.counts_bytes else 0
        return QueueState(self.next_position, self.count, self.delivered_position, body_bytes, levels)

    def _count_levels(self, puts: list[tuple[bytes, bytes]]) -> None:
        assert self.levels is not None
        for key, _ in puts:
            level = key[16] if self.timed else 255 - key[8]
            self.levels[level] = self.levels.get(level, 0) + 1
        for position in self.removed:
            self.levels[position_kind(position) if self.timed else 255 - (position >> LEVEL_SHIFT)] -= 1

    def _touch(self) -> None:
        self._dirty = True
        self._journal.dirty.append(self)
