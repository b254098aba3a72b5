"""Alarms: who publishes while disk or memory is low is not read and is told so; all others go on."""

from __future__ import annotations

import pytest
from peer import HEARTBEAT, Peer, World
from pika import frame
from pika.spec import Basic, BasicProperties, Channel, Confirm, Connection, Queue

from pabal.model.message import Outcome


@pytest.fixture
def world() -> World:
    return World()


def ready(world: World, queue: str = "q") -> int:
    return world.broker.vhosts["/"].queues[queue].ready


@pytest.fixture
def publisher(world: World) -> Peer:
    """Has published a message to q, with confirms, and knows of connection.blocked."""
    peer = Peer(world).open(connection_blocked=True)
    peer.send(1, Queue.Declare(queue="q"), Confirm.Select())
    peer.publish("q", b"first")
    assert peer.names() == ["DeclareOk", "SelectOk", "Ack"]
    return peer


def test_a_publisher_is_blocked_until_the_alarm_is_over(world: World, publisher: Peer) -> None:
    world.alarm("disk")
    assert publisher.names() == [], "it may never publish again"
    publisher.publish("q", b"second", b"third")
    [blocked] = publisher.received()
    assert (type(blocked), blocked.reason) == (Connection.Blocked, "low on disk")
    assert publisher.session.blocked
    assert ready(world) == 1
    publisher.send(1, Queue.Declare(queue="q", passive=True))
    world.advance(60)
    assert publisher.names() == []
    world.alarm()
    unblocked, declared, acks = publisher.received()
    assert isinstance(unblocked, Connection.Unblocked)
    assert (acks.delivery_tag, acks.multiple) == (3, True)
    assert declared.message_count == 3
    assert not publisher.session.blocked
    publisher.publish("q", b"fourth")
    assert publisher.names() == ["Ack"]


def test_reasons(world: World, publisher: Peer) -> None:
    world.alarm("disk", "memory")
    publisher.publish("q", b"x")
    assert [each.reason for each in publisher.received()] == ["low on disk & memory"]
    world.alarm("memory")
    assert publisher.names() == [], "there is an alarm still"
    assert publisher.session.blocked
    world.alarm()
    assert publisher.names() == ["Unblocked", "Ack"]
    world.alarm("memory")
    publisher.publish("q", b"x")
    assert [each.reason for each in publisher.received()] == ["low on memory"]


def test_who_does_not_know_of_it_is_not_told(world: World, publisher: Peer) -> None:
    ignorant = Peer(world).open()
    world.alarm("disk")
    ignorant.publish("q", b"x")
    assert ignorant.session.blocked
    world.alarm()
    assert ignorant.names() == []
    assert ready(world) == 2


def test_who_connects_during_an_alarm(world: World, publisher: Peer) -> None:
    world.alarm("disk")
    late = Peer(world).open(connection_blocked=True)
    late.send(1, Queue.Declare(queue="q", passive=True))
    assert late.names() == ["DeclareOk"]
    late.publish("q", b"x")
    assert late.names() == ["Blocked"]
    assert ready(world) == 1


def test_consumers_go_on(world: World, publisher: Peer) -> None:
    consumer = Peer(world).open(connection_blocked=True)
    world.alarm("disk")
    publisher.publish("q", b"held")
    assert publisher.names() == ["Blocked"]
    consumer.send(1, Basic.Consume(queue="q"))
    assert consumer.names() == ["ConsumeOk", "Deliver", "5"]
    consumer.send(1, Basic.Nack(1, requeue=True))
    assert consumer.names() == ["Deliver", "5"]
    consumer.send(1, Basic.Ack(2), Queue.Declare(queue="q", passive=True))
    assert consumer.names() == ["DeclareOk"]
    world.alarm()
    assert consumer.names() == ["Deliver", "4"]


def test_a_blocked_connection_gets_deliveries_and_confirms() -> None:
    world = World(slow=True)
    consumer = Peer(world).open(connection_blocked=True)
    consumer.send(1, Queue.Declare(queue="q", durable=True))
    world.end_commit()
    consumer.send(1, Basic.Consume(queue="q"), Confirm.Select())
    assert consumer.names() == ["DeclareOk", "ConsumeOk", "SelectOk"]
    consumer.publish("q", b"stored")
    assert consumer.names() == ["Deliver", "6"]
    [message] = consumer.session.channels[1].unsettled_deliveries.values()
    world.alarm("disk")
    consumer.publish("q", b"held")
    assert consumer.names() == ["Blocked"]
    world.end_commit()
    assert consumer.names() == ["Ack"], "it was taken before"
    other = Peer(world).open()
    other.send(1, Basic.Get(queue="q"))
    assert other.names() == ["GetEmpty"]
    world.broker.vhosts["/"].queues["q"].settle([message], message.consumer, Outcome.RETURN)
    world.turn.end()
    assert consumer.names() == ["Deliver", "6"]


def test_half_a_message_is_held_too(world: World, publisher: Peer) -> None:
    body = frame.Body(1, b"12345").marshal()
    start = (
        frame.Method(1, Basic.Publish(exchange="", routing_key="q")).marshal()
        + frame.Header(1, 10, BasicProperties()).marshal()
    )
    publisher.send_bytes(start + body)
    world.alarm("disk")
    publisher.send_bytes(body)
    assert publisher.names() == ["Blocked"]
    assert ready(world) == 1
    world.alarm()
    assert publisher.names() == ["Unblocked", "Ack"]


def test_heartbeats_of_a_blocked_connection(world: World) -> None:
    """It is sent them; its own are not read, so they are not missed; once it is read again, they are."""
    peer = Peer(world).open(heartbeat=10, connection_blocked=True)
    world.alarm("disk")
    peer.publish("nowhere", b"x")
    assert peer.names() == ["Blocked"]
    world.advance(100)
    assert not peer.session.closed
    assert peer.names() == ["heartbeat"] * 20
    world.alarm()
    world.advance(19)
    assert not peer.session.closed
    world.advance(3)
    assert peer.session.closed
    assert "closed: no heartbeat within 20 s" in peer.log


def test_an_end_during_the_alarm(world: World, publisher: Peer) -> None:
    world.alarm("disk")
    publisher.publish("q", b"x")
    publisher.session.output.stalled = publisher.session._scanner.paused = True
    publisher.session.shut_down("bye")
    world.turn.end()
    assert publisher.names() == ["Blocked", "Close"]
    publisher.send(0, Connection.CloseOk())
    assert publisher.session.closed
    world.alarm()
    assert publisher.names() == []


def test_the_alarm_ends_while_the_peer_does_not_read(world: World, publisher: Peer) -> None:
    """Two reasons not to read it on: each must hold by itself."""
    world.alarm("disk")
    publisher.publish("q", b"x")
    publisher.session.output.stalled = True
    world.broker.alarms = ()
    publisher.session.heed_alarms()
    assert ready(world) == 1
    publisher.session.unblock()
    world.turn.end()
    assert ready(world) == 2


def test_the_peer_reads_while_the_alarm_lasts(world: World, publisher: Peer) -> None:
    world.alarm("disk")
    publisher.publish("q", b"x")
    publisher.session.unblock()
    world.turn.end()
    assert publisher.session.blocked
    assert ready(world) == 1
    assert publisher.names() == ["Blocked"], "told once"


def test_a_commit_that_ends_during_the_alarm() -> None:
    world = World(slow=True)
    peer = Peer(world).open(connection_blocked=True)
    peer.send(1, Queue.Declare(queue="q", durable=True))
    world.end_commit()
    world.alarm("disk")
    peer.publish("q", b"x")
    peer.send(1, Channel.Close(200, "", 0, 0))
    assert peer.names() == ["DeclareOk", "Blocked"]
    other = Peer(world).open()
    other.send(1, Queue.Declare(queue="q2", durable=True))
    world.end_commit()
    assert peer.names() == []
    assert ready(world) == 0


def test_heartbeats_are_read_behind_what_is_not_published(world: World) -> None:
    peer = Peer(world).open(heartbeat=10)
    world.alarm("disk")
    for _ in range(10):
        world.advance(9)
        peer.send_bytes(HEARTBEAT)
    assert not peer.session.closed
    assert not peer.session.blocked
