"""Delayed exchanges: nothing comes before its time, everything comes by then, once, in order, and after a crash."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from engine import (
    Engine,
    TakingConsumer,
    content,
    envelope,
    limits,
    name_of,
)
from pabal.broker.delayed import Delay, DelayedExchange
from pabal.model.definitions import ExchangeDefinition
from pabal.model.errors import InvalidCommand, PreconditionFailed
from pabal.model.message import Outcome


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.exchange("later", "x-delayed-message", arguments={"x-delayed-type": "direct"})
    engine.queue("q")
    engine.bind("later", "q", "q")
    return engine


def publish(engine: Engine, name: str, delay: Any = None, **options: Any) -> None:
    headers = {} if delay is None else {"x-delay": delay}
    body = content(name, headers, ttl=options.pop("ttl", None))
    engine.vhost.publish(envelope("later", **options), [body], len(body))


def delay_of(engine: Engine, exchange: str = "later") -> Delay:
    found = engine.vhost.exchanges[exchange]
    assert isinstance(found, DelayedExchange) and found.delay is not None
    return found.delay


def test_each_comes_at_its_time_and_not_before(engine: Engine) -> None:
    for name, delay in (("c", 300), ("a", 100), ("b", 200)):
        publish(engine, name, delay)
    engine.turn()
    assert engine.names() == []
    for name in "abc":
        engine.advance(99)
        assert engine.names() == []
        engine.advance(1)
        assert engine.names() == [name]
    assert delay_of(engine).ready == 0
    assert engine.broker.next_tick_ms() is None


def test_the_same_time_means_the_order_of_arrival(engine: Engine) -> None:
    for name in "abcde":
        publish(engine, name, 50)
    engine.advance(50)
    assert engine.names() == list("abcde")


@pytest.mark.parametrize("delay", [None, 0, -1, 2**32])
def test_what_asks_for_no_possible_delay_goes_at_once(engine: Engine, delay: int | None) -> None:
    publish(engine, "a", delay)
    assert engine.names() == ["a"]


def test_what_was_held_says_so_and_is_not_held_again(engine: Engine) -> None:
    engine.exchange("later still", "x-delayed-message", arguments={"x-delayed-type": "fanout"})
    engine.bind("later", "later still", "q", to_exchange=True)
    engine.queue("other")
    engine.bind("later still", "other")
    publish(engine, "a", 70)
    engine.advance(70)
    for queue in ("q", "other"):
        [message] = engine.drain(queue)
        assert message.envelope.container.headers(message.content)["x-delay"] == -70
        assert message.envelope.exchange == "later"


def test_it_routes_when_the_time_has_come(engine: Engine) -> None:
    publish(engine, "a", 10)
    publish(engine, "lost", 10, key="nobody")
    engine.queue("new")
    engine.bind("later", "new", "q")
    engine.advance(10)
    assert (engine.names(), engine.names("new")) == (["a"], ["a"])


def test_the_alternate_exchange_takes_what_goes_nowhere_then() -> None:
    engine = Engine()
    engine.exchange("stray", "fanout")
    engine.exchange(
        "later", "x-delayed-message", arguments={"x-delayed-type": "topic", "alternate-exchange": "stray"}
    )
    engine.queue("q")
    engine.bind("stray", "q")
    publish(engine, "a", 10)
    engine.advance(9)
    assert engine.names() == []
    engine.advance(1)
    assert engine.names() == ["a"]


def test_further_keys_and_the_time_to_live_count_from_then(engine: Engine) -> None:
    engine.queue("copy")
    engine.bind("later", "copy", "blind")
    body = content("a", {"x-delay": 100}, ttl="50")
    with limits(WINDOW_MESSAGES_STORED=1):
        for _ in range(3):
            engine.vhost.publish(envelope("later", ttl_ms=50, copies=("blind",)), [body], len(body))
        engine.commit()
        engine.restart()
        engine.advance(100)
    assert engine.names("copy") == ["a", "a", "a"]
    engine.advance(50)
    assert engine.names() == ["a", "a", "a"]  # at its very last
    for restarts in (False, True):
        engine.vhost.publish(envelope("later", ttl_ms=50), [body], len(body))
        engine.commit()
        if restarts:
            engine.restart()
        engine.advance(100)
        engine.advance(51)
        assert engine.names() == []


def test_a_crash_loses_nothing_that_was_committed_and_releases_what_is_overdue(engine: Engine) -> None:
    for name, delay in (("b", 200), ("a", 100), ("c", 300)):
        publish(engine, name, delay)
    engine.commit()
    publish(engine, "not confirmed", 100)
    engine.now_ms += 250
    engine.restart()
    assert engine.names() == ["a", "b"]
    engine.commit()
    engine.restart()
    engine.advance(50)
    assert engine.names() == ["c"]
    engine.commit()
    engine.restart()
    engine.advance(10_000)
    assert engine.names() == []


def test_leaving_and_arriving_are_one_commit(engine: Engine) -> None:
    publish(engine, "a", 10)
    engine.commit()
    engine.advance(10)
    assert engine.vhost.queues["q"].ready == 1
    engine.restart()  # the move was not committed: it waits still, and is overdue
    assert engine.vhost.queues["q"].ready == 1
    engine.commit()
    engine.restart()
    assert engine.vhost.queues["q"].ready == 1
    assert delay_of(engine).ready == 0


def test_a_deleted_exchange_takes_along_what_it_holds(engine: Engine) -> None:
    publish(engine, "a", 10)
    engine.commit()
    engine.vhost.delete_exchange("later")
    engine.advance(10)
    engine.commit()
    engine.restart()
    assert engine.vhost.queues["q"].ready == 0
    assert not engine.disk.messages and set(engine.disk.states) <= {engine.vhost.queues["q"].definition.queue_id}


def test_an_exchange_that_is_not_durable_leaves_nothing_behind() -> None:
    engine = Engine()
    engine.exchange("later", "x-delayed-message", durable=False, arguments={"x-delayed-type": "direct"})
    publish(engine, "a", 10)
    engine.commit()
    engine.restart()
    engine.commit()
    assert not engine.disk.messages and not engine.disk.states
    assert "later" not in engine.vhost.exchanges


def test_a_queue_that_is_full_by_then_takes_it_nevertheless(engine: Engine) -> None:
    engine.queue("small", x_max_length=1, x_overflow="reject-publish")
    engine.bind("later", "small", "small")
    for name in "ab":
        publish(engine, name, 10, key="small")
    engine.advance(10)
    assert engine.names("small") == ["a", "b"]


def test_dead_letters_may_be_delayed_too(engine: Engine) -> None:
    queue = engine.queue("work", x_dead_letter_exchange="later", x_dead_letter_routing_key="q")
    body = content("a", {"x-delay": 40})
    engine.vhost.publish(envelope(key="work"), [body], len(body))
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.turn()
    queue.settle(consumer.held, consumer, Outcome.REJECT)
    engine.advance(39)
    assert engine.names() == []
    engine.advance(1)
    [message] = engine.drain()
    assert name_of(message) == "a"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, PreconditionFailed),
        ({"x-delayed-type": 1}, PreconditionFailed),
        ({"x-delayed-type": "x-delayed-message"}, PreconditionFailed),
        ({"x-delayed-type": "x-unheard-of"}, InvalidCommand),
        ({"x-delayed-type": "x-consistent-hash", "hash-header": 1}, PreconditionFailed),
    ],
    ids=str,
)
def test_it_needs_a_type_to_route_by(arguments: dict[str, Any], error: type[Exception]) -> None:
    engine = Engine()
    with pytest.raises(error):
        engine.vhost.declare_exchange(ExchangeDefinition("/", "later", "x-delayed-message", arguments=arguments))
    assert "later" not in engine.vhost.exchanges


@pytest.mark.parametrize("kind", ["fanout", "topic", "headers", "x-random", "x-consistent-hash"])
def test_every_type_can_be_delayed(kind: str) -> None:
    engine = Engine()
    engine.exchange("later", "x-delayed-message", arguments={"x-delayed-type": kind})
    engine.queue("q")
    engine.bind("later", "q", "1" if kind == "x-consistent-hash" else "q")
    publish(engine, "now")
    publish(engine, "then", 5)
    engine.turn()
    assert engine.names() == ["now"]
    engine.advance(5)
    assert engine.names() == ["then"]


COUNT = 1_000_000 if os.environ.get("PABAL_SLOW") == "1" else 20_000


@pytest.mark.timeout(600)
def test_a_million_over_an_hour_each_in_its_millisecond(engine: Engine) -> None:
    """20,000 of them, unless PABAL_SLOW=1."""
    chance = random.Random(7)
    consumer = TakingConsumer(engine.vhost.queues["q"], auto=True, credit=10**9)
    engine.vhost.queues["q"].add_consumer(consumer)
    due: list[tuple[int, int]] = []
    with limits(WINDOW_MESSAGES_STORED=500, LOAD_MESSAGES_MAX=200):
        for number in range(COUNT):
            delay = chance.randrange(1, 3_600_000)
            due.append((engine.now_ms + delay, number))
            publish(engine, str(number), delay)
            if number % 500 == 0:
                engine.commit()
        engine.commit()
        assert delay_of(engine).ready == COUNT
        assert len(delay_of(engine)._timetable._soon) <= 500
        engine.turn()
        came: list[tuple[int, int]] = []
        while (at_ms := engine.broker.next_tick_ms()) is not None:
            engine.advance(max(0, at_ms - engine.now_ms))
            came += [(engine.now_ms, int(name)) for name in consumer.names]
            consumer.taken.clear()
    assert came == sorted(due)
