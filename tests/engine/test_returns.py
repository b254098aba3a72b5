"""What a channel held when it ended: a lot of it goes back in steps, and nobody gets any of it out of order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine import Engine, TakingConsumer, limits
from pabal.broker.queue import Queue
from pabal.model.message import Outcome


@pytest.fixture(autouse=True)
def two_in_a_turn() -> Iterator[None]:
    with limits(RETURN_MESSAGES_MAX=2):
        yield


@pytest.fixture
def engine(two_in_a_turn: None) -> Engine:
    return Engine()


def names(count: int, first: int = 1) -> list[str]:
    return [f"m{number}" for number in range(first, first + count)]


class Gone:
    """A channel with some consumers, which has ended. See returns.Leaver."""

    def __init__(self, engine: Engine, *consumers: TakingConsumer) -> None:
        self.held = [(consumer, message) for consumer in consumers for message in consumer.held]
        for consumer in consumers:
            consumer.queue.remove_consumer(consumer)
        engine.broker.returns.take(self, list(range(len(self.held))))

    def held_queues(self) -> list[Queue]:
        return [consumer.queue for consumer, _ in self.held]

    def give_back(self, deliveries: list[int]) -> None:
        for number in deliveries:
            consumer, message = self.held[number]
            consumer.held.remove(message)
            consumer.queue.settle([message], consumer, Outcome.RETURN)


def holder(engine: Engine, queue: Queue, count: int) -> TakingConsumer:
    """Of the first `count` messages of the queue."""
    engine.publish(*names(count), key=queue.name)
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.turn()
    assert consumer.names == names(count)
    return consumer


def test_each_turn_takes_some_of_them_back(engine: Engine) -> None:
    queue = engine.queue()
    Gone(engine, holder(engine, queue, 5))
    counts = []
    while engine.broker.unfinished:
        counts.append((queue.ready, queue.leased))
        engine.broker.dispatch()
    assert counts == [(0, 5), (2, 3), (4, 1)]
    assert engine.names() == names(5)


def test_a_few_go_back_at_once_but_not_many_times_a_few(engine: Engine) -> None:
    queues = [engine.queue(name) for name in "abc"]
    holders = [holder(engine, queue, 1) for queue in queues]
    for one in holders:
        Gone(engine, one)
    assert [queue.ready for queue in queues] == [1, 1, 0]
    engine.broker.dispatch()
    assert [queue.ready for queue in queues] == [1, 1, 1]
    assert not engine.broker.unfinished or not engine.broker.returns


def test_the_queue_hands_out_nothing_until_it_has_them_all(engine: Engine) -> None:
    queue = engine.queue()
    successor = TakingConsumer(queue, credit=4)
    gone = holder(engine, queue, 5)
    queue.add_consumer(successor)
    Gone(engine, gone)
    engine.publish(*names(3, 6))
    for _ in range(2):
        engine.broker.dispatch()
        assert not successor.taken
        assert engine.broker.consumers_busy
    engine.turn()
    assert successor.names == names(4)
    assert all(message.redelivered for message in successor.taken)
    successor.credit = 10
    queue.schedule()
    engine.turn()
    assert successor.names == names(8)
    assert not engine.broker.consumers_busy


def test_two_that_ended_give_back_to_the_same_queue(engine: Engine) -> None:
    queue, other = engine.queue(), engine.queue("other")
    first, second, third = (TakingConsumer(queue, str(number)) for number in range(3))
    for consumer in (first, second):
        queue.add_consumer(consumer)
    engine.publish(*names(8))
    elsewhere = holder(engine, other, 3)
    assert first.names == ["m1", "m3", "m5", "m7"]
    Gone(engine, first, elsewhere)
    Gone(engine, second)
    queue.add_consumer(third)
    other.add_consumer(third_elsewhere := TakingConsumer(other))
    for _ in range(4):
        engine.broker.dispatch()
    assert not third.taken, "the other's are not back"
    assert third_elsewhere.names == names(3)
    engine.turn()
    assert third.names == names(8)


def test_others_are_served_in_the_meantime(engine: Engine) -> None:
    queue, other = engine.queue(), engine.queue("other")
    reader = TakingConsumer(other)
    other.add_consumer(reader)
    Gone(engine, holder(engine, queue, 9))
    for turn in range(1, 4):
        engine.publish(f"m{turn}", key="other")
        engine.broker.dispatch()
        assert reader.names == names(turn)
    assert queue.leased == 3


def test_who_gets_one_gets_the_first(engine: Engine) -> None:
    queue = engine.queue()
    gone = holder(engine, queue, 5)
    engine.publish("m6")
    Gone(engine, gone)
    getter = TakingConsumer(queue)
    assert queue.get(getter) is not None
    assert getter.names == ["m1"]
    assert not engine.broker.returns


def test_who_gets_one_elsewhere_does_not_wait(engine: Engine) -> None:
    queue, other = engine.queue(), engine.queue("other")
    Gone(engine, holder(engine, queue, 5))
    assert other.get(TakingConsumer(other)) is None
    assert queue.leased == 5


def test_a_purge_takes_them_all(engine: Engine) -> None:
    queue = engine.queue()
    Gone(engine, holder(engine, queue, 5))
    assert queue.purge() == 5
    engine.turn()
    assert queue.empty


def test_a_queue_that_is_deleted_meanwhile_gets_nothing_back(engine: Engine) -> None:
    queue, other = engine.queue(owner=object()), engine.queue("other")
    Gone(engine, holder(engine, queue, 5), holder(engine, other, 2))
    engine.broker.dispatch()
    engine.vhost.delete_queue(queue)
    engine.turn()
    assert engine.names("other") == names(2)
    assert not engine.broker.returns.expected


@pytest.mark.parametrize("owner", [None, object()])
def test_dead_letters_are_not_lost_with_a_queue_that_is_deleted_meanwhile(engine: Engine, owner: object) -> None:
    engine.queue("dead")
    arguments = {"x_delivery_limit": 0, "x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
    queue = engine.queue(owner=owner, **arguments)
    Gone(engine, holder(engine, queue, 5))
    assert engine.vhost.delete_queue(queue) == 0
    engine.turn()
    assert engine.names("dead") == names(5)


def test_who_deletes_the_queue_is_told_of_all(engine: Engine) -> None:
    queue = engine.queue()
    Gone(engine, holder(engine, queue, 5))
    assert engine.vhost.delete_queue(queue) == 5


def test_leases_of_others_that_run_out_meanwhile_come_first(engine: Engine) -> None:
    queue = engine.queue(x_consumer_timeout=10)
    first, second, third = (TakingConsumer(queue, credit=credit) for credit in (1, 6, 0))
    for consumer in (first, second, third):
        queue.add_consumer(consumer)
    engine.publish(*names(7))
    engine.turn()
    assert first.names == ["m1"]
    Gone(engine, second)
    third.credit = 3
    engine.now_ms += 20
    engine.broker.begin(engine.now_ms)
    engine.broker.tick(engine.now_ms)
    engine.turn()
    assert third.names == names(3)


def test_leases_do_not_run_out_meanwhile(engine: Engine) -> None:
    """The end of the channel came first."""
    queue = engine.queue(x_consumer_timeout=10)
    gone, other = holder(engine, queue, 5), TakingConsumer(queue, credit=1)
    Gone(engine, gone)
    queue.add_consumer(other)
    engine.broker.dispatch()
    engine.now_ms += 20
    engine.broker.tick(engine.now_ms)
    assert not gone.lost
    engine.turn()
    assert other.names == ["m1"]
    assert (queue.ready, queue.leased) == (4, 1)
    engine.advance(11)
    assert other.lost, "the timer is set again"


@pytest.mark.parametrize("arguments", [{"x_max_length": 9}, {"x_max_length_bytes": 9000}])
def test_a_queue_with_a_length_limit_has_them_at_once(engine: Engine, arguments: dict[str, int]) -> None:
    """What it takes in may count against the limit, though a consumer would have room for it."""
    queue = engine.queue(**arguments)
    Gone(engine, holder(engine, queue, 5))
    assert queue.ready == 5


def test_a_queue_that_is_given_a_length_limit_meanwhile_has_them_at_once(engine: Engine) -> None:
    queue = engine.queue()
    Gone(engine, holder(engine, queue, 5))
    queue.change_arguments(engine.queue("limited", x_max_length=3).arguments)
    assert queue.ready == 3
    assert engine.names() == names(3, 3)


def test_a_queue_with_messages_that_expire_soon_has_them_at_once(engine: Engine) -> None:
    queue = engine.queue()
    gone = holder(engine, queue, 5)
    successor = TakingConsumer(queue)
    queue.add_consumer(successor)
    Gone(engine, gone)
    engine.publish("m6", ttl_ms=0)
    engine.broker.dispatch()
    assert successor.names == names(6)
