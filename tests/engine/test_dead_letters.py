"""Dead letters: where they go, with what history, and that a move is one step."""

from __future__ import annotations

from typing import Any

import pytest

from engine import PLAIN, Engine, TakingConsumer, name_of, reasons_of, small_windows
from pabal.broker.queue import Queue
from pabal.model.message import Outcome

TO_DEAD: dict[str, Any] = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}


@pytest.fixture
def engine() -> Engine:
    made = Engine()
    made.queue("dead")
    return made


def reject_all(engine: Engine, name: str) -> int:
    queue = engine.vhost.queues[name]
    consumer = TakingConsumer(queue)
    count = 0
    while (message := queue.get(consumer)) is not None and count < 1000:
        queue.settle([message], consumer, Outcome.REJECT)
        count += 1
    return count


def test_each_reason(engine: Engine) -> None:
    rejected = engine.queue("rejected", **TO_DEAD)
    engine.queue("expired", x_message_ttl=1, **TO_DEAD)
    engine.queue("maxlen", x_max_length=0, **TO_DEAD)
    limited = engine.queue("delivery_limit", x_delivery_limit=0, **TO_DEAD)
    engine.queue("lease_expired", x_delivery_limit=0, x_consumer_timeout=1, **TO_DEAD)
    for name in ("rejected", "expired", "maxlen", "delivery_limit", "lease_expired"):
        engine.publish(name, key=name)
    for queue, outcome in ((rejected, Outcome.REJECT), (limited, Outcome.RETURN)):
        consumer = TakingConsumer(queue)
        message = queue.get(consumer)
        assert message is not None
        queue.settle([message], consumer, outcome)
    hanging = engine.vhost.queues["lease_expired"]
    hanging.get(TakingConsumer(hanging))
    engine.turn()
    engine.advance(2)
    letters = {name_of(letter): letter for letter in engine.drain("dead")}
    assert {name: reasons_of(letter) for name, letter in letters.items()} == {
        name: [(name, name)] for name in ("rejected", "expired", "maxlen", "delivery_limit", "lease_expired")
    }
    [death] = PLAIN.deaths(letters["expired"].content)
    assert (death.exchange, death.routing_keys, death.time_ms) == ("", ("expired",), engine.now_ms)


def test_without_an_exchange_they_are_gone(engine: Engine) -> None:
    engine.queue("q")
    engine.queue("to nowhere", x_dead_letter_exchange="not there")
    engine.queue("to nobody", x_dead_letter_exchange="amq.direct")
    for key in ("q", "to nowhere", "to nobody"):
        engine.publish("m", key=key)
        assert reject_all(engine, key) == 1
    engine.commit()
    assert not any(engine.disk.messages.values())


def test_they_keep_their_key_unless_told_otherwise(engine: Engine) -> None:
    engine.exchange("dlx", "topic")
    engine.queue("kept")
    engine.queue("changed")
    engine.bind("dlx", "kept", "old.*")
    engine.bind("dlx", "changed", "new")
    engine.queue("one", x_dead_letter_exchange="dlx")
    engine.queue("two", x_dead_letter_exchange="dlx", x_dead_letter_routing_key="new")
    engine.exchange("in", "fanout")
    engine.bind("in", "one")
    engine.bind("in", "two")
    engine.publish("m", exchange="in", key="old.key")
    reject_all(engine, "one")
    reject_all(engine, "two")
    [kept] = engine.drain("kept")
    [changed] = engine.drain("changed")
    assert (kept.envelope.exchange, kept.envelope.routing_key) == ("dlx", "old.key")
    assert (changed.envelope.exchange, changed.envelope.routing_key) == ("dlx", "new")


def test_their_own_expiry_ends_with_the_first_death(engine: Engine) -> None:
    engine.queue("q", **TO_DEAD)
    engine.publish("m", ttl_ms=10)
    engine.turn()
    engine.advance(11)
    assert engine.vhost.queues["dead"].ready == 1
    engine.advance(100_000)
    [letter] = engine.drain("dead")
    assert letter.expires_at_ms == 0
    assert PLAIN.deaths(letter.content)[0].original_ttl == "10"
    assert PLAIN.ttl(letter.content) is None


def test_the_time_to_live_of_the_dead_letter_queue_counts(engine: Engine) -> None:
    engine.queue("parking", x_message_ttl=50, x_dead_letter_exchange="", x_dead_letter_routing_key="work")
    work = engine.queue("work", x_dead_letter_exchange="", x_dead_letter_routing_key="parking")
    engine.publish("m", key="work")
    for rounds in range(1, 4):
        assert reject_all(engine, "work") == 1
        engine.turn()
        engine.advance(51)
        assert work.ready == 1, "retried: rejections make it no circle"
        consumer = TakingConsumer(work)
        message = work.get(consumer)
        assert message is not None
        assert reasons_of(message) == [("parking", "expired"), ("work", "rejected")] * rounds
        work.settle([message], consumer, Outcome.RETURN)


def test_a_circle_without_a_rejection_ends(engine: Engine) -> None:
    engine.queue("one", x_message_ttl=10, x_dead_letter_exchange="", x_dead_letter_routing_key="two")
    engine.queue("two", x_message_ttl=10, x_dead_letter_exchange="", x_dead_letter_routing_key="one")
    engine.publish("m", key="one")
    engine.turn()
    for _ in range(5):
        engine.advance(11)
    assert [engine.vhost.queues[name].ready for name in ("one", "two")] == [0, 0]
    engine.commit()
    assert not any(engine.disk.messages.values())


def test_a_queue_that_is_its_own_dead_letter_queue(engine: Engine) -> None:
    queue = engine.queue("q", x_max_length=2, x_dead_letter_exchange="", x_dead_letter_routing_key="q")
    engine.publish("m1", "m2", "m3", "m4")
    assert queue.ready == 2, "dropped ones do not come back: a circle"
    consumer = TakingConsumer(queue)
    message = queue.get(consumer)
    assert message is not None
    queue.settle([message], consumer, Outcome.REJECT)
    assert engine.names() == ["m4", "m3"], "a rejected one does, at the end"


def test_who_rejects_has_room_again_when_that_comes_round_to_its_own_queue(engine: Engine) -> None:
    """So nothing is dropped from the front of the queue meanwhile."""
    engine.queue("round", x_max_length=0, x_dead_letter_exchange="", x_dead_letter_routing_key="q")
    queue = engine.queue("q", x_max_length=2, x_dead_letter_exchange="", x_dead_letter_routing_key="round")
    rejecter, other = TakingConsumer(queue, credit=2), TakingConsumer(queue, credit=1)
    queue.add_consumer(rejecter)
    queue.add_consumer(other)
    engine.publish("m1", "m2", "m3", "m4", "m5")
    engine.turn()
    assert (rejecter.names, other.names, queue.ready) == (["m1", "m3"], ["m2"], 2)
    queue.settle(list(rejecter.held), rejecter, Outcome.REJECT)
    engine.turn()
    assert rejecter.names == ["m1", "m3", "m4", "m5"]
    assert engine.names("q") == ["m1", "m3"]


def test_a_full_dead_letter_queue_refuses_nothing(engine: Engine) -> None:
    full = engine.queue("full", x_max_length=1, x_overflow="reject-publish")
    engine.queue("q", x_dead_letter_exchange="", x_dead_letter_routing_key="full")
    engine.publish("m1", "m2", "m3")
    assert reject_all(engine, "q") == 3
    assert full.ready == 3


def test_a_long_chain_of_full_queues_takes_no_stack(engine: Engine) -> None:
    count = 2000
    for number in range(count):
        engine.queue(
            f"q{number}", x_max_length=1, x_dead_letter_exchange="", x_dead_letter_routing_key=f"q{number + 1}"
        )
        engine.publish(f"m{number}", key=f"q{number}")
    engine.publish("push", key="q0")
    assert engine.names("q0") == ["push"]
    assert engine.names(f"q{count - 1}") == [f"m{count - 2}"]


@pytest.mark.parametrize("outcome", [Outcome.REJECT, Outcome.RETURN])
def test_a_move_is_one_commit(outcome: Outcome) -> None:
    """At whatever moment the broker goes down, the message is in one queue or in the other."""
    for crash_at in ("before begin", "before finish", "after finish"):
        with small_windows():
            engine = Engine()
            engine.queue("dead")
            queue: Queue = engine.queue("q", x_delivery_limit=0, **TO_DEAD)
            engine.publish("m1", "m2", "m3")
            engine.commit()
            consumer = TakingConsumer(queue, credit=1)
            queue.add_consumer(consumer)
            engine.turn()
            consumer.credit = 0
            queue.settle([consumer.held[0]], consumer, outcome)
            engine.turn()
            if crash_at != "before begin":
                engine.store.begin()
            if crash_at == "after finish":
                engine.store.finish()
            engine.restart()
            moved = crash_at == "after finish"
            assert engine.names("q") == (["m2", "m3"] if moved else ["m1", "m2", "m3"])
            assert engine.names("dead") == (["m1"] if moved else [])


def test_a_dead_letter_is_as_persistent_as_it_was(engine: Engine) -> None:
    engine.queue("q", **TO_DEAD)
    engine.publish("kept")
    engine.publish("transient", persistent=False)
    reject_all(engine, "q")
    engine.commit()
    engine.restart()
    assert engine.names("dead") == ["kept"]


def test_letters_keep_their_order(engine: Engine) -> None:
    with small_windows():
        engine.queue("q", x_message_ttl=10, **TO_DEAD)
        names = [f"m{number}" for number in range(30)]
        engine.publish(*names)
        engine.commit()
        engine.advance(11)
        engine.commit()
        assert engine.names("dead") == names


def test_a_settle_of_many_at_once(engine: Engine) -> None:
    queue = engine.queue("q", **TO_DEAD)
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.publish(*[f"m{number}" for number in range(5)])
    engine.turn()
    queue.settle(consumer.held[1:4], consumer, Outcome.REJECT)
    queue.settle([consumer.held[0], consumer.held[4]], consumer, Outcome.RETURN)
    consumer.credit = 0
    assert engine.names("dead") == ["m1", "m2", "m3"]
    assert engine.names("q") == ["m0", "m4"]


def test_copies_are_kept_with_the_key_and_go_with_it(engine: Engine) -> None:
    from engine import content, envelope

    engine.exchange("dlx", "direct")
    for name in ("first", "second"):
        engine.queue(name)
        engine.bind("dlx", name, name)
    engine.queue("keeps", x_dead_letter_exchange="dlx")
    engine.queue("changes", x_dead_letter_exchange="dlx", x_dead_letter_routing_key="first")
    engine.bind("amq.direct", "keeps", "first")
    engine.bind("amq.direct", "changes", "first")
    body = content("m", copies=("second",))
    engine.vhost.publish(envelope("amq.direct", "first", copies=("second",)), [body], len(body))
    assert reject_all(engine, "keeps") == 1
    assert (engine.names("first"), engine.names("second")) == (["m"], ["m"])
    assert reject_all(engine, "changes") == 1
    assert (engine.names("first"), engine.names("second")) == (["m"], [])
