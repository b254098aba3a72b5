"""A simulation that cannot fail is worth nothing: each of these bugs, planted in the broker, must be found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import simulate
from planting import CYCLES, SEED, Plants

import pabal.broker.dead_letters
from pabal.broker.backlog import Backlog
from pabal.broker.broker import Broker
from pabal.broker.queue import Queue
from pabal.model.errors import StoreError
from pabal.model.message import STORED, UNSTORED, Container, Message
from pabal.server.turn import Turn
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.deliveries import ChannelConsumer
from pabal.store.batch import Batch
from pabal.store.journal import QueueLog
from pabal.store.memory import Disk, MemoryStore

pytestmark = pytest.mark.plain

PLANTS = Plants()
planted = PLANTS.planted


class LateStore(MemoryStore):
    """Says that a commit is durable when the one before it is: a crash takes the last one away."""

    def __init__(self, containers: dict[int, Container], disk: Disk | None = None) -> None:
        assert disk is not None
        self.real = disk
        self.late: list[Batch] = []
        super().__init__(containers, copy.deepcopy(disk))

    def finish(self) -> None:
        super().finish()
        for batch in self.late:
            self.real.apply(batch)
        self.late = self._batches


def test_a_store_that_loses_its_last_commit_is_found() -> None:
    with pytest.raises(simulate.Failure, match=r"before it was durable|was lost"):
        simulate.run_many(SEED, CYCLES, LateStore)


# --- The turn -----------------------------------------------------------------------------------------------


@planted("confirmed before it was durable")
def confirms_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(self: Any) -> None:
        self._waiters, self._broker.waiters = self._broker.waiters, {}
        self._release()
        if self._store.begin():
            self.committing = True
            self._run_commit(self._store.finish, self._committed)

    monkeypatch.setattr(Turn, "_commit", commit)


@planted("confirmed before it was durable|lost after it was confirmed")
def confirms_with_the_commit_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come while a commit is under way are let go with it."""
    original = Turn._committed

    def committed(self: Any, error: StoreError | None) -> None:
        self._waiters |= self._broker.waiters
        self._broker.waiters = {}
        original(self, error)

    monkeypatch.setattr(Turn, "_committed", committed)


@planted("confirmed before it was durable|lost after it was confirmed")
def confirms_what_found_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Turn._committed

    def committed(self: Any, error: StoreError | None) -> None:
        original(self, error)
        if self.waits_for_room:
            self._release()

    monkeypatch.setattr(Turn, "_committed", committed)


@planted("before it was durable|was lost|lost after|nobody knows|its state says|KeyError|gone for good|in vain")
def forgets_what_found_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what came since is written when there is room again."""
    original = MemoryStore.again

    def again(self: Any) -> None:
        self._batches = []
        original(self)

    monkeypatch.setattr(MemoryStore, "again", again)


@planted("after the commit failed")
def confirms_a_failed_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Turn._committed

    def committed(self: Any, error: StoreError | None) -> None:
        if error is not None:
            self._fatal(error)
            self._release()
        else:
            original(self, None)

    monkeypatch.setattr(Turn, "_committed", committed)


@planted("in vain")
def forgets_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Broker.await_durable

    def await_durable(self: Any, waiter: Any, upto: int) -> None:
        if not upto or upto % 7:
            original(self, waiter, upto)

    monkeypatch.setattr(Broker, "await_durable", await_durable)


# --- Dead letters -------------------------------------------------------------------------------------------


@planted("lost after it was confirmed|confirmed before it was durable")
def dead_letters_are_removed_before_they_are_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal in one commit, the put in the next."""
    waiting: list[tuple[Any, Any, Any]] = []
    move, end, start = pabal.broker.dead_letters._move, Turn.end, Broker.__init__

    def turn_end(self: Any) -> None:
        end(self)
        letters = waiting[:]
        waiting.clear()
        for letter in letters:
            move(*letter)

    def begin_life(self: Any, *arguments: Any) -> None:
        waiting.clear()
        start(self, *arguments)

    monkeypatch.setattr(pabal.broker.dead_letters, "_move", lambda *letter: waiting.append(letter))
    monkeypatch.setattr(Turn, "end", turn_end)
    monkeypatch.setattr(Broker, "__init__", begin_life)


@planted("is there 2 times|in part|was answered, and is still there")
def dead_letters_are_put_before_they_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The put in one commit, the removal in the next."""
    waiting: list[tuple[Any, Any]] = []
    add, end, start = pabal.broker.dead_letters.DeadLetters.add, Turn.end, Broker.__init__

    class Keeping:
        """A queue to dead-letter from whose log remembers what to remove later."""

        def __init__(self, queue: Any) -> None:
            self._queue = queue
            self.log = self

        def remove(self, messages: list[Message]) -> None:
            waiting.append((self._queue, messages))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._queue, name)

    def turn_end(self: Any) -> None:
        end(self)
        later = waiting[:]
        waiting.clear()
        for queue, messages in later:
            if not queue.deleted:
                queue.log.remove(messages)

    def begin_life(self: Any, *arguments: Any) -> None:
        waiting.clear()
        start(self, *arguments)

    def keeping_add(self: Any, queue: Any, messages: Any, reason: str) -> None:
        add(self, Keeping(queue), messages, reason)  # type: ignore[arg-type]

    monkeypatch.setattr(pabal.broker.dead_letters.DeadLetters, "add", keeping_add)
    monkeypatch.setattr(Turn, "end", turn_end)
    monkeypatch.setattr(Broker, "__init__", begin_life)


@planted("attempts, and")
def the_delivery_limit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Queue._return

    def give_back(self: Any, messages: list[Message], reason: str, failed: bool) -> None:
        limit, arguments = self.arguments.delivery_limit, self.arguments
        if limit is not None:
            object.__setattr__(arguments, "delivery_limit", limit + 1)
        original(self, messages, reason, failed)
        if limit is not None:
            object.__setattr__(arguments, "delivery_limit", limit)

    monkeypatch.setattr(Queue, "_return", give_back)


# --- The queue ----------------------------------------------------------------------------------------------


@planted("came back after|after it was gone|is there 2 times|its state says|is still there")
def settled_messages_are_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueLog.remove

    def remove(self: Any, messages: list[Message]) -> None:
        kept = [message for message in messages if message.position % 3]
        original(self, kept)

    monkeypatch.setattr(QueueLog, "remove", remove)


@planted("came after|first delivered after| came to ")
def what_comes_back_goes_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Backlog.push_back

    def push_back(self: Any, message: Message) -> None:
        if self._tail or self._disk_count:
            original(self, message)
        else:
            self._front.append(message)
            self.content_bytes += len(message.content)

    monkeypatch.setattr(Backlog, "push_back", push_back)


@planted("not marked as redelivered")
def what_comes_back_is_not_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Backlog.push_back

    def push_back(self: Any, message: Message) -> None:
        message.redelivered = False
        original(self, message)

    monkeypatch.setattr(Backlog, "push_back", push_back)


@planted("again after a crash")
def deliveries_are_forgotten_by_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueueLog, "delivered", lambda self, position: None)


@planted("first delivered after|should have|first time and marked")
def new_messages_overtake_those_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Backlog.append

    def append(self: Any, messages: list[Message], content_bytes: int) -> None:
        if self.paging and not self._tail:
            self._front += messages
            self.content_bytes += content_bytes
        else:
            original(self, messages, content_bytes)

    monkeypatch.setattr(Backlog, "append", append)


@planted("should have")
def the_window_forgets_what_is_not_on_disk_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    def trim(self: Any) -> None:
        if not self.paging:
            return
        self._disk_count += len(self._tail)
        self.content_bytes -= sum(len(message.content) for message in self._tail)
        self._tail = []

    monkeypatch.setattr(Backlog, "trim", trim)


@planted("lost after|missing|should have|its state says")
def a_purge_removes_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Backlog.clear

    def clear(self: Any) -> Any:
        messages, on_disk = original(self)
        return messages, [(count, first, last + 1) for count, first, last in on_disk]

    monkeypatch.setattr(Backlog, "clear", clear)


@planted("consumers with room")
def a_consumer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is handed out after a settle until something else happens."""
    original = Queue.settle

    def settle(self: Any, *arguments: Any) -> None:
        before = self.scheduled
        self.scheduled = True
        original(self, *arguments)
        self.scheduled = before

    monkeypatch.setattr(Queue, "settle", settle)


@planted("gone for good|came back|is delivered|leased|in part|is still there|and in the transaction|no attribute")
def a_late_settle_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease ran out and the message is with another; the first one's settle ends that lease."""
    monkeypatch.setattr(ChannelConsumer, "revoked", lambda self, message: None)


@planted("missing|leased")
def a_channel_forgets_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a channel had not settled stays leased when it closes."""

    def close(self: Any) -> None:
        self.closed = True
        self.stop_consumers()

    monkeypatch.setattr(Channel, "close", close)


@planted("there|nobody knows|came back|its state says|should have")
def an_update_brings_back_what_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueLog.close

    def close(self: Any, chunks: Any) -> Any:
        for message in self._updated_fresh:
            if message.state == UNSTORED:
                message.state = STORED
        gone, self._gone, self._removed = self._gone, [], []
        closed = original(self, chunks)
        self.count -= len(gone)
        return closed

    monkeypatch.setattr(QueueLog, "close", close)


# --- All of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS.find(name, monkeypatch)
