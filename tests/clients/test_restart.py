"""What survives: kill -9, SIGTERM and a start from the same data. Each test kills a broker of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker
from pika.spec import BasicProperties

from broker_process import BrokerProcess
from clients.desk import death, delivery_count, history
from clients.pika_client import Confirmations, Inbox, bodies, get, open_connection, publish, ready_count

PERSISTENT = 2


@pytest.fixture
def own(start_broker: Callable[..., BrokerProcess]) -> BrokerProcess:
    return start_broker()


@pytest.fixture
def session(own: BrokerProcess) -> Iterator[Session]:
    session = Session(own)
    yield session
    session.close()


class Session:
    """One connection and channel, made anew after each restart."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.connection = open_connection(broker)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def restart(self, kill: bool) -> BlockingChannel:
        self.broker.restart(kill=kill)
        self.__init__(self.broker)  # type: ignore[misc]
        return self.channel

    def close(self) -> None:
        if self.connection.is_open:
            with contextlib.suppress(AMQPConnectionError):
                self.connection.close()


@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "SIGTERM"])
def test_confirmed_messages_and_definitions_survive(session: Session, kill: bool) -> None:
    channel = session.channel
    arguments = {"x-max-length": 1000, "x-dead-letter-exchange": "dlx"}
    channel.queue_declare("orders", durable=True, arguments=arguments)
    channel.queue_declare("copies", durable=True)
    channel.exchange_declare("events", "topic", durable=True)
    channel.exchange_declare("inner", "headers", durable=True, internal=True)
    channel.queue_bind("orders", "events", "order.#")
    channel.exchange_bind("inner", "events", "order.copy")
    channel.queue_bind("copies", "inner", "", {"x-match": "any", "kind": "copy"})
    properties = BasicProperties(
        delivery_mode=PERSISTENT,
        message_id="m1",
        headers={"kind": "copy", "list": [1, None, {"a": True}]},
        timestamp=1700000000,
    )
    sent = [b"%d" % n * n for n in range(100)]
    for body in sent:
        channel.basic_publish("events", "order.copy", body, properties)

    channel = session.restart(kill)
    received = [get(channel, "orders") for _ in sent]
    assert [r.body for r in received] == sent
    assert all(r.properties == properties for r in received)
    assert {(r.method.exchange, r.method.routing_key) for r in received} == {("events", "order.copy")}
    assert not any(r.redelivered for r in received)
    assert bodies(channel, "copies", 100) == sent
    # The same definitions are found again, arguments and all, and they still route.
    channel.queue_declare("orders", durable=True, arguments=arguments)
    channel.exchange_declare("events", "topic", durable=True)
    channel.exchange_declare("inner", "headers", durable=True, internal=True)
    channel.basic_publish("events", "order.copy", b"after", properties)
    assert bodies(channel, "orders", 1) == [b"after"]
    assert bodies(channel, "copies", 1) == [b"after"]


def test_deleted_definitions_stay_deleted(session: Session) -> None:
    channel = session.channel
    for name in ("kept", "gone"):
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, "amq.fanout")
        channel.exchange_declare(name, "fanout", durable=True)
    publish(channel, "gone", b"x", delivery_mode=PERSISTENT)
    channel.queue_delete("gone")
    channel.exchange_delete("gone")
    channel.queue_unbind("kept", "amq.fanout")
    channel = session.restart(kill=True)
    channel.basic_publish("amq.fanout", "", b"nobody")
    assert bodies(channel, "kept", 0) == []
    channel.exchange_declare("kept", "fanout", passive=True)
    for declare in (
        lambda c: c.queue_declare("gone", passive=True),
        lambda c: c.exchange_declare("gone", passive=True),
    ):
        with pytest.raises(ChannelClosedByBroker) as caught:
            declare(session.connection.channel())
        assert caught.value.reply_code == 404


def test_exclusive_and_transient_queues_do_not_survive(session: Session) -> None:
    channel = session.channel
    channel.queue_declare("exclusive", durable=True, exclusive=True)
    channel.queue_declare("transient")
    publish(channel, "exclusive", b"x", delivery_mode=PERSISTENT)
    channel = session.restart(kill=True)
    for name in ("exclusive", "transient"):
        with pytest.raises(ChannelClosedByBroker) as caught:
            session.connection.channel().queue_declare(name, passive=True)
        assert caught.value.reply_code == 404


def test_settled_messages_do_not_come_back(session: Session) -> None:
    channel = session.channel
    channel.queue_declare("q", durable=True)
    publish(channel, "q", *"abcdef", delivery_mode=PERSISTENT)
    inbox = Inbox(channel, "q")
    inbox.wait(6)
    channel.basic_ack(2, multiple=True)
    channel.basic_ack(4)
    channel.basic_reject(5, requeue=False)
    # A confirm after them: they were durable before it.
    publish(channel, "q", b"g", delivery_mode=PERSISTENT)
    channel = session.restart(kill=True)
    received = [get(channel, "q") for _ in range(3)]
    assert [r.body for r in received] == [b"c", b"f", b"g"]
    assert [r.redelivered for r in received] in ([True, True, True], [True, True, False])
    assert ready_count(channel, "q") == 0


@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "SIGTERM"])
def test_redelivered_and_attempts_survive(session: Session, kill: bool) -> None:
    channel = session.channel
    channel.queue_declare("q", durable=True, arguments={"x-delivery-limit": 5})
    publish(channel, "q", b"tried", b"fresh", delivery_mode=PERSISTENT)
    for expected in (0, 1):
        taken = get(channel, "q", auto_ack=False)
        assert (taken.body, delivery_count(taken)) == (b"tried", expected)
        if expected == 0:
            channel.basic_nack(taken.tag, requeue=True)
    publish(channel, "q", b"last", delivery_mode=PERSISTENT)
    channel = session.restart(kill)
    tried, fresh, last = (get(channel, "q") for _ in range(3))
    assert (tried.body, tried.redelivered) == (b"tried", True)
    # It was with a consumer when the broker went down; whether that counts as well is the broker's choice.
    assert delivery_count(tried) in (1, 2)
    for received, body in ((fresh, b"fresh"), (last, b"last")):
        assert (received.body, received.redelivered, delivery_count(received)) == (body, False, 0)


def test_a_delivery_limit_holds_over_crashes(session: Session) -> None:
    channel = session.channel
    channel.queue_declare("dead", durable=True)
    arguments = {
        "x-delivery-limit": 2,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    }
    channel.queue_declare("q", durable=True, arguments=arguments)
    publish(channel, "q", b"poison", delivery_mode=PERSISTENT)
    for attempt in range(3):
        taken = get(channel, "q", auto_ack=False)
        assert (taken.body, delivery_count(taken)) == (b"poison", attempt)
        assert taken.redelivered is (attempt > 0)
        channel.basic_nack(taken.tag, requeue=True)
        # A confirm after it: it was durable before.
        publish(channel, "dead", b"%d" % attempt, delivery_mode=PERSISTENT)
        channel = session.restart(kill=True)
    letters = [get(channel, "dead") for _ in range(4)]
    assert [letter.body for letter in letters] == [b"0", b"1", b"poison", b"2"]
    assert history(letters[2]) == [death("q", "delivery_limit")]
    assert ready_count(channel, "q") == 0


def test_dead_letters_survive_with_their_history(session: Session) -> None:
    channel = session.channel
    channel.queue_declare("dead", durable=True)
    channel.queue_declare(
        "q", durable=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    )
    publish(channel, "q", b"bad", delivery_mode=PERSISTENT, headers={"mine": 1})
    channel.basic_reject(get(channel, "q", auto_ack=False).tag, requeue=False)
    before = get(channel, "dead", auto_ack=False)
    channel.basic_nack(before.tag, requeue=True)
    publish(channel, "q", b"commit", delivery_mode=PERSISTENT)
    channel = session.restart(kill=True)
    after = get(channel, "dead")
    assert (after.body, after.properties) == (before.body, before.properties)
    assert bodies(channel, "q", 1) == [b"commit"]


def test_expiry_goes_on_after_a_restart(session: Session) -> None:
    channel = session.channel
    channel.queue_declare("dead", durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("q", durable=True, arguments=arguments)
    publish(channel, "q", b"short", delivery_mode=PERSISTENT, expiration="300")
    publish(channel, "q", b"long", delivery_mode=PERSISTENT, expiration="600000")
    channel = session.restart(kill=True)
    letter = get(channel, "dead")
    assert (letter.body, letter.properties.headers["x-death"][0]["reason"]) == (b"short", "expired")
    assert bodies(channel, "q", 1) == [b"long"]


def test_kill_in_the_middle_of_publishing(session: Session) -> None:
    """Whatever was confirmed is there, once and in order; what was not may be there too."""
    session.channel.queue_declare("q", durable=True)
    confirmed: list[int] = []
    published = 0
    for _ in range(5):
        confirmations = Confirmations(session.connection.channel())
        before = published
        while len(confirmations.acked) < 300:
            for _ in range(50):
                published += 1
                confirmations.publish("", "q", b"%d" % published, delivery_mode=PERSISTENT)
            session.connection.process_data_events(time_limit=0)
        confirmed += [before + tag for tag in sorted(confirmations.acked)]
        session.restart(kill=True)
    count = ready_count(session.channel, "q")
    inbox = Inbox(session.channel, "q", auto_ack=True)
    inbox.wait(count)
    found = [int(body) for body in inbox.bodies]
    assert found == sorted(set(found))
    assert set(confirmed) <= set(found)
    assert len(confirmed) >= 1500


def test_sigterm_tells_the_clients_and_exits(session: Session) -> None:
    session.channel.queue_declare("q", durable=True)
    process = session.broker.process
    assert process is not None
    process.terminate()
    with pytest.raises(ConnectionClosedByBroker) as caught:
        while True:
            session.connection.process_data_events(time_limit=1.0)
    assert caught.value.reply_code == 320
    assert caught.value.reply_text.startswith("CONNECTION_FORCED - ")
    session.broker.stop()


def test_in_memory_broker_forgets(start_broker: Callable[..., BrokerProcess]) -> None:
    broker = start_broker(arguments=["--memory"])
    session = Session(broker)
    session.channel.queue_declare("q", durable=True)
    publish(session.channel, "q", b"x", delivery_mode=PERSISTENT)
    session.restart(kill=False)
    with pytest.raises(ChannelClosedByBroker) as caught:
        session.channel.queue_declare("q", passive=True)
    assert caught.value.reply_code == 404
    assert not broker.data.exists()
    session.close()
