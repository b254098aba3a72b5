"""Chains of queues that only delay, as Celery declares them: one wait for the whole chain, and nobody can tell."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import pabal.broker.queue
from engine import PLAIN, START_MS, Engine, TakingConsumer, content, envelope, name_of
from pabal.model.definitions import BindingDefinition
from pabal.model.limits import DEAD_LETTER_RETRY_MS

LEVELS = 8


def declare_levels(engine: Engine) -> None:
    """Celery's native delayed delivery, with 8 of its 28 levels: one bit of the time each, in seconds."""
    engine.exchange("delivery", "topic")
    for level in range(LEVELS):
        below = f"delayed_{level - 1}" if level else "delivery"
        engine.exchange(f"delayed_{level}", "topic")
        engine.queue(
            f"delayed_{level}",
            x_queue_type="quorum",
            x_overflow="reject-publish",
            x_dead_letter_strategy="at-least-once",
            x_dead_letter_exchange=below,
            x_message_ttl=2**level * 1000,
        )
    for level in range(LEVELS):
        below = f"delayed_{level - 1}" if level else "delivery"
        before = "*." * (LEVELS - 1 - level)
        engine.bind(f"delayed_{level}", f"delayed_{level}", f"{before}1.#")
        engine.bind(f"delayed_{level}", below, f"{before}0.#", to_exchange=True)
    engine.queue("tasks")
    engine.bind("delivery", "tasks", "#.tasks")


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    declare_levels(engine)
    return engine


def send(engine: Engine, name: str, seconds: int) -> None:
    bits = ".".join(f"{seconds:0{LEVELS}b}")
    body = content(name)
    engine.vhost.publish(envelope(f"delayed_{LEVELS - 1}", f"{bits}.tasks"), [body], len(body))
    engine.turn()


def waiting(engine: Engine) -> int:
    return sum(len(queue.waiting) for queue in engine.vhost.queues.values())


def moves(engine: Engine, until: Callable[[], bool]) -> int:
    """Commits that it takes until then, one at each time that something happens."""
    count = 0
    while not until():
        at_ms = engine.broker.next_tick_ms()
        assert at_ms is not None
        engine.advance(max(at_ms - engine.now_ms, 0))
        engine.commit()
        count += 1
    return count


def test_a_task_waits_once_however_many_levels_its_time_has(engine: Engine) -> None:
    send(engine, "task", 0b10110111)
    engine.commit()
    assert waiting(engine) == engine.vhost.queues["delayed_7"].ready == 1
    engine.restart()
    assert waiting(engine) == engine.vhost.queues["delayed_7"].ready == 1
    tasks = engine.vhost.queues["tasks"]
    assert moves(engine, lambda: tasks.ready == 1) == 1
    assert engine.now_ms - START_MS == 0b10110111 * 1000
    [message] = engine.drain("tasks")
    assert [(d.queue, d.reason, d.time_ms - START_MS) for d in PLAIN.deaths(message.content)] == [
        (f"delayed_{level}", "expired", after_s * 1000)
        for level, after_s in ((0, 183), (1, 182), (2, 180), (4, 176), (5, 160), (7, 128))
    ]
    engine.commit()
    assert not any(engine.disk.messages.values())


@pytest.mark.plain
def test_it_comes_as_it_would_have_come_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same messages with the same histories, at the same times but for a millisecond a step."""
    chance = random.Random(3)
    countdowns = [chance.randrange(1, 2**LEVELS) for _ in range(60)]
    results = []
    for chained in (True, False):
        if not chained:
            monkeypatch.setattr(pabal.broker.queue, "enter_chain", lambda *_: False)
        engine = Engine()
        declare_levels(engine)
        consumer = TakingConsumer(engine.vhost.queues["tasks"], auto=True)
        engine.vhost.queues["tasks"].add_consumer(consumer)
        for number, seconds in enumerate(countdowns):
            send(engine, str(number), seconds)
        came = {}
        while len(came) < len(countdowns):
            at_ms = engine.broker.next_tick_ms()
            assert at_ms is not None
            engine.advance(max(at_ms - engine.now_ms, 0))
            for message in consumer.taken:
                deaths = PLAIN.deaths(message.content)
                came[name_of(message)] = (engine.now_ms, [(d.queue, d.exchange, d.routing_keys) for d in deaths])
            consumer.taken.clear()
        results.append(came)
    at_once, by_steps = results
    for name, (at_ms, deaths) in at_once.items():
        later_ms, same = by_steps[name]
        assert deaths == same
        assert 0 <= later_ms - at_ms <= LEVELS
        assert 0 <= at_ms - START_MS - countdowns[int(name)] * 1000 <= 1


@pytest.mark.parametrize("at_s", [0, 100])
def test_it_survives_a_crash(engine: Engine, at_s: int) -> None:
    send(engine, "a", 0b1100)
    send(engine, "b", 0b1010)
    engine.commit()
    engine.now_ms += at_s * 1000
    engine.restart()
    engine.advance(100_000)
    assert engine.names("tasks") == ["b", "a"]


def test_equal_times_before_and_after_a_crash_are_two_messages(engine: Engine) -> None:
    send(engine, "a", 12)
    engine.commit()
    engine.advance(2000)
    engine.restart()
    send(engine, "b", 10)
    engine.commit()
    assert waiting(engine) == 2
    engine.advance(10_000)
    assert engine.names("tasks") == ["a", "b"]


def test_bindings_that_change_meanwhile_are_followed(engine: Engine) -> None:
    send(engine, "a", 12)
    engine.queue("others")
    engine.bind("delivery", "others", "#.tasks")
    engine.vhost.delete_queue(engine.vhost.queues["tasks"])
    engine.advance(12_000)
    assert engine.names("others") == ["a"]


def test_a_way_that_became_longer_is_gone_to_its_end(engine: Engine) -> None:
    send(engine, "a", 12)
    engine.exchange("final", "fanout")
    engine.bind("final", "tasks")
    engine.vhost.unbind(BindingDefinition("/", "delivery", "tasks", False, "#.tasks"))
    engine.queue("more", x_message_ttl=5000, x_dead_letter_exchange="final")
    engine.bind("delivery", "more", "#.tasks")
    engine.advance(12_000)
    assert engine.vhost.queues["more"].ready == 1
    engine.advance(5001)
    assert engine.names("tasks") == ["a"]


def test_a_level_that_goes_meanwhile_ends_the_way_there(engine: Engine) -> None:
    """What the last queue of the way then does with a dead letter that has no place: it keeps it."""
    send(engine, "a", 12)
    engine.vhost.delete_queue(engine.vhost.queues["delayed_2"])
    engine.advance(12_000)
    engine.commit()
    engine.restart()
    assert len(engine.vhost.queues["delayed_3"].waiting) == 1
    engine.bind("delayed_2", "tasks", "#.tasks")
    engine.advance(DEAD_LETTER_RETRY_MS)
    assert engine.names("tasks") == ["a"]


def test_a_consumer_that_comes_finds_what_waits(engine: Engine) -> None:
    send(engine, "a", 12)
    queue = engine.vhost.queues["delayed_3"]
    consumer = TakingConsumer(queue)
    assert queue.get(consumer) is not None
    assert consumer.names == ["a"]
    send(engine, "b", 12)
    queue.add_consumer(consumer)
    send(engine, "c", 12)
    engine.turn()
    assert consumer.names == ["a", "b", "c"]
    assert waiting(engine) == 0


def test_who_looks_finds_them_in_the_order_in_which_they_came() -> None:
    """Though the second is due before the first."""
    engine = Engine()
    engine.exchange("next", "direct")
    engine.queue("first", x_message_ttl=1000, x_dead_letter_exchange="next")
    engine.exchange("in", "fanout")
    engine.bind("in", "first")
    for stop, ttl_ms in (("long", 9000), ("short", 10)):
        engine.queue(stop, x_message_ttl=ttl_ms, x_dead_letter_exchange="", x_dead_letter_routing_key="end")
        engine.bind("next", stop, stop)
        engine.publish(stop, exchange="in", key=stop)
    assert waiting(engine) == 2
    assert engine.names("first") == ["long", "short"]


def test_a_purge_takes_what_waits_too(engine: Engine) -> None:
    for _ in range(3):
        send(engine, "a", 12)
    engine.commit()
    assert engine.vhost.queues["delayed_3"].purge() == 3
    engine.commit()
    assert waiting(engine) == 0
    assert not any(engine.disk.messages.values())


def test_a_single_delay_is_no_chain(engine: Engine) -> None:
    """The usual queue for retries: its messages are seen where they are."""
    send(engine, "a", 8)
    assert engine.vhost.queues["delayed_3"].ready == 1
    engine.advance(8001)
    assert engine.names("tasks") == ["a"]


def test_a_circle_of_delays_is_no_chain() -> None:
    engine = Engine()
    for one, other in (("a", "b"), ("b", "a")):
        engine.queue(one, x_message_ttl=1000, x_dead_letter_exchange="", x_dead_letter_routing_key=other)
    engine.publish("m", key="a")
    assert engine.vhost.queues["a"].ready == 1
    engine.advance(1001)
    assert engine.vhost.queues["b"].ready == 1
    engine.advance(1001)
    assert engine.vhost.queues["a"].empty and engine.vhost.queues["b"].empty  # RabbitMQ drops it as well


def test_a_message_with_a_time_to_live_of_its_own_goes_step_by_step(engine: Engine) -> None:
    body = content("a", ttl="500")
    engine.vhost.publish(envelope("delayed_7", "0.0.0.0.1.1.0.0.tasks", ttl_ms=500), [body], len(body))
    assert engine.vhost.queues["delayed_3"].ready == 1
    engine.advance(501)
    assert engine.vhost.queues["delayed_2"].ready == 1
    engine.advance(4001)
    assert engine.names("tasks") == ["a"]
