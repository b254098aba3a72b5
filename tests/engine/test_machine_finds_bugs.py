"""The state machine of the queue must be able to fail: each of these bugs, planted in the queue, is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from test_queue_machine import QueueMachine

from pabal.broker.backlog import Backlog
from pabal.broker.queue import Queue
from pabal.model.message import STORED, Message
from pabal.store.journal import Batch, QueueLog

QUICK = settings(
    max_examples=1500,
    stateful_step_count=30,
    phases=[Phase.generate],
    database=None,
    deadline=None,
    derandomize=True,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

Plant = Callable[[pytest.MonkeyPatch], None]


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
    original = QueueLog.write

    def write(self: Any, batch: Batch) -> None:
        for message in self.unsaved:
            if message.state != STORED:
                message.state = 1
        original(self, batch)

    patch.setattr(QueueLog, "write", write)


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
        return messages, None

    patch.setattr(Backlog, "clear", clear)


def one_consumer_gets_all(patch: pytest.MonkeyPatch) -> None:
    def dispatch_in_turn(self: Any) -> None:
        for consumer in self.consumers:
            self._dispatch_to(consumer)

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

    def give_back(self: Any, messages: list[Message], reason: str) -> None:
        for message in messages:
            message.attempts -= 1
        original(self, messages, reason)
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


PLANTS: dict[Plant, dict[str, Any]] = {
    no_attempts: {"x-delivery-limit": 2},
    to_the_end: {},
    attempts_are_not_stored: {"x-delivery-limit": 2},
    deliveries_are_not_stored: {},
    removals_are_not_stored: {},
    removed_before_written_is_written: {},
    paging_forgets_the_tail: {},
    purge_leaves_the_disk: {},
    one_consumer_gets_all: {},
    leases_do_not_end: {"x-consumer-timeout": 30},
    the_timer_is_not_set: {"x-message-ttl": 40},
    late_settles_give_no_room: {"x-consumer-timeout": 30},
    limit_off_by_one: {"x-delivery-limit": 1},
    expires_a_millisecond_late: {"x-message-ttl": 40},
    newest_dropped: {"x-max-length": 2, "x-overflow": "drop-head"},
}
"""Each with the arguments of a queue that it can be seen in."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(QueueMachine, "forced", PLANTS[plant])
    with pytest.raises(Exception) as caught:
        run_state_machine_as_test(QueueMachine, settings=QUICK)
    assert not isinstance(caught.value, (pytest.fail.Exception, AttributeError)), caught.value
