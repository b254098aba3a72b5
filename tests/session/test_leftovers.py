"""What ended leaves no cycles behind: the memory of a closed channel is free at once, whatever it was used for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator

import pytest
from peer import Peer, World
from pika import spec

from pabal.session.amqp091.channel import Channel


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def peer() -> Peer:
    """Channel 1, and the queue q."""
    peer = Peer(World()).open()
    peer.send(1, spec.Queue.Declare(queue="q"))
    return peer


def idle(peer: Peer) -> None:
    pass


def publisher(peer: Peer) -> None:
    peer.send(2, spec.Confirm.Select())
    peer.publish("q", b"a", b"b", channel=2)


def consumers(peer: Peer) -> None:
    peer.publish("q", b"a", b"b", b"c")
    peer.send(2, spec.Basic.Qos(prefetch_count=1), spec.Basic.Consume(queue="q", consumer_tag="one"))
    peer.send(2, spec.Basic.Consume(queue="q", consumer_tag="two"), spec.Basic.Cancel("two"))


def getter(peer: Peer) -> None:
    peer.publish("q", b"a")
    peer.send(2, spec.Basic.Get(queue="q"))


def acknowledged(peer: Peer) -> None:
    """And there is more in the queue, in front of which what was settled may stay for a while."""
    peer.publish("q", b"a", b"b", b"c", b"d")
    peer.send(2, spec.Basic.Get(queue="q"), spec.Basic.Ack(1), spec.Basic.Get(queue="q"))
    peer.send(2, spec.Basic.Reject(2, requeue=False))


def transaction(peer: Peer) -> None:
    peer.publish("q", b"a")
    peer.send(2, spec.Tx.Select(), spec.Basic.Get(queue="q"), spec.Basic.Ack(1))
    peer.publish("q", b"a", channel=2)


def lease(peer: Peer) -> None:
    """It ran out."""
    arguments = {"x-consumer-timeout": 60_000}
    peer.publish("q", b"a")
    peer.send(2, spec.Basic.Consume(queue="q", consumer_tag="slow", arguments=arguments))
    peer.world.advance(120)


def deleted_queue(peer: Peer) -> None:
    """What its consumer holds is not settled any more."""
    consumers(peer)
    peer.send(1, spec.Queue.Delete(queue="q"))


def faulty(peer: Peer) -> None:
    """It closes the channel by its error."""
    consumers(peer)
    peer.send(2, spec.Basic.Ack(77))


USES = [idle, publisher, consumers, getter, acknowledged, transaction, lease, deleted_queue, faulty]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("lost", [False, True], ids=["closed", "connection lost"])
def test_a_channel_is_gone_when_it_is_closed(peer: Peer, use: Callable[[Peer], None], lost: bool) -> None:
    peer.send(2, spec.Channel.Open())
    use(peer)
    if lost:
        peer.session.connection_lost()
    elif 2 in peer.session.channels:
        peer.send(2, spec.Channel.Close(0, "", 0, 0))
    peer.world.turn.end()
    left = [each for each in gc.get_objects() if isinstance(each, Channel) and each.number == 2]
    assert not left, gc.get_referrers(left[0])


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_session_is_gone_when_its_connection_is(peer: Peer, use: Callable[[Peer], None]) -> None:
    peer.send(2, spec.Channel.Open())
    use(peer)
    world = peer.world
    peer.session.connection_lost()
    world.turn.end()
    world.peers.remove(peer)
    peer.session.connection_lost()  # as when it was given up first
    left: list[object] = [peer.session]
    peer.session = None  # type: ignore[assignment]
    session = left.pop()
    assert sys.getrefcount(session) == 2, gc.get_referrers(session)
