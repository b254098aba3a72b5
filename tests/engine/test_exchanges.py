"""Routing: each type, exchanges bound in circles, alternate exchanges, and what bindings leave behind."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_topic import matches

from engine import PLAIN, Engine, content, envelope
from pabal.broker.exchange import HeadersExchange
from pabal.model.definitions import BindingDefinition, ExchangeDefinition
from pabal.model.errors import AccessRefused, InvalidCommand, Locked, NotFound, PreconditionFailed
from pabal.model.message import Envelope


@pytest.fixture
def engine() -> Engine:
    return Engine()


def routed(engine: Engine, exchange: str, key: str = "", headers: dict[str, Any] | None = None) -> set[str]:
    """The queues that one message goes to, by publishing it and looking who has it."""
    before = {name: queue.ready for name, queue in engine.vhost.queues.items()}
    body = content("m", headers)
    published = engine.vhost.publish(Envelope(exchange, key, True, None, PLAIN), [body], len(body))
    found = {name for name, queue in engine.vhost.queues.items() if queue.ready > before[name]}
    assert all(queue.ready - before[name] <= 1 for name, queue in engine.vhost.queues.items()), "twice in one queue"
    assert bool(published.unroutable) == (not found)
    return found


def queues(engine: Engine, *names: str) -> None:
    for name in names:
        engine.queue(name)


def test_the_default_exchange_knows_every_queue(engine: Engine) -> None:
    queues(engine, "a", "b")
    assert routed(engine, "", "a") == {"a"}
    assert routed(engine, "", "c") == set()
    queues(engine, "c")
    assert routed(engine, "", "c") == {"c"}, "what was remembered of the key is forgotten"
    engine.vhost.delete_queue(engine.vhost.queues["a"])
    assert routed(engine, "", "a") == set()
    for definition in (
        BindingDefinition("/", "", "b", False, "x"),
        BindingDefinition("/", "amq.direct", "", True, "x"),
    ):
        with pytest.raises(AccessRefused):
            engine.vhost.bind(definition)
        with pytest.raises(AccessRefused):
            engine.vhost.unbind(definition)


def test_direct_and_fanout(engine: Engine) -> None:
    queues(engine, "a", "b", "c")
    engine.bind("amq.direct", "a", "x")
    engine.bind("amq.direct", "b", "x")
    engine.bind("amq.direct", "b", "y")
    assert not engine.bind("amq.direct", "b", "y"), "it was there"
    assert routed(engine, "amq.direct", "x") == {"a", "b"}
    assert routed(engine, "amq.direct", "y") == {"b"}
    assert routed(engine, "amq.direct", "X") == set()
    engine.bind("amq.fanout", "a", "x")
    engine.bind("amq.fanout", "a", "y")
    engine.bind("amq.fanout", "c")
    assert routed(engine, "amq.fanout", "whatever") == {"a", "c"}
    engine.vhost.unbind(BindingDefinition("/", "amq.fanout", "a", False, "x"))
    assert routed(engine, "amq.fanout") == {"a", "c"}
    engine.vhost.unbind(BindingDefinition("/", "amq.fanout", "a", False, "y"))
    assert routed(engine, "amq.fanout") == {"c"}
    engine.vhost.unbind(BindingDefinition("/", "amq.direct", "b", False, "x"))
    assert routed(engine, "amq.direct", "x") == {"a"}


def test_topic(engine: Engine) -> None:
    queues(engine, "a", "b")
    engine.bind("amq.topic", "a", "news.*")
    engine.bind("amq.topic", "a", "#.sport")
    engine.bind("amq.topic", "b", "#")
    assert routed(engine, "amq.topic", "news.sport") == {"a", "b"}
    assert routed(engine, "amq.topic", "weather") == {"b"}
    engine.vhost.delete_queue(engine.vhost.queues["b"])
    assert routed(engine, "amq.topic", "weather") == set()


# --- Headers ------------------------------------------------------------------------------------------------

HEADER_CASES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({}, {"a": 1}, True),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"a": 1}, {"a": 1, "b": 2}, True),
    ({"a": 1, "b": 2}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": 2}, {"a": 1}, True),
    ({"x-match": "any", "a": 1, "b": 2}, {"a": 2}, False),
    ({"a": None}, {"a": "anything"}, True),
    ({"a": None}, {}, False),
    ({"a": None}, {"a": None}, True),
    ({"a": "1"}, {"a": 1}, False),
    ({"a": True}, {"a": 1}, False),
    ({"a": 1.0}, {"a": 1}, True),
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 1}, {"a": 1.5}, False),
    ({"a": 2**53 + 1}, {"a": 2.0**53}, False),
    ({"a": 1.0}, {"a": True}, False),
    ({"a": 1}, {"a": Decimal(1)}, False),
    ({"a": b"x"}, {"a": "x"}, False),
    ({"a": [1, 2]}, {"a": [1, 2]}, True),
    ({"a": {"b": 1}}, {"a": {"b": 1}}, True),
    ({"x-a": 1}, {}, True),
    ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
    ({"x-match": "all-with-x", "x-a": 1}, {}, False),
    ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
    ({"x-match": "any-with-x", "x-a": 1, "b": 1}, {"x-a": 1}, True),
    ({"x-match": "any-with-x"}, {"x-match": "any-with-x"}, False),
    ({"x-match": "all", "a": 1}, {"a": 1}, True),
]


@pytest.mark.parametrize(("pattern", "headers", "expected"), HEADER_CASES)
def test_headers(pattern: dict[str, Any], headers: dict[str, Any], expected: bool) -> None:
    engine = Engine()
    engine.queue("a")
    engine.bind("amq.headers", "a", "k", arguments=pattern)
    assert (engine.routed_by("amq.headers", headers) == [engine.vhost.queues["a"]]) == expected


SCALARS = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", 1.0, b"a"])
NAMES = st.sampled_from(["a", "b", "x-a", "x-b"])


VALUES = SCALARS | st.sampled_from([[], [1], {}, {"a": 1}])
PATTERNS = st.tuples(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([None, *HeadersExchange.WAYS]))


def wants(pattern: dict[str, Any], way: str | None, headers: dict[str, Any]) -> bool:
    """What the specification says."""

    def same(name: str) -> bool:
        wanted = pattern[name]
        if wanted is None or name not in headers:
            return name in headers
        # Of these samples only numbers may be of two types and alike.
        kinds = {type(wanted), type(headers[name])}
        return (len(kinds) == 1 or kinds == {int, float}) and wanted == headers[name]

    considered = [name for name in pattern if not name.startswith("x-") or (way or "").endswith("with-x")]
    return any(map(same, considered)) if (way or "all").startswith("any") else all(map(same, considered))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(PATTERNS, min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
    st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=4),
)
def test_headers_like_the_specification(
    patterns: list[tuple[dict[str, Any], str | None]], unbound: set[int], messages: list[dict[str, Any]]
) -> None:
    """With any bindings, of which some are taken away again."""
    engine = Engine()
    bindings = []
    for number, (pattern, way) in enumerate(patterns):
        engine.queue(f"q{number}")
        arguments = pattern | ({} if way is None else {"x-match": way})
        bindings.append(BindingDefinition("/", "amq.match", f"q{number}", False, "", arguments))
        engine.vhost.bind(bindings[-1])
    for number in unbound & set(range(len(patterns))):
        engine.vhost.unbind(bindings[number])
    for headers in messages:
        found = {queue.name for queue in engine.routed_by("amq.match", headers)}
        expected = {
            f"q{number}"
            for number, (pattern, way) in enumerate(patterns)
            if number not in unbound and wants(pattern, way, headers)
        }
        assert found == expected


def test_headers_decide_for_each_message(engine: Engine) -> None:
    """What was remembered of a key must not count where headers have a say, even behind other exchanges."""
    queues(engine, "a", "b")
    engine.exchange("front", "fanout")
    engine.bind("front", "amq.headers", to_exchange=True)
    engine.bind("amq.headers", "a", arguments={"colour": "red"})
    engine.bind("amq.headers", "b", arguments={"colour": "blue"})
    for _ in range(2):
        assert routed(engine, "front", "k", {"colour": "red"}) == {"a"}
        assert routed(engine, "front", "k", {"colour": "blue"}) == {"b"}
        assert routed(engine, "front", "k") == set()


@pytest.mark.parametrize("way", ["", "ALL", "some", 1, None, ["all"], {"a": 1}])
def test_an_unknown_x_match_is_refused(engine: Engine, way: Any) -> None:
    engine.queue("a")
    with pytest.raises(PreconditionFailed):
        engine.bind("amq.headers", "a", arguments={"x-match": way})
    assert not engine.vhost.exchanges["amq.headers"].bindings


# --- Exchanges bound to exchanges, alternate exchanges ------------------------------------------------------


def test_circles_end(engine: Engine) -> None:
    queues(engine, "a", "b")
    for name in ("one", "two", "three"):
        engine.exchange(name, "fanout")
    engine.bind("one", "two", to_exchange=True)
    engine.bind("two", "three", to_exchange=True)
    engine.bind("three", "one", to_exchange=True)
    engine.bind("three", "three", to_exchange=True)
    engine.bind("two", "a")
    engine.bind("three", "a")
    engine.bind("one", "b")
    for name in ("one", "two", "three"):
        assert routed(engine, name) == {"a", "b"}


def test_the_alternate_takes_what_cannot_be_routed(engine: Engine) -> None:
    queues(engine, "a", "rest")
    engine.exchange("front", arguments={"alternate-exchange": "back"})
    engine.bind("front", "a", "x")
    assert routed(engine, "front", "y") == set(), "the alternate is not there yet"
    engine.exchange("back", "fanout")
    engine.bind("back", "rest")
    assert routed(engine, "front", "x") == {"a"}
    assert routed(engine, "front", "y") == {"rest"}
    engine.vhost.delete_exchange("back")
    assert routed(engine, "front", "y") == set()


def test_alternates_in_a_circle_end(engine: Engine) -> None:
    engine.exchange("one", arguments={"alternate-exchange": "two"})
    engine.exchange("two", arguments={"alternate-exchange": "one"})
    assert routed(engine, "one", "x") == set()
    engine.queue("a")
    engine.bind("two", "a", "x")
    assert routed(engine, "one", "x") == {"a"}


def test_an_internal_exchange_is_only_for_exchanges(engine: Engine) -> None:
    engine.queue("a")
    engine.exchange("front", "fanout")
    engine.exchange("inner", "fanout", internal=True)
    engine.bind("front", "inner", to_exchange=True)
    engine.bind("inner", "a")
    assert routed(engine, "front") == {"a"}
    with pytest.raises(AccessRefused):
        routed(engine, "inner")
    with pytest.raises(NotFound):
        routed(engine, "nowhere")


def test_copies_go_by_their_own_keys(engine: Engine) -> None:
    queues(engine, "a", "b", "c")
    body = content("m", copies=("b", "c", "b"))
    published = engine.vhost.publish(envelope(key="a", copies=("b", "c", "b", "nowhere")), [body], len(body))
    assert not published.unroutable
    assert [engine.vhost.queues[name].ready for name in "abc"] == [1, 1, 1]


KINDS = st.sampled_from(["direct", "fanout", "topic", "headers"])
EXCHANGE_NAMES = ["e0", "e1", "e2", "e3"]
QUEUE_NAMES = ["q0", "q1", "q2"]
KEYS = ["", "a", "a.b", "#", "*", "q0"]
EDGES = st.lists(
    st.tuples(
        st.sampled_from(EXCHANGE_NAMES), st.sampled_from([*EXCHANGE_NAMES, *QUEUE_NAMES]), st.sampled_from(KEYS)
    ),
    max_size=10,
)


@settings(max_examples=300, deadline=None)
@given(
    kinds=st.lists(KINDS, min_size=4, max_size=4),
    alternates=st.lists(st.none() | st.sampled_from(EXCHANGE_NAMES), min_size=4, max_size=4),
    edges=EDGES,
    gone=EDGES,
    keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3),
)
def test_any_graph_like_its_twin(
    kinds: list[str],
    alternates: list[str | None],
    edges: list[tuple[str, str, str]],
    gone: list[tuple[str, str, str]],
    keys: list[str],
) -> None:
    """The twin walks the bindings as they are; published twice, so that remembered routes are used too."""
    engine = Engine()
    kind_of = dict(zip(EXCHANGE_NAMES, kinds, strict=True))
    alternate_of = dict(zip(EXCHANGE_NAMES, alternates, strict=True))
    for name in EXCHANGE_NAMES:
        arguments = {} if alternate_of[name] is None else {"alternate-exchange": alternate_of[name]}
        engine.exchange(name, kind_of[name], arguments=arguments)
    queues(engine, *QUEUE_NAMES)
    for source, target, key in edges:
        engine.bind(source, target, key, to_exchange=target in EXCHANGE_NAMES)
    left = set(edges)
    for edge in gone:
        source, target, key = edge
        found = engine.vhost.unbind(BindingDefinition("/", source, target, target in EXCHANGE_NAMES, key))
        assert found == (edge in left)
        left.discard(edge)

    def takes(kind: str, pattern: str, key: str) -> bool:
        if kind == "direct":
            return pattern == key
        if kind == "topic":
            return matches(pattern, key)
        return True

    for key in keys:
        for start in EXCHANGE_NAMES:
            seen: set[str] = set()
            expected: set[str] = set()
            waiting = [start]
            while waiting:
                exchange = waiting.pop()
                if exchange in seen:
                    continue
                seen.add(exchange)
                found_here = [t for s, t, p in left if s == exchange and takes(kind_of[exchange], p, key)]
                expected |= {target for target in found_here if target in QUEUE_NAMES}
                waiting += [target for target in found_here if target in EXCHANGE_NAMES]
                other = alternate_of[exchange]
                if not found_here and other is not None:
                    waiting.append(other)
            for _ in range(2):
                assert routed(engine, start, key) == expected


# --- Declaring and deleting ---------------------------------------------------------------------------------


def test_declaring_again_makes_no_difference_unless_it_differs(engine: Engine) -> None:
    assert engine.vhost.declare_exchange(ExchangeDefinition("/", "e", "topic"))
    assert not engine.vhost.declare_exchange(ExchangeDefinition("/", "e", "topic"))
    for other in (
        ExchangeDefinition("/", "e", "direct"),
        ExchangeDefinition("/", "e", "topic", durable=False),
        ExchangeDefinition("/", "e", "topic", auto_delete=True),
        ExchangeDefinition("/", "e", "topic", internal=True),
        ExchangeDefinition("/", "e", "topic", arguments={"alternate-exchange": "x"}),
    ):
        with pytest.raises(PreconditionFailed, match="inequivalent arg"):
            engine.vhost.declare_exchange(other)
    with pytest.raises(InvalidCommand):
        engine.exchange("f", "x-unheard-of")
    with pytest.raises(AccessRefused):
        engine.exchange("amq.mine")
    for name in ("", "amq.direct"):
        with pytest.raises(AccessRefused):
            engine.vhost.delete_exchange(name)
    assert not engine.vhost.delete_exchange("not there")


def test_a_deleted_exchange_takes_its_bindings_along(engine: Engine) -> None:
    queues(engine, "a")
    engine.exchange("one", "fanout")
    engine.exchange("two", "fanout")
    engine.bind("one", "two", to_exchange=True)
    engine.bind("two", "a")
    with pytest.raises(PreconditionFailed):
        engine.vhost.delete_exchange("two", if_unused=True)
    engine.vhost.delete_exchange("two")
    assert not engine.vhost.exchanges["one"].bindings
    engine.exchange("two", "fanout")
    assert routed(engine, "one") == set()
    assert routed(engine, "two") == set()


def test_an_auto_delete_exchange_goes_with_its_last_binding(engine: Engine) -> None:
    queues(engine, "a", "b")
    engine.exchange("e", "fanout", auto_delete=True)
    engine.bind("e", "a")
    engine.bind("e", "b")
    engine.vhost.unbind(BindingDefinition("/", "e", "a", False, ""))
    assert "e" in engine.vhost.exchanges
    engine.vhost.delete_queue(engine.vhost.queues["b"])
    assert "e" not in engine.vhost.exchanges


def test_a_long_chain_of_auto_delete_exchanges_goes_at_once(engine: Engine) -> None:
    count = 1500
    queues(engine, "end")
    for number in range(count):
        engine.exchange(f"e{number}", "fanout", auto_delete=True)
    engine.bind(f"e{count - 1}", "end")
    for number in range(count - 1):
        engine.bind(f"e{number}", f"e{number + 1}", to_exchange=True)
    assert routed(engine, "e0") == {"end"}
    engine.vhost.delete_queue(engine.vhost.queues["end"])
    assert not [name for name in engine.vhost.exchanges if name.startswith("e")]
    engine.commit()
    engine.restart()
    assert not [name for name in engine.vhost.exchanges if name.startswith("e")]


def test_auto_delete_exchanges_in_a_circle(engine: Engine) -> None:
    queues(engine, "a")
    for name in ("one", "two"):
        engine.exchange(name, "fanout", auto_delete=True)
    engine.bind("one", "two", to_exchange=True)
    engine.bind("two", "one", to_exchange=True)
    engine.bind("two", "a")
    engine.vhost.delete_queue(engine.vhost.queues["a"])
    assert {"one", "two"} <= engine.vhost.exchanges.keys(), "each still has a binding"
    engine.vhost.unbind(BindingDefinition("/", "two", "one", True, ""))
    assert not {"one", "two"} & engine.vhost.exchanges.keys()


# --- What outlives a restart --------------------------------------------------------------------------------


def test_durable_definitions_outlive_a_restart(engine: Engine) -> None:
    queues(engine, "kept")
    engine.queue("gone", durable=False)
    owner = object()
    engine.queue("mine", owner=owner)
    engine.exchange("kept", "topic", arguments={"alternate-exchange": "amq.fanout"})
    engine.exchange("gone", "fanout", durable=False)
    engine.bind("kept", "kept", "a.#", arguments={"note": b"\xff"})
    engine.bind("kept", "gone", "a.#")
    engine.vhost.bind(BindingDefinition("/", "kept", "mine", False, "a.#"), owner)
    engine.bind("gone", "kept")
    engine.bind("amq.fanout", "kept")
    engine.bind("kept", "amq.fanout", "b", to_exchange=True)
    engine.commit()
    engine.restart()
    assert set(engine.vhost.queues) == {"kept"}
    assert "gone" not in engine.vhost.exchanges
    assert routed(engine, "kept", "a.b") == {"kept"}
    assert routed(engine, "kept", "c") == {"kept"}, "by way of the alternate"
    assert len(engine.vhost.exchanges["kept"].bindings) == 2
    engine.vhost.delete_queue(engine.vhost.queues["kept"])
    engine.commit()
    engine.restart()
    assert not engine.vhost.queues
    assert routed(engine, "kept", "a.b") == set()
    assert [b.definition.to_exchange for b in engine.vhost.exchanges["kept"].bindings.values()] == [True]


def test_bindings_of_an_exclusive_queue_are_its_owners(engine: Engine) -> None:
    owner, other = object(), object()
    engine.queue("mine", owner=owner)
    binding = BindingDefinition("/", "amq.direct", "mine", False, "k")
    assert not engine.vhost.unbind(binding, other), "there is none to be locked"
    with pytest.raises(Locked):
        engine.vhost.bind(binding, other)
    assert not engine.vhost.exchanges["amq.direct"].bindings
    engine.vhost.bind(binding, owner)
    with pytest.raises(Locked):
        engine.vhost.unbind(binding, other)
    assert engine.vhost.unbind(binding, owner)


def test_bindings_whose_arguments_look_alike_are_two(engine: Engine) -> None:
    queues(engine, "a")
    assert engine.bind("amq.headers", "a", arguments={"v": b"hi"})
    assert engine.bind("amq.headers", "a", arguments={"v": {"$bytes": "aGk="}})
    assert len(engine.vhost.exchanges["amq.headers"].bindings) == 2
    engine.commit()
    engine.restart()
    assert len(engine.vhost.exchanges["amq.headers"].bindings) == 2
