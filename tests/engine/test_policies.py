"""Policies in the engine: which one an object has, what is in force, and living queues that take it on."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Engine, TakingConsumer, name_of, reasons_of, small_windows
from pabal.broker.queue import Queue
from pabal.model.definitions import PolicyDefinition
from pabal.model.errors import InvalidParameter, NotAllowed, NotFound, PreconditionFailed, StoreError
from pabal.model.message import Outcome
from pabal.model.policies import APPLY_TO, KEYS

LETTERS = "abcdefgh"


@pytest.fixture
def engine() -> Engine:
    return Engine()


def policy(pattern: str = "", name: str = "p", **options: Any) -> PolicyDefinition:
    """`max_length=3` for the key max-length."""
    fields = {
        key: options.pop(key) for key in ("priority", "apply_to", "operator", "from_settings") if key in options
    }
    definition = {key.replace("_", "-"): value for key, value in options.items()}
    return PolicyDefinition("/", name, pattern, definition, **fields)


def put(engine: Engine, pattern: str = "", name: str = "p", **options: Any) -> None:
    engine.broker.put_policy(policy(pattern, name, **options))


def delete(engine: Engine, name: str = "p", operator: bool = False) -> None:
    engine.broker.delete_policy("/", name, operator)


def error_of(**options: Any) -> str:
    with pytest.raises(InvalidParameter) as caught:
        put(Engine(), **options)
    return str(caught.value)


# --- Which policy ------------------------------------------------------------------------------------------------


def test_the_pattern_is_found_anywhere_in_the_name(engine: Engine) -> None:
    put(engine, "or.er", max_length=1)
    assert engine.queue("new-orders").arguments.max_length == 1
    assert engine.queue("others").arguments.max_length is None


def test_an_anchored_pattern_says_where(engine: Engine) -> None:
    put(engine, "^orders$", max_length=1)
    assert engine.queue("orders").arguments.max_length == 1
    assert engine.queue("new-orders").arguments.max_length is None


def test_only_the_highest_priority_counts(engine: Engine) -> None:
    queue = engine.queue()
    put(engine, name="low", max_length=1, message_ttl=5)
    put(engine, name="high", max_length=9, priority=1)
    assert (queue.arguments.max_length, queue.arguments.message_ttl_ms) == (9, None)
    delete(engine, "high")
    assert (queue.arguments.max_length, queue.arguments.message_ttl_ms) == (1, 5)


def test_among_equals_the_first_name_counts_whatever_came_first(engine: Engine) -> None:
    put(engine, name="b", max_length=2)
    put(engine, name="a", max_length=1)
    put(engine, name="c", max_length=3)
    assert engine.queue().arguments.max_length == 1


@pytest.mark.parametrize("apply_to", APPLY_TO)
def test_what_a_policy_applies_to(engine: Engine, apply_to: str) -> None:
    engine.exchange("x")
    classic, quorum = engine.queue("c"), engine.queue("q", x_queue_type="quorum")
    put(engine, apply_to=apply_to, max_length=1, alternate_exchange="amq.fanout")
    assert (classic.arguments.max_length == 1) is (apply_to in ("all", "queues", "classic_queues"))
    assert (quorum.arguments.max_length == 1) is (apply_to in ("all", "queues", "quorum_queues"))
    assert (engine.vhost.exchanges["x"].alternate is not None) is (apply_to in ("all", "exchanges"))


def test_a_policy_with_a_key_of_another_queue_type_gives_way_to_the_next(engine: Engine) -> None:
    classic, quorum = engine.queue("c"), engine.queue("q", x_queue_type="quorum")
    put(engine, name="next", max_length=5)
    put(engine, name="quorum", max_length=2, delivery_limit=3, priority=1)
    assert (classic.arguments.max_length, quorum.arguments.max_length) == (5, 2)
    put(engine, name="quorum", max_length=2, queue_mode="lazy", priority=1)
    assert (classic.arguments.max_length, quorum.arguments.max_length) == (2, 5)
    put(engine, name="quorum", max_length=2, max_age="1D", priority=1)
    assert (classic.arguments.max_length, quorum.arguments.max_length) == (5, 5)


def test_a_policy_is_for_its_vhost(engine: Engine) -> None:
    engine.broker.add_vhost("other")
    put(engine, max_length=1)
    queue, _ = engine.broker.vhosts["other"].declare_queue("q", True, False, False, {}, None)
    assert queue.arguments.max_length is None


# --- What is in force --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["message-ttl", "expires", "max-length", "max-length-bytes", "consumer-timeout"])
@pytest.mark.parametrize(("argument", "limit", "expected"), [(5, 9, 5), (9, 5, 5), (None, 5, 5), (7, 7, 7)])
def test_the_lower_number_is_in_force(
    engine: Engine, key: str, argument: int | None, limit: int, expected: int
) -> None:
    queue = engine.queue(**{} if argument is None else {f"x-{key}": argument})
    put(engine, **{key: limit})
    a = queue.arguments
    values = (a.message_ttl_ms, a.expires_ms, a.max_length, a.max_length_bytes, a.lease_ms)
    assert [value for value in values if value is not None] == [expected]


def test_the_argument_comes_before_the_name_in_a_policy(engine: Engine) -> None:
    queue = engine.queue(x_dead_letter_exchange="mine")
    put(engine, dead_letter_exchange="theirs", dead_letter_routing_key="key")
    assert queue.arguments.dead_letter_exchange == "mine"
    assert queue.arguments.dead_letter_routing_key == "key"


@pytest.mark.parametrize(
    ("kind", "argument", "by_policy", "expected"),
    [
        ("classic", "reject-publish", "drop-head", "reject-publish"),
        ("classic", "drop-head", "reject-publish", "drop-head"),
        ("classic", None, "reject-publish-dlx", "reject-publish-dlx"),
        ("quorum", "reject-publish", "drop-head", "drop-head"),
        ("quorum", None, "reject-publish", "reject-publish"),
        ("quorum", None, "reject-publish-dlx", "drop-head"),
    ],
)
def test_overflow_goes_by_the_type_of_the_queue(
    engine: Engine, kind: str, argument: str | None, by_policy: str, expected: str
) -> None:
    queue = engine.queue(x_queue_type=kind, **{} if argument is None else {"x_overflow": argument})
    put(engine, overflow=by_policy)
    assert queue.arguments.overflow == expected


@pytest.mark.parametrize(
    ("argument", "limit", "expected"), [(3, 5, 3), (5, 3, 3), (None, 3, 3), (3, -1, 3), (None, -1, None)]
)
def test_a_delivery_limit_below_zero_is_none(
    engine: Engine, argument: int | None, limit: int, expected: int | None
) -> None:
    queue = engine.queue(x_queue_type="quorum", **{} if argument is None else {"x_delivery_limit": argument})
    put(engine, delivery_limit=limit)
    assert queue.arguments.delivery_limit == expected


@pytest.mark.parametrize(
    ("user", "operator", "expected"),
    [
        ({"max_length": 5}, {"max_length": 3}, (3, None, "drop-head")),
        ({"max_length": 3}, {"max_length": 5}, (3, None, "drop-head")),
        ({"max_length": 3}, {"message_ttl": 9}, (3, 9, "drop-head")),
        ({"overflow": "drop-head"}, {"overflow": "reject-publish"}, (None, None, "reject-publish")),
    ],
)
def test_an_operators_policy_limits_the_other(
    engine: Engine, user: dict[str, Any], operator: dict[str, Any], expected: tuple[int, int, str]
) -> None:
    queue = engine.queue()
    put(engine, **user)
    put(engine, operator=True, **operator)
    a = queue.arguments
    assert (a.max_length, a.message_ttl_ms, a.overflow) == expected
    delete(engine)
    delete(engine, operator=True)
    assert queue.arguments == queue.declared


@pytest.mark.parametrize(("user", "operator", "expected"), [(3, 5, 3), (5, 3, 3), (-1, 5, 5), (5, -1, 5)])
def test_the_more_cautious_of_two_delivery_limits(engine: Engine, user: int, operator: int, expected: int) -> None:
    queue = engine.queue(x_queue_type="quorum")
    put(engine, delivery_limit=user)
    put(engine, operator=True, delivery_limit=operator)
    assert queue.arguments.delivery_limit == expected


def test_it_can_be_said_which_policies_a_queue_has(engine: Engine) -> None:
    put(engine, max_length=5)
    put(engine, operator=True, name="o", max_length=3, expires=10)
    applied = engine.vhost.policies.for_queue("q", "classic")
    assert applied.policy is not None
    assert applied.operator_policy is not None
    assert (applied.policy.name, applied.operator_policy.name) == ("p", "o")
    assert applied.definition == {"max-length": 3, "expires": 10}


def test_a_declaration_is_compared_with_what_was_declared(engine: Engine) -> None:
    put(engine, max_length=1)
    queue = engine.queue()
    assert engine.queue() is queue
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'x-max-length'"):
        engine.queue(x_max_length=1)


# --- Living queues -----------------------------------------------------------------------------------------------


def test_what_is_too_much_goes_at_once_to_where_the_same_policy_says(engine: Engine) -> None:
    engine.queue("dead")
    engine.queue()
    engine.publish(*LETTERS)
    engine.turn()
    put(engine, "^q$", max_length=3, dead_letter_exchange="", dead_letter_routing_key="dead")
    dead = engine.drain("dead")
    assert [name_of(m) for m in dead] == list("abcde")
    assert {tuple(reasons_of(m)) for m in dead} == {(("q", "maxlen"),)}
    engine.publish("i")
    assert engine.names() == list("ghi")
    assert engine.names("dead") == ["f"]


def test_what_consumers_have_room_for_is_not_too_much(engine: Engine) -> None:
    queue = engine.queue()
    consumer = TakingConsumer(queue, credit=4)
    queue.add_consumer(consumer)
    engine.publish(*LETTERS)
    put(engine, max_length=1)
    assert consumer.names == list("abcd")
    assert engine.names() == ["h"]


def test_a_limit_that_is_gone_limits_nothing(engine: Engine) -> None:
    engine.queue()
    put(engine, max_length=1)
    delete(engine)
    engine.publish(*LETTERS)
    assert engine.names() == list(LETTERS)


def test_a_full_queue_refuses_as_the_policy_says(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("a", "b", "c")
    put(engine, max_length=2, overflow="reject-publish")
    assert queue.ready == 3, "what is there stays"
    assert engine.publish("d").refused == [0]


def test_several_policies_change_in_one_step(engine: Engine) -> None:
    """With one after the other the queue would be limited to 1 for a moment, and lose its messages."""
    put(engine, name="low", max_length=1)
    before = policy(name="before", max_length=100, priority=5)
    engine.broker.put_policy(before)
    queue = engine.queue()
    engine.publish(*LETTERS)
    engine.broker.change_policies([policy(name="after", max_length=50, priority=5)], [before])
    assert queue.ready == 8
    assert queue.arguments.max_length == 50


def test_if_one_of_several_cannot_be_none_is(engine: Engine) -> None:
    queue = engine.queue()
    with pytest.raises(InvalidParameter):
        engine.broker.change_policies([policy(name="good", max_length=1), policy(name="bad", max_length=-1)])
    assert queue.arguments.max_length is None
    assert not engine.vhost.policies.definitions


def test_a_time_to_live_is_for_what_comes_from_now_on(engine: Engine) -> None:
    engine.queue()
    engine.publish("a")
    put(engine, message_ttl=100)
    engine.publish("b", "c")
    engine.turn()
    engine.advance(1000)
    assert engine.names() == ["a"]
    engine.publish("d")
    delete(engine)
    engine.publish("e")
    engine.turn()
    engine.advance(1000)
    assert engine.names() == ["e"]


def test_a_queue_expires_as_long_after_the_policy_came(engine: Engine) -> None:
    engine.queue()
    engine.advance(10_000)
    put(engine, expires=1000)
    engine.advance(999)
    assert "q" in engine.vhost.queues
    engine.advance(1)
    assert "q" not in engine.vhost.queues


def test_a_queue_does_not_expire_when_the_policy_is_gone(engine: Engine) -> None:
    engine.queue()
    put(engine, expires=1000)
    engine.advance(500)
    delete(engine)
    engine.advance(10_000)
    assert "q" in engine.vhost.queues


def leased(engine: Engine, queue: Queue, *names: str) -> TakingConsumer:
    consumer = TakingConsumer(queue, credit=len(names))
    queue.add_consumer(consumer)
    engine.publish(*names)
    engine.turn()
    return consumer


def test_leases_get_an_end(engine: Engine) -> None:
    queue = engine.queue()
    before = leased(engine, queue, "a")
    put(engine, consumer_timeout=1000)
    after = leased(engine, queue, "b")
    engine.advance(1000)
    assert (before.names, before.lost) == (["a"], []), "what had no end keeps none"
    assert [name_of(m) for m in after.lost] == ["b"]


def test_leases_get_shorter(engine: Engine) -> None:
    queue = engine.queue(x_consumer_timeout=60_000)
    leased(engine, queue, "a")
    put(engine, consumer_timeout=1000)
    after = leased(engine, queue, "b")
    engine.advance(1000)
    assert [name_of(m) for m in after.lost] == ["b"]


def test_leases_get_longer(engine: Engine) -> None:
    queue = engine.queue()
    put(engine, consumer_timeout=1000)
    before = leased(engine, queue, "a")
    put(engine, consumer_timeout=5000)
    after = leased(engine, queue, "b")
    engine.advance(1000)
    assert [name_of(m) for m in before.lost] == ["a"]
    engine.advance(3999)
    assert not after.lost
    engine.advance(1)
    assert [name_of(m) for m in after.lost] == ["b"]


def test_a_delivery_limit_comes_and_its_count_survives(engine: Engine) -> None:
    engine.queue("dead")
    queue = engine.queue(x_queue_type="quorum")
    put(engine, "^q$", delivery_limit=1, dead_letter_exchange="", dead_letter_routing_key="dead")
    engine.publish("a")
    consumer = TakingConsumer(queue, "get")
    message = queue.get(consumer)
    assert message is not None
    queue.settle([message], consumer, Outcome.RETURN)
    engine.commit()
    engine.restart()
    queue = engine.vhost.queues["q"]
    consumer = TakingConsumer(queue, "get")
    message = queue.get(consumer)
    assert message is not None
    assert message.attempts == 1
    queue.settle([message], consumer, Outcome.RETURN)
    assert [reasons_of(m) for m in engine.drain("dead")] == [[("q", "delivery_limit")]]


@pytest.mark.plain
def test_a_queue_that_nothing_changes_for_does_not_notice(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = engine.queue(x_max_length=3)
    monkeypatch.setattr(Queue, "change_arguments", lambda *_: pytest.fail("there is nothing to change"))
    put(engine, max_length=5)
    put(engine, "^other", max_length=1)
    assert queue.arguments.max_length == 3


# --- Bytes -------------------------------------------------------------------------------------------------------


def publish_singly(engine: Engine, names: str) -> None:
    """So that with small windows the later ones are on disk once they are committed."""
    for name in names:
        engine.publish(name)


def body_bytes(queue: Queue) -> int:
    return sum(m.envelope.container.body_bytes(m.content) for m in queue.backlog.scan())


@pytest.mark.parametrize("committed", [0, 5, 8])
@pytest.mark.parametrize("priorities", [{}, {"x_max_priority": 3}])
def test_a_limit_in_bytes_counts_what_is_there_on_disk_too(
    engine: Engine, committed: int, priorities: dict[str, int]
) -> None:
    with small_windows():
        queue = engine.queue(**priorities)
        publish_singly(engine, LETTERS[:committed])
        engine.commit()
        publish_singly(engine, LETTERS[committed:])
        engine.turn()
        size = body_bytes(queue) // len(LETTERS)
        put(engine, max_length_bytes=3 * size)
        assert queue.ready == 3
        assert queue.body_bytes == 3 * size
        engine.publish("i", "j")
        assert (queue.ready, queue.body_bytes) == (3, 3 * size)
        engine.commit()
        engine.restart()
        queue = engine.vhost.queues["q"]
        assert (queue.ready, queue.body_bytes, queue.log.body_bytes) == (3, 3 * size, 3 * size)
        engine.publish("k")
        assert engine.names() == list("ijk")


def test_what_is_on_disk_already_and_in_memory_still_is_counted_once(engine: Engine) -> None:
    with small_windows():
        queue = engine.queue()
        publish_singly(engine, LETTERS[:5])
        engine.commit()
        publish_singly(engine, LETTERS[5:])
        engine.store.begin()
        engine.store.finish()
        put(engine, max_length_bytes=10**6)
        size = queue.body_bytes
        engine.store.done()
        assert size == body_bytes(queue)


@pytest.mark.plain
def test_the_count_is_in_the_commit_that_the_policy_is_in(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart it is not counted again."""
    queue = engine.queue()
    engine.publish(*LETTERS)
    engine.commit()
    put(engine, max_length_bytes=10**6)
    engine.commit()
    size = body_bytes(queue)
    monkeypatch.setattr(Queue, "_count_bytes", lambda *_: pytest.fail("it was counted"))
    engine.restart()
    assert engine.vhost.queues["q"].body_bytes == size


@pytest.mark.parametrize("settled", [False, True])
def test_what_is_leased_is_counted_at_the_next_start(engine: Engine, settled: bool) -> None:
    with small_windows():
        queue = engine.queue()
        publish_singly(engine, LETTERS)
        engine.commit()
        consumer = TakingConsumer(queue, "get")
        messages = [message for message in (queue.get(consumer), queue.get(consumer)) if message is not None]
        size = body_bytes(queue) // 6
        put(engine, max_length_bytes=7 * size)
        assert (queue.ready, queue.body_bytes) == (6, 6 * size)
        if settled:
            queue.settle(messages, consumer, Outcome.ACCEPT)
        engine.commit()
        engine.restart()
        queue = engine.vhost.queues["q"]
        left = 6 if settled else 8
        assert queue.body_bytes == queue.log.body_bytes == left * size
        assert queue.ready == left
        engine.publish("i")
        assert engine.names() == list("cdefghi") if settled else list("bcdefghi")


def test_a_purge_while_the_store_is_not_counted(engine: Engine) -> None:
    with small_windows():
        queue = engine.queue()
        publish_singly(engine, LETTERS)
        engine.commit()
        queue.get(TakingConsumer(queue, "get"))
        put(engine, max_length_bytes=10**6)
        queue.purge()
        assert (queue.ready, queue.body_bytes) == (0, 0)
        engine.commit()
        engine.restart()
        queue = engine.vhost.queues["q"]
        assert queue.body_bytes == queue.log.body_bytes == body_bytes(queue) > 0
        assert queue.ready == 1


def test_a_count_that_was_given_up_is_not_believed_later(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish(*LETTERS)
    size = body_bytes(queue) // 8
    put(engine, max_length_bytes=100 * size)
    engine.commit()
    delete(engine)
    engine.commit()
    engine.publish(*LETTERS)
    engine.commit()
    engine.restart()
    queue = engine.vhost.queues["q"]
    put(engine, max_length_bytes=100 * size)
    assert queue.body_bytes == queue.log.body_bytes == 16 * size


# --- Exchanges ---------------------------------------------------------------------------------------------------


def test_a_policy_gives_an_exchange_an_alternate(engine: Engine) -> None:
    engine.exchange("x")
    engine.queue()
    engine.bind("amq.fanout", "q")
    assert engine.publish("a", exchange="x", key="none").unroutable
    put(engine, "^x$", alternate_exchange="amq.fanout")
    engine.publish("b", exchange="x", key="none")
    delete(engine)
    assert engine.publish("c", exchange="x", key="none").unroutable
    assert engine.names() == ["b"]


def test_the_argument_of_an_exchange_comes_before_the_policy(engine: Engine) -> None:
    engine.exchange("x", arguments={"alternate-exchange": "amq.direct"})
    put(engine, alternate_exchange="amq.fanout")
    engine.exchange("y")
    assert engine.vhost.exchanges["x"].alternate == "amq.direct"
    assert engine.vhost.exchanges["y"].alternate == "amq.fanout"
    assert engine.vhost.exchanges["amq.topic"].alternate == "amq.fanout"
    assert engine.vhost.exchanges[""].alternate is None, "the default exchange has no policy"


# --- Restart -----------------------------------------------------------------------------------------------------


def test_policies_and_limits_survive(engine: Engine) -> None:
    put(engine, "^q", max_length=3, alternate_exchange="amq.fanout")
    put(engine, operator=True, message_ttl=9, from_settings=True)
    put(engine, name="gone", max_length=1, priority=9)
    delete(engine, "gone")
    engine.broker.set_vhost_limits("/", {"max-queues": 5})
    engine.exchange("q")
    engine.queue()
    before = dict(engine.vhost.policies.definitions)
    assert len(before) == 2
    engine.commit()
    engine.restart()
    assert engine.vhost.policies.definitions == before
    assert engine.vhost.queues["q"].arguments.max_length == 3
    assert engine.vhost.queues["q"].arguments.message_ttl_ms == 9
    assert engine.vhost.queues["q"].declared.max_length is None
    assert engine.vhost.exchanges["q"].alternate == "amq.fanout"
    assert engine.vhost.limits.max_queues == 5


def test_a_policy_of_a_predeclared_exchange_survives(engine: Engine) -> None:
    put(engine, "^amq.topic$", alternate_exchange="amq.fanout")
    engine.commit()
    engine.restart()
    assert engine.vhost.exchanges["amq.topic"].alternate == "amq.fanout"


def test_a_stored_pattern_that_is_none_any_more_is_an_error_of_the_store(engine: Engine) -> None:
    engine.store.journal.define(policy("("))
    engine.commit()
    with pytest.raises(StoreError, match="pattern should be regular expression"):
        engine.restart()


# --- Errors, in RabbitMQ's words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_length": -3, "foo": 1}, "-3 is not a valid maximum length"),
        (
            {"max_length": 3, "foo": 1, "bar": "x"},
            '[{<<"bar">>,<<"x">>},{<<"foo">>,1}] are not recognised policy settings',
        ),
        ({}, "no policy provided"),
        ({"message_ttl": "x"}, '<<"x">> is not a valid message TTL'),
        ({"message_ttl": True, "expires": 0}, "0 is not a valid queue expiry"),
        ({"message_ttl": True}, "true is not a valid message TTL"),
        (
            {"overflow": ["a", {"b": None}, 1.5]},
            '[<<"a">>,#{<<"b">> => null},1.5] is not a valid overflow value',
        ),
        (
            {"operator": True, "dead_letter_exchange": "x"},
            '[{<<"dead-letter-exchange">>,<<"x">>}] are not recognised policy settings',
        ),
        ({"pattern": "^a(", "max_length": 1}, None),
        ({"priority": 1.5, "max_length": 1}, "priority should be a number, actually was 1.5"),
        ({"delayed_retry_type": "all"}, "delayed-retry-min is required when delayed-retry-type is all"),
        (
            {"delayed_retry_min": 5, "delayed_retry_max": 4},
            "delayed-retry-max (4) must not be smaller than delayed-retry-min (5)",
        ),
        ({"dead_letter_exchange": "x" * 256}, None),
        ({"message_ttl": 2**40}, f"{2**40} is not a valid message TTL"),
        ({"consumer_timeout": 0}, "0 is not a valid consumer timeout"),
        ({"pattern": "a" * 1025, "max_length": 1}, "pattern must not exceed 1024 bytes"),
        ({"pattern": "[[:alpha:]]", "max_length": 1}, None),
    ],
)
def test_what_a_policy_cannot_be(options: dict[str, Any], error: str | None) -> None:
    said = error_of(**options)
    if error is not None:
        assert said == error


def test_all_that_is_wrong_is_said_in_order() -> None:
    definition, apply_to, pattern = error_of(apply_to="x", pattern="^a(", max_length=-3).splitlines()
    assert definition == "-3 is not a valid maximum length"
    assert apply_to.startswith("apply-to 'x' unrecognised; should be one of: 'queues', 'classic_queues'")
    assert pattern == 'pattern should be regular expression but is invalid: {"missing ), unterminated subpattern",2}'


@pytest.mark.parametrize("key", KEYS)
def test_no_key_takes_just_anything(key: str) -> None:
    for wrong in (None, {}, -(2**70), 1.5):
        if key == "delivery-limit" and wrong == -(2**70):
            continue
        assert "is not a valid" in error_of(**{key: wrong})


def test_a_policy_that_is_not_there_cannot_be_deleted(engine: Engine) -> None:
    put(engine, max_length=1)
    with pytest.raises(NotFound):
        delete(engine, operator=True)
    with pytest.raises(NotFound):
        engine.broker.put_policy(PolicyDefinition("elsewhere", "p", "", {"max-length": 1}))


# --- Limits of a vhost -------------------------------------------------------------------------------------------


def test_no_more_queues_than_the_vhost_may_have(engine: Engine) -> None:
    queue = engine.queue("one")
    engine.broker.set_vhost_limits("/", {"max-queues": 1})
    assert engine.queue("one") is queue
    with pytest.raises(PreconditionFailed) as caught:
        engine.queue("two")
    assert str(caught.value) == "cannot declare queue 'two': queue limit in vhost '/' (1) is reached"
    engine.vhost.delete_queue(queue)
    engine.queue("two")
    engine.broker.set_vhost_limits("/", {"max-queues": -1})
    engine.queue("three")


def test_no_more_connections_than_the_vhost_may_have(engine: Engine) -> None:
    engine.broker.set_vhost_limits("/", {"max-connections": 1})
    engine.vhost.connect("one", "alice")
    with pytest.raises(NotAllowed) as caught:
        engine.vhost.connect("two", "bob")
    assert str(caught.value) == "access to vhost '/' refused for user 'bob': connection limit (1) is reached"
    engine.vhost.connections.discard("one")
    engine.vhost.connect("two", "bob")


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max-queues": "x"}, 'max-queues should be a number, actually was <<"x">>'),
        ({"max-queues": 2.5}, "max-queues should be a number, actually was 2.5"),
        ({"max-foo": 1}, 'Unrecognised terms [{<<"max-foo">>,1}] in limits'),
    ],
)
def test_what_a_limit_cannot_be(engine: Engine, limits: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        engine.broker.set_vhost_limits("/", limits)
    assert str(caught.value) == error
