"""What a hostile or broken client may do, each with the answer that the specification or RabbitMQ gives.

An attack takes the broker's port, does its worst, checks the answer, and returns its own port.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import struct
from collections.abc import Callable

from robustness import peers as p

Attack = Callable[[int], int]
ATTACKS: dict[str, Attack] = {}
MIB = 1024 * 1024


def local_port(peer: p.Peer) -> int:
    port: int = peer.socket.getsockname()[1]
    return port


def refused(data: bytes) -> Attack:
    """Bytes that are no AMQP 0-9-1 are answered with its header and the end (§4.2.2)."""

    def attack(port: int) -> int:
        with p.Peer(port, handshake=False) as peer:
            own = local_port(peer)
            with contextlib.suppress(ConnectionError):
                peer.send(data)
            answer = peer.end()
            # Who goes on sending to a closed socket may find the answer thrown away by the system.
            assert answer == p.PROTOCOL_HEADER or (not answer and len(data) > MIB), answer
            return own

    return attack


def closed(data: bytes, code: int, steps: int = 9) -> Attack:
    """On an open channel 1 (or after so many `steps` of the handshake) the connection is closed with this code."""

    def attack(port: int) -> int:
        with p.Peer(port, handshake=False) as peer:
            own = local_port(peer)
            if steps > 4:
                peer.send(p.PROTOCOL_HEADER)
                peer.expect(p.START)
                peer.send(p.start_ok() + p.tune_ok() + p.connection_open())
                peer.expect(p.OPEN_OK)
                peer.call(p.channel_open(1), p.CHANNEL_OPEN_OK)
            else:
                for step in (p.PROTOCOL_HEADER, p.start_ok(), p.tune_ok(), p.connection_open())[:steps]:
                    peer.send(step)
            peer.send(data)
            while (event := peer.next()).key != p.CONNECTION_CLOSE:
                assert event.key in (p.START, p.TUNE, p.OPEN_OK), event
            assert event.code == code, f"{event.code} {event.text}"
            peer.send(p.connection_close_ok())
            peer.expect_end()
            return own

    return attack


def ended(data: bytes) -> Attack:
    """After connection.start: the end, without a word to who did not ask for one (§2.2.4)."""

    def attack(port: int) -> int:
        with p.Peer(port, handshake=False) as peer:
            own = local_port(peer)
            peer.send(p.PROTOCOL_HEADER)
            peer.expect(p.START)
            peer.send(data)
            assert peer.end() == b""
            return own

    return attack


def channel_closed(data: bytes, code: int) -> Attack:
    """Only the channel is closed: the connection goes on, on another channel and on a new one of that number."""

    def attack(port: int) -> int:
        with p.Peer(port, channels=2) as peer:
            own = local_port(peer)
            peer.send(data)
            event = peer.next()
            assert (event.key, event.code, event.channel) == (p.CHANNEL_CLOSE, code, 1), event
            peer.call(p.basic_qos(2, 1), p.QOS_OK)
            peer.send(p.channel_close_ok(1))
            peer.call(p.channel_open(1), p.CHANNEL_OPEN_OK)
            peer.call(p.basic_qos(1, 1), p.QOS_OK)
            peer.call(p.connection_close(), p.CONNECTION_CLOSE_OK)
            return own

    return attack


def tls_hello() -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def nested(depth: int, kind: bytes) -> bytes:
    """A table in a table (kind F) or an array in an array (kind A), that deep."""
    value = b"V"
    for _ in range(depth):
        inner = (b"\x01x" if kind == b"F" else b"") + value
        value = kind + p.long(inner)
    return p.long(b"\x01x" + value)


def declare_with(arguments: bytes) -> bytes:
    """queue.declare whose arguments are `arguments`, length and all."""
    return p.method(1, 50, 10, b"\0\0" + p.short("nested") + b"\0" + arguments)


GOOD_PUBLISH = p.publish_method(1, "", "nowhere")
_RANDOM = random.Random(5)

ATTACKS |= {
    "random bytes": refused(b"\xff" + _RANDOM.randbytes(5000)),
    "much random bytes": refused(b"\x00" + _RANDOM.randbytes(3 * MIB)),
    "http": refused(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\n\r\n"),
    "http post": refused(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000),
    "tls hello": refused(tls_hello()),
    "amqp 1.0": refused(b"AMQP\x00\x01\x00\x00"),
    "amqp 1.0 sasl": refused(b"AMQP\x03\x01\x00\x00" + b"\0" * 50),
    "amqp 0-8": refused(b"AMQP\x01\x01\x08\x00"),
    "one wrong byte": refused(b"X"),
    "ssh": refused(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
    "stomp": refused(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0"),
    # Before the connection is open.
    "declare before start-ok": closed(p.queue_declare(1, "q"), 503, 1),
    "declare before tune-ok": closed(p.queue_declare(1, "q"), 503, 2),
    "declare before open": closed(p.queue_declare(1, "q"), 503, 3),
    "channel before open": closed(p.channel_open(1), 503, 3),
    "publish before open": closed(p.publish(1, "", "q", b"x"), 503, 3),
    "ack before open": closed(p.ack(1, 1) * 3, 503, 3),
    "open before start-ok": closed(p.connection_open(), 504, 1),
    "start-ok twice": closed(p.start_ok(), 504, 2),
    "open twice": closed(p.connection_open(), 504),
    "header before open": closed(p.header(1, 10), 505, 2),
    "garbage after the header": closed(b"\xee" * 100, 501, 1),
    "unknown mechanism": ended(
        p.method(0, 10, 11, p.long(b"") + p.short("EXTERNAL") + p.long(b"") + p.short("en_US"))
    ),
    "wrong password": ended(p.start_ok(password="wrong")),
    "unknown user": ended(p.start_ok(user="nobody")),
    "frame_max too small": closed(p.tune_ok(frame_max=100), 530, 2),
    "frame_max too large": closed(p.tune_ok(frame_max=2**32 - 1), 530, 2),
    "channel_max too large": closed(p.tune_ok(channel_max=65_535), 530, 2),
    "no such vhost": closed(p.connection_open("nowhere"), 530, 3),
    # Channel numbers.
    "channel not open": closed(p.queue_declare(7, "q"), 504),
    "publish on a channel not open": closed(p.publish(7, "", "q", b"x"), 504),
    "acks on a channel not open": closed(p.ack(7, 1) + p.ack(7, 2), 504),
    "channel opened twice": closed(p.channel_open(1), 504),
    "declare on channel 0": closed(p.queue_declare(0, "q"), 504),
    "channel.open on channel 0": closed(p.channel_open(0), 504),
    "connection.open on channel 1": closed(p.method(1, 10, 40, p.short("/") + b"\0\0"), 503),
    # Frames out of order.
    "header without publish": closed(p.header(1, 10), 505),
    "body without publish": closed(p.bodies(1, b"x"), 505),
    "body without header": closed(GOOD_PUBLISH + p.bodies(1, b"x"), 505),
    "method within content": closed(GOOD_PUBLISH + p.basic_qos(1, 1), 505),
    "publish within content": closed(GOOD_PUBLISH + p.header(1, 5) + GOOD_PUBLISH, 505),
    "ack within content": closed(p.basic_qos(1, 1)[:0] + GOOD_PUBLISH + p.header(1, 5) + p.ack(1, 1), 505),
    "too much body": closed(GOOD_PUBLISH + p.header(1, 3) + p.bodies(1, b"xxxx"), 505),
    "body after the end": closed(p.publish(1, "", "nowhere", b"x") + p.bodies(1, b"y"), 505),
    "header of another class": closed(GOOD_PUBLISH + p.header(1, 3, class_id=50), 505),
    "two headers": closed(GOOD_PUBLISH + p.header(1, 3) + p.header(1, 3), 505),
    # Frames that are no frames.
    "frame too large": closed(p.frame(3, 1, b"x" * 131_073), 501),
    "frame of four GiB": closed(struct.pack(">BHI", 1, 1, 2**32 - 1) + b"x" * MIB, 501),
    "no frame end": closed(p.frame(1, 1, b"\0\x3c\0\x0a\0\0\0\0\0\x01\0", b"\xcd"), 501),
    "unknown frame type": closed(p.frame(4, 1, b""), 501),
    "garbage": closed(b"\xff" + _RANDOM.randbytes(100_000), 501),
    # Methods.
    "unknown class": closed(p.method(1, 999, 1), 503),
    "unknown method": closed(p.method(1, 50, 999), 503),
    "empty method": closed(p.frame(1, 1, b""), 501),
    "half a method": closed(p.frame(1, 1, b"\0\x32"), 501),
    "deliver from a client": closed(p.method(1, 60, 60, p.short("c") + b"\0" * 9 + p.short("") * 2), 503),
    "return from a client": closed(p.method(1, 60, 50, b"\0\0" + p.short("") * 3), 503),
    "declare-ok from a client": closed(p.method(1, 50, 11, p.short("q") + b"\0" * 8), 503),
    "get-empty from a client": closed(p.method(1, 60, 72, b"\0"), 503),
    "start from a client": closed(p.method(0, 10, 10, b"\0\x09" + p.long(b"") * 3), 504),
    "blocked from a client": closed(p.method(0, 10, 60, p.short("me")), 504),
    "immediate": closed(p.publish_method(1, "", "q", immediate=True) + p.header(1, 1) + p.bodies(1, b"x"), 540),
    "recover without requeue": closed(p.method(1, 60, 110, b"\0"), 540),
    "prefetch_size": closed(p.method(1, 60, 10, struct.pack(">IHB", 5, 0, 0)), 540),
    # Arguments that lie.
    "arguments cut short": closed(p.method(1, 50, 10, b"\0\0\x05ab"), 501),
    "arguments too long": closed(p.method(1, 60, 10, struct.pack(">IHB", 0, 1, 0) + b"more"), 501),
    "no arguments": closed(p.method(1, 50, 10), 501),
    "a name that is not UTF-8": closed(
        p.method(1, 50, 10, b"\0\0" + p.short(b"\xff\xfe\x80") + b"\x01" + p.long(b"")), 501
    ),
    "table longer than its frame": closed(declare_with(struct.pack(">I", 2**32 - 1)), 501),
    "table with a name too long": closed(declare_with(p.long(b"\xffab")), 501),
    "table with an unknown type": closed(declare_with(p.long(b"\x01aZ")), 501),
    "value longer than its table": closed(declare_with(p.long(b"\x01aS" + struct.pack(">I", 99) + b"x")), 501),
    "tables nested deep": closed(declare_with(nested(9000, b"F")), 501),
    "arrays nested deep": closed(declare_with(nested(9000, b"A")), 501),
    "start-ok nested deep": closed(
        p.method(0, 10, 11, nested(9000, b"F") + p.short("PLAIN") + p.long(b"\0a\0b") + p.short("en_US")), 501, 1
    ),
    "properties cut short": closed(
        GOOD_PUBLISH + p.frame(2, 1, struct.pack(">HHQ", 60, 0, 1) + b"\x80\0\xffab") + p.bodies(1, b"x"), 502
    ),
    "unknown property flags": closed(
        GOOD_PUBLISH + p.frame(2, 1, struct.pack(">HHQ", 60, 0, 1) + b"\0\x01\0\0") + p.bodies(1, b"x"), 502
    ),
    "header too short": closed(GOOD_PUBLISH + p.frame(2, 1, b"\0\x3c\0\0"), 501),
    # What closes a channel only.
    "no such exchange": channel_closed(p.publish(1, "no.such", "q", b"x" * 1000), 404),
    "a line of the log of one's own": channel_closed(
        p.publish(1, "x\n12:00:00.000 ERROR   the sky falls", "q", b"x"), 404
    ),
    "no such queue": channel_closed(p.basic_consume(1, "no.such"), 404),
    "unknown delivery": channel_closed(p.ack(1, 5) + p.ack(1, 6), 406),
    "unknown delivery, multiple": channel_closed(p.ack(1, 2**64 - 1, multiple=True), 406),
    "a name that is reserved": channel_closed(p.queue_declare(1, "amq.mine"), 403),
    "message too large": channel_closed(GOOD_PUBLISH + p.header(1, 128 * MIB + 1), 406),
    "message of 2**64 - 1": channel_closed(GOOD_PUBLISH + p.header(1, 2**64 - 1), 406),
    "expiration of many digits": channel_closed(
        p.publish(1, "", "q", b"x", b"\x01\0" + p.short(b"0" * 20 + b"9" * 200)), 406
    ),
    "expiration that is none": channel_closed(p.publish(1, "", "q", b"x", b"\x01\0" + p.short("soon")), 406),
    "another's user_id": channel_closed(p.publish(1, "", "q", b"x", b"\0\x10" + p.short("root")), 406),
}
