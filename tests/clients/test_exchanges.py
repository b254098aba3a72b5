"""Exchanges: routing of each type, bindings between exchanges, predeclared ones, deletion."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import BasicProperties

from clients.pika_client import Names, bodies, channel_error, get, publish, ready_count


class Routes:
    """Binds queues to one exchange and tells which of them a publication reached, all others being empty."""

    def __init__(self, channel: BlockingChannel, names: Names, kind: str) -> None:
        self.channel = channel
        self.names = names
        self.exchange = names.exchange(kind)
        self.queues: dict[str, str] = {}
        channel.exchange_declare(self.exchange, kind)
        if not channel._delivery_confirmation:
            # Once a publication is confirmed it is in all its queues, and they can be looked at.
            channel.confirm_delivery()

    def bind(self, label: str, key: str = "", arguments: dict[str, object] | None = None) -> str:
        if label not in self.queues:
            self.queues[label] = self.names.queue(label)
            self.channel.queue_declare(self.queues[label])
        self.channel.queue_bind(self.queues[label], self.exchange, key, arguments)
        return self.queues[label]

    def reached(self, key: str = "", headers: dict[str, object] | None = None) -> set[str]:
        self.channel.basic_publish(self.exchange, key, b"m", BasicProperties(headers=headers))
        found = {label for label, queue in self.queues.items() if ready_count(self.channel, queue)}
        for label in found:
            assert bodies(self.channel, self.queues[label], 1) == [b"m"], "more than once in a queue"
        return found


def test_default_exchange_routes_by_queue_name(channel: BlockingChannel, names: Names) -> None:
    first, second = names.queue(), names.queue()
    channel.queue_declare(first)
    channel.queue_declare(second)
    publish(channel, first, b"1")
    publish(channel, "nobody." + first, b"lost")
    assert bodies(channel, first, 1) == [b"1"]
    assert bodies(channel, second, 0) == []


def test_direct(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "direct")
    routes.bind("a", "red")
    routes.bind("b", "red")
    routes.bind("b", "blue")
    routes.bind("c", "")
    assert routes.reached("red") == {"a", "b"}
    assert routes.reached("blue") == {"b"}
    assert routes.reached("") == {"c"}
    assert routes.reached("Red") == set()
    assert routes.reached("red.blue") == set()


def test_fanout_ignores_the_key(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "fanout")
    routes.bind("a", "x")
    routes.bind("a", "y")
    routes.bind("b")
    assert routes.reached("whatever") == {"a", "b"}
    assert routes.reached() == {"a", "b"}


TOPICS = {
    # pattern: (keys it matches, keys it does not)
    "a.b.c": (["a.b.c"], ["a.b", "a.b.c.d", "a.b.", "A.b.c", ""]),
    # An empty key has no words; a dot alone stands between two empty ones.
    "*": (["a", "abc-def"], ["", "a.b", ".", "a."]),
    "#": (["", "a", "a.b.c", ".", "..", "a..b"], []),
    "*.*": (["a.b", ".", "a.", ".b"], ["a", "", "a.b.c"]),
    "a.*": (["a.b", "a."], ["a", "a.b.c", "b.a", ""]),
    "*.b": (["a.b", ".b"], ["b", "a.a.b", "a.b."]),
    "a.*.c": (["a.b.c", "a..c"], ["a.c", "a.b.b.c"]),
    "a.#": (["a", "a.b", "a.b.c", "a.", "a.."], ["b", "", "ab", "b.a"]),
    "#.a": (["a", "b.a", "b.c.a", ".a"], ["b", "a.b", "a.", ""]),
    "a.#.c": (["a.c", "a.b.c", "a.b.b.c", "a..c", "a.c.c"], ["a", "c", "a.c.b", "b.c"]),
    "#.b.#": (["b", "a.b", "b.c", "a.b.c", "b.b"], ["a", "", "a.bb.c"]),
    "*.#": (["a", "a.b", "."], [""]),
    "#.*": (["a", "a.b"], [""]),
    "#.#": (["", "a", "a.b"], []),
    "*.#.*": (["a.b", "a.b.c", "."], ["a", ""]),
    "": ([""], ["a", "."]),
    "a.": (["a."], ["a", "a.b"]),
    "a.b*": (["a.b*"], ["a.bc", "a.b"]),
    "a#": (["a#"], ["a", "a.b"]),
}


@pytest.mark.parametrize("pattern", TOPICS)
def test_topic(channel: BlockingChannel, names: Names, pattern: str) -> None:
    routes = Routes(channel, names, "topic")
    routes.bind("q", pattern)
    matching, others = TOPICS[pattern]
    assert {key: routes.reached(key) for key in matching} == {key: {"q"} for key in matching}
    assert {key: routes.reached(key) for key in others} == {key: set() for key in others}


def test_topic_delivers_once_for_many_bindings(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "topic")
    for pattern in ("a.#", "#.b", "*.b", "a.b", "#"):
        routes.bind("q", pattern)
    routes.bind("other", "c.#")
    assert routes.reached("a.b") == {"q"}
    assert routes.reached("c") == {"q", "other"}
    queue = routes.queues["q"]
    channel.queue_unbind(queue, routes.exchange, "#")
    assert routes.reached("c") == {"other"}
    assert routes.reached("a") == {"q"}
    assert routes.reached("x.b") == {"q"}


HEADERS: list[tuple[dict[str, object], list[dict[str, object] | None], list[dict[str, object] | None]]] = [
    # arguments of the binding, headers that match, headers that do not
    (
        {"x-match": "all", "a": 1, "b": "two"},
        [{"a": 1, "b": "two"}, {"a": 1, "b": "two", "c": 3}],
        [{"a": 1}, {"a": 1, "b": "Two"}, {"a": 2, "b": "two"}, {}, None],
    ),
    (
        {"x-match": "any", "a": 1, "b": "two"},
        [{"a": 1}, {"b": "two", "a": 5}, {"a": 1, "b": "two"}],
        [{"a": 2}, {"c": 1}, {}, None],
    ),
    ({"a": 1, "b": 2}, [{"a": 1, "b": 2}], [{"a": 1}]),
    ({"x-match": "all"}, [{}, None, {"a": 1}], []),
    ({}, [{}, None, {"a": 1}], []),
    ({"x-match": "any"}, [], [{}, None, {"a": 1}]),
    ({"x-match": "all", "x-id": 1, "a": 1}, [{"a": 1}, {"a": 1, "x-id": 2}], [{"x-id": 1}]),
    ({"x-match": "any", "x-id": 1, "a": 1}, [{"a": 1}], [{"x-id": 1}]),
    ({"x-match": "all-with-x", "x-id": 1, "a": 1}, [{"a": 1, "x-id": 1}], [{"a": 1}, {"a": 1, "x-id": 2}]),
    ({"x-match": "any-with-x", "x-id": 1, "a": 1}, [{"a": 1}, {"x-id": 1}], [{"x-id": 2}, {}]),
    # A binding's value of no type matches whatever the header holds.
    ({"x-match": "all", "a": None}, [{"a": 1}, {"a": "x"}, {"a": None}], [{"b": 1}, {}]),
    ({"x-match": "all", "a": True}, [{"a": True}], [{"a": False}, {"a": 1}, {"a": "true"}]),
    ({"x-match": "all", "a": {"b": [1, "c"]}}, [{"a": {"b": [1, "c"]}}], [{"a": {"b": [1]}}]),
    ({"x-match": "all", "a": 1}, [{"a": 1}], [{"a": "1"}]),
]


@pytest.mark.parametrize("case", range(len(HEADERS)), ids=lambda n: str(HEADERS[n][0]))
def test_headers(channel: BlockingChannel, names: Names, case: int) -> None:
    arguments, matching, others = HEADERS[case]
    routes = Routes(channel, names, "headers")
    routes.bind("q", "ignored", arguments)
    for headers in matching:
        assert (headers, routes.reached("key", headers)) == (headers, {"q"})
    for headers in others:
        assert (headers, routes.reached("key", headers)) == (headers, set())


def test_bindings_differ_by_key_and_arguments(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "headers")
    queue = routes.bind("q", "k", {"a": 1})
    routes.bind("q", "k", {"a": 2})
    channel.queue_unbind(queue, routes.exchange, "k", {"a": 1})
    assert routes.reached(headers={"a": 1}) == set()
    assert routes.reached(headers={"a": 2}) == {"q"}


def test_unbind(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "direct")
    queue = routes.bind("q", "k")
    routes.bind("q", "k")
    channel.queue_unbind(queue, routes.exchange, "other")
    assert routes.reached("k") == {"q"}
    channel.queue_unbind(queue, routes.exchange, "k")
    assert routes.reached("k") == set()
    # What is not there can be unbound.
    channel.queue_unbind(queue, routes.exchange, "k")
    channel.queue_unbind(queue, "no such exchange", "k")
    channel.queue_unbind("no such queue", routes.exchange, "k")
    channel.exchange_unbind("no such exchange", "neither this", "k")


def test_exchanges_bound_to_exchanges(channel: BlockingChannel, names: Names) -> None:
    source = Routes(channel, names, "topic")
    target = Routes(channel, names, "fanout")
    target.bind("q")
    source.bind("direct", "a.b")
    channel.exchange_bind(target.exchange, source.exchange, "a.*")
    assert source.reached("a.b") == {"direct"}
    assert bodies(channel, target.queues["q"], 1) == [b"m"]
    assert source.reached("b.b") == set()
    assert bodies(channel, target.queues["q"], 0) == []
    channel.exchange_unbind(target.exchange, source.exchange, "a.*")
    assert source.reached("a.c") == set()
    assert bodies(channel, target.queues["q"], 0) == []


def test_a_message_keeps_its_first_exchange_and_key(channel: BlockingChannel, names: Names) -> None:
    source, target = Routes(channel, names, "direct"), Routes(channel, names, "fanout")
    queue = target.bind("q")
    channel.exchange_bind(target.exchange, source.exchange, "k")
    channel.basic_publish(source.exchange, "k", b"m")
    method = get(channel, queue).method
    assert (method.exchange, method.routing_key) == (source.exchange, "k")


def test_a_cycle_of_exchanges_delivers_once(channel: BlockingChannel, names: Names) -> None:
    first, second = Routes(channel, names, "fanout"), Routes(channel, names, "fanout")
    first.bind("one")
    second.bind("two")
    channel.exchange_bind(first.exchange, second.exchange)
    channel.exchange_bind(second.exchange, first.exchange)
    channel.exchange_bind(first.exchange, first.exchange)
    assert first.reached() == {"one"}
    assert bodies(channel, second.queues["two"], 1) == [b"m"]


def test_an_internal_exchange_is_reached_by_others_only(channel: BlockingChannel, names: Names) -> None:
    source, internal = Routes(channel, names, "fanout"), names.exchange("internal")
    queue = names.queue()
    channel.exchange_declare(internal, "direct", internal=True)
    channel.queue_declare(queue)
    channel.queue_bind(queue, internal, "k")
    channel.exchange_bind(internal, source.exchange)
    channel.basic_publish(source.exchange, "k", b"inside")
    assert bodies(channel, queue, 1) == [b"inside"]
    refused = f"ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'"
    with channel_error(channel, 403, refused):
        channel.basic_publish(internal, "k", b"outside")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ],
)
def test_predeclared(channel: BlockingChannel, names: Names, name: str, kind: str) -> None:
    channel.exchange_declare(name, kind, passive=True)
    channel.exchange_declare(name, kind, durable=True)
    queue = names.queue()
    channel.queue_declare(queue)
    channel.queue_bind(queue, name, queue, {"id": queue})
    channel.basic_publish(name, queue, b"m", BasicProperties(headers={"id": queue}))
    assert bodies(channel, queue, 1) == [b"m"]


def test_a_passive_declaration_asks_for_the_name_only(channel: BlockingChannel, names: Names) -> None:
    exchange = names.exchange()
    channel.exchange_declare(exchange, "direct")
    channel.exchange_declare(exchange, "fanout", passive=True, durable=True)
    channel.exchange_declare(exchange, "no such type", passive=True)


def test_declaring_again_with_unknown_arguments(channel: BlockingChannel, names: Names) -> None:
    exchange = names.exchange()
    channel.exchange_declare(exchange, "direct")
    channel.exchange_declare(exchange, "direct", arguments={"x-mine": 1})


def test_auto_delete_follows_the_last_binding(channel: BlockingChannel, names: Names) -> None:
    exchange, queue = names.exchange(), names.queue()
    channel.queue_declare(queue)
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.exchange_declare(exchange, "direct", passive=True)
    channel.queue_bind(queue, exchange, "a")
    channel.queue_bind(queue, exchange, "b")
    channel.queue_unbind(queue, exchange, "a")
    channel.exchange_declare(exchange, "direct", passive=True)
    channel.queue_unbind(queue, exchange, "b")
    with channel_error(channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, "direct", passive=True)


def test_delete_removes_bindings(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "direct")
    routes.bind("q", "k")
    channel.exchange_delete(routes.exchange)
    channel.exchange_delete(routes.exchange)
    channel.exchange_declare(routes.exchange, "direct")
    assert routes.reached("k") == set()


def test_delete_if_unused(channel: BlockingChannel, names: Names) -> None:
    target, source = names.exchange("target"), names.exchange("source")
    channel.exchange_declare(target, "fanout")
    channel.exchange_declare(source, "fanout")
    channel.exchange_bind(target, source)
    # Being bound to another exchange is no use; having something bound to it is.
    channel.exchange_delete(target, if_unused=True)
    channel.exchange_declare(target, "fanout")
    channel.exchange_bind(target, source)
    with channel_error(channel, 406, f"PRECONDITION_FAILED - exchange '{source}' in vhost '/' in use"):
        channel.exchange_delete(source, if_unused=True)


def test_alternate_exchange_takes_what_is_unroutable(channel: BlockingChannel, names: Names) -> None:
    main, lost = names.exchange("main"), Routes(channel, names, "fanout")
    routed = names.queue()
    lost.bind("lost")
    channel.queue_declare(routed)
    channel.exchange_declare(main, "direct", arguments={"alternate-exchange": lost.exchange})
    channel.queue_bind(routed, main, "k")
    channel.basic_publish(main, "k", b"found")
    channel.basic_publish(main, "other", b"lost")
    assert bodies(channel, routed, 1) == [b"found"]
    assert bodies(channel, lost.queues["lost"], 1) == [b"lost"]


def test_copies_go_where_their_keys_lead(channel: BlockingChannel, names: Names) -> None:
    routes = Routes(channel, names, "direct")
    routes.bind("a", "red")
    routes.bind("b", "blue")
    routes.bind("c", "green")
    copies: dict[str, object] = {"CC": ["blue", "nobody"], "BCC": ["green", "red"]}
    assert routes.reached("red", copies) == {"a", "b", "c"}
    assert routes.reached("nobody", copies) == {"a", "b", "c"}
    assert routes.reached("nobody", {"CC": ["blue"]}) == {"b"}
    assert routes.reached("nobody", {"CC": ["green"]}) == {"c"}
    assert routes.reached("red") == {"a"}


def test_an_alternate_exchange_takes_what_no_key_leads_anywhere(channel: BlockingChannel, names: Names) -> None:
    alternate = names.exchange("alternate")
    channel.exchange_declare(alternate, "fanout")
    rest, routed = names.queue("rest"), names.queue("routed")
    exchange = names.exchange()
    channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": alternate})
    for queue in (rest, routed):
        channel.queue_declare(queue)
    channel.queue_bind(rest, alternate)
    channel.queue_bind(routed, exchange, "known")
    channel.confirm_delivery()
    # One key of several suffices: the message has been routed.
    channel.basic_publish(exchange, "known", b"1", BasicProperties(headers={"CC": ["unknown"]}))
    channel.basic_publish(exchange, "unknown", b"2", BasicProperties(headers={"CC": ["known"]}))
    channel.basic_publish(exchange, "unknown", b"3", BasicProperties(headers={"CC": ["other"]}))
    assert bodies(channel, routed, 2) == [b"1", b"2"]
    assert bodies(channel, rest, 1) == [b"3"]
