"""The debug log: a line for each frame, however its bytes come, and never a secret."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer import Peer, World
from pika import frame
from pika.spec import Basic, BasicProperties, Channel, Connection, Queue

from pabal.session.amqp091.trace import Selection, Trace
from pabal.wire.amqp091 import methods as m

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


def method(channel: int, value: object) -> bytes:
    return frame.Method(channel, value).marshal()


CONVERSATION = [
    (b"AMQP\x00\x00\x09\x01", "protocol header 0-0-9-1"),
    (
        method(0, Connection.StartOk({"token": "hidden", "product": "p"}, "PLAIN", "\0guest\0hidden", "en_US")),
        "0 connection.start-ok client_properties={token, product} mechanism='PLAIN' response=<13 bytes> "
        "locale='en_US'",
    ),
    (method(0, Connection.TuneOk(7, 4096, 60)), "0 connection.tune-ok channel_max=7 frame_max=4096 heartbeat=60"),
    (
        method(0, Connection.UpdateSecret("hidden", "why")),
        "0 connection.update-secret new_secret=<6 bytes> reason='why'",
    ),
    (method(0, Connection.SecureOk("hidden")), "0 connection.secure-ok response=<6 bytes>"),
    (HEARTBEAT, "0 heartbeat"),
    (method(3, Channel.Open()), "3 channel.open"),
    (
        method(3, Queue.Declare(queue="q", durable=True, arguments={"x-max-length": 5, "x-note": "n" * 99})),
        "3 queue.declare queue='q' passive=False durable=True exclusive=False auto_delete=False no_wait=False "
        f"arguments={{x-max-length: 5, x-note: '{'n' * 32}…",
    ),
    (
        method(3, Basic.Publish(exchange="", routing_key="amq.rabbitmq.reply-to.hidden")),
        "3 basic.publish exchange='' routing_key='amq.rabbitmq.reply-to…' mandatory=False immediate=False",
    ),
    (frame.Header(3, 6, BasicProperties(message_id="hidden")).marshal(), "3 header of a body of 6 bytes"),
    (frame.Body(3, b"hidden").marshal(), "3 body 6 bytes"),
    (method(3, Basic.Ack(7, multiple=True)), "3 basic.ack delivery_tag=7 multiple=True"),
    (struct.pack(">BHI", 1, 3, 4) + b"\x03\xe7\x00\x01\xce", "3 unknown method, 4 bytes"),
    (
        struct.pack(">BHI", 1, 3, 5) + b"\x00\x32\x00\x0a\x00\xce",
        "3 queue.declare malformed argument: short cut short",
    ),
    (struct.pack(">BHI", 9, 3, 2) + b"xx\xce", "3 frame of type 9, 2 bytes"),
    (struct.pack(">BHI", 1, 3, 300_000) + b"\0" * 300_001, "3 frame of type 1, 300000 bytes"),
    (method(3, Channel.CloseOk()), "3 channel.close-ok"),
]


@pytest.mark.parametrize("step", [1, 2, 7, 64, 1_000_000])
def test_frames(step: int) -> None:
    data = b"".join(part for part, _ in CONVERSATION)
    lines: list[str] = []
    trace = Trace(lines.append)
    for at in range(0, len(data), step):
        trace.received(data[at : at + step])
    assert [line.removeprefix("< ") for line in lines] == [line for _, line in CONVERSATION]
    assert "hidden" not in "".join(lines)


def test_both_directions_and_states() -> None:
    lines: list[str] = []
    trace = Trace(lines.append)
    start = m.encode_method(0, m.CONNECTION_START, 0, 9, {"product": "RabbitMQ"}, "PLAIN", "en_US")
    trace.received(b"AMQP\x00\x00\x09\x01")
    trace.state("start")
    trace.sent([start[:10], start[10:] + HEARTBEAT])
    trace.state("start")
    trace.state("tune")
    assert lines == [
        "< protocol header 0-0-9-1",
        "= start",
        "> 0 connection.start version_major=0 version_minor=9 server_properties={product} mechanisms=<5 bytes> "
        "locales=<5 bytes>",
        "> 0 heartbeat",
        "= tune",
    ]
    assert trace.mark("opened vhost '/'") == "= opened vhost '/'"
    assert trace.mark("closed: X") == "! closed: X"


def test_what_follows_a_broken_frame_is_not_shown() -> None:
    lines: list[str] = []
    trace = Trace(lines.append)
    trace.sent([HEARTBEAT[:-1] + b"\x00", HEARTBEAT])
    assert lines == ["> 0 no frame: its end is missing; what follows is not shown"]


@given(st.lists(st.binary(max_size=60)), st.booleans())
def test_any_bytes_give_lines(pieces: list[bytes], framed: bool) -> None:
    lines: list[str] = []
    trace = Trace(lines.append)
    for piece in pieces:
        payload = piece[1:]
        head = struct.pack(">BHI", (piece or b"\1")[0] % 9, 1, len(payload))
        trace.received(head + payload + b"\xce" if framed else piece)
    assert len(lines) <= sum(map(len, pieces)) + len(pieces)
    if framed:
        assert len(lines) == len(pieces)


# --- In the middle of a connection's life --------------------------------------------------------------------

HANDSHAKE = b"".join(
    [
        b"AMQP\x00\x00\x09\x01",
        method(0, Connection.StartOk({"product": "p"}, "PLAIN", "\0guest\0guest", "en_US")),
        method(0, Connection.TuneOk(2047, 131072, 0)),
        method(0, Connection.Open("/")),
    ]
)
LARGE = frame.Header(1, 150_000, BasicProperties()).marshal() + b"".join(
    frame.Body(1, b"x" * 50_000).marshal() for _ in range(3)
)
LIFE = [
    method(1, Channel.Open()),
    method(1, Queue.Declare(queue="q", durable=True)),
    *(Peer.message(Basic.Publish(exchange="", routing_key="q"), BasicProperties(), b"body") for _ in range(5)),
    method(1, Basic.Publish(exchange="", routing_key="q")) + LARGE,
    method(1, Basic.Consume(queue="q", consumer_tag="t")),
    b"".join(method(1, Basic.Ack(tag)) for tag in range(1, 5)),
    HEARTBEAT,
]


def lines_from(split: int, slow: bool) -> list[str]:
    """What a trace sees that is asked for when so many bytes have come."""
    world = World(slow=slow)
    peer = Peer(world)
    data = HANDSHAKE + b"".join(LIFE)
    if split:
        peer.send_bytes(data[:split])
    lines: list[str] = []
    trace = Trace(lines.append)
    peer.session.begin_trace(trace)
    trace.received(data[split:])
    return [line for line in lines if line[0] == "<"]


@pytest.mark.parametrize("slow", [False, True])
def test_a_trace_may_begin_anywhere(slow: bool) -> None:
    """At the next frame, or with what is not acted on yet: an answer waits for the disk."""
    everything = lines_from(0, slow)
    assert everything[0] == "< protocol header 0-0-9-1" and everything[-1] == "< 0 heartbeat"
    data = HANDSHAKE + b"".join(LIFE)
    splits = [*range(1, len(HANDSHAKE) + 400, 3), *range(len(HANDSHAKE) + 400, len(data), 4999), len(data)]
    seen = set()
    for split in splits:
        lines = lines_from(split, slow)
        assert lines == everything[len(everything) - len(lines) :], split
        seen.add(len(lines))
    assert (len(lines) > 10) is slow, "what waits behind the declaration is to be told"
    assert len(seen) > (5 if slow else 20)


def test_after_the_track_is_lost_nothing_is_shown() -> None:
    peer = Peer(World())
    peer.send_bytes(HANDSHAKE + b"\x01\x00\x00\x00\x00\x00\x00\x00")
    lines: list[str] = []
    peer.session.begin_trace(trace := Trace(lines.append))
    trace.received(HEARTBEAT)
    assert lines == ["= closing"]


# --- Selections ----------------------------------------------------------------------------------------------


def selected(selection: Selection, *parts: bytes) -> list[str]:
    lines: list[str] = []
    trace = Trace(lines.append, selection)
    trace.begin(True, lambda: b"")
    trace.received(b"".join(parts))
    trace.state("open")
    return lines


def message(channel: int, *bodies: bytes) -> bytes:
    head = method(channel, Basic.Publish(exchange="", routing_key="q"))
    head += frame.Header(channel, sum(map(len, bodies)), BasicProperties()).marshal()
    return head + b"".join(frame.Body(channel, body).marshal() for body in bodies)


def test_channels_and_names() -> None:
    parts = (message(1, b"abc"), method(2, Basic.Ack(7)), HEARTBEAT, message(2, b"d"))
    of_two = selected(Selection(channels=frozenset({2})), *parts)
    assert [line.split()[1] for line in of_two] == ["2", "2", "2", "2", "open"]
    published = selected(Selection(names=frozenset({"publish"})), *parts)
    assert [line.split()[:3] for line in published] == [
        ["<", channel, what] for channel in "12" for what in ("basic.publish", "header", "body")
    ]
    others = selected(Selection(names=frozenset({"basic.ack", "heartbeat", "state"})), *parts)
    assert [line.split()[-1] for line in others] == ["multiple=False", "heartbeat", "open"]
    assert selected(Selection(names=frozenset({"body"})), *parts) == ["< 1 body 3 bytes", "< 2 body 1 bytes"]


def test_the_beginning_of_each_body() -> None:
    parts = (message(1, b"abcd", b"efgh"), message(2, "ä".encode() * 3, b"\xff\x00"), message(3, b"a\nb"))
    shown = selected(Selection(names=frozenset({"body"}), body_bytes=5), *parts)
    assert shown == [
        "< 1 body 4 bytes 'abcd'",
        "< 1 body 4 bytes 'e'…",
        "< 2 body 6 bytes 'ää'…",
        "< 2 body 2 bytes",
        "< 3 body 3 bytes 'a\\nb'",
    ]
    assert selected(Selection(names=frozenset({"body"}), body_bytes=2), frame.Body(1, b"\xff\xfe").marshal()) == [
        "< 1 body 2 bytes b'\\xff\\xfe'"
    ]


def test_a_selection_does_not_depend_on_the_pieces() -> None:
    data = b"".join(part for part, _ in CONVERSATION) + message(4, b"abcdef", b"ghi")
    found = []
    for step in (1, 3, 1_000_000):
        lines: list[str] = []
        trace = Trace(lines.append, Selection(body_bytes=8))
        for at in range(0, len(data), step):
            trace.received(data[at : at + step])
        found.append(lines)
    assert found[0] == found[1] == found[2]
    assert found[0][-2:] == ["< 4 body 6 bytes 'abcdef'", "< 4 body 3 bytes 'gh'…"]


# --- Budgets -------------------------------------------------------------------------------------------------


class Budget:
    """`given`: lines for each piece that comes."""

    def __init__(self, *given: int) -> None:
        self.given = list(given)
        self.lines_left = 0
        self.frames_left = 0
        self.left_out = 0

    def refill(self) -> bool:
        self.lines_left = self.given.pop(0)
        self.frames_left = 1000
        return self.lines_left > 0

    def leave_out(self, size: int) -> None:
        self.left_out += size


def test_beyond_a_budget_nothing_is_looked_at_and_then_a_frame_begins() -> None:
    """However the bytes come, and wherever what is left out ends."""
    data = HANDSHAKE + b"".join(LIFE)
    full = lines_from(0, False)
    for step in (50, 997, 20_000):
        peer = Peer(World())
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        lines: list[str] = []
        budget = Budget(9, *([0, 3, 3, 0, 1, 99] * len(pieces))[: len(pieces) + 2])
        trace = Trace(lines.append, budget=budget)
        trace.begin(False, peer.session._unread)
        for piece in pieces:
            told, most = len(lines), budget.given[0]
            trace.received(piece)
            peer.session.receive_data(piece)
            assert len(lines) - told <= most
        assert lines and set(lines) <= set(full)
        assert 0 < budget.left_out < len(data) and len(lines) < len(full)
