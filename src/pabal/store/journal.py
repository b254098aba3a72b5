"""What changed and is not in the store yet: gathered during a turn, taken by the next commit.

A commit is of one of two kinds (logged_store.py). Mostly it adds an entry to the write-ahead log (entry.py): what
changed since the last commit. Now and then it is a checkpoint: what changed since the last checkpoint goes to the
data file as one self-contained batch. A message that is settled before the next checkpoint never gets there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pabal.model.definitions import Definition, definition_key, encode_definition
from pabal.model.limits import PARTED_BYTES_MIN, SHARED_BYTES_MIN
from pabal.model.message import LEVEL_SHIFT, LOGGED, PENDING, SEQUENCE_MASK, SHARED, STORED, UNSTORED, Message
from pabal.store.batch import Batch, QueueState, key_prefix, pack_position, position_kind
from pabal.store.entry import encode_definition_change, encode_drop, encode_gone, encode_queue, encode_runs
from pabal.store.record import encode_record, encode_reference

_SETTLED_MAX: Final = 256
"""So many settled messages wait for a checkpoint that they need not, at least, before they are sorted out."""

_LargePut = tuple[int, Message, int]
"""Index among the puts of a batch, what is put there, and the attempts begun."""


class Journal:
    """`unsaved_bytes`: contents that wait for a commit, for back-pressure. `unstored`: about how many changes wait
    for a checkpoint, and `unstored_bytes` the contents that they came with. `committing`: a commit has begun and is
    not done. `entries`, `checkpoints`: how many there were; `messages_written`, `messages_read`: in them, and from
    the store. `next_content_id`: for the store to set when it was opened. `shared_bytes_min`, `parted_bytes_min`:
    see limits."""

    def __init__(self) -> None:
        self.next_content_id = 1
        self.shared_bytes_min = SHARED_BYTES_MIN
        self.parted_bytes_min = PARTED_BYTES_MIN
        self.dirty: list[QueueLog] = []
        self.unsaved_bytes = 0
        self.unstored = 0
        self.unstored_bytes = 0
        self.committing = False
        self.entries = 0
        self.checkpoints = 0
        self.messages_written = 0
        self.messages_read = 0
        self._behind: list[QueueLog] = []  # changed since the last checkpoint
        self._changes = Changes()
        self._unstored_changes = Changes()

    def queue_log(
        self, queue_id: int, state: QueueState | None = None, timed: bool = False, durable: bool = True
    ) -> QueueLog:
        """`timed`: its positions are those of `timed_position`. `durable`: False when none of it is wanted after a
        restart, so that it needs no log entries."""
        return QueueLog(self, queue_id, state or QueueState(1, 0, 0), timed, durable)

    def define(self, definition: Definition) -> None:
        self._changes.definitions[definition_key(definition)] = encode_definition(definition)

    def undefine(self, definition: Definition) -> None:
        self._changes.definitions[definition_key(definition)] = None

    def drop_range(self, queue_id: int, first: int, last: int) -> None:
        """Remove all messages from `first` to `last`, both included."""
        self._changes.drops.append((queue_id, first, last))

    def drop_queue(self, log: QueueLog) -> None:
        """Remove a queue's messages and state. Its log must not be used any more."""
        log.clear()
        log.dropped = True
        self._changes.drops.append((log.queue_id, 0, 2**64 - 1))
        self._changes.gone.append(log.queue_id)

    @property
    def only_settlements(self) -> bool:
        """Nothing new is to be stored, defined or dropped."""
        return not self.unsaved_bytes and self._changes.empty

    @property
    def empty(self) -> bool:
        """Nothing waits for a commit."""
        return not self.dirty and self._changes.empty

    @property
    def durable(self) -> bool:
        """All that was ever gathered is in the store for good."""
        return self.empty and not self.committing

    def take_entry(self) -> list[bytes]:
        """All that waits for a commit, as an entry of the log, in pieces; none when nothing of it is to survive the
        process. It waits for a checkpoint from now on."""
        chunks: list[bytes] = []
        self._close(chunks)
        self.committing = bool(chunks)
        self.entries += self.committing
        return chunks

    def take(self) -> tuple[Batch, list[QueueLog]]:
        """All that waits for a checkpoint, or for a commit at all, as one batch; and the logs it came from, to be
        told when it is durable."""
        self._close(None)
        self.committing = True
        self.checkpoints += 1
        changes, self._unstored_changes = self._unstored_changes, Changes()
        batch = Batch(definitions=list(changes.definitions.items()), drops=changes.drops, gone=changes.gone)
        logs, self._behind = self._behind, []
        self.unstored = self.unstored_bytes = 0
        large: list[_LargePut] = []
        for log in logs:
            log.write(batch, large, self.shared_bytes_min)
        if large:
            self._place_large(batch, large)
        return batch, logs

    def _place_large(self, batch: Batch, large: list[_LargePut]) -> None:
        """A content that several of the puts have, or a very large one, goes into a record of its own."""
        uses: dict[int, list[_LargePut]] = {}
        for put in large:
            uses.setdefault(id(put[1].content), []).append(put)
        for same in uses.values():
            index, first, begun = same[0]
            content = first.content
            if len(same) == 1 and len(content) < self.parted_bytes_min:
                batch.puts[index] = (batch.puts[index][0], encode_record(first, begun))
                continue
            content_id = self.next_content_id
            self.next_content_id += 1
            batch.contents.append((content_id, content, len(same)))
            for index, message, begun in same:
                message.state = SHARED
                message.content_id = content_id
                batch.puts[index] = (batch.puts[index][0], encode_reference(message, begun))

    def _close(self, chunks: list[bytes] | None) -> None:
        changes, self._changes = self._changes, Changes()
        logs, self.dirty = self.dirty, []
        self.unstored_bytes += self.unsaved_bytes
        self.unsaved_bytes = 0
        for log in logs:
            self.unstored += log.close(chunks)
            if not log.behind:
                log.behind = True
                self._behind.append(log)
        if not changes.empty:
            if chunks is not None:
                changes.encode(chunks)
            self._unstored_changes.add(changes)


class Changes:
    """To definitions, and whole ranges that go."""

    __slots__ = ("definitions", "drops", "gone")

    def __init__(self) -> None:
        self.definitions: dict[bytes, bytes | None] = {}
        self.drops: list[tuple[int, int, int]] = []
        self.gone: list[int] = []

    @property
    def empty(self) -> bool:
        return not (self.definitions or self.drops or self.gone)

    def add(self, later: Changes) -> None:
        self.definitions.update(later.definitions)
        self.drops += later.drops
        self.gone += later.gone

    def encode(self, chunks: list[bytes]) -> None:
        """As sections of an entry, behind those of the queues."""
        for name, value in self.definitions.items():
            chunks += encode_definition_change(name, value)
        chunks += [encode_drop(*drop) for drop in self.drops]
        chunks += [encode_gone(queue_id) for queue_id in self.gone]


class QueueLog:
    """One queue's side of the journal: its messages on their way to the store, and the state that goes with them.

    `durable_position`: all messages up to it that were appended are in the data file for good. `on_durable` is called
    when that has moved, if set. `counts_attempts`: attempts are kept, and a message that is leased when it is written
    counts as attempted once more, so that one which brings the broker down does not do so for ever.
    `counts_bytes`: keep count of bodies. `levels`: messages of each priority, or of each kind that waits; None when
    there are no such things. `behind`: there is something for the next checkpoint.
    Positions here (next, delivered, durable) are orders of arrival, without the priority.
    """

    __slots__ = (
        "_counted",
        "_dirty",
        "_durable",
        "_fresh",
        "_gone",
        "_journal",
        "_released",
        "_removed",
        "_settled",
        "_unsaved",
        "_updated",
        "_updated_fresh",
        "behind",
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
        "queue_id",
        "taken_position",
        "timed",
    )

    def __init__(
        self, journal: Journal, queue_id: int, state: QueueState, timed: bool = False, durable: bool = True
    ) -> None:
        self._journal = journal
        self._durable = durable
        self._dirty = False
        self.behind = False
        self.timed = timed
        self.queue_id = queue_id
        self.next_position = state.next_position
        self.count = state.messages
        self.delivered_position = state.delivered_position
        self.durable_position = state.next_position - 1
        self.taken_position = state.next_position - 1
        # Since the last commit: appended, PENDING; updated; positions removed that were in an earlier commit.
        self._fresh: list[Message] = []
        self._updated_fresh: list[Message] = []
        self._gone: list[int] = []
        # Since the last checkpoint: committed, LOGGED; updated, STORED; positions removed that were STORED.
        self._unsaved: list[Message] = []
        self._updated: list[Message] = []
        self._removed: list[int] = []
        self._released: list[int] = []  # contents that these referred to
        self._settled = 0  # of the unsaved, about how many are settled
        self._counted = 0  # of these changes, when a commit took some last
        self.body_bytes = state.body_bytes
        self.levels: dict[int, int] | None = dict(state.levels) or None
        self.dropped = False
        self.counts_attempts = False
        self.counts_bytes = False
        self.on_durable: Callable[[], None] | None = None

    def clear(self) -> None:
        """Nothing of it is to be stored any more."""
        for changes in (self._fresh, self._updated_fresh, self._unsaved, self._updated):
            changes.clear()
        self._gone.clear()
        self._removed.clear()
        self._released.clear()

    def append(self, messages: list[Message], content_bytes: int) -> None:
        """Put these, which are PENDING, with the next commit."""
        self._fresh += messages
        self._journal.unsaved_bytes += content_bytes
        if not self._dirty:
            self._touch()

    def update(self, message: Message) -> None:
        """Write this message again, if it was: its attempts changed. One not yet written is written as it is then."""
        if message.state >= LOGGED:
            self._updated_fresh.append(message)
            self._journal.unsaved_bytes += len(message.content)
            if not self._dirty:
                self._touch()

    def remove(self, messages: list[Message]) -> None:
        """Settled: delete what was stored; what was not written yet never will be."""
        gone, removed = self._gone, self._removed
        counts_bytes = self.counts_bytes
        for message in messages:
            state = message.state
            if state >= LOGGED:
                position: Any = message.position  # for both lists the same object
                gone.append(position)
                if state >= STORED:
                    removed.append(position)
                    if state == SHARED:
                        self._released.append(message.content_id)
                else:
                    self._settled += 1
                if counts_bytes:
                    self.body_bytes -= message.envelope.container.body_bytes(message.content)
            message.state = UNSTORED
            message.consumer = None  # it may still be in some list for a while, and is not to keep a connection
        if gone and not self._dirty:
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

    def close(self, chunks: list[bytes] | None) -> int:
        """A commit takes what is gathered: as a section of an entry in `chunks`, if there is to be one. Once it is
        taken it is for the next checkpoint. Returns about how many changes more wait for that."""
        self._dirty = False
        if self.dropped:
            return 0
        fresh, gone, updated = self._fresh, self._gone, self._updated_fresh
        put = [message for message in fresh if message.state == PENDING]
        for message in put:
            message.state = LOGGED
        self.count += len(put) - len(gone)
        self._journal.messages_written += len(put)
        if self.counts_bytes:
            self.body_bytes += sum(message.envelope.container.body_bytes(message.content) for message in put)
        if self.levels is not None:
            self._count_levels(put, gone)
        if updated:
            updated = [message for message in updated if message.state >= LOGGED]
            self._updated += [message for message in updated if message.state >= STORED]
        if chunks is not None and self._durable:
            runs: list[bytes] = []
            count = encode_runs(put, self.counts_attempts, runs) + encode_runs(updated, self.counts_attempts, runs)
            chunks += encode_queue(self.queue_id, self.state(), gone, runs, count)
        self._fresh, self._gone, self._updated_fresh = [], [], []
        self._unsaved += put
        if self._settled > _SETTLED_MAX and self._settled * 2 > len(self._unsaved):
            self._unsaved = [message for message in self._unsaved if message.state == LOGGED]
            self._settled = 0
        unstored = len(self._unsaved) + len(self._updated) + len(self._removed)
        more, self._counted = unstored - self._counted, unstored
        return more

    def write(self, batch: Batch, large: list[_LargePut], large_bytes_min: int) -> None:
        """A checkpoint takes what has gathered since the last one, right after `close`. Records of contents above
        `large_bytes_min` are left to be made, and noted in `large`."""
        self.behind = False
        if self.dropped:
            return
        prefix = key_prefix(self.queue_id)
        put = batch.puts.append
        leases = self.counts_attempts
        for message in self._unsaved:
            if message.state == LOGGED:
                message.state = STORED
                begun = 1 if leases and message.consumer is not None else 0
                if len(message.content) > large_bytes_min:
                    large.append((len(batch.puts), message, begun))
                    put((prefix + pack_position(message.position), b""))
                else:
                    put((prefix + pack_position(message.position), encode_record(message, begun)))
        for message in self._updated:
            if message.state >= STORED:
                begun = 1 if leases and message.consumer is not None else 0
                encode = encode_record if message.state == STORED else encode_reference
                put((prefix + pack_position(message.position), encode(message, begun)))
        if self._removed:
            self._write_removed(batch, prefix)
        assert batch.released is not None
        batch.released += self._released
        batch.states.append((self.queue_id, self.state()))
        self.taken_position = self.next_position - 1
        self._unsaved, self._updated, self._removed, self._released = [], [], [], []
        self._settled = self._counted = 0

    def _write_removed(self, batch: Batch, prefix: bytes) -> None:
        """Consumers mostly settle what lies in a row."""
        removed = sorted(self._removed)
        first, last = removed[0], removed[-1]
        if first < last and last - first == len(removed) - 1:
            batch.rows.append((self.queue_id, first, last))
            return
        last = first
        for position in [*removed[1:], -1]:
            if position == last + 1:
                last = position
                continue
            if first == last:
                batch.deletes.append(prefix + pack_position(first))
            else:
                batch.rows.append((self.queue_id, first, last))
            first = last = position

    def state(self) -> QueueState:
        """What is to be kept of the queue now."""
        levels = () if self.levels is None else tuple(sorted(self.levels.items()))
        body_bytes = self.body_bytes if self.counts_bytes else 0
        return QueueState(self.next_position, self.count, self.delivered_position, body_bytes, levels)

    def _count_levels(self, put: list[Message], gone: list[int]) -> None:
        levels = self.levels
        assert levels is not None
        for message in put:
            level = self._level(message.position)
            levels[level] = levels.get(level, 0) + 1
        for position in gone:
            levels[self._level(position)] -= 1

    def _level(self, position: int) -> int:
        return position_kind(position) if self.timed else 255 - (position >> LEVEL_SHIFT)

    def _touch(self) -> None:
        self._dirty = True
        self._journal.dirty.append(self)
