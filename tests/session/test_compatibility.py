"""What a broker that stands for RabbitMQ 4.3 does otherwise than one that stands for 3.12."""

from __future__ import annotations

import pytest
from peer import Peer, World
from pika import frame
from pika.spec import Basic, Connection, Queue

from pabal.model.compatibility import COMPATIBILITIES, RABBITMQ_4_3
from pabal.session.amqp091.settings import SessionSettings

OLD, NEW = COMPATIBILITIES.values()
DENIED = (
    "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, this feature is not permitted "
    "anymore.\nThe feature will be removed from a future major RabbitMQ version, regardless of the configuration; "
    "actual version to be determined.\nTo continue using this feature when it is not permitted by default, set the "
    "following parameter in your configuration:\n"
)
"""The text that RabbitMQ 4.3 makes (rabbit_deprecated_features), before it is cut."""


def make(compatibility: object) -> World:
    world = World(SessionSettings(compatibility=compatibility))
    world.broker.counts_releases = compatibility.counts_releases
    world.broker.transient_queues = compatibility.transient_queues
    return world


@pytest.fixture(params=[OLD, NEW], ids=COMPATIBILITIES)
def world(request: pytest.FixtureRequest) -> World:
    return make(request.param)


def is_new(world: World) -> bool:
    return world.settings.compatibility is RABBITMQ_4_3


def test_version(world: World) -> None:
    peer = Peer(world)
    peer.send_bytes(b"AMQP\x00\x00\x09\x01")
    [start] = peer.received()
    assert start.server_properties["version"] == ("4.3.0" if is_new(world) else "3.12.14")
    assert start.server_properties["product"] == "RabbitMQ"


def test_transient_queues(world: World) -> None:
    peer = Peer(world).open()
    peer.send(1, Queue.Declare(queue="durable", durable=True), Queue.Declare(queue="mine", exclusive=True))
    assert peer.names() == ["DeclareOk", "DeclareOk"]
    peer.send(1, Queue.Declare(queue="shared"))
    [answer] = peer.received()
    if not is_new(world):
        assert answer.queue == "shared"
        return
    assert isinstance(answer, Connection.Close)
    assert (answer.reply_code, answer.reply_text) == (541, DENIED.encode()[:252].decode() + "...")
    assert (answer.class_id, answer.method_id) == (50, 10)


@pytest.mark.parametrize(
    "declaration", [Queue.Declare(queue="amq.mine"), Queue.Declare(queue="q", arguments={"x-max-length": -1})]
)
def test_other_faults_of_a_transient_queue_are_found_first(world: World, declaration: Queue.Declare) -> None:
    peer = Peer(world).open()
    peer.send(1, declaration)
    assert peer.names() == ["Close"]
    assert not peer.session.closed


def test_shared_prefetch(world: World) -> None:
    """4.3 does not refuse it but reads it as a prefetch of each consumer."""
    peer = Peer(world).open()
    peer.send(1, Queue.Declare(queue="q", durable=True), Basic.Qos(prefetch_count=2, global_qos=True))
    peer.send(1, Basic.Consume(queue="q", consumer_tag="a"), Basic.Consume(queue="q", consumer_tag="b"))
    assert peer.names() == ["DeclareOk", "QosOk", "ConsumeOk", "ConsumeOk"]
    peer.publish("q", *[b"x"] * 9)
    tags = [each.consumer_tag for each in peer.received() if isinstance(each, Basic.Deliver)]
    assert sorted(tags) == (["a", "a", "b", "b"] if is_new(world) else ["a", "b"])


@pytest.mark.parametrize(("asked", "code"), [(8192, 0), (8191, 530), (4096, 530), (4095, 530)])
def test_the_smallest_frame_max(world: World, asked: int, code: int) -> None:
    least = 8192 if is_new(world) else 4096
    peer = Peer(world)
    if asked >= least:
        peer.handshake(frame_max=asked)
        return
    peer.send_bytes(b"AMQP\x00\x00\x09\x01")
    peer.send(0, Connection.StartOk({}, "PLAIN", "\x00guest\x00guest", "en_US"), Connection.TuneOk(2047, asked, 0))
    close = peer.received()[-1]
    text = f"NOT_ALLOWED - negotiated frame_max = {asked} is lower than the minimum allowed value ({least})"
    assert (close.reply_code, close.reply_text) == (code, text)


@pytest.mark.parametrize("size", [8000, 9000])
def test_the_largest_frame_of_a_handshake(world: World, size: int) -> None:
    peer = Peer(world)
    peer.send_bytes(b"AMQP\x00\x00\x09\x01")
    peer.send(0, Connection.StartOk({"note": "x" * size}, "PLAIN", "\x00guest\x00guest", "en_US"))
    assert peer.names() == ["Start", "Close" if size > 8192 and is_new(world) else "Tune"]


def test_frames_after_the_handshake_are_as_large_as_was_agreed(world: World) -> None:
    peer = Peer(world).open()
    peer.send(1, Queue.Declare(queue="q", durable=True))
    peer.publish("q", b"x" * 100_000)
    peer.send(1, Queue.Declare(queue="q", passive=True))
    assert [each.message_count for each in peer.received()] == [0, 1]


def attempts(peer: Peer) -> list[int | None]:
    """What the deliveries since the last call say in x-delivery-count."""
    found = []
    while peer.buffer:
        used, decoded = frame.decode_frame(peer.buffer)
        peer.buffer = peer.buffer[used:]
        if isinstance(decoded, frame.Header):
            found.append((decoded.properties.headers or {}).get("x-delivery-count"))
    return found


def consumer(world: World, **arguments: int) -> Peer:
    peer = Peer(world).open()
    table = {"x-delivery-limit": 3, **{f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}}
    peer.send(1, Queue.Declare(queue="q", durable=True, arguments=table), Basic.Qos(prefetch_count=1))
    peer.send(1, Basic.Consume(queue="q"))
    return peer


def test_nack_and_recover_do_not_count(world: World) -> None:
    peer = consumer(world)
    peer.publish("q", b"x")
    assert attempts(peer) == [None]
    for tag in (1, 2, 3):
        peer.send(1, Basic.Nack(tag, requeue=True) if tag != 2 else Basic.Recover(requeue=True))
        assert attempts(peer) == [None if is_new(world) else tag]
    peer.send(1, Basic.Nack(4, requeue=True))
    assert attempts(peer) == ([None] if is_new(world) else []), "the limit is 3"


def test_reject_counts(world: World) -> None:
    peer = consumer(world)
    peer.publish("q", b"x")
    for tag in (1, 2, 3):
        peer.send(1, Basic.Reject(tag, requeue=True))
    assert attempts(peer) == [None, 1, 2, 3]
    peer.send(1, Basic.Reject(4, requeue=True))
    assert attempts(peer) == []


def test_a_lost_connection_counts(world: World) -> None:
    lost = consumer(world)
    lost.publish("q", b"x")
    lost.session.connection_lost()
    peer = consumer(world)
    assert attempts(peer) == [1]


def test_a_lease_that_ran_out_does_not_count(world: World) -> None:
    peer = consumer(world, consumer_timeout=1000)
    peer.publish("q", b"x")
    attempts(peer)
    for _ in range(5):
        world.now_ms += 1001
        world.broker.tick(world.now_ms)
        world.turn.end()
        other = consumer(world, consumer_timeout=1000)
        found = attempts(other)
        if not is_new(world) and len(world.peers) > 4:
            assert found == []
        else:
            assert found == [None if is_new(world) else len(world.peers) - 1]
