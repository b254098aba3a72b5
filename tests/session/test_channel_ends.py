"""A channel that held many messages has ended: they go back in steps, and whoever asks meanwhile does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
from peer import Peer, World
from pika import spec

import pabal.broker.returns

BODIES = [b"a", b"b", b"c", b"d", b"e", b"f"]


@pytest.fixture(autouse=True)
def one_in_a_turn() -> Iterator[None]:
    with patch.object(pabal.broker.returns, "RETURN_MESSAGES_MAX", 1):
        yield


@pytest.fixture
def peer(one_in_a_turn: None) -> Peer:
    """Channel 2 had six messages of q, and was closed just now."""
    peer = Peer(World()).open()
    peer.send(1, spec.Queue.Declare(queue="q"))
    peer.publish("q", *BODIES)
    peer.send(2, spec.Channel.Open(), spec.Basic.Consume(queue="q", consumer_tag="t"))
    held = [each for each in peer.received() if isinstance(each, bytes)]
    assert held == BODIES
    peer.send(2, spec.Channel.Close(200, "", 0, 0))
    assert peer.names() == ["CloseOk"]
    queue = peer.session.broker.vhosts["/"].queues["q"]
    assert 0 < queue.ready < 6, "some are back, others are to come"
    return peer


def test_they_are_told_to_who_declares_the_queue(peer: Peer) -> None:
    peer.send(1, spec.Queue.Declare(queue="q", passive=True))
    assert peer.received()[0].message_count == 6


def test_they_are_told_to_who_deletes_it(peer: Peer) -> None:
    peer.send(1, spec.Queue.Delete(queue="q"))
    assert peer.received()[0].message_count == 6


def test_they_are_purged(peer: Peer) -> None:
    peer.send(1, spec.Queue.Purge(queue="q"))
    assert peer.received()[0].message_count == 6


def test_the_first_is_got_first(peer: Peer) -> None:
    peer.send(1, spec.Basic.Get(queue="q"))
    answer, body = peer.received()
    assert (answer.redelivered, answer.message_count, body) == (True, 5, b"a")


def test_a_channel_of_the_same_number_gets_them_in_order(peer: Peer) -> None:
    peer.send(2, spec.Channel.Open(), spec.Basic.Consume(queue="q", consumer_tag="u"))
    while peer.session.broker.unfinished:
        peer.world.turn.end()
    assert [each for each in peer.received() if isinstance(each, bytes)] == BODIES


def test_the_connection_may_end_too(peer: Peer) -> None:
    peer.session.connection_lost()
    other = Peer(peer.world).open()
    other.send(1, spec.Basic.Consume(queue="q", consumer_tag="u"))
    while peer.session.broker.unfinished:
        peer.world.turn.end()
    assert [each for each in other.received() if isinstance(each, bytes)] == BODIES
