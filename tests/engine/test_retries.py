"""Delayed retry, dead letters that are kept until there is a place, and what a quorum queue is."""

from __future__ import annotations

from typing import Any

import pytest

import pabal.broker.broker
from engine import Engine, TakingConsumer, content, envelope, limits, name_of, reasons_of
from pabal.broker.queue import Queue
from pabal.model.errors import PreconditionFailed
from pabal.model.limits import DEAD_LETTER_RETRY_MS, OVERLOAD_MS
from pabal.model.message import Message, Outcome

RETRY = {"x_delayed_retry_type": "all", "x_delayed_retry_min": 100}


@pytest.fixture
def engine() -> Engine:
    return Engine()


def consume(engine: Engine, queue: Queue, credit: int = 100, lease_ms: int | None = None) -> TakingConsumer:
    consumer = TakingConsumer(queue, credit=credit)
    consumer.lease_ms = lease_ms
    queue.add_consumer(consumer)
    engine.turn()
    return consumer


def settle(engine: Engine, consumer: TakingConsumer, outcome: Outcome, messages: list[Message] | None = None) -> None:
    given = list(consumer.held) if messages is None else messages
    for message in given:
        consumer.held.remove(message)
    consumer.queue.settle(given, consumer, outcome)
    engine.turn()


# --- Delayed retry ------------------------------------------------------------------------------------------


def test_a_returned_message_waits_longer_each_time_up_to_the_most(engine: Engine) -> None:
    queue = engine.queue(**RETRY, x_delayed_retry_max=250)
    engine.publish("a")
    consumer = consume(engine, queue)
    for wait_ms in (100, 200, 250, 250):
        settle(engine, consumer, Outcome.RETURN)
        assert (queue.ready, len(queue.waiting), queue.leased) == (0, 1, 0)
        engine.advance(wait_ms - 1)
        assert not consumer.held
        engine.advance(1)
        assert [m.redelivered for m in consumer.held] == [True]
    settle(engine, consumer, Outcome.ACCEPT)
    engine.commit()
    assert not any(engine.disk.messages.values())


@pytest.mark.parametrize(
    ("kind", "outcome", "waits"),
    [
        ("all", Outcome.RETURN, True),
        ("all", Outcome.RELEASE, True),
        ("failed", Outcome.RETURN, True),
        ("failed", Outcome.RELEASE, False),
        ("returned", Outcome.RETURN, False),
        ("returned", Outcome.RELEASE, True),
        ("disabled", Outcome.RETURN, False),
    ],
)
def test_which_messages_wait(engine: Engine, kind: str, outcome: Outcome, waits: bool) -> None:
    queue = engine.queue(x_delayed_retry_type=kind, x_delayed_retry_min=100)
    engine.publish("a")
    consumer = consume(engine, queue)
    settle(engine, consumer, outcome)
    assert (len(queue.waiting), len(consumer.held)) == ((1, 0) if waits else (0, 1))


def test_it_comes_back_to_its_own_place(engine: Engine) -> None:
    queue = engine.queue(**RETRY)
    engine.publish("a", "b", "c", "d")
    consumer = consume(engine, queue, credit=2)
    settle(engine, consumer, Outcome.RETURN, [consumer.held[0]])
    assert [name_of(m) for m in consumer.held] == ["b", "c"]
    engine.advance(100)
    settle(engine, consumer, Outcome.ACCEPT)
    assert [name_of(m) for m in consumer.held] == ["a", "d"]


def test_what_waits_survives_a_crash_with_its_time_and_its_attempts(engine: Engine) -> None:
    queue = engine.queue(**RETRY, x_delivery_limit=1, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    engine.queue("dead")
    engine.publish("a", "b")
    settle(engine, consume(engine, queue), Outcome.RETURN)
    engine.commit()
    engine.advance(60)
    engine.restart()
    queue = engine.vhost.queues["q"]
    consumer = consume(engine, queue)
    assert (queue.ready, len(queue.waiting)) == (0, 2)
    engine.advance(39)
    assert not consumer.held
    engine.advance(1)
    assert [(name_of(m), m.attempts) for m in consumer.held] == [("a", 1), ("b", 1)]
    settle(engine, consumer, Outcome.RETURN)
    assert [(name_of(m), reasons_of(m)) for m in engine.drain("dead")] == [
        ("a", [("q", "delivery_limit")]),
        ("b", [("q", "delivery_limit")]),
    ]


def test_what_comes_back_counts_against_the_length_unless_somebody_takes_it(engine: Engine) -> None:
    queue = engine.queue(**RETRY, x_max_length=1)
    engine.publish("a", "b", "c")
    consumer = consume(engine, queue)
    engine.publish("d", "e", "f")
    engine.turn()
    settle(engine, consumer, Outcome.RETURN)
    consumer.credit = 1
    engine.advance(100)
    assert [name_of(m) for m in consumer.held] == ["c"]
    queue.remove_consumer(consumer)
    assert engine.names() == ["f"]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_after_a_restart_it_comes_back_among_those_that_are_on_disk(engine: Engine, window: int) -> None:
    with limits(WINDOW_MESSAGES_STORED=window, LOAD_MESSAGES_MAX=window, _FIRST_LOAD_SHARE=1):
        queue = engine.queue(**RETRY)
        engine.publish("a", "b", "c", "d", "e", "f")
        consumer = consume(engine, queue, credit=5)
        settle(engine, consumer, Outcome.RETURN, [consumer.held[1], consumer.held[3]])
        engine.commit()
        engine.restart()
        engine.advance(100)
        engine.commit()
        assert engine.names() == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("committing", [False, True])
def test_leaving_and_coming_back_between_two_commits_loses_nothing(engine: Engine, committing: bool) -> None:
    """A slow disk: the message is deleted at its place and put there again by one commit."""
    queue = engine.queue(x_delayed_retry_type="all", x_delayed_retry_min=1)
    engine.publish("a", "b")
    engine.commit()
    consumer = consume(engine, queue)
    if committing:
        engine.publish("c")
        engine.store.begin()
    settle(engine, consumer, Outcome.RETURN)
    engine.advance(1)
    assert len(queue.waiting) == 0
    if committing:
        engine.store.finish()
        engine.store.done()
    engine.commit()
    engine.restart()
    assert engine.names() == ["a", "b"] + ["c"] * committing


def test_of_many_only_a_window_comes_back_at_a_time(engine: Engine) -> None:
    with limits(WINDOW_MESSAGES_STORED=10, WINDOW_MESSAGES_TRANSIENT=10, LOAD_MESSAGES_MAX=5, TIMER_MESSAGES_MAX=4):
        queue = engine.queue(**RETRY)
        names = [f"m{number:03}" for number in range(100)]
        engine.publish(*names)
        consumer = consume(engine, queue)
        settle(engine, consumer, Outcome.RETURN)
        engine.commit()
        assert len(queue.waiting) == 100
        queue.remove_consumer(consumer)
        engine.advance(100)
        assert queue.ready < 20
        assert engine.broker.next_tick_ms() is None, "no timer goes round while there is no room"
        taken: list[str] = []
        late = TakingConsumer(queue, credit=7)
        queue.add_consumer(late)
        for _ in range(100):
            engine.turn()
            taken += [name_of(m) for m in late.held]
            settle(engine, late, Outcome.ACCEPT)
            engine.commit()
        assert taken == names


def fifty_large_ones_wait(engine: Engine) -> Queue:
    """For a queue without a consumer."""
    queue = engine.queue(**RETRY)
    engine.publish(*(f"m{number:02}" + "x" * 500 for number in range(50)))
    consumer = consume(engine, queue)
    settle(engine, consumer, Outcome.RETURN)
    engine.commit()
    queue.remove_consumer(consumer)
    return queue


def test_large_ones_come_back_a_few_at_a_time(engine: Engine) -> None:
    with limits(WINDOW_BYTES_STORED=3000, LOAD_BYTES_MAX=1000):
        queue = fifty_large_ones_wait(engine)
        engine.advance(100)
        assert queue.backlog.content_bytes < 6000
        taken = 0
        late = TakingConsumer(queue, credit=3)
        queue.add_consumer(late)
        for _ in range(60):
            engine.turn()
            taken += len(late.held)
            settle(engine, late, Outcome.ACCEPT)
        assert taken == 50


def test_nothing_more_comes_back_while_the_disk_is_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with limits(LOAD_BYTES_MAX=1000):
        queue = fifty_large_ones_wait(engine)
        monkeypatch.setattr(pabal.broker.broker, "UNSAVED_BYTES_MAX", 3000)
        engine.advance(100)
        assert 0 < queue.ready < 10
        for _ in range(30):
            engine.commit()
            engine.advance(OVERLOAD_MS)
        assert queue.ready == 50


def test_a_purge_takes_what_waits_too(engine: Engine) -> None:
    """Also from its place among those that are removed from disk."""
    queue = engine.queue(**RETRY)
    engine.publish("a", "b", "c", "d")
    consumer = consume(engine, queue)
    settle(engine, consumer, Outcome.RETURN, [consumer.held[1]])
    engine.commit()
    engine.restart()
    queue = engine.vhost.queues["q"]
    assert queue.purge() == 4
    engine.advance(100)
    engine.commit()
    assert queue.empty and not any(engine.disk.messages.values())
    engine.restart()
    assert engine.vhost.queues["q"].empty


def test_waiting_messages_make_a_queue_not_empty_and_go_with_it(engine: Engine) -> None:
    queue = engine.queue(**RETRY)
    engine.publish("a")
    settle(engine, consume(engine, queue), Outcome.RETURN)
    engine.commit()
    with pytest.raises(PreconditionFailed):
        engine.vhost.delete_queue(queue, if_empty=True)
    assert engine.vhost.delete_queue(queue) == 0
    engine.advance(1000)
    engine.commit()
    assert not engine.disk.messages and not engine.disk.states


@pytest.mark.parametrize("durable", [True, False])
def test_transient_things_wait_as_well(engine: Engine, durable: bool) -> None:
    queue = engine.queue(durable=durable, **RETRY)
    engine.publish("a", persistent=False)
    consumer = consume(engine, queue)
    settle(engine, consumer, Outcome.RETURN)
    engine.advance(100)
    settle(engine, consumer, Outcome.ACCEPT)
    engine.commit()
    engine.restart()
    assert not any(engine.disk.messages.values())


# --- Dead letters that are kept -----------------------------------------------------------------------------

KEEPS = {
    "x_queue_type": "quorum",
    "x_dead_letter_strategy": "at-least-once",
    "x_overflow": "reject-publish",
    "x_dead_letter_exchange": "graves",
    "x_dead_letter_routing_key": "dead",
}


def rejected(engine: Engine, **arguments: Any) -> Queue:
    queue = engine.queue(**arguments)
    engine.publish("a", "b")
    settle(engine, consume(engine, queue), Outcome.REJECT)
    engine.commit()
    return queue


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("missing", ["exchange", "binding"])
def test_a_dead_letter_without_a_place_is_kept_until_there_is_one(
    engine: Engine, missing: str, restarts: bool
) -> None:
    if missing == "binding":
        engine.exchange("graves")
    rejected(engine, **KEEPS)
    for times in (1, 2, 4):
        engine.advance(times * DEAD_LETTER_RETRY_MS)
    engine.commit()
    if restarts:
        engine.restart()
    queue = engine.vhost.queues["q"]
    assert (queue.ready, len(queue.waiting)) == (0, 2)
    if missing == "exchange":
        engine.exchange("graves")
    engine.queue("dead")
    engine.bind("graves", "dead", "dead")
    engine.advance(8 * DEAD_LETTER_RETRY_MS)
    engine.commit()
    engine.restart()
    assert [(name_of(m), reasons_of(m)) for m in engine.drain("dead")] == [
        ("a", [("q", "rejected")]),
        ("b", [("q", "rejected")]),
    ]
    assert len(engine.vhost.queues["q"].waiting) == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_a_kept_dead_letter_has_its_priority_in_the_end(engine: Engine, restarts: bool) -> None:
    queue = engine.queue(**KEEPS)
    for name, priority in (("low", 1), ("high", 3)):
        body = content(name, {"priority": priority})
        engine.vhost.publish(envelope(), [body], len(body))
    settle(engine, consume(engine, queue), Outcome.REJECT)
    engine.commit()
    if restarts:
        engine.restart()
    engine.exchange("graves")
    engine.queue("dead", x_max_priority=5)
    engine.bind("graves", "dead", "dead")
    engine.advance(DEAD_LETTER_RETRY_MS)
    assert engine.names("dead") == ["high", "low"]


@pytest.mark.parametrize("without", ["x_dead_letter_strategy", "x_overflow"])
def test_otherwise_it_is_dropped(engine: Engine, without: str) -> None:
    queue = rejected(engine, **{name: value for name, value in KEEPS.items() if name != without})
    assert queue.empty


# --- Quorum queues ------------------------------------------------------------------------------------------


def test_a_quorum_queue_gives_up_after_twenty_attempts(engine: Engine) -> None:
    queue = engine.queue(x_queue_type="quorum", x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    engine.queue("dead")
    engine.publish("a")
    consumer = consume(engine, queue)
    for _ in range(20):
        settle(engine, consumer, Outcome.RETURN)
        assert queue.leased == 1
    settle(engine, consumer, Outcome.RETURN)
    assert [reasons_of(m) for m in engine.drain("dead")] == [[("q", "delivery_limit")]]


@pytest.mark.parametrize("limit", [-1, 30])
def test_unless_it_says_otherwise(engine: Engine, limit: int) -> None:
    queue = engine.queue(x_queue_type="quorum", x_delivery_limit=limit)
    engine.publish("a")
    consumer = consume(engine, queue)
    for _ in range(25):
        settle(engine, consumer, Outcome.RETURN)
    assert [m.attempts for m in consumer.held] == [25]


def test_a_release_counts_or_not_as_the_broker_is_told(engine: Engine) -> None:
    queue = engine.queue(x_queue_type="quorum")
    engine.publish("a")
    consumer = consume(engine, queue)
    for counts, attempts in ((True, 1), (False, 1), (True, 2)):
        engine.broker.counts_releases = counts
        settle(engine, consumer, Outcome.RELEASE)
        assert [(m.attempts, m.redelivered) for m in consumer.held] == [(attempts, True)]


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("non-durable", {"durable": False}),
        ("exclusive-owner", {"owner": object()}),
    ],
)
def test_a_quorum_queue_is_for_all_and_for_ever(engine: Engine, what: str, options: dict[str, Any]) -> None:
    with pytest.raises(PreconditionFailed, match=f"invalid property '{what}' for queue 'q' in vhost '/'"):
        engine.queue(x_queue_type="quorum", **options)
    assert "q" not in engine.vhost.queues


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"x-queue-type": "quorum", "x-max-priority": 5},
            "invalid arg 'x-max-priority' for queue 'q' in",
        ),
        ({"x-max-age": "1h"}, "of queue type rabbit_classic_queue"),
        ({"x-queue-mode": "bad"}, "unsupported queue mode 'bad'"),
        ({"x-queue-version": 9}, "unsupported queue version '9'"),
        ({"x-queue-leader-locator": "here"}, "invalid_queue_locator_arg"),
        ({"x-dead-letter-strategy": "hope"}, "invalid_dlx_strategy"),
        ({"x-delayed-retry-type": "all"}, "delayed-retry-min is required"),
        ({"x-delayed-retry-min": 5, "x-delayed-retry-max": 4}, "must not be smaller"),
        ({"x-quorum-initial-group-size": 0}, "value_zero"),
    ],
    ids=str,
)
def test_arguments_are_checked(engine: Engine, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        engine.vhost.declare_queue("q", True, False, False, arguments, None)
    assert message in str(caught.value)


# --- Leases -------------------------------------------------------------------------------------------------


def test_consumers_with_leases_of_their_own(engine: Engine) -> None:
    """The queue's is for those who say nothing; each ends at its own time, whoever began first."""
    queue = engine.queue(x_consumer_timeout=1000)
    engine.publish("a", "b", "c")
    slow = consume(engine, queue, credit=1, lease_ms=5000)
    usual = consume(engine, queue, credit=1)
    quick = consume(engine, queue, credit=1, lease_ms=10)
    assert [[name_of(m) for m in c.held] for c in (slow, usual, quick)] == [["a"], ["b"], ["c"]]
    engine.advance(10)
    assert (len(slow.held), len(usual.held), len(quick.lost)) == (1, 1, 1)
    engine.advance(989)
    assert len(usual.held) == 1
    engine.advance(1)
    assert (len(slow.held), len(usual.lost)) == (1, 1)
    settle(engine, slow, Outcome.ACCEPT)
    assert [name_of(m) for m in slow.held] == ["b"]
    engine.advance(4999)
    assert len(slow.held) == 1
    engine.advance(1)
    assert len(slow.lost) == 1


def test_leases_that_end_together_end_in_the_queues_order(engine: Engine) -> None:
    queue = engine.queue(
        x_consumer_timeout=50, x_delivery_limit=0, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    engine.queue("dead")
    consume(engine, queue, credit=2, lease_ms=60)
    consume(engine, queue, credit=2)
    engine.publish("a", "b", "c", "d")
    engine.turn()
    engine.advance(60)
    assert engine.names("dead") == ["a", "b", "c", "d"]
