"""A queue with many consumers: whose turn it is, and that those who are busy cost nothing."""

from __future__ import annotations

import pytest

from engine import Engine, TakingConsumer
from pabal.broker.consumer import Rotation
from pabal.broker.queue import Queue
from pabal.model.message import Message, Outcome


class CountingConsumer(TakingConsumer):
    """Counts how often it was asked for room."""

    asked = 0

    def room(self) -> int:
        CountingConsumer.asked += 1
        return super().room()

    def deliver(self, messages: list[Message]) -> None:
        self.taken += messages
        self.held += messages


def consume(queue: Queue, count: int, credit: int) -> list[CountingConsumer]:
    consumers = [CountingConsumer(queue, credit=credit, tag=f"c{number}") for number in range(count)]
    for consumer in consumers:
        queue.add_consumer(consumer)
    return consumers


def test_the_busy_are_not_asked_again() -> None:
    engine = Engine()
    queue = engine.queue()
    consumers = consume(queue, 1000, credit=1)
    engine.publish(*(f"m{number}" for number in range(1200)))
    engine.turn()
    assert [len(consumer.taken) for consumer in consumers] == [1] * 1000
    CountingConsumer.asked = 0
    for which in (500, 3, 999):
        queue.settle(consumers[which].held[-1:], consumers[which], Outcome.ACCEPT)
        engine.turn()
        assert len(consumers[which].taken) == 2
    assert CountingConsumer.asked <= 6


def test_each_message_asks_as_many_as_it_takes() -> None:
    engine = Engine()
    queue = engine.queue()
    consumers = consume(queue, 1000, credit=10)
    CountingConsumer.asked = 0
    for number in range(20):
        engine.publish(f"m{number}")
        engine.turn()
    assert [len(consumer.taken) for consumer in consumers[:21]] == [1] * 20 + [0]
    assert CountingConsumer.asked == 20


def test_whoever_goes_the_turn_goes_on() -> None:
    engine = Engine()
    queue = engine.queue()
    consumers = consume(queue, 4, credit=10)
    engine.publish("m0", "m1")
    engine.turn()
    queue.remove_consumer(consumers[0])
    queue.remove_consumer(consumers[3])
    engine.publish("m2", "m3")
    engine.turn()
    assert [consumer.names for consumer in consumers[1:3]] == [["m1", "m3"], ["m2"]]
    assert [consumer.place for consumer in consumers] == [-1, 0, 1, -1]


@pytest.mark.parametrize("following", range(5))
def test_a_rotation_begins_with_the_next(following: int) -> None:
    rotation = Rotation()
    rotation.resize(5)
    rotation.pass_over(2)
    rotation.next = following
    order = [*range(following, 5), *range(following)]
    assert list(rotation.in_turn()) == [place for place in order if place != 2]
    rotation.ask(2)
    rotation.ask(-1)
    assert list(rotation.in_turn()) == order
