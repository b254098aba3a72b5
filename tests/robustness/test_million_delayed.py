"""A million messages held back by a delayed exchange of a real broker: memory, restart, and that they come."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator

import pytest

from broker_process import BrokerProcess
from robustness import peers as p
from robustness.citizens import Memory

SLOW = os.environ.get("PABAL_SLOW") == "1"
MIB = 1024 * 1024
COUNT = 1_000_000 if SLOW else 20_000
HOUR_MS = 3_600_000


def delayed(body: bytes, delay_ms: int) -> bytes:
    """A durable message for the exchange "later" with the header x-delay."""
    table = p.short("x-delay") + b"I" + delay_ms.to_bytes(4, "big")
    properties = b"\x30\x00" + len(table).to_bytes(4, "big") + table + b"\x02"
    return p.publish(1, "later", "k", body, properties)


def publish_all(peer: p.Peer, messages: Iterator[bytes]) -> int:
    """Publishes with confirms, a few thousand unconfirmed at most; returns how many."""
    peer.call(p.confirm_select(1), p.CONFIRM_OK)
    sent = confirmed = 0
    done = False
    while not done or confirmed < sent:
        chunk = []
        while not done and sent + len(chunk) - confirmed < 4000:
            message = next(messages, None)
            if message is None:
                done = True
                break
            chunk.append(message)
        peer.send(b"".join(chunk))
        sent += len(chunk)
        for event in peer.receive():
            if event.key == p.ACK:
                confirmed = event.tag
    return sent


@pytest.mark.timeout(400)
def test_a_million_held_back(start_broker: Callable[..., BrokerProcess]) -> None:
    """20,000 of them, unless PABAL_SLOW=1: little memory, and a restart that does not read them all."""
    broker = start_broker()
    chance = random.Random(1)
    with p.Peer(broker.port) as peer:
        table = p.table(x_delayed_type="direct")
        peer.call(p.exchange_declare(1, "later", "x-delayed-message", arguments=table), p.EXCHANGE_DECLARE_OK)
        peer.declare("q")
        peer.call(p.queue_bind(1, "q", "later", "k"), p.BIND_OK)
        memory = Memory(broker.pid)
        begun = time.monotonic()
        sent = publish_all(
            peer,
            (delayed(b"%010d" % n + b"x" * 90, chance.randrange(600_000, HOUR_MS)) for n in range(COUNT)),
        )
        assert sent == COUNT
        taken_s = time.monotonic() - begun
        publish_all(peer, iter([delayed(b"soon", 1500)]))
    broker.kill()
    memory.stop()
    begun = time.monotonic()
    broker.start()
    accepting = time.monotonic()
    with p.Peer(broker.port) as peer:
        peer.send(p.basic_consume(1, "q"))
        first = peer.expect(p.DELIVER)
        assert first.body == b"soon"
    memory_after = Memory(broker.pid)
    memory_after.stop()
    print(
        f"{COUNT} held back in {taken_s:.1f} s with {memory.most / MIB:.0f} MiB; accepting "
        f"{accepting - begun:.2f} s after the start, then with {memory_after.most / MIB:.0f} MiB"
    )
    memory.check(250 * MIB)
