"""Transactions: tx.select, tx.commit and tx.rollback. All or nothing is what RabbitMQ does not promise."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from pika import frame
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker
from pika.spec import Basic, BasicProperties, Channel, Tx

from broker_process import BrokerAddress, BrokerProcess
from clients.desk import Desk, death, history
from clients.pika_client import (
    Connect,
    Inbox,
    Names,
    bodies,
    channel_error,
    connection_error,
    cut,
    get,
    open_connection,
    publish,
    ready_count,
    wait_ready,
    wait_until,
)
from clients.raw_client import RawClient

PERSISTENT = 2
LEASE_MS = 150


@pytest.fixture
def tx(connection: BlockingConnection) -> BlockingChannel:
    """A channel in transaction mode, beside `channel`, which is not."""
    channel = connection.channel()
    channel.tx_select()
    return channel


def round_trip(channel: BlockingChannel) -> None:
    """What was sent before has been done, and did not close the channel."""
    channel.basic_qos(prefetch_count=0)


def is_empty(channel: BlockingChannel, queue: str) -> bool:
    return channel.basic_get(queue) == (None, None, None)


# --- Publishing ---------------------------------------------------------------------------------------------


def test_publishes_arrive_at_the_commit_in_order(tx: BlockingChannel, channel: BlockingChannel, names: Names) -> None:
    queues = [names.queue(), names.queue()]
    for queue in queues:
        channel.queue_declare(queue, durable=True)
    for n in range(100):
        for queue in queues:
            publish(tx, queue, b"%d" % n, delivery_mode=PERSISTENT)
    round_trip(tx)
    assert [ready_count(channel, queue) for queue in queues] == [0, 0]
    tx.tx_commit()
    assert [ready_count(channel, queue) for queue in queues] == [100, 100]
    for queue in queues:
        assert bodies(channel, queue, 100) == [b"%d" % n for n in range(100)]


def test_contents_come_as_they_were_sent(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    properties = BasicProperties(message_id="m1", headers={"a": [1, None, {"b": True}]}, priority=3)
    contents = [b"", b"x", b"y" * 300_000]
    for body in contents:
        tx.basic_publish("", queue, body, properties)
    tx.tx_commit()
    for body in contents:
        received = get(channel, queue)
        assert (received.body, received.properties) == (body, properties)


def test_a_rollback_discards_publishes(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(tx, queue, b"discarded")
    tx.tx_rollback()
    publish(tx, queue, b"kept")
    tx.tx_commit()
    assert bodies(channel, queue, 1) == [b"kept"]


def test_each_commit_begins_a_new_transaction(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    tx.tx_commit()
    for n in range(20):
        publish(tx, queue, b"%d" % n)
        tx.tx_commit()
        assert ready_count(channel, queue) == n + 1
    tx.tx_rollback()
    assert ready_count(channel, queue) == 20


def test_selecting_again_keeps_what_is_held(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(tx, queue, b"held")
    tx.tx_select()
    assert is_empty(channel, queue)
    tx.tx_commit()
    assert bodies(channel, queue, 1) == [b"held"]


def test_other_channels_are_not_in_it(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(tx, queue, b"held")
    publish(channel, queue, b"at once")
    assert bodies(channel, queue, 1) == [b"at once"]
    tx.tx_rollback()


def test_everything_but_basic_publish_and_settling_is_done_at_once(
    tx: BlockingChannel, channel: BlockingChannel, names: Names
) -> None:
    queue = names.queue()
    tx.queue_declare(queue)
    tx.queue_bind(queue, "amq.direct", queue)
    channel.basic_publish("amq.direct", queue, b"x")
    assert get(tx, queue, auto_ack=True).body == b"x"
    tx.tx_rollback()
    assert ready_count(channel, queue) == 0


def test_the_route_is_that_of_the_publish(tx: BlockingChannel, channel: BlockingChannel, names: Names) -> None:
    """A binding that is made or removed before the commit makes no difference; an exchange that goes neither."""
    early, late, exchange = names.queue("early"), names.queue("late"), names.exchange()
    channel.exchange_declare(exchange, "fanout")
    for queue in (early, late):
        channel.queue_declare(queue)
    channel.queue_bind(early, exchange)
    tx.basic_publish(exchange, "", b"x")
    round_trip(tx)
    channel.queue_bind(late, exchange)
    channel.exchange_delete(exchange)
    tx.tx_commit()
    assert bodies(channel, early, 1) == [b"x"]
    assert is_empty(channel, late)


@pytest.mark.parametrize("mandatory", [False, True])
def test_a_queue_that_is_deleted_before_the_commit(
    tx: BlockingChannel, channel: BlockingChannel, names: Names, mandatory: bool
) -> None:
    gone, kept = names.queue("gone"), names.queue("kept")
    channel.queue_declare(gone)
    channel.queue_declare(kept)
    returned: list[bytes] = []
    tx.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    tx.basic_publish("", gone, b"1", mandatory=mandatory)
    tx.basic_publish("", kept, b"2", mandatory=mandatory)
    round_trip(tx)
    channel.queue_delete(gone)
    tx.tx_commit()
    round_trip(tx)
    wait_until(tx.connection, lambda: len(returned) == mandatory)
    assert bodies(channel, kept, 1) == [b"2"]


def test_copies_and_headers_exchanges(tx: BlockingChannel, channel: BlockingChannel, names: Names) -> None:
    one, two, exchange = names.queue("one"), names.queue("two"), names.exchange()
    channel.exchange_declare(exchange, "headers")
    for queue, kind in ((one, "a"), (two, "b")):
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange, "", {"kind": kind})
    for kind in "aab":
        tx.basic_publish(exchange, "", kind.encode(), BasicProperties(headers={"kind": kind}))
    tx.basic_publish("", one, b"copied", BasicProperties(headers={"CC": [two], "BCC": []}))
    tx.tx_commit()
    assert bodies(channel, one, 3) == [b"a", b"a", b"copied"]
    assert bodies(channel, two, 2) == [b"b", b"copied"]


def test_what_is_returned_comes_before_commit_ok(broker: BrokerAddress) -> None:
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        client.open_channel(1)
        client.send(1, Tx.Select())
        client.expect(Tx.SelectOk)
        for n in range(2):
            method = Basic.Publish(exchange="amq.direct", routing_key="nowhere", mandatory=True)
            client.publish(1, method, b"%d" % n, BasicProperties(message_id="m"))
        client.send(1, Basic.Qos())
        client.expect(Basic.QosOk)  # nothing was returned yet
        client.send(1, Tx.Commit())
        for n in range(2):
            returned = client.expect(Basic.Return)
            assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
            assert (returned.exchange, returned.routing_key) == ("amq.direct", "nowhere")
            assert client.receive_content() == (BasicProperties(message_id="m"), b"%d" % n)
        client.expect(Tx.CommitOk)
        client.send(1, Tx.Commit())
        client.expect(Tx.CommitOk)  # they are returned once


def test_nothing_is_returned_after_a_rollback(tx: BlockingChannel) -> None:
    returned: list[bytes] = []
    tx.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    tx.basic_publish("", "nowhere", b"x", mandatory=True)
    tx.tx_rollback()
    tx.tx_commit()
    round_trip(tx)
    assert returned == []


# --- Settling -----------------------------------------------------------------------------------------------


def test_acks_count_at_the_commit(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcd")
    received = [get(tx, queue, auto_ack=False) for _ in range(4)]
    tx.basic_ack(received[1].tag, multiple=True)
    tx.basic_ack(received[3].tag)
    tx.tx_commit()
    tx.close()
    wait_ready(channel, queue, 1)
    assert get(channel, queue).body == b"c"


def test_a_rollback_makes_the_deliveries_unsettled_again(
    tx: BlockingChannel, channel: BlockingChannel, queue: str
) -> None:
    """They stay with the channel, under the same tags, and may be settled in another way (§1.9)."""
    publish(channel, queue, *"abcd")
    received = [get(tx, queue, auto_ack=False) for _ in range(4)]
    tx.basic_ack(received[0].tag)
    tx.basic_nack(received[2].tag, multiple=True, requeue=True)
    tx.tx_rollback()
    round_trip(tx)
    assert is_empty(channel, queue)  # not requeued
    tx.basic_nack(received[0].tag, requeue=True)
    tx.basic_ack(received[2].tag, multiple=True)
    tx.tx_commit()
    wait_ready(channel, queue, 1)
    assert get(channel, queue).body == b"a"
    tx.close()
    wait_ready(channel, queue, 1)
    assert get(channel, queue).body == b"d"


@pytest.mark.parametrize("how", ["close", "close connection", "cut", "fault"])
def test_the_end_of_a_channel_is_a_rollback(connect: Connect, names: Names, how: str) -> None:
    observer = connect().channel()
    source, target = names.queue("source"), names.queue("target")
    observer.queue_declare(source)
    observer.queue_declare(target)
    publish(observer, source, *"abc")
    connection = connect()
    tx = connection.channel()
    tx.tx_select()
    for _ in range(2):
        tx.basic_ack(get(tx, source, auto_ack=False).tag)
    get(tx, source, auto_ack=False)
    publish(tx, target, b"x")
    round_trip(tx)
    assert (ready_count(observer, source), ready_count(observer, target)) == (0, 0)
    if how == "close":
        tx.close()
    elif how == "close connection":
        connection.close()
    elif how == "cut":
        cut(connection)
    else:
        with channel_error(tx, 406, "PRECONDITION_FAILED - unknown delivery tag 99"):
            tx.basic_ack(99)
    wait_ready(observer, source, 3)
    received = [get(observer, source) for _ in range(3)]
    assert [(r.body, r.redelivered) for r in received] == [(b"a", True), (b"b", True), (b"c", True)]
    assert is_empty(observer, target)


def test_rejects_are_dead_lettered_at_the_commit(tx: BlockingChannel, channel: BlockingChannel, names: Names) -> None:
    desk = Desk(channel, names)
    desk.declare()
    queue = desk.source
    publish(channel, queue, *"abc")
    received = [get(tx, queue, auto_ack=False) for _ in range(3)]
    tx.basic_reject(received[0].tag, requeue=False)
    tx.basic_nack(received[1].tag, requeue=False)
    tx.basic_reject(received[2].tag, requeue=True)
    round_trip(tx)
    assert is_empty(channel, queue)
    assert is_empty(channel, desk.dead)
    tx.tx_commit()
    assert get(channel, queue).body == b"c"
    letters = [get(channel, desk.dead) for _ in range(2)]
    assert sorted(letter.body for letter in letters) == [b"a", b"b"]
    assert all(history(letter) == [death(queue, "rejected")] for letter in letters)


def test_publishes_come_before_settlements(tx: BlockingChannel, channel: BlockingChannel, names: Names) -> None:
    """RabbitMQ's order: seen where what is rejected dies into the queue that is published to."""
    dead, work = names.queue("dead"), names.queue("work")
    channel.queue_declare(dead)
    channel.queue_declare(work, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    publish(channel, work, b"rejected")
    tx.basic_reject(get(tx, work, auto_ack=False).tag, requeue=False)
    publish(tx, dead, b"published")
    tx.tx_commit()
    assert [get(channel, dead).body for _ in range(2)] == [b"published", b"rejected"]


def test_a_delivery_cannot_be_settled_twice(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"x")
    received = get(tx, queue, auto_ack=False)
    tx.basic_ack(received.tag)
    with channel_error(tx, 406, f"PRECONDITION_FAILED - unknown delivery tag {received.tag}"):
        tx.basic_nack(received.tag, requeue=False)
    wait_ready(channel, queue, 1)


@pytest.mark.parametrize("multiple", [False, True])
def test_an_unknown_delivery_tag_is_an_error_at_once(tx: BlockingChannel, multiple: bool) -> None:
    with channel_error(tx, 406, "PRECONDITION_FAILED - unknown delivery tag 7"):
        tx.basic_ack(7, multiple=multiple)


def test_all_there_is_may_be_acknowledged(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abc")
    for _ in range(3):
        get(tx, queue, auto_ack=False)
    tx.basic_ack(0, multiple=True)
    tx.tx_rollback()
    tx.basic_ack(0, multiple=True)
    tx.tx_commit()
    tx.basic_ack(0, multiple=True)  # nothing
    tx.tx_commit()
    tx.close()
    round_trip(channel)
    assert is_empty(channel, queue)


def test_credit_comes_back_with_the_commit(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abc")
    tx = connect().channel()
    tx.tx_select()
    tx.basic_qos(prefetch_count=1)
    inbox = Inbox(tx, queue)
    inbox.wait(1)
    tx.basic_ack(inbox.received[0].tag)
    tx.tx_rollback()
    tx.basic_ack(inbox.received[0].tag)
    round_trip(tx)
    assert inbox.bodies == [b"a"]
    tx.tx_commit()
    inbox.wait(2)
    tx.basic_ack(inbox.received[1].tag)
    tx.tx_commit()
    assert [r.body for r in inbox.wait(3)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("global_qos", [False, True])
def test_recover_does_not_wait_and_leaves_alone_what_is_held(
    tx: BlockingChannel, channel: BlockingChannel, queue: str, global_qos: bool
) -> None:
    tx.basic_qos(prefetch_count=10, global_qos=global_qos)
    publish(channel, queue, *"ab")
    held = get(tx, queue, auto_ack=False)
    get(tx, queue, auto_ack=False)
    tx.basic_ack(held.tag)
    tx.basic_recover(requeue=True)
    assert get(channel, queue).body == b"b"
    tx.tx_rollback()
    tx.basic_recover(requeue=True)
    assert get(channel, queue).body == b"a"


def test_a_message_from_a_deleted_queue(tx: BlockingChannel, channel: BlockingChannel, names: Names) -> None:
    queue, target = names.queue(), names.queue()
    channel.queue_declare(queue)
    channel.queue_declare(target)
    publish(channel, queue, b"x")
    tx.basic_ack(get(tx, queue, auto_ack=False).tag)
    publish(tx, target, b"y")
    round_trip(tx)
    channel.queue_delete(queue)
    tx.tx_commit()
    assert bodies(channel, target, 1) == [b"y"]


def test_automatic_acknowledgement_is_at_once(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, b"x")
    Inbox(tx, queue, auto_ack=True).wait(1)
    tx.tx_rollback()
    tx.close()
    assert is_empty(channel, queue)


# --- Errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["commit", "rollback"])
def test_only_a_channel_in_transaction_mode_can_end_one(channel: BlockingChannel, method: str) -> None:
    with channel_error(channel, 406, "PRECONDITION_FAILED - channel is not transactional"):
        channel.tx_commit() if method == "commit" else channel.tx_rollback()


def test_confirms_and_transactions_exclude_each_other(channel: BlockingChannel, tx: BlockingChannel) -> None:
    channel.confirm_delivery()
    with channel_error(channel, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"):
        channel.tx_select()
    with channel_error(tx, 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"):
        tx.confirm_delivery()


def test_a_missing_exchange_is_an_error_at_once(tx: BlockingChannel, channel: BlockingChannel, queue: str) -> None:
    publish(tx, queue, b"not done")
    with channel_error(tx, 404, "NOT_FOUND - no exchange 'nowhere' in vhost '/'"):
        tx.basic_publish("nowhere", "", b"x")
    assert is_empty(channel, queue)


def test_an_internal_exchange_is_an_error_at_once(
    tx: BlockingChannel, channel: BlockingChannel, names: Names
) -> None:
    exchange = names.exchange()
    channel.exchange_declare(exchange, internal=True)
    text = f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'"
    with channel_error(tx, 403, text):
        tx.basic_publish(exchange, "", b"x")


def test_a_bad_expiration_is_an_error_at_once(tx: BlockingChannel) -> None:
    with channel_error(tx, 406, "PRECONDITION_FAILED - invalid expiration 'soon': no_integer"):
        tx.basic_publish("", "q", b"x", BasicProperties(expiration="soon"))


def test_immediate_costs_the_connection(connect: Connect) -> None:
    connection = connect()
    tx = connection.channel()
    tx.tx_select()
    with connection_error(connection, 540, "NOT_IMPLEMENTED - immediate=true"):
        tx._impl._send_method(Basic.Publish(exchange="", routing_key="", immediate=True), (BasicProperties(), b"x"))


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_a_full_queue_refuses_the_commit(
    tx: BlockingChannel, channel: BlockingChannel, names: Names, is_pabal: bool, overflow: str
) -> None:
    """RabbitMQ does the rest of it, Pabal nothing."""
    desk = Desk(channel, names)
    desk.declare(max_length=1, overflow=overflow)
    full = desk.source
    other, source = names.queue("other"), names.queue("source")
    channel.queue_declare(other)
    channel.queue_declare(source)
    publish(channel, source, b"work")
    tx.basic_ack(get(tx, source, auto_ack=False).tag)
    publish(tx, full, *"ab")
    publish(tx, other, b"c")
    tx.basic_publish("", "nowhere", b"d", mandatory=True)
    text = f"nothing committed: queue '{full}' in vhost '/' is full" if is_pabal else "partial tx completion"
    with channel_error(tx, 406, f"PRECONDITION_FAILED - {text}"):
        tx.tx_commit()
    if is_pabal:
        wait_ready(channel, source, 1)
        assert [ready_count(channel, queue) for queue in (full, other, desk.dead)] == [0, 0, 0]
    else:
        for queue, count in ((full, 1), (other, 1), (source, 0), (desk.dead, int(overflow != "reject-publish"))):
            wait_ready(channel, queue, count)


def test_a_bounded_queue_with_a_consumer_takes_what_that_takes(
    connect: Connect, tx: BlockingChannel, channel: BlockingChannel, names: Names
) -> None:
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    consumer = connect().channel()
    consumer.basic_qos(prefetch_count=3)
    inbox = Inbox(consumer, queue)
    publish(tx, queue, *"abcde")
    tx.tx_commit()
    inbox.wait(3)
    wait_ready(channel, queue, 2)
    publish(tx, queue, b"f")
    with pytest.raises(ChannelClosedByBroker) as caught:
        tx.tx_commit()
    assert caught.value.reply_code == 406


def test_a_queue_that_drops_its_head_takes_everything(
    tx: BlockingChannel, channel: BlockingChannel, names: Names
) -> None:
    queue = names.queue()
    channel.queue_declare(queue, arguments={"x-max-length": 2})
    publish(tx, queue, *"abcde")
    tx.tx_commit()
    assert bodies(channel, queue, 2) == [b"d", b"e"]


@pytest.mark.usefixtures("pabal_only")
def test_what_is_held_has_a_limit(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    part = b"x" * (20 * 1024 * 1024)
    tx = connect().channel()
    tx.tx_select()
    for _ in range(2):  # a rollback makes room
        publish(tx, queue, part, part, part)
        round_trip(tx)
        tx.tx_rollback()
    text = "PRECONDITION_FAILED - more than 67108864 bytes of messages in one transaction"
    with channel_error(tx, 406, text):
        publish(tx, queue, part, part, part, part)
    assert is_empty(channel, queue)


@pytest.mark.usefixtures("pabal_only")
def test_many_small_messages_have_a_limit_too(broker: BrokerAddress) -> None:
    """It counts what they take in memory. 200,000 are still committed in one step."""
    with RawClient(broker.host, broker.port, timeout_seconds=30.0) as client:
        client.handshake()
        client.open_channel(1)
        client.send(1, Tx.Select())
        client.expect(Tx.SelectOk)
        one = frame.Method(1, Basic.Publish(exchange="", routing_key="nowhere")).marshal()
        one += frame.Header(1, 1, BasicProperties()).marshal() + frame.Body(1, b"x").marshal()
        client.send_bytes(one * 200_000)
        client.send(1, Tx.Commit())
        client.expect(Tx.CommitOk)
        client.send_bytes(one * 300_000)
        closed = client.expect(Channel.Close)
        assert closed.reply_code == 406
        assert closed.reply_text.startswith("PRECONDITION_FAILED - more than 67108864 bytes")


@pytest.mark.usefixtures("pabal_only")
@pytest.mark.parametrize("settle", ["ack before", "ack after", "requeue before"])
def test_a_lease_that_ran_out_refuses_the_commit(
    tx: BlockingChannel, channel: BlockingChannel, names: Names, settle: str
) -> None:
    """Somebody else has the message by then: what came of it here must not count."""
    source, target = names.queue("source"), names.queue("target")
    channel.queue_declare(source, arguments={"x-consumer-timeout": LEASE_MS})
    channel.queue_declare(target)
    publish(channel, source, b"job")
    tag = get(tx, source, auto_ack=False).tag
    publish(tx, target, b"result")
    if settle == "ack before":
        tx.basic_ack(tag)
    elif settle == "requeue before":
        tx.basic_nack(tag, requeue=True)
    wait_ready(channel, source, 1)
    if settle == "ack after":
        tx.basic_ack(tag)
    if settle == "requeue before":
        tx.tx_commit()
        assert bodies(channel, target, 1) == [b"result"]
    else:
        with channel_error(
            tx, 406, f"PRECONDITION_FAILED - nothing committed: the lease of delivery tag {tag} ran out"
        ):
            tx.tx_commit()
        assert is_empty(channel, target)
    received = get(channel, source)
    assert (received.body, received.redelivered) == (b"job", True)
    assert is_empty(channel, source)


# --- Durability ---------------------------------------------------------------------------------------------


class Worker:
    """Moves jobs from "jobs" to COPIES messages each in "left" and "right", a few jobs a transaction, until the
    broker dies. `committed`: the transactions that were answered; `tried`: all of them, with their jobs."""

    COPIES = 20

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.tried: dict[str, list[bytes]] = {}
        self.committed: set[str] = set()

    def work(self, dice: random.Random) -> None:
        try:
            channel = open_connection(self.broker).channel()
            channel.tx_select()
            while True:
                self._transaction(channel, dice)
        except AMQPConnectionError:
            return

    def _transaction(self, channel: BlockingChannel, dice: random.Random) -> None:
        name = f"{len(self.tried)}"
        received = [get(channel, "jobs", auto_ack=False) for _ in range(dice.randint(1, 4))]
        for job in received:
            for queue in ("left", "right"):
                copies = [name.encode() + b"/" + job.body + b" " * 500] * self.COPIES
                publish(channel, queue, *copies, delivery_mode=PERSISTENT)
            channel.basic_ack(job.tag)
        if dice.random() < 0.2:
            channel.tx_rollback()
            channel.basic_recover(requeue=True)
            return
        self.tried[name] = [job.body for job in received]
        channel.tx_commit()
        self.committed.add(name)


@pytest.fixture
def own(start_broker: Callable[..., BrokerProcess]) -> Iterator[BrokerProcess]:
    yield start_broker()


def drain(broker: BrokerProcess, queue: str) -> Counter[bytes]:
    connection = open_connection(broker)
    channel = connection.channel()
    count = ready_count(channel, queue)
    inbox = Inbox(channel, queue, auto_ack=True)
    inbox.wait(count)
    connection.close()
    return Counter(body.rstrip() for body in inbox.bodies)


def test_kill_in_the_middle_all_or_nothing(own: BrokerProcess) -> None:
    """Over two queues and the acknowledgements: each transaction was done as a whole or not at all, and those
    that were answered were done."""
    jobs = [b"%d" % n for n in range(2000)]
    channel = open_connection(own).channel()
    channel.confirm_delivery()
    for queue in ("jobs", "left", "right"):
        channel.queue_declare(queue, durable=True)
    for job in jobs:
        publish(channel, "jobs", job, delivery_mode=PERSISTENT)
    dice = random.Random(1)
    worker = Worker(own)
    for _ in range(8):
        killer = threading.Timer(dice.uniform(0.05, 0.3), own.kill)
        killer.start()
        worker.work(dice)
        killer.join()
        own.start()
    left, right, waiting = (drain(own, queue) for queue in ("left", "right", "jobs"))
    assert left == right
    done: set[bytes] = set()
    for name, tried in worker.tried.items():
        counts = {left[name.encode() + b"/" + job] for job in tried}
        assert counts in ({0}, {Worker.COPIES}), (name, counts)
        if counts == {0}:
            assert name not in worker.committed
        else:
            assert not done & set(tried)
            done |= set(tried)
    assert sum(left.values()) == Worker.COPIES * len(done)
    assert waiting == Counter(job for job in jobs if job not in done)
    assert len(worker.committed) > 8


def test_what_was_committed_survives(own: BrokerProcess) -> None:
    channel = open_connection(own).channel()
    for queue in ("jobs", "left", "right"):
        channel.queue_declare(queue, durable=True)
    publish(channel, "jobs", *"abc", delivery_mode=PERSISTENT)
    channel.tx_select()
    received = [get(channel, "jobs", auto_ack=False) for _ in range(3)]
    publish(channel, "left", b"1", delivery_mode=PERSISTENT)
    publish(channel, "right", b"2", delivery_mode=PERSISTENT)
    channel.basic_ack(received[1].tag, multiple=True)
    channel.tx_commit()
    publish(channel, "left", b"3", delivery_mode=PERSISTENT)
    channel.basic_ack(received[2].tag)
    round_trip(channel)
    own.restart(kill=True)
    assert drain(own, "left") == Counter([b"1"])
    assert drain(own, "right") == Counter([b"2"])
    assert drain(own, "jobs") == Counter([b"c"])


@pytest.mark.usefixtures("pabal_only")
def test_what_follows_a_commit_waits_for_it(broker: BrokerAddress, names: Names, channel: BlockingChannel) -> None:
    """(RabbitMQ closes the connection: 504, "unexpected command while processing 'tx.commit'".)"""
    queue = names.queue()
    channel.queue_declare(queue, durable=True)
    with RawClient(broker.host, broker.port) as client:
        client.handshake()
        client.open_channel(1)
        client.send(1, Tx.Select())
        for n in range(50):
            method = Basic.Publish(exchange="", routing_key=queue)
            client.publish(1, method, b"%d" % n, BasicProperties(delivery_mode=PERSISTENT))
            client.send(1, Tx.Commit() if n % 2 == 0 else Tx.Rollback())
        client.expect(Tx.SelectOk)
        for n in range(50):
            client.expect(Tx.CommitOk if n % 2 == 0 else Tx.RollbackOk)
    assert bodies(channel, queue, 25) == [b"%d" % n for n in range(0, 50, 2)]
