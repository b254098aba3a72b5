"""What queues, exchanges and vhosts count: exactly what happened to messages."""

from __future__ import annotations

import pytest

from engine import Engine, TakingConsumer
from pabal.broker.queue import Queue
from pabal.broker.statistics import COUNTED, Counters
from pabal.model.message import Outcome


@pytest.fixture
def engine() -> Engine:
    return Engine()


def counted(counters: Counters) -> dict[str, int]:
    """What is not zero."""
    return {name: value for name, value in zip(COUNTED, counters.values(), strict=True) if value}


def consume(engine: Engine, queue: Queue, credit: int = 10**6, auto: bool = False) -> TakingConsumer:
    consumer = TakingConsumer(queue, "c", credit, auto)
    consumer.counters = Counters()
    queue.add_consumer(consumer)
    engine.turn()
    return consumer


def test_values_are_in_the_order_of_their_names() -> None:
    counters = Counters()
    for place, name in enumerate(COUNTED):
        setattr(counters, name, place)
    assert counters.values() == tuple(range(len(COUNTED)))


def test_publish_deliver_acknowledge(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("a", "b", "c")
    consumer = consume(engine, queue, credit=2)
    assert consumer.counters is not None
    size = sum(len(message.content) for message in consumer.held)
    assert (queue.leased_bytes, queue.backlog.ready_bytes) == (size, size // 2)
    queue.settle(consumer.held[:1], consumer, Outcome.ACCEPT)
    assert counted(queue.counters) == {"publish": 3, "deliver": 2, "ack": 1}
    assert counted(consumer.counters) == {"deliver": 2, "ack": 1}
    assert counted(engine.vhost.counters) == {"publish": 3, "publish_out": 3, "deliver": 2, "ack": 1}
    assert counted(engine.vhost.exchanges[""].counters) == {"publish": 3, "publish_out": 3}
    queue.settle(consumer.held[1:2], consumer, Outcome.ACCEPT)
    assert queue.leased_bytes == 0


def test_automatic_settlement_is_counted_apart(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("a", "b")
    consumer = consume(engine, queue, auto=True)
    assert consumer.counters is not None
    assert counted(queue.counters) == {"publish": 2, "deliver_no_ack": 2}
    assert counted(consumer.counters) == {"deliver_no_ack": 2}
    assert queue.leased_bytes == 0


@pytest.mark.parametrize("outcome", [Outcome.RETURN, Outcome.RELEASE])
def test_what_comes_back_is_redelivered_and_not_acknowledged(engine: Engine, outcome: Outcome) -> None:
    queue = engine.queue()
    engine.publish("a", "b", "c")
    consumer = consume(engine, queue, credit=2)
    queue.settle(consumer.held[:2], consumer, outcome)
    consumer.held.clear()
    engine.turn()
    assert counted(queue.counters) == {"publish": 3, "deliver": 4, "redeliver": 2}
    consumer.credit = 3
    queue.schedule()
    engine.turn()
    assert counted(queue.counters) == {"publish": 3, "deliver": 5, "redeliver": 2}  # c comes for the first time


def test_get(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("a", "b")
    for auto in (False, True, True):
        getter = TakingConsumer(queue, "g", auto=auto)
        getter.asked = True
        queue.get(getter)
    assert counted(queue.counters) == {"publish": 2, "get": 1, "get_no_ack": 1, "get_empty": 1}
    assert counted(engine.vhost.counters) == {
        "publish": 2,
        "publish_out": 2,
        "get": 1,
        "get_no_ack": 1,
        "get_empty": 1,
    }


def test_redelivered_after_a_restart(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("a", "b", "c")
    consume(engine, queue, credit=2)
    engine.commit()
    engine.restart()
    queue = engine.vhost.queues["q"]
    consume(engine, queue)
    assert counted(queue.counters) == {"deliver": 3, "redeliver": 2}


def test_an_exchange_counts_in_and_out(engine: Engine) -> None:
    for name in ("one", "two"):
        engine.queue(name)
        engine.bind("amq.fanout", name)
    engine.publish("a", "b", exchange="amq.fanout", key="")
    exchange = engine.vhost.exchanges["amq.fanout"]
    assert counted(exchange.counters) == {"publish": 2, "publish_out": 4}
    assert counted(engine.vhost.counters) == {"publish": 2, "publish_out": 4}
    assert [counted(engine.vhost.queues[name].counters) for name in ("one", "two")] == [{"publish": 2}] * 2


def test_an_exchange_that_looks_at_each_message_counts_the_same(engine: Engine) -> None:
    engine.queue()
    engine.bind("amq.headers", "q", arguments={"x-match": "all"})
    engine.publish("a", "b", exchange="amq.headers", key="")
    engine.publish("c", exchange="amq.match", key="")
    assert counted(engine.vhost.exchanges["amq.headers"].counters) == {"publish": 2, "publish_out": 2}
    assert counted(engine.vhost.exchanges["amq.match"].counters) == {"publish": 1}
    assert counted(engine.vhost.queues["q"].counters) == {"publish": 2}
    assert counted(engine.vhost.counters) == {"publish": 3, "publish_out": 2}


def test_unroutable_ones_came_in_and_did_not_go_out(engine: Engine) -> None:
    engine.publish("a", exchange="amq.fanout", key="")
    engine.publish("b", exchange="amq.fanout", key="")
    assert counted(engine.vhost.exchanges["amq.fanout"].counters) == {"publish": 2}
    assert counted(engine.vhost.counters) == {"publish": 2}


def test_dead_letters_by_reason(engine: Engine) -> None:
    engine.queue("dead")
    queue = engine.queue(x_dead_letter_exchange="", x_dead_letter_routing_key="dead", x_max_length=3)
    engine.publish("a", "b", "c", "d", ttl_ms=1000)
    consumer = consume(engine, queue, credit=1)
    queue.settle(consumer.held[:1], consumer, Outcome.REJECT)
    queue.remove_consumer(consumer)
    engine.advance(2000)
    assert engine.broker.statistics.dead_letters == {
        ("maxlen", "at_most_once"): 1,
        ("rejected", "at_most_once"): 1,
        ("expired", "at_most_once"): 2,
    }
    assert counted(queue.counters) == {"publish": 4, "deliver": 1, "dead_letter": 4}
    dead = engine.vhost.queues["dead"]
    assert dead.ready == 4
    assert counted(dead.counters) == {}  # no client published them, as in RabbitMQ


def test_what_dies_without_a_dead_letter_exchange_is_counted_too(engine: Engine) -> None:
    queue = engine.queue(x_message_ttl=10)
    engine.publish("a")
    engine.advance(20)
    assert engine.broker.statistics.dead_letters == {("expired", "disabled"): 1}
    assert counted(queue.counters) == {"publish": 1, "dead_letter": 1}


def test_leases_that_run_out(engine: Engine) -> None:
    queue = engine.queue(x_consumer_timeout=5000)
    engine.publish("a", "b")
    consumer = consume(engine, queue, credit=2)
    engine.advance(6000)
    assert (queue.expired_leases, engine.broker.statistics.leases_expired) == (2, 2)
    assert queue.leased == 0
    queue.late(consumer)
    assert engine.broker.statistics.late_settlements == 1


def test_churn(engine: Engine) -> None:
    engine.queue("one")
    engine.queue("one")
    engine.vhost.delete_queue(engine.queue("two"))
    owner = object()
    engine.vhost.connect(owner, "guest")
    engine.vhost.disconnect(owner)
    engine.vhost.disconnect(owner)
    statistics = engine.broker.statistics
    assert (statistics.queues_declared, statistics.queues_created, statistics.queues_deleted) == (3, 2, 1)
    assert (statistics.connections_opened, statistics.connections_closed) == (1, 1)
