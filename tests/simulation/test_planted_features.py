"""The same for priorities, limits in bytes, single active consumers and transactions: planted bugs are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from heapq import heappush
from typing import Any

import pytest
from planting import Plants

from pabal.broker.backlog import Backlog
from pabal.broker.broker import Broker
from pabal.broker.priorities import PriorityBacklog
from pabal.broker.queue import Queue
from pabal.broker.returns import Leaver, Returns
from pabal.broker.timetable import Timetable
from pabal.broker.waiting import Waiting
from pabal.model.arguments import QueueArguments
from pabal.model.message import UNSTORED, Message, Outcome
from pabal.server.turn import Turn
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.output import Output
from pabal.session.amqp091.transaction import Transaction
from pabal.store.batch import Batch
from pabal.store.journal import Journal, QueueLog
from pabal.store.memory import Disk, MemoryStore
from pabal.wire.amqp091 import methods as m

pytestmark = pytest.mark.plain

PLANTS = Plants()
planted = PLANTS.planted


# --- Priorities and limits ----------------------------------------------------------------------------------


@planted("came after|first delivered after| came to ")
def priorities_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PriorityBacklog.level

    def level(self: Any, priority: int) -> Backlog:
        backlog = original(self, priority)
        self._order = [self._levels[p] for p in sorted(self._levels)]
        return backlog

    monkeypatch.setattr(PriorityBacklog, "level", level)


@planted("came after|should have|again after a crash")
def what_comes_back_has_the_highest_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    def push_back(self: Any, message: Message) -> None:
        self.level(max(self._levels)).push_back(message)

    monkeypatch.setattr(PriorityBacklog, "push_back", push_back)


@planted("its state says|KeyError")
def the_count_of_a_priority_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueLog._count_levels
    monkeypatch.setattr(QueueLog, "_count_levels", lambda self, put, gone: original(self, put[1:], gone))


@planted("its state says")
def the_bytes_of_removed_messages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueLog.remove

    def remove(self: Any, messages: list[Message]) -> None:
        before = self.body_bytes
        original(self, messages)
        self.body_bytes = before

    monkeypatch.setattr(QueueLog, "remove", remove)


@planted("lost after it was confirmed|missing")
def the_refused_are_no_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Queue._dead_letter

    def dead_letter(self: Any, messages: list[Message], reason: str) -> None:
        if messages[0].position:
            original(self, messages, reason)

    monkeypatch.setattr(Queue, "_dead_letter", dead_letter)


@planted("missing|leased|in vain|lost after|before its time")
def what_is_left_after_a_step_does_not_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Returns.take

    def take(self: Any, leaver: Leaver, deliveries: list[int]) -> None:
        original(self, leaver, deliveries[: self._room])

    monkeypatch.setattr(Returns, "take", take)


# --- Single active consumers --------------------------------------------------------------------------------


@planted("serves|after another took over")
def all_consumers_are_active(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispatch_to(self: Any, consumer: Any, upto: int) -> None:
        self._dispatch_in_turn(upto)

    monkeypatch.setattr(Queue, "_dispatch_to", dispatch_to)


@planted("while|after another took over|consumers with room")
def who_comes_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Queue.add_consumer

    def add_consumer(self: Any, consumer: Any) -> None:
        original(self, consumer)
        self.consumers.insert(0, self.consumers.pop())

    monkeypatch.setattr(Queue, "add_consumer", add_consumer)


@planted("consumers with room")
def nobody_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """... until something else happens."""
    original = Queue.remove_consumer

    def remove_consumer(self: Any, consumer: Any) -> None:
        before, self.scheduled = self.scheduled, True
        original(self, consumer)
        self.scheduled = before

    monkeypatch.setattr(Queue, "remove_consumer", remove_consumer)


# --- Transactions -------------------------------------------------------------------------------------------


@planted("confirmed before it was durable|was answered, and is still there")
def commit_ok_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_at_once(self: Output, channel: int, method: m.Method, *arguments: object) -> None:
        self.write(m.encode_method(channel, method, *arguments))

    monkeypatch.setattr(Output, "write_durable", write_at_once)


class Later:
    """Does it when the commit is done that is under way then, so that it is in the next one."""

    def __init__(self, what: Callable[[], None]) -> None:
        self._what = what

    def durable(self, upto: int) -> None:
        self._what()


@planted("in part|is still there")
def settlements_are_in_the_next_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Channel.settle

    def settle(self: Any, deliveries: Any, tags: list[int], outcome: Outcome) -> None:
        if deliveries is self.unsettled_deliveries:
            original(self, deliveries, tags, outcome)
        else:
            self.broker.await_durable(Later(lambda: original(self, deliveries, tags, outcome)), 0)

    monkeypatch.setattr(Channel, "settle", settle)


@planted("in part|confirmed before it was durable|its state says")
def one_queue_is_in_the_next_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Journal._close

    def close(self: Any, chunks: Any) -> None:
        left = self.dirty[2:]
        del self.dirty[2:]
        original(self, chunks)
        self.dirty += left

    monkeypatch.setattr(Journal, "_close", close)


@planted("in part|confirmed before it was durable|its state says")
def half_of_a_batch_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes a commit in two halves, and what is between them can be seen."""
    original = Disk.apply

    def apply(self: Any, batch: Batch) -> None:
        later = Batch(puts=batch.puts[1:], deletes=batch.deletes)
        original(self, replace(batch, puts=batch.puts[:1], deletes=[]))
        self.rest = later

    def finish(self: Any) -> None:
        rest, self.disk.rest = getattr(self.disk, "rest", None), None
        if rest is not None:
            original(self.disk, rest)
        apply(self.disk, self._batches[0])

    monkeypatch.setattr(MemoryStore, "finish", finish)


@planted("gone for good|nobody knows them")
def a_rollback_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Transaction.rollback

    def rollback(self: Any) -> None:
        for run in self._runs:
            for queue in run.queues:
                queue.publish(run.envelope, run.contents, run.content_bytes)
        original(self)

    monkeypatch.setattr(Transaction, "rollback", rollback)


@planted("gone for good|nobody knows them")
def publishes_do_not_wait_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(self: Any, envelope: Any, mandatory: bool, contents: list[bytes], content_bytes: int) -> None:
        self._channel.vhost.publish(envelope, contents, content_bytes)

    monkeypatch.setattr(Transaction, "publish", publish)


@planted("lost after it was confirmed|missing|came back|is there|is still there|unknown delivery tag")
def settlements_do_not_wait_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(self: Any, tags: list[int], outcome: Outcome) -> None:
        self._channel.settle(self._channel.unsettled_deliveries, tags, outcome)

    monkeypatch.setattr(Transaction, "settle", settle)


@planted("is still there|and in the transaction|gone for good")
def a_late_transaction_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transaction, "_check_leases", lambda self: None)


@planted("missing|leased|unknown delivery tag")
def a_rollback_forgets_what_was_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Channel, "restore", lambda self, deliveries: None)


@planted("refused in vain|was confirmed before|lost after|is there in part|is still there|missing")
def what_one_queue_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Queue.publish
    monkeypatch.setattr(Transaction, "_check_room", lambda self, routed: None)
    monkeypatch.setattr(
        Queue,
        "publish",
        lambda self, envelope, contents, size, forced=False: original(self, envelope, contents, size),
    )


# --- Delays and retries -------------------------------------------------------------------------------------


@planted("before its time")
def delayed_messages_come_early(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Amqp091Container.delay_ms
    monkeypatch.setattr(Amqp091Container, "delay_ms", lambda self, content: original(self, content) * 3 // 4)


@planted("missing|confirmed before it was durable|lost after")
def what_waits_is_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueLog.append

    def append(self: Any, messages: list[Message], content_bytes: int) -> None:
        if self.timed:
            for message in messages:
                message.state = UNSTORED
        original(self, messages, content_bytes)

    monkeypatch.setattr(QueueLog, "append", append)


@planted("2 times|nobody knows|came back|its state says|wait on disk|again after a crash|is still there")
def what_was_released_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timetable, "remove", lambda self, messages: None)


@planted("2 times")
def it_is_released_in_one_commit_and_removed_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[tuple[Any, Any]] = []
    remove, end, start = Timetable.remove, Turn.end, Broker.__init__

    def turn_end(self: Any) -> None:
        end(self)
        later = waiting[:]
        waiting.clear()
        for timetable, messages in later:
            if not timetable._log.dropped:
                remove(timetable, messages)

    def begin_life(self: Any, *arguments: Any) -> None:
        waiting.clear()
        start(self, *arguments)

    monkeypatch.setattr(Timetable, "remove", lambda self, messages: waiting.append((self, messages)))
    monkeypatch.setattr(Turn, "end", turn_end)
    monkeypatch.setattr(Broker, "__init__", begin_life)


@planted("missing|came after|on disk there is")
def the_timer_of_what_waits_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "next_ms", lambda self: None)


@planted("first delivered after|came after| came to ")
def what_is_due_comes_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Timetable.take
    monkeypatch.setattr(Timetable, "take", lambda self, now_ms, most: original(self, now_ms, most)[::-1])


@planted("before its time")
def failed_messages_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    original = QueueArguments.retry_delay_ms
    monkeypatch.setattr(
        QueueArguments, "retry_delay_ms", lambda self, attempts, failed: original(self, attempts, False)
    )


@planted("damaged|came after|first delivered after|missing|2 times|KeyError|TypeError")
def a_retry_overtakes_what_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of a retry after a restart is taken for one in front of all that is on disk."""

    def push_back(self: Any, message: Message) -> None:
        heappush(self._returned, (message.position, message))
        self.content_bytes += len(message.content)

    monkeypatch.setattr(Backlog, "push_back", push_back)


@planted("missing|lost after it was confirmed|before it was durable")
def letters_without_a_place_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueueArguments, "keeps_dead_letters", False)


# --- All of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS.find(name, monkeypatch)
