"""basic.get again and again: what is kept of the last one must not show."""

from __future__ import annotations

import pytest
from peer import Peer, World
from pika import spec


@pytest.fixture
def peer() -> Peer:
    """Channel 1, and queues a and b with the messages a0, a1, a2 and b0, b1, b2."""
    peer = Peer(World()).open()
    for queue in ("a", "b"):
        peer.send(1, spec.Queue.Declare(queue=queue))
        peer.publish(queue, *(f"{queue}{n}".encode() for n in range(3)))
    peer.received()
    return peer


def get(peer: Peer, queue: str, no_ack: bool = False) -> tuple[int, str, bool, int, bytes] | None:
    """Tag, routing key, redelivered, messages left, body."""
    peer.send(1, spec.Basic.Get(queue=queue, no_ack=no_ack))
    answer = peer.received()
    if isinstance(answer[0], spec.Basic.GetEmpty):
        return None
    ok, body = answer
    assert ok.exchange == ""
    return ok.delivery_tag, ok.routing_key, ok.redelivered, ok.message_count, body


def test_queues_in_turn(peer: Peer) -> None:
    found = [get(peer, queue) for _ in range(3) for queue in ("a", "b")]
    assert found == [
        (1, "a", False, 2, b"a0"),
        (2, "b", False, 2, b"b0"),
        (3, "a", False, 1, b"a1"),
        (4, "b", False, 1, b"b1"),
        (5, "a", False, 0, b"a2"),
        (6, "b", False, 0, b"b2"),
    ]
    assert get(peer, "a") is None
    peer.send(1, spec.Basic.Ack(4, multiple=True), spec.Basic.Nack(5), spec.Basic.Reject(6, requeue=False))
    assert get(peer, "a") == (7, "a", True, 0, b"a2")
    assert get(peer, "b") is None


def test_with_and_without_acknowledgement_in_turn(peer: Peer) -> None:
    assert [get(peer, "a", no_ack=n % 2 == 1) for n in range(3)] == [
        (1, "a", False, 2, b"a0"),
        (2, "a", False, 1, b"a1"),
        (3, "a", False, 0, b"a2"),
    ]
    peer.send(1, spec.Basic.Nack(0, multiple=True))
    assert [get(peer, "a", no_ack=True) for _ in range(3)] == [
        (4, "a", True, 1, b"a0"),
        (5, "a", True, 0, b"a2"),
        None,
    ]


def test_messages_of_several_envelopes(peer: Peer) -> None:
    peer.send(1, spec.Queue.Bind(queue="a", exchange="amq.topic", routing_key="#"), spec.Queue.Purge(queue="a"))
    method = spec.Basic.Publish(exchange="amq.topic", routing_key="key.of.another.length")
    header = spec.BasicProperties()
    for n in range(2):
        peer.publish("a", b"own")
        peer.send_bytes(peer.message(method, header, b"%d" % n))
    peer.received()
    found = []
    for _ in range(4):
        peer.send(1, spec.Basic.Get(queue="a", no_ack=True))
        ok, body = peer.received()
        found.append((ok.exchange, ok.routing_key, body))
    other = ("amq.topic", "key.of.another.length")
    assert found == [("", "a", b"own"), (*other, b"0"), ("", "a", b"own"), (*other, b"1")]


def test_a_queue_of_the_same_name(peer: Peer) -> None:
    assert get(peer, "a") == (1, "a", False, 2, b"a0")
    peer.send(1, spec.Queue.Delete(queue="a"), spec.Queue.Declare(queue="a"))
    peer.publish("a", b"new")
    peer.received()
    assert get(peer, "a") == (2, "a", False, 0, b"new")
    peer.send(1, spec.Basic.Nack(0, multiple=True))
    assert get(peer, "a") == (3, "a", True, 0, b"new")
    assert get(peer, "a") is None


def test_the_channel_gives_back_what_it_got(peer: Peer) -> None:
    for _ in range(2):
        get(peer, "a")
    peer.send(1, spec.Channel.Close(200, "", 0, 0), spec.Channel.Open())
    peer.received()
    assert [get(peer, "a", no_ack=True) for _ in range(4)] == [
        (1, "a", True, 2, b"a0"),
        (2, "a", True, 1, b"a1"),
        (3, "a", False, 0, b"a2"),
        None,
    ]


def test_a_large_message(peer: Peer) -> None:
    body = bytes(range(256)) * 1000
    peer.send(1, spec.Queue.Purge(queue="a"))
    peer.publish("a", body[:100_000])
    peer.received()
    assert get(peer, "a") == (1, "a", False, 0, body[:100_000])
