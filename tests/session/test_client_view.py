"""What an AMQP 0-9-1 connection shows of itself, what its channels count, and closing it from outside."""

from __future__ import annotations

import pytest
from peer import Peer, World
from pika import spec

from pabal.broker.clients import Client, ClientChannel
from pabal.broker.statistics import COUNTED, Counters


@pytest.fixture
def world() -> World:
    return World()


def counted(counters: Counters) -> dict[str, int]:
    return {name: value for name, value in zip(COUNTED, counters.values(), strict=True) if value}


def channel(peer: Peer, number: int = 1) -> ClientChannel:
    client: Client = peer.session.client
    return next(each for each in client.open_channels if each.number == number)


def publish(peer: Peer, key: str, count: int, mandatory: bool = False) -> None:
    method = spec.Basic.Publish(exchange="", routing_key=key, mandatory=mandatory)
    message = peer.message(method, spec.BasicProperties(), b"body")
    peer.send_bytes(message * count)


def test_publishing(world: World) -> None:
    peer = Peer(world).open()
    peer.send(1, spec.Queue.Declare(queue="q"))
    publish(peer, "q", 3)
    publish(peer, "nowhere", 2)
    publish(peer, "nowhere", 1, mandatory=True)
    expected = {"publish": 6, "drop_unroutable": 2, "return_unroutable": 1}
    assert counted(channel(peer).counters) == expected
    assert counted(world.broker.vhosts["/"].counters) == {**expected, "publish_out": 3}


def test_confirms_and_what_waits_for_them() -> None:
    world = World(slow=True)
    peer = Peer(world).open()
    peer.send(1, spec.Confirm.Select(), spec.Queue.Declare(queue="q", durable=True))
    world.end_commit()
    peer.publish("q", b"a", b"b")
    assert channel(peer).confirming
    assert channel(peer).unconfirmed == 2
    while world.commits:
        world.end_commit()
    assert channel(peer).unconfirmed == 0
    assert counted(channel(peer).counters) == {"publish": 2, "confirm": 2}
    assert counted(world.broker.vhosts["/"].counters) == {
        "publish": 2,
        "publish_out": 2,
        "publish_confirming": 2,
        "confirm": 2,
    }


def test_refused_messages_are_not_confirmed(world: World) -> None:
    peer = Peer(world).open()
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    peer.send(1, spec.Confirm.Select(), spec.Queue.Declare(queue="q", arguments=arguments))
    publish(peer, "q", 3)
    assert counted(channel(peer).counters) == {"publish": 3, "confirm": 1}


def test_consuming(world: World) -> None:
    peer = Peer(world).open()
    peer.send(1, spec.Queue.Declare(queue="q"))
    publish(peer, "q", 4)
    peer.send(1, spec.Basic.Qos(prefetch_count=2))
    peer.send(1, spec.Basic.Consume(queue="q", consumer_tag="c", arguments={"x-priority": 3}))
    peer.send(1, spec.Basic.Nack(1), spec.Basic.Ack(2))
    shown = channel(peer)
    assert counted(shown.counters) == {"publish": 4, "deliver": 4, "redeliver": 1, "ack": 1}
    assert shown.unacknowledged == 2
    assert shown.consumer_prefetch == 2
    [consumer] = shown.open_consumers
    assert (consumer.tag, consumer.prefetch, consumer.table, consumer.home) == ("c", 2, {"x-priority": 3}, shown)


def test_getting(world: World) -> None:
    peer = Peer(world).open()
    peer.send(1, spec.Queue.Declare(queue="q"))
    publish(peer, "q", 2)
    peer.send(1, spec.Basic.Get(queue="q"), spec.Basic.Get(queue="q", no_ack=True), spec.Basic.Get(queue="q"))
    assert counted(channel(peer).counters) == {"publish": 2, "get": 1, "get_no_ack": 1, "get_empty": 1}


def test_a_transaction(world: World) -> None:
    peer = Peer(world).open()
    peer.send(1, spec.Queue.Declare(queue="q"), spec.Tx.Select())
    publish(peer, "q", 2)
    publish(peer, "nowhere", 1)
    shown = channel(peer)
    assert (shown.transactional, shown.uncommitted, counted(shown.counters)) == (True, 3, {})
    peer.send(1, spec.Tx.Commit())
    assert (shown.uncommitted, counted(shown.counters)) == (0, {"publish": 3, "drop_unroutable": 1})
    queue = world.broker.vhosts["/"].queues["q"]
    assert counted(queue.counters) == {"publish": 2}
    peer.send(1, spec.Basic.Get(queue="q"), spec.Basic.Ack(1))
    assert (shown.uncommitted_acknowledgements, counted(queue.counters)["get"]) == (1, 1)
    peer.send(1, spec.Tx.Commit())
    assert counted(queue.counters) == {"publish": 2, "get": 1, "ack": 1}


def test_the_connection(world: World) -> None:
    peer = Peer(world)
    client: Client = peer.session.client
    assert (client.public_state, client.user, client.vhost_name) == ("starting", "", "")
    peer.handshake(channel_max=9, frame_max=8192, heartbeat=30, properties={"connection_name": "mine"})
    assert (client.public_state, client.user, client.vhost_name) == ("running", "guest", "/")
    assert (client.channel_max, client.frame_bytes_max, client.heartbeat_seconds) == (9, 8192, 30)
    assert client.properties["connection_name"] == "mine"
    assert client.mechanism == "PLAIN"
    assert list(client.open_channels) == []
    peer.send(7, spec.Channel.Open())
    assert [each.number for each in client.open_channels] == [7]
    world.alarm("disk")
    assert client.public_state == "blocking"


def test_churn(world: World) -> None:
    peer = Peer(world).open()
    peer.send(2, spec.Channel.Open(), spec.Channel.Close(200, "", 0, 0))
    statistics = world.broker.statistics
    assert (statistics.channels_opened, statistics.channels_closed) == (2, 1)
    peer.session.connection_lost()
    assert (statistics.channels_opened, statistics.channels_closed) == (2, 2)
    assert (statistics.connections_opened, statistics.connections_closed) == (1, 1)


def test_closing_it_from_outside(world: World) -> None:
    peer = Peer(world).open()
    peer.session.client.close("Closed via management plugin")
    world.turn.end()
    [close] = peer.received()
    assert (close.reply_code, close.reply_text) == (320, "CONNECTION_FORCED - Closed via management plugin")
    peer.send(0, spec.Connection.CloseOk())
    assert peer.session.closed
