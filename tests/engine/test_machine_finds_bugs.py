"""Bugs planted in queues, priorities, limits and consumers: the state machine finds each of them."""

from __future__ import annotations

from typing import Any

import pytest
from machine_plants import Forced, Plant, must_be_found

from pabal.broker.backlog import Backlog
from pabal.broker.priorities import PriorityBacklog
from pabal.broker.queue import Queue
from pabal.model.message import PENDING, Message
from pabal.store.journal import QueueLog

pytestmark = pytest.mark.plain


def no_attempts(patch: pytest.MonkeyPatch) -> None:
    original = Backlog.push_back

    def push_back(self: Any, message: Message) -> None:
        message.attempts = max(message.attempts - 1, 0)
        original(self, message)

    patch.setattr(Backlog, "push_back", push_back)


def to_the_end(patch: pytest.MonkeyPatch) -> None:
    original = Backlog.push_back

    def push_back(self: Any, message: Message) -> None:
        if self.paging:
            original(self, message)
        else:
            self._front.append(message)
            self.content_bytes += len(message.content)

    patch.setattr(Backlog, "push_back", push_back)


def attempts_are_not_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QueueLog, "update", lambda self, message: None)


def deliveries_are_not_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QueueLog, "delivered", lambda self, position: None)


def removals_are_not_stored(patch: pytest.MonkeyPatch) -> None:
    original = QueueLog.remove
    patch.setattr(QueueLog, "remove", lambda self, messages: original(self, messages[1:]))


def removed_before_written_is_written(patch: pytest.MonkeyPatch) -> None:
    original = QueueLog.close

    def close(self: Any, chunks: Any) -> int:
        for message in self._fresh:
            message.state = PENDING
        return original(self, chunks)

    patch.setattr(QueueLog, "close", close)


def paging_forgets_the_tail(patch: pytest.MonkeyPatch) -> None:
    original = Backlog.append

    def append(self: Any, messages: list[Message], content_bytes: int) -> None:
        paging = self.paging
        original(self, messages, content_bytes)
        if paging and len(self._tail) > 3:
            self._front.append(self._tail.pop(0))

    patch.setattr(Backlog, "append", append)


def purge_leaves_the_disk(patch: pytest.MonkeyPatch) -> None:
    original = Backlog.clear

    def clear(self: Any) -> Any:
        messages, _ = original(self)
        return messages, []

    patch.setattr(Backlog, "clear", clear)


def one_consumer_gets_all(patch: pytest.MonkeyPatch) -> None:
    def dispatch_in_turn(self: Any, upto: int) -> None:
        for consumer in self.consumers:
            self._dispatch_to(consumer, upto)

    patch.setattr(Queue, "_dispatch_in_turn", dispatch_in_turn)


def leases_do_not_end(patch: pytest.MonkeyPatch) -> None:
    original = Queue.tick

    def tick(self: Any) -> None:
        leases, self._leases = self._leases, type(self._leases)()
        original(self)
        self._leases = leases

    patch.setattr(Queue, "tick", tick)


def the_timer_is_not_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queue, "_set_timer", lambda self: None)


def late_settles_give_no_room(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queue, "late", lambda self, consumer: None)


def limit_off_by_one(patch: pytest.MonkeyPatch) -> None:
    original = Queue._return

    def give_back(self: Any, messages: list[Message], reason: str, failed: bool) -> None:
        for message in messages:
            message.attempts -= 1
        original(self, messages, reason, failed)
        for message in messages:
            message.attempts += 1

    patch.setattr(Queue, "_return", give_back)


def expires_a_millisecond_late(patch: pytest.MonkeyPatch) -> None:
    original = Queue._expiry
    patch.setattr(Queue, "_expiry", lambda self, envelope: original(self, envelope) + 1)


def newest_dropped(patch: pytest.MonkeyPatch) -> None:
    original = Queue._drop_head

    def drop_head(self: Any) -> None:
        limit = self.arguments.max_length
        if limit is not None and len(self.backlog) > limit and len(self.backlog._front) > 1:
            self.backlog._front.reverse()
        original(self)

    patch.setattr(Queue, "_drop_head", drop_head)


# --- Priorities and limits ----------------------------------------------------------------------------------


def what_comes_back_loses_its_priority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PriorityBacklog, "push_back", lambda self, message: self.level(0).push_back(message))


def the_lowest_first(patch: pytest.MonkeyPatch) -> None:
    original = PriorityBacklog.level

    def level(self: Any, priority: int) -> Backlog:
        backlog = original(self, priority)
        self._order.sort(key=lambda each: each._base, reverse=True)
        return backlog

    patch.setattr(PriorityBacklog, "level", level)


def levels_are_not_counted_down(patch: pytest.MonkeyPatch) -> None:
    original = QueueLog._count_levels

    patch.setattr(QueueLog, "_count_levels", lambda self, put, gone: original(self, put, []))


def bytes_that_come_back_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    original = Queue._return

    def give_back(self: Any, messages: list[Message], reason: str, failed: bool) -> None:
        before = self._counts_bytes
        self._counts_bytes = False
        original(self, messages, reason, failed)
        self._counts_bytes = before

    patch.setattr(Queue, "_return", give_back)


def bytes_are_forgotten_by_a_restart(patch: pytest.MonkeyPatch) -> None:
    original = QueueLog.state
    patch.setattr(QueueLog, "state", lambda self: original(self)._replace(body_bytes=1))


def the_refused_do_not_die(patch: pytest.MonkeyPatch) -> None:
    original = Queue._dead_letter

    def dead_letter(self: Any, messages: list[Message], reason: str) -> None:
        if messages[0].position:
            original(self, messages, reason)

    patch.setattr(Queue, "_dead_letter", dead_letter)


def dead_letters_are_refused_by_a_full_queue(patch: pytest.MonkeyPatch) -> None:
    original = Queue._publish_bounded
    patch.setattr(
        Queue, "_publish_bounded", lambda self, envelope, contents, _: original(self, envelope, contents, False)
    )


def a_get_is_no_use(patch: pytest.MonkeyPatch) -> None:
    original = Queue.get

    def get(self: Any, consumer: Any) -> Any:
        used_ms = self._used_ms
        message = original(self, consumer)
        self._used_ms = used_ms
        return message

    patch.setattr(Queue, "get", get)


# --- Consumers ----------------------------------------------------------------------------------------------


def nobody_takes_over(patch: pytest.MonkeyPatch) -> None:
    """... until something else happens."""
    original = Queue.remove_consumer

    def remove_consumer(self: Any, consumer: Any) -> None:
        before, self.scheduled = self.scheduled, True
        original(self, consumer)
        self.scheduled = before

    patch.setattr(Queue, "remove_consumer", remove_consumer)


def the_last_to_come_is_active(patch: pytest.MonkeyPatch) -> None:
    original = Queue.add_consumer

    def add_consumer(self: Any, consumer: Any) -> None:
        original(self, consumer)
        if self.arguments.single_active_consumer:
            self.consumers.insert(0, self.consumers.pop())

    patch.setattr(Queue, "add_consumer", add_consumer)


def whoever_comes_next_takes_over(patch: pytest.MonkeyPatch) -> None:
    """Whatever the priorities."""
    original = Queue.remove_consumer

    def remove_consumer(self: Any, consumer: Any) -> None:
        others = [each for each in self.consumers if each is not consumer]
        original(self, consumer)
        if not self.deleted:
            self.consumers[:] = others

    patch.setattr(Queue, "remove_consumer", remove_consumer)


def consumer_priorities_do_not_count(patch: pytest.MonkeyPatch) -> None:
    original = Queue._dispatch_in_turn

    def dispatch_in_turn(self: Any, upto: int) -> None:
        self._ranked = False
        original(self, upto)

    patch.setattr(Queue, "_dispatch_in_turn", dispatch_in_turn)


def an_exclusive_consumer_gets_company(patch: pytest.MonkeyPatch) -> None:
    original = Queue.check_exclusive

    def check_exclusive(self: Any, exclusive: bool) -> None:
        if exclusive:
            original(self, exclusive)

    patch.setattr(Queue, "check_exclusive", check_exclusive)


DLX = {"x-dead-letter-exchange": ""}
SINGLE = {"x-single-active-consumer": True}
PLANTS: dict[Plant, Forced] = {
    no_attempts: {"q": {"x-delivery-limit": 2}},
    to_the_end: {},
    attempts_are_not_stored: {"q": {"x-delivery-limit": 2}},
    deliveries_are_not_stored: {},
    removals_are_not_stored: {},
    removed_before_written_is_written: {},
    paging_forgets_the_tail: {},
    purge_leaves_the_disk: {},
    one_consumer_gets_all: {},
    leases_do_not_end: {"q": {"x-consumer-timeout": 30}},
    the_timer_is_not_set: {"q": {"x-message-ttl": 40}},
    late_settles_give_no_room: {"q": {"x-consumer-timeout": 30}},
    limit_off_by_one: {"q": {"x-delivery-limit": 1}},
    expires_a_millisecond_late: {"q": {"x-message-ttl": 40}},
    newest_dropped: {"q": {"x-max-length": 2, "x-overflow": "drop-head"}},
    what_comes_back_loses_its_priority: {"q": {"x-max-priority": 2}},
    the_lowest_first: {"q": {"x-max-priority": 2}},
    levels_are_not_counted_down: {"q": {"x-max-priority": 2}},
    bytes_that_come_back_are_not_counted: {"q": {"x-max-length-bytes": 40}},
    bytes_are_forgotten_by_a_restart: {"q": {"x-max-length-bytes": 40}},
    the_refused_do_not_die: {"q": {"x-max-length": 2, "x-overflow": "reject-publish-dlx", **DLX}},
    dead_letters_are_refused_by_a_full_queue: {"q": DLX, "dead": {"x-max-length": 1, "x-overflow": "reject-publish"}},
    a_get_is_no_use: {"q": {"x-expires": 60}},
    nobody_takes_over: {"q": SINGLE},
    the_last_to_come_is_active: {"q": SINGLE},
    whoever_comes_next_takes_over: {"q": SINGLE},
    consumer_priorities_do_not_count: {},
    an_exclusive_consumer_gets_company: {},
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    must_be_found(plant, PLANTS[plant], monkeypatch)
