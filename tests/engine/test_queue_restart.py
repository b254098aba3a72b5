"""The queue over a restart, and its declaration: what is there again, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Engine, TakingConsumer, content, envelope, name_of, small_windows
from pabal.model.errors import AccessRefused, Locked, PreconditionFailed
from pabal.model.message import Outcome


@pytest.fixture
def engine() -> Engine:
    return Engine()


def names(count: int, first: int = 1) -> list[str]:
    return [f"m{number}" for number in range(first, first + count)]


# --- Restart ------------------------------------------------------------------------------------------------


def test_what_was_leased_is_there_again_in_its_place(engine: Engine) -> None:
    with small_windows():
        queue = engine.queue()
        consumer = TakingConsumer(queue, credit=3)
        queue.add_consumer(consumer)
        engine.publish(*names(6))
        engine.turn()
        engine.commit()
        queue.settle([consumer.held[1]], consumer, Outcome.ACCEPT)
        engine.commit()
        engine.restart()
        drained = engine.drain()
        assert [(name_of(m), m.redelivered) for m in drained] == [
            ("m1", True),
            ("m3", True),
            ("m4", False),
            ("m5", False),
            ("m6", False),
        ]


def test_a_delivery_in_one_batch_with_a_transient_one_is_remembered(engine: Engine) -> None:
    queue = engine.queue()
    queue.add_consumer(TakingConsumer(queue))
    engine.publish("kept")
    engine.publish("transient", persistent=False)
    engine.turn()
    engine.commit()
    engine.restart()
    assert [(name_of(m), m.redelivered) for m in engine.drain()] == [("kept", True)]


def test_transient_messages_and_queues_end_with_the_process(engine: Engine) -> None:
    engine.queue("durable")
    engine.queue("brief", durable=False)
    engine.queue("mine", owner=object())
    for key in ("durable", "brief", "mine"):
        engine.publish("kept", key=key)
        engine.publish("transient", key=key, persistent=False)
    engine.commit()
    engine.restart()
    assert set(engine.vhost.queues) == {"durable"}
    assert engine.names("durable") == ["kept"]


def test_a_brief_queue_that_paged_leaves_nothing_behind(engine: Engine) -> None:
    with small_windows():
        engine.queue("brief", durable=False)
        engine.publish(*names(3), key="brief")
        engine.publish(*names(10, 4), key="brief")
        engine.commit()
        assert any(engine.disk.messages.values())
        engine.restart()
        engine.commit()
        assert not any(engine.disk.messages.values())
        queue = engine.queue("brief", durable=False)
        assert queue.ready == 0


def test_a_queue_deleted_and_made_again_in_one_turn_is_a_new_one(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("old")
    engine.commit()
    engine.vhost.delete_queue(queue)
    engine.queue()
    engine.publish("new")
    engine.commit()
    engine.restart()
    assert engine.names() == ["new"]


def test_a_purge_leaves_what_is_leased(engine: Engine) -> None:
    with small_windows():
        queue = engine.queue()
        consumer = TakingConsumer(queue, credit=2)
        queue.add_consumer(consumer)
        engine.publish(*names(4))
        engine.publish(*names(4, 5))
        engine.turn()
        engine.commit()
        assert queue.purge() == 6
        engine.publish("after")
        engine.turn()
        engine.commit()
        assert (queue.ready, queue.leased) == (1, 2)
        queue.settle([consumer.held[0]], consumer, Outcome.RETURN)
        engine.commit()
        engine.restart()
        assert engine.names() == ["m1", "m2", "after"]


# --- Declaring ----------------------------------------------------------------------------------------------


def test_declaring_again(engine: Engine) -> None:
    queue = engine.queue(x_max_length=3)
    assert engine.queue(x_max_length=3) is queue
    for options in ({}, {"x_max_length": 4}, {"x_max_length": 3, "x_message_ttl": 1}):
        with pytest.raises(PreconditionFailed, match="inequivalent arg"):
            engine.queue(**options)
    with pytest.raises(PreconditionFailed, match="durable"):
        engine.queue(durable=False, x_max_length=3)
    with pytest.raises(AccessRefused):
        engine.queue("amq.mine")


def test_an_exclusive_queue_is_its_owners(engine: Engine) -> None:
    owner = object()
    queue = engine.queue(owner=owner)
    assert engine.vhost.queue("q", owner) is queue
    with pytest.raises(Locked):
        engine.vhost.queue("q", object())
    with pytest.raises(Locked):
        engine.queue()
    engine.broker.release(owner)
    assert "q" not in engine.vhost.queues


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"x-message-ttl": -1},
    {"x-message-ttl": "10"},
    {"x-message-ttl": True},
    {"x-message-ttl": 315_360_000_001},
    {"x-expires": 0},
    {"x-max-length": -1},
    {"x-max-length": 1.5},
    {"x-overflow": "drop-tail"},
    {"x-overflow": 1},
    {"x-dead-letter-exchange": 1},
    {"x-dead-letter-routing-key": "k"},
    {"x-consumer-timeout": 0},
    {"x-queue-type": "stream"},
    {"x-queue-type": 1},
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
def test_arguments_that_make_no_sense_are_refused_and_make_no_queue(
    engine: Engine, arguments: dict[str, Any]
) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        engine.vhost.declare_queue("q", True, False, False, arguments, None)
    assert next(iter(arguments)) in str(caught.value)
    assert "q" not in engine.vhost.queues
    engine.commit()
    engine.restart()
    assert "q" not in engine.vhost.queues


def test_names_of_the_brokers_making(engine: Engine) -> None:
    first, second = (engine.vhost.declare_queue("", False, False, False, {}, None)[0] for _ in range(2))
    assert first.name != second.name
    assert first.name.startswith("amq.gen-")


def test_content_bytes_of_one_publish_may_go_to_many_queues(engine: Engine) -> None:
    for name in ("a", "b"):
        engine.queue(name)
        engine.bind("amq.fanout", name)
    bodies = [content("m1"), content("m2")]
    engine.vhost.publish(envelope("amq.fanout"), bodies, sum(map(len, bodies)))
    engine.commit()
    engine.restart()
    assert engine.names("a") == engine.names("b") == ["m1", "m2"]
