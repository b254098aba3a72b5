"""A queue with a single active consumer: who gets the messages, and who is next."""

from __future__ import annotations

import pytest

from engine import Engine, TakingConsumer


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_the_next_one_gets_what_is_ready_when_the_active_one_is_cancelled(engine: Engine) -> None:
    """Nothing else need happen to the queue."""
    queue = engine.queue(x_single_active_consumer=True)
    first, second = TakingConsumer(queue, credit=1), TakingConsumer(queue)
    queue.add_consumer(first)
    queue.add_consumer(second)
    engine.publish("a", "b")
    engine.turn()
    assert (first.names, second.names) == (["a"], [])
    queue.remove_consumer(first)
    engine.turn()
    assert second.names == ["b"]


def test_the_next_one_is_the_first_of_the_highest_priority(engine: Engine) -> None:
    """As in RabbitMQ; but one that comes does not push the active one aside, whatever its priority."""
    queue = engine.queue(x_single_active_consumer=True)
    consumers = [TakingConsumer(queue, str(number)) for number in range(4)]
    for consumer, priority in zip(consumers, (0, 1, 2, 2), strict=True):
        consumer.priority = priority
        queue.add_consumer(consumer)
    for number in (0, 2, 3, 1):
        engine.publish(f"m{number}")
        engine.turn()
        assert consumers[number].names == [f"m{number}"]
        queue.remove_consumer(consumers[number])


def test_only_what_the_active_one_can_take_does_not_count_against_a_limit(engine: Engine) -> None:
    queue = engine.queue(x_single_active_consumer=True, x_max_length=1, x_overflow="reject-publish")
    active, other = TakingConsumer(queue, credit=1), TakingConsumer(queue, credit=5)
    queue.add_consumer(active)
    queue.add_consumer(other)
    assert queue.takes(2, 0)
    assert not queue.takes(3, 0)
