"""Exchanges that choose one destination: x-consistent-hash, x-modulus-hash and x-random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ConnectionClosedByBroker
from pika.spec import BasicProperties

from broker_process import BrokerProcess
from clients.pika_client import Connect, Names, bodies, channel_error, get, open_connection, wait_until

HASH = "x-consistent-hash"
TYPES = (HASH, "x-modulus-hash", "x-random")
INVALID = "PRECONDITION_FAILED - "


@pytest.fixture(autouse=True)
def types_are_there(connect: Connect, names: Names) -> None:
    """RabbitMQ has these types in plugins."""
    channel = connect().channel()
    try:
        for kind in TYPES:
            channel.exchange_declare(names.exchange(kind), kind)
    except ConnectionClosedByBroker as error:
        pytest.skip(f"the broker tested lacks an exchange type: {error.reply_text}")


class Choice:
    """An exchange and the queues it chooses from."""

    def __init__(
        self, channel: BlockingChannel, names: Names, kind: str = HASH, arguments: dict[str, object] | None = None
    ) -> None:
        self.channel = channel
        self.names = names
        self.exchange = names.exchange(kind)
        self.queues: dict[str, str] = {}
        channel.exchange_declare(self.exchange, kind, arguments=arguments)

    def bind(self, label: str, weight: str = "1") -> None:
        if label not in self.queues:
            self.queues[label] = self.names.queue(label)
            self.channel.queue_declare(self.queues[label])
        self.channel.queue_bind(self.queues[label], self.exchange, weight)

    def unbind(self, label: str, weight: str = "1") -> None:
        self.channel.queue_unbind(self.queues[label], self.exchange, weight)

    def publish(self, keys: list[str], properties: list[BasicProperties] | None = None) -> dict[str, str]:
        """Publishes a message for each key, and tells for each body, which is its number, where it went."""
        for number, key in enumerate(keys):
            found = properties[number] if properties else None
            self.channel.basic_publish(self.exchange, key, str(number).encode(), found)
        return self.collect(len(keys))

    def collect(self, count: int) -> dict[str, str]:
        found: dict[str, str] = {}
        taken = 0

        def take() -> bool:
            nonlocal taken
            for label, queue in self.queues.items():
                while (message := self.channel.basic_get(queue, auto_ack=True))[0] is not None:
                    found[message[2].decode()] = label
                    taken += 1
            return taken >= count

        wait_until(self.channel.connection, take, lambda: f"{taken} of {count} arrived")
        assert taken == count == len(found), "some went to more than one queue"
        return found

    def spread(self, keys: list[str]) -> Counter[str]:
        return Counter(self.publish(keys).values())


def numbered(count: int) -> list[str]:
    return [f"customer.{number}" for number in range(count)]


# --- x-consistent-hash --------------------------------------------------------------------------------------


def test_a_key_keeps_its_queue(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names)
    for label in "abc":
        choice.bind(label)
    keys = numbered(60)
    first = choice.publish(keys)
    assert set(first.values()) == set("abc")
    assert choice.publish(keys) == first
    # A queue's messages of one key are in their order.
    for number in range(20):
        channel.basic_publish(choice.exchange, keys[0], b"%d" % number)
    queue = choice.queues[first["0"]]
    assert [get(channel, queue).body for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_weights_are_shares(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names)
    shares = {"a": 1, "b": 2, "c": 5}
    for label, weight in shares.items():
        choice.bind(label, str(weight))
    count = 3000
    spread = choice.spread(numbered(count))
    for label, weight in shares.items():
        assert spread[label] / count == pytest.approx(weight / 8, abs=0.04), spread


def test_little_moves_when_bindings_change(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names)
    for label in "abc":
        choice.bind(label, "2")
    keys = numbered(800)
    before = choice.publish(keys)
    choice.bind("d", "2")
    after = choice.publish(keys)
    moved = [body for body in before if after[body] != before[body]]
    assert {after[body] for body in moved} == {"d"}, "some moved between queues that were there"
    assert len(moved) / len(keys) == pytest.approx(1 / 4, abs=0.07)
    choice.unbind("d", "2")
    assert choice.publish(keys) == before


def test_a_removed_queue_leaves_its_keys_to_the_others(
    channel: BlockingChannel, names: Names, pabal_only: None
) -> None:
    """Whichever it is. (RabbitMQ moves more when it is not the last that was bound.)"""
    choice = Choice(channel, names)
    for label in "abcd":
        choice.bind(label)
    keys = numbered(400)
    before = choice.publish(keys)
    channel.queue_delete(choice.queues.pop("a"))
    after = choice.publish(keys)
    assert {before[body] for body in before if after[body] != before[body]} == {"a"}
    assert {after[body] for body in before if before[body] == "a"} == set("bcd")


def test_the_order_of_bindings_is_of_no_account(channel: BlockingChannel, names: Names, pabal_only: None) -> None:
    one, other = Choice(channel, names), Choice(channel, names)
    for label in "abc":
        one.bind(label)
    other.queues = one.queues
    for label in "cab":
        other.bind(label)
    keys = numbered(100)
    assert one.publish(keys) == other.publish(keys)


def test_bindings_of_one_queue_add_up(channel: BlockingChannel, names: Names, pabal_only: None) -> None:
    """(RabbitMQ counts the first one, and none any more once one of them is removed.)"""
    choice = Choice(channel, names)
    choice.bind("a", "1")
    choice.bind("a", "2")
    choice.bind("b", "1")
    count = 2000
    assert choice.spread(numbered(count))["a"] / count == pytest.approx(3 / 4, abs=0.05)
    choice.unbind("a", "2")
    assert choice.spread(numbered(count))["a"] / count == pytest.approx(1 / 2, abs=0.05)


def test_hash_header(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names, HASH, {"hash-header": "customer"})
    for label in "abc":
        choice.bind(label)
    by_header = choice.publish(numbered(90), [BasicProperties(headers={"customer": str(n % 30)}) for n in range(90)])
    assert set(by_header.values()) == set("abc")
    for number in range(30):
        assert len({by_header[str(number + more)] for more in (0, 30, 60)}) == 1, "one header, two queues"
    # Values of any type, and messages without the header: all of one kind go one way.
    for headers in ({"customer": 7}, {"customer": {"a": [1, None, True]}}, {"customer": None}, {"other": 1}, None):
        alike = choice.publish(numbered(12), [BasicProperties(headers=headers)] * 12)
        assert len(set(alike.values())) == 1, headers


@pytest.mark.parametrize("name", ["message_id", "correlation_id", "timestamp"])
def test_hash_property(channel: BlockingChannel, names: Names, name: str) -> None:
    choice = Choice(channel, names, HASH, {"hash-property": name})
    for label in "ab":
        choice.bind(label)
    values: list[object] = [1_700_000_000 + n % 30 if name == "timestamp" else f"{n % 30}" for n in range(60)]
    found = choice.publish(numbered(60), [BasicProperties(**{name: value}) for value in values])
    assert set(found.values()) == set("ab")
    for number in range(30):
        assert found[str(number)] == found[str(number + 30)]
    assert len(choice.spread(numbered(12))) == 1, "without the property all are alike"


def test_only_the_first_of_several_keys_counts(channel: BlockingChannel, names: Names) -> None:
    for kind in (HASH, "x-random"):
        choice = Choice(channel, names, kind)
        for label in "abc":
            choice.bind(label)
        keys = numbered(30)
        copies = BasicProperties(headers={"CC": ["x", "y", "z"], "BCC": ["w"]})
        found = choice.publish(keys, [copies] * len(keys))  # each arrives once
        if kind == HASH:
            assert found == choice.publish(keys)


def test_exchanges_may_be_destinations(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names)
    choice.bind("a")
    inner = names.exchange("inner")
    channel.exchange_declare(inner, "fanout")
    channel.exchange_bind(inner, choice.exchange, "1")
    choice.queues["b"] = names.queue()
    channel.queue_declare(choice.queues["b"])
    channel.queue_bind(choice.queues["b"], inner)
    assert set(choice.spread(numbered(40))) == {"a", "b"}


def test_without_bindings_the_alternate_exchange_takes_it(channel: BlockingChannel, names: Names) -> None:
    rest, queue = names.exchange("rest"), names.queue()
    channel.exchange_declare(rest, "fanout")
    channel.queue_declare(queue)
    channel.queue_bind(queue, rest)
    for kind in TYPES:
        choice = Choice(channel, names, kind, {"alternate-exchange": rest})
        channel.basic_publish(choice.exchange, "key", kind.encode())
        assert get(channel, queue).body == kind.encode()


def test_dead_letters_are_chosen_for_too(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names, HASH, {"hash-header": "customer"})
    for label in "ab":
        choice.bind(label)
    expected = choice.publish([""] * 20, [BasicProperties(headers={"customer": str(n)}) for n in range(20)])
    source = names.queue("source")
    channel.queue_declare(source, arguments={"x-dead-letter-exchange": choice.exchange, "x-message-ttl": 0})
    for number in range(20):
        properties = BasicProperties(headers={"customer": str(number)})
        channel.basic_publish("", source, str(number).encode(), properties)
    assert choice.collect(20) == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"hash-header": "a", "hash-property": "message_id"},
            "hash-header and hash-property are mutually exclusive",
        ),
        ({"hash-property": "user_id"}, "Unsupported property: user_id"),
    ],
)
def test_arguments_that_are_refused(
    channel: BlockingChannel, names: Names, arguments: dict[str, object], text: str
) -> None:
    name = names.exchange()
    with channel_error(channel, 406, INVALID + text):
        channel.exchange_declare(name, HASH, arguments=arguments)


@pytest.mark.parametrize("name", ["hash-header", "hash-property"])
def test_arguments_of_a_wrong_type_are_refused(
    channel: BlockingChannel, names: Names, name: str, pabal_only: None
) -> None:
    """(RabbitMQ closes the connection with an internal error.)"""
    exchange = names.exchange()
    text = f"invalid arg '{name}' for exchange '{exchange}' in vhost '/': {{unacceptable_type,signedint}}"
    with channel_error(channel, 406, INVALID + text):
        channel.exchange_declare(exchange, HASH, arguments={name: 5})


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        ("", "The binding key must be an integer: <<>>"),
        ("heavy", 'The binding key must be an integer: <<"heavy">>'),
        ("1.5", 'The binding key must be an integer: <<"1.5">>'),
        (" 1", 'The binding key must be an integer: <<" 1">>'),
        ("1_0", 'The binding key must be an integer: <<"1_0">>'),
        ("0", "The binding key must be greater than 0"),
        ("-3", "The binding key must be greater than 0"),
    ],
)
def test_weights_that_are_refused(channel: BlockingChannel, names: Names, weight: str, text: str) -> None:
    choice = Choice(channel, names)
    with channel_error(channel, 406, INVALID + text):
        choice.bind("a", weight)


def test_a_weight_may_have_a_sign_and_be_great(channel: BlockingChannel, names: Names, is_pabal: bool) -> None:
    choice = Choice(channel, names)
    choice.bind("a", "9" * 255 if is_pabal else "+500")
    choice.bind("b", "+1")
    assert choice.spread(numbered(50))["a"] > 45


# --- x-modulus-hash and x-random ----------------------------------------------------------------------------


def test_modulus_hash(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names, "x-modulus-hash")
    for label in "abc":
        choice.bind(label, "any key will do")
    keys = numbered(600)
    found = choice.publish(keys)
    assert choice.publish(keys) == found
    for count in Counter(found.values()).values():
        assert count / len(keys) == pytest.approx(1 / 3, abs=0.08)


def test_random(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names, "x-random")
    for label in "abc":
        choice.bind(label)
    spread = choice.spread(["one key"] * 900)
    for label in "abc":
        assert spread[label] / 900 == pytest.approx(1 / 3, abs=0.08), spread


@pytest.mark.parametrize("kind", ["x-modulus-hash", "x-random"])
def test_a_queue_bound_often_counts_once(channel: BlockingChannel, names: Names, kind: str, pabal_only: None) -> None:
    """(RabbitMQ counts bindings.)"""
    choice = Choice(channel, names, kind)
    for key in ("1", "2", "3"):
        choice.bind("a", key)
    choice.bind("b")
    assert choice.spread(numbered(600))["a"] / 600 == pytest.approx(1 / 2, abs=0.1)
    choice.unbind("a", "2")
    assert set(choice.spread(numbered(60))) == set("ab")


def test_random_behind_another_exchange_is_not_remembered(channel: BlockingChannel, names: Names) -> None:
    choice = Choice(channel, names, "x-random")
    for label in "ab":
        choice.bind(label)
    outer = names.exchange("outer")
    channel.exchange_declare(outer, "topic")
    channel.exchange_bind(choice.exchange, outer, "#")
    for number in range(60):
        channel.basic_publish(outer, "key", str(number).encode())
    assert set(choice.collect(60).values()) == set("ab")


# --- After a restart ----------------------------------------------------------------------------------------


def session(broker: BrokerProcess) -> tuple[BlockingConnection, BlockingChannel]:
    connection = open_connection(broker)
    channel = connection.channel()
    channel.confirm_delivery()
    return connection, channel


@pytest.mark.parametrize("kind", TYPES)
def test_definitions_survive_and_keys_keep_their_queues(
    start_broker: Callable[..., BrokerProcess], kind: str
) -> None:
    broker = start_broker()
    connection, channel = session(broker)
    queues = [f"q{number}" for number in range(4)]
    arguments = {"hash-header": "k"} if kind == HASH else None
    channel.exchange_declare("shared", kind, durable=True, arguments=arguments)
    for queue in reversed(queues):
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "shared", "3")

    def where() -> list[str]:
        for number in range(32):
            properties = BasicProperties(headers={"k": f"key-{number}"})
            channel.basic_publish("shared", f"key-{number}", b"%d" % number, properties)
        went = [""] * 32
        for queue in queues:
            for body in bodies(channel, queue, channel.queue_declare(queue, passive=True).method.message_count):
                went[int(body)] = queue[1:]
        assert len(set(went)) > 1
        return went

    before = where()
    broker.restart(kill=True)
    connection, channel = session(broker)
    after = where()
    if kind != "x-random":
        assert after == before
        # The hash is part of what is promised: another release, another Python must find the same.
        assert "".join(after) == KNOWN[kind]
    if kind == HASH:
        with channel_error(channel, 406, INVALID + "The binding key must be greater than 0"):
            channel.queue_bind("q0", "shared", "0")
    connection.close()


KNOWN = {
    HASH: "23132310013111211221021120001130",
    "x-modulus-hash": "33210032310301220132100031212211",
}
