"""Heartbeats (AMQP 0-9-1 §4.2.7), and what else a connection agrees to or is asked outside of its channels."""

from __future__ import annotations

import pytest
from peer import HEARTBEAT, Peer, World
from pika import frame, spec
from pika.spec import Basic, BasicProperties, Channel, Connection, Queue

from pabal.model.definitions import UserDefinition
from pabal.model.passwords import hash_password


@pytest.fixture
def world() -> World:
    return World()


def test_none_are_sent_or_missed_when_none_were_agreed(world: World) -> None:
    peer = Peer(world).open(heartbeat=0)
    world.advance(100_000)
    assert peer.names() == []
    assert not peer.session.closed


def test_the_client_decides(world: World) -> None:
    """60 s are proposed; it may choose less or more."""
    short, long = Peer(world).open(heartbeat=4), Peer(world).open(heartbeat=600)
    world.advance(8)
    assert short.names() == ["heartbeat"] * 4
    world.advance(1)
    assert short.session.closed
    world.advance(291)
    assert long.names() == ["heartbeat"]
    world.advance(900)
    assert not long.session.closed
    world.advance(1)
    assert long.session.closed
    assert long.log[-1] == "closed: no heartbeat within 1200 s"


def test_one_is_sent_after_half_an_interval_without_output(world: World) -> None:
    peer = Peer(world).open(heartbeat=10)
    for _ in range(5):
        world.advance(4)
        peer.send(1, Queue.Declare(queue="q"))
        assert peer.names() == ["DeclareOk"]
    world.advance(4)
    assert peer.names() == []
    world.advance(1)
    assert peer.names() == ["heartbeat"]
    world.advance(5)
    assert peer.names() == ["heartbeat"]


def test_deliveries_are_output(world: World) -> None:
    peer, feeder = Peer(world).open(heartbeat=10), Peer(world).open()
    peer.send(1, Queue.Declare(queue="q"), Basic.Consume(queue="q", no_ack=True))
    peer.received()
    for _ in range(4):
        world.advance(4)
        feeder.publish("q", b"x")
    assert peer.names() == ["Deliver", "1"] * 4


def test_nothing_to_send_is_no_output(world: World) -> None:
    peer = Peer(world).open(heartbeat=10)
    world.advance(4)
    peer.flush()
    world.advance(1)
    assert peer.names() == ["heartbeat"]


@pytest.mark.parametrize(
    "data",
    [
        HEARTBEAT,
        frame.Method(1, Basic.Ack(0, multiple=True)).marshal(),
        frame.Method(1, Channel.Flow(active=True)).marshal(),
    ],
    ids=["heartbeat", "ack", "flow"],
)
def test_any_frame_from_the_client_counts(world: World, data: bytes) -> None:
    peer = Peer(world).open(heartbeat=10)
    for _ in range(8):
        world.advance(19)
        peer.send_bytes(data)
    world.advance(20)
    assert not peer.session.closed
    world.advance(1)
    assert peer.session.closed


def test_a_slow_message_is_no_silence(world: World) -> None:
    """Its octets come one by one, for longer than two intervals in all."""
    peer = Peer(world).open(heartbeat=1)
    peer.send(1, Queue.Declare(queue="q"))
    method = frame.Method(1, Basic.Publish(exchange="", routing_key="q")).marshal()
    data = method + frame.Header(1, 9, BasicProperties()).marshal() + frame.Body(1, b"slow body").marshal()
    for octet in data:
        world.advance(1)
        peer.send_bytes(bytes([octet]))
    assert not peer.session.closed
    assert world.broker.vhosts["/"].queues["q"].ready == 1


def test_who_was_not_read_is_not_silent(world: World) -> None:
    peer = Peer(world).open(heartbeat=10)
    world.now_ms += 60_000
    world.broker.begin(world.now_ms)
    peer.session.excuse_silence()
    world.advance(20)
    assert not peer.session.closed
    world.advance(1)
    assert peer.session.closed


def test_who_waits_for_the_disk_is_not_silent() -> None:
    world = World(slow=True)
    peer = Peer(world).open(heartbeat=10)
    peer.send(1, Queue.Declare(queue="q", durable=True))
    world.advance(100)
    assert not peer.session.closed
    world.end_commit()
    assert "DeclareOk" in peer.names()


def test_the_handshake_has_a_deadline_of_its_own(world: World) -> None:
    peer = Peer(world)
    peer.send_bytes(b"AMQP\x00\x00\x09\x01")
    world.advance(10)
    assert not peer.session.closed
    world.advance(1)
    assert peer.session.closed


# --- Other things of the connection ------------------------------------------------------------------------------


def test_a_refused_connection_is_told_so_when_it_opens(world: World) -> None:
    peer = Peer(world)
    peer.session.refusal = "connection refused: node connection limit (9) is reached"
    peer.send_bytes(b"AMQP\x00\x00\x09\x01")
    peer.send(0, Connection.StartOk({}, "PLAIN", "\x00guest\x00guest", "en_US"), Connection.TuneOk(2047, 131072, 0))
    peer.send(0, Connection.Open("/"))
    close = peer.received()[-1]
    text = "NOT_ALLOWED - connection refused: node connection limit (9) is reached"
    assert (close.reply_code, close.reply_text) == (530, text)
    assert (close.class_id, close.method_id) == (10, 40)


@pytest.mark.parametrize("secret", ["", "guest", "any token"])
def test_update_secret(world: World, secret: str) -> None:
    """Users of the broker's own have no secrets that expire: nothing changes, as in RabbitMQ."""
    peer = Peer(world).open()
    peer.send(0, Connection.UpdateSecret(secret, "it expires"))
    peer.send(1, Queue.Declare(queue="q"))
    assert peer.names() == ["UpdateSecretOk", "DeclareOk"]
    assert not any("token" in line for line in peer.log)


def test_update_secret_before_the_connection_is_open(world: World) -> None:
    peer = Peer(world)
    peer.send_bytes(b"AMQP\x00\x00\x09\x01")
    peer.send(0, Connection.UpdateSecret("s", "r"))
    close = peer.received()[-1]
    assert isinstance(close, Connection.Close)
    assert close.reply_code == 504


def user_id(peer: Peer, name: str) -> list[str]:
    data = frame.Method(1, Basic.Publish(exchange="", routing_key="q")).marshal()
    peer.send_bytes(data + frame.Header(1, 0, BasicProperties(user_id=name)).marshal())
    peer.send(1, Queue.Declare(queue="q", passive=True))
    return peer.names()


def test_user_id_must_be_the_users_own(world: World) -> None:
    """The name of the log-in, by whichever mechanism; it is checked for every message, cached or not."""
    world.broker.accounts.put_user(UserDefinition("bob", hash_password("bob", b"salt", 16), ["*"]))
    peer = Peer(world).open()
    peer.send(1, Queue.Declare(queue="q"))
    peer.received()
    assert user_id(peer, "guest") == ["DeclareOk"]
    assert user_id(peer, "guest") == ["DeclareOk"]
    assert user_id(peer, "bob") == ["Close"]
    bob = Peer(world)
    bob.send_bytes(b"AMQP\x00\x00\x09\x01")
    table: list[bytes] = []
    spec.data.encode_table(table, {"LOGIN": "bob", "PASSWORD": "bob"})
    response = b"".join(table)[4:].decode("latin-1")
    bob.send(0, Connection.StartOk({}, "AMQPLAIN", response, "en_US"), Connection.TuneOk(2047, 131072, 0))
    bob.send(0, Connection.Open("/"))
    bob.send(1, Channel.Open())
    assert bob.names() == ["Start", "Tune", "OpenOk", "OpenOk"]
    assert user_id(bob, "bob") == ["DeclareOk"]
    assert user_id(bob, "guest") == ["Close"]


def test_channel_max_counts_channels_that_we_closed_until_the_client_knows(world: World) -> None:
    peer = Peer(world)
    peer.handshake(channel_max=2)
    peer.send(1, Channel.Open())
    peer.send(2, Channel.Open(), Queue.Declare(queue="missing", passive=True))
    assert peer.names() == ["OpenOk", "OpenOk", "Close"]
    peer.send(2, Channel.CloseOk(), Channel.Open())
    assert peer.names() == ["OpenOk"]
    peer.send(2, Queue.Declare(queue="missing", passive=True))
    peer.send(3, Channel.Open())
    assert peer.names() == ["Close", "Close"]
    assert peer.log[-1].startswith("closed: NOT_ALLOWED - number of channels opened")
