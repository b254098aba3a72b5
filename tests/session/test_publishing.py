"""Publishing messages that are not alike: read together, each is still taken for what its own properties say."""

from __future__ import annotations

from typing import Any

import pytest
from peer import Peer, World
from pika import frame, spec

from pabal.wire.amqp091.content import decode_properties, property_bytes

MALFORMED = b"\x20\x00\x00\x00\x00\x02zz"


@pytest.fixture
def peer() -> Peer:
    """Channel 1 with queue q, and confirms."""
    peer = Peer(World()).open()
    peer.send(1, spec.Queue.Declare(queue="q"), spec.Confirm.Select())
    peer.received()
    return peer


def raw(number: int, properties: bytes, exchange: str = "", key: str = "q", mandatory: bool = False) -> bytes:
    method = frame.Method(1, spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory))
    header = frame.Header(1, 8, spec.BasicProperties()).marshal()
    payload = header[7:-3] + properties
    header = header[:3] + len(payload).to_bytes(4, "big") + payload + b"\xce"
    return method.marshal() + header + frame.Body(1, number.to_bytes(8, "big")).marshal()


def message(number: int, exchange: str = "", key: str = "q", mandatory: bool = False, **properties: Any) -> bytes:
    encoded = b"".join(spec.BasicProperties(message_id=str(number), **properties).encode())
    return raw(number, encoded, exchange, key, mandatory)


def queued(peer: Peer, queue: str = "q") -> list[tuple[int, bool, int | None, int]]:
    """Of each message: its number, whether it is persistent, its time to live, its priority."""
    messages = peer.world.broker.vhosts["/"].queues[queue].backlog.scan()
    return [
        (
            int.from_bytes(m.content[-9:-1], "big"),
            m.envelope.persistent,
            m.expires_at_ms - peer.world.now_ms if m.expires_at_ms else None,
            m.envelope.priority,
        )
        for m in messages
    ]


def confirmed(peer: Peer) -> int:
    """Up to which number all were confirmed, and nothing else was said."""
    acks = peer.received()
    assert {type(each) for each in acks} <= {spec.Basic.Ack}
    return acks[-1].delivery_tag if acks else 0


def test_each_message_is_what_its_properties_say(peer: Peer) -> None:
    peer.send_bytes(
        b"".join(
            message(n, delivery_mode=1 + n % 2, priority=n // 7, expiration=str(100 * n) if n % 5 == 0 else None)
            for n in range(1, 40)
        )
    )
    assert queued(peer) == [
        (n, n % 2 == 1, 100 * n if n % 5 == 0 else None, n // 7) for n in range(1, 40)
    ]  # fmt: skip
    assert confirmed(peer) == 39


def test_properties_arrive_as_they_were_sent(peer: Peer) -> None:
    peer.send_bytes(b"".join(message(n, headers={"n": n}, correlation_id="c" * n) for n in range(50)))
    contents = [m.content for m in peer.world.broker.vhosts["/"].queues["q"].backlog.scan()]
    properties = [decode_properties(property_bytes(content)) for content in contents]
    assert properties == [{"headers": {"n": n}, "correlation_id": "c" * n, "message_id": str(n)} for n in range(50)]


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (message(9, user_id="somebody"), "406"),
        (message(9, expiration="soon"), "406"),
        (message(9, headers={"CC": 5}), "406"),
        (message(9, reply_to="amq.rabbitmq.reply-to"), "406"),
        (raw(9, MALFORMED), "502"),
        (raw(9, b"\x00\x80\xff"), "502"),
        (raw(9, b"\x00\x01"), "502"),
    ],
)
def test_what_came_before_a_wrong_one_is_taken_and_nothing_after_it(peer: Peer, wrong: bytes, fault: str) -> None:
    good = [message(n, delivery_mode=1 + n % 2) for n in range(6)]
    peer.send_bytes(b"".join([*good, wrong, *good]))
    assert [number for number, *_ in queued(peer)] == list(range(6))
    closed = [each for each in peer.received() if isinstance(each, spec.Channel.Close | spec.Connection.Close)]
    assert [str(each.reply_code) for each in closed] == [fault]


def test_copies_among_others(peer: Peer) -> None:
    peer.send(1, spec.Queue.Declare(queue="copies"))
    headers: list[dict[str, Any]] = [{"n": 1}, {"CC": ["copies"]}, {"n": 2}, {"BCC": ["copies"], "n": 3}, {"n": 4}]
    peer.send_bytes(b"".join(message(n, headers=each) for n, each in enumerate(headers)))
    assert [number for number, *_ in queued(peer)] == [0, 1, 2, 3, 4]
    assert [number for number, *_ in queued(peer, "copies")] == [1, 3]
    last = list(peer.world.broker.vhosts["/"].queues["q"].backlog.scan())[3]
    assert decode_properties(property_bytes(last.content))["headers"] == {"n": 3}


def test_what_reaches_no_queue_comes_back_and_is_confirmed(peer: Peer) -> None:
    peer.send_bytes(b"".join(message(n, key="nowhere", mandatory=True) for n in range(5)))
    answers = peer.received()
    bodies = [int.from_bytes(each, "big") for each in answers if isinstance(each, bytes)]
    assert bodies == [0, 1, 2, 3, 4]
    assert answers[-1].delivery_tag == 5


def test_what_a_full_queue_refuses_is_told_one_by_one(peer: Peer) -> None:
    peer.send(1, spec.Queue.Declare(queue="full", arguments={"x-max-length": 3, "x-overflow": "reject-publish"}))
    peer.received()
    peer.send_bytes(b"".join(message(n, key="full", priority=n) for n in range(5)))
    answers = [(type(each).__name__, each.delivery_tag) for each in peer.received()]
    assert answers == [("Ack", 3), ("Nack", 4), ("Nack", 5)]


def test_a_headers_exchange_looks_at_each_one(peer: Peer) -> None:
    for name in ("even", "odd"):
        peer.send(
            1,
            spec.Queue.Declare(queue=name),
            spec.Queue.Bind(queue=name, exchange="amq.headers", arguments={"parity": name}),
        )
    peer.received()
    parity = ("even", "odd")
    numbers = [0, 2, 4, 1, 3, 6, 5]
    peer.send_bytes(b"".join(message(n, "amq.headers", "", headers={"parity": parity[n % 2]}) for n in numbers))
    assert [number for number, *_ in queued(peer, "even")] == [0, 2, 4, 6]
    assert [number for number, *_ in queued(peer, "odd")] == [1, 3, 5]
    assert confirmed(peer) == 7


def test_in_a_transaction_each_goes_its_own_way() -> None:
    peer = Peer(World()).open()
    for name in ("even", "odd"):
        peer.send(
            1,
            spec.Queue.Declare(queue=name),
            spec.Queue.Bind(queue=name, exchange="amq.headers", arguments={"parity": name}),
        )
    peer.send(1, spec.Tx.Select())
    parity = ("even", "odd")
    numbers = [0, 2, 1, 3, 4]
    peer.send_bytes(b"".join(message(n, "amq.headers", "", headers={"parity": parity[n % 2]}) for n in numbers))
    assert queued(peer, "even") == queued(peer, "odd") == []
    peer.send(1, spec.Tx.Commit())
    assert [number for number, *_ in queued(peer, "even")] == [0, 2, 4]
    assert [number for number, *_ in queued(peer, "odd")] == [1, 3]
