"""Bugs planted in dead letters, transactions, delays and retries: the state machine finds each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from machine_plants import Forced, Plant, must_be_found

import pabal.broker.dead_letters
from pabal.broker.queue import Queue
from pabal.broker.timetable import Timetable
from pabal.broker.waiting import Waiting
from pabal.model.arguments import QueueArguments
from pabal.model.message import UNSTORED, Death, Envelope, Message
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.transaction import Transaction

# --- Dead letters -------------------------------------------------------------------------------------------


pytestmark = pytest.mark.plain


def deaths_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    original = Amqp091Container.deaths

    def deaths(self: Any, content: bytes) -> list[Death]:
        return [replace(death, count=1) for death in original(self, content)]

    patch.setattr(Amqp091Container, "deaths", deaths)


def cycles_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    original = pabal.broker.dead_letters.is_cycle
    patch.setattr(
        pabal.broker.dead_letters, "is_cycle", lambda name, deaths: len(deaths) > 3 and original(name, deaths)
    )


def a_cycle_with_a_rejection_is_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        pabal.broker.dead_letters, "is_cycle", lambda name, deaths: any(death.queue == name for death in deaths)
    )


def dead_letters_keep_their_ttl(patch: pytest.MonkeyPatch) -> None:
    original = pabal.broker.dead_letters.Envelope

    def envelope(exchange: str, key: str, persistent: bool, ttl_ms: int | None, *rest: Any) -> Envelope:
        return original(exchange, key, persistent, 20, *rest)

    patch.setattr(pabal.broker.dead_letters, "Envelope", envelope)


def dead_letters_lose_their_priority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Amqp091Container, "priority", lambda self, content: 0)


# --- Transactions -------------------------------------------------------------------------------------------


def half_of_a_transaction_is_committed(patch: pytest.MonkeyPatch) -> None:
    """The rest when the next one commits."""
    original = Transaction.commit

    def commit(self: Any) -> None:
        later = self._settlements[1:]
        del self._settlements[1:]
        original(self)
        self._settlements = later

    patch.setattr(Transaction, "commit", commit)


def what_one_queue_refuses_is_left_out(patch: pytest.MonkeyPatch) -> None:
    original = Queue._publish_bounded
    patch.setattr(Transaction, "_check_room", lambda self, routed: None)
    patch.setattr(
        Queue, "_publish_bounded", lambda self, envelope, contents, _: original(self, envelope, contents, False)
    )


def a_late_transaction_is_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transaction, "_check_leases", lambda self: None)


def a_rollback_publishes(patch: pytest.MonkeyPatch) -> None:
    original = Transaction.rollback

    def rollback(self: Any) -> None:
        runs = self._runs[:1]
        original(self)
        self._runs = runs

    patch.setattr(Transaction, "rollback", rollback)


def a_rollback_forgets_what_was_settled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "restore", lambda self, deliveries: None)


def publishes_do_not_wait_for_the_commit(patch: pytest.MonkeyPatch) -> None:
    original = Transaction.publish

    def publish(self: Any, envelope: Envelope, mandatory: bool, contents: list[bytes], content_bytes: int) -> None:
        if len(contents) > 2:
            self._channel.vhost.publish(envelope, contents, content_bytes)
        else:
            original(self, envelope, mandatory, contents, content_bytes)

    patch.setattr(Transaction, "publish", publish)


def settlements_come_first(patch: pytest.MonkeyPatch) -> None:
    original = Transaction.commit

    def commit(self: Any) -> None:
        self._check_leases()
        settlements, self._settlements = self._settlements, []
        for tags, outcome in settlements:
            self._channel.settle(self._deliveries, tags, outcome)
        original(self)

    patch.setattr(Transaction, "commit", commit)


# --- Delays and retries -------------------------------------------------------------------------------------


def delayed_messages_come_a_millisecond_early(patch: pytest.MonkeyPatch) -> None:
    original = Amqp091Container.delay_ms
    patch.setattr(Amqp091Container, "delay_ms", lambda self, content: max(original(self, content) - 1, 0))


def delayed_messages_come_in_any_order(patch: pytest.MonkeyPatch) -> None:
    original = Timetable.take
    patch.setattr(Timetable, "take", lambda self, now_ms, most: original(self, now_ms, most)[::-1])


def delayed_messages_are_refused_by_a_full_queue(patch: pytest.MonkeyPatch) -> None:
    original = Queue._publish_bounded
    patch.setattr(
        Queue, "_publish_bounded", lambda self, envelope, contents, _: original(self, envelope, contents, False)
    )


def what_was_released_is_still_on_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Timetable, "remove", lambda self, messages: None)


def the_horizon_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What is beyond the window in memory is taken for what comes next."""
    original = Timetable._shed

    def shed(self: Any) -> None:
        original(self)
        self._horizon = 1 << 128

    patch.setattr(Timetable, "_shed", shed)


def every_retry_waits_as_long(patch: pytest.MonkeyPatch) -> None:
    original = QueueArguments.retry_delay_ms
    patch.setattr(QueueArguments, "retry_delay_ms", lambda self, attempts, failed: original(self, 1, failed))


def whatever_comes_back_waits(patch: pytest.MonkeyPatch) -> None:
    original = QueueArguments.retry_delay_ms
    patch.setattr(QueueArguments, "retry_delay_ms", lambda self, attempts, failed: original(self, attempts, True))


def a_retry_goes_to_the_end(patch: pytest.MonkeyPatch) -> None:
    def bring_back(self: Any, waiting: Message) -> None:
        self._queue._append(waiting.envelope, [waiting.content], len(waiting.content))

    patch.setattr(Waiting, "_bring_back", bring_back)


def a_retry_forgets_its_attempts(patch: pytest.MonkeyPatch) -> None:
    original = Waiting._bring_back

    def bring_back(self: Any, waiting: Message) -> None:
        waiting.attempts = 0
        original(self, waiting)

    patch.setattr(Waiting, "_bring_back", bring_back)


def a_retry_is_there_twice(patch: pytest.MonkeyPatch) -> None:
    """While it waits it is on disk at its own place too."""
    original = Waiting.hold

    def hold(self: Any, message: Message, delay_ms: int) -> None:
        state, message.state = message.state, UNSTORED
        original(self, message, delay_ms)
        message.state = state

    patch.setattr(Waiting, "hold", hold)


def letters_are_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Waiting, "_place", lambda self, letter: self.keep(letter))


def no_letter_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QueueArguments, "keeps_dead_letters", False)


def a_quorum_queue_never_gives_up(patch: pytest.MonkeyPatch) -> None:
    original = Queue._return

    def give_back(self: Any, messages: list[Message], reason: str, failed: bool) -> None:
        if self.arguments.type == "quorum":
            for message in messages:
                message.attempts = 0
        original(self, messages, reason, failed)

    patch.setattr(Queue, "_return", give_back)


def releases_count_as_ever(patch: pytest.MonkeyPatch) -> None:
    original = Queue._return

    def give_back(self: Any, messages: list[Message], reason: str, failed: bool) -> None:
        before, self.vhost.broker.counts_releases = self.vhost.broker.counts_releases, True
        original(self, messages, reason, failed)
        self.vhost.broker.counts_releases = before

    patch.setattr(Queue, "_return", give_back)


DLX = {"x-dead-letter-exchange": ""}
RETRY = {"x-delayed-retry-type": "all", "x-delayed-retry-min": 20}
KEEPS = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", **DLX}
PLANTS: dict[Plant, Forced] = {
    deaths_are_not_counted: {"q": {"x-max-length": 0, **DLX}, "dead": DLX},
    cycles_are_not_seen: {"q": {"x-message-ttl": 40, **DLX}, "dead": {"x-max-length": 1, **DLX}},
    a_cycle_with_a_rejection_is_cut: {"q": DLX, "dead": DLX},
    dead_letters_keep_their_ttl: {"q": DLX},
    dead_letters_lose_their_priority: {"q": DLX, "dead": {"x-max-priority": 2}},
    half_of_a_transaction_is_committed: {},
    what_one_queue_refuses_is_left_out: {"q": {"x-max-length": 2, "x-overflow": "reject-publish"}},
    a_late_transaction_is_committed: {"q": {"x-consumer-timeout": 30}},
    a_rollback_publishes: {},
    a_rollback_forgets_what_was_settled: {},
    publishes_do_not_wait_for_the_commit: {},
    settlements_come_first: {"q": DLX},
    delayed_messages_come_a_millisecond_early: {},
    delayed_messages_come_in_any_order: {},
    delayed_messages_are_refused_by_a_full_queue: {"q": {"x-max-length": 1, "x-overflow": "reject-publish"}},
    what_was_released_is_still_on_disk: {},
    the_horizon_is_forgotten: {},
    every_retry_waits_as_long: {"q": {**RETRY, "x-delayed-retry-max": 30}},
    whatever_comes_back_waits: {"q": {**RETRY, "x-delayed-retry-type": "failed"}},
    a_retry_goes_to_the_end: {"q": RETRY},
    a_retry_forgets_its_attempts: {"q": {**RETRY, "x-delivery-limit": 2}},
    a_retry_is_there_twice: {"q": RETRY},
    letters_are_kept_for_ever: {"q": {"x-message-ttl": 40, **KEEPS}},
    no_letter_is_kept: {"q": {"x-message-ttl": 40, **KEEPS}},
    a_quorum_queue_never_gives_up: {"q": {"x-queue-type": "quorum"}},
    releases_count_as_ever: {"q": {"x-delivery-limit": 2}},
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    must_be_found(plant, PLANTS[plant], monkeypatch)
