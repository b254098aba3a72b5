"""AMQP 0-9-1 peers for the robustness tests: fast, raw, independent of both Pabal's codec and pika's.

A `Peer` is one blocking socket. It speaks in bytes that the functions below make, and hears events.
"""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
WAIT_SECONDS_MAX = 20.0
PERSISTENT = b"\x10\x00\x02"  # flags: only delivery_mode; and that is 2
TRANSIENT = b"\x00\x00"

_HEAD = struct.Struct(">BHI")
_METHOD = struct.Struct(">BHIHH")
_CONTENT = struct.Struct(">HHQ")


def eventually(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS_MAX) -> None:
    """Returns once `condition` holds, and fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def rss_bytes(pid: int, peak: bool = False) -> int:
    """Resident memory of a process now, or the most it ever had."""
    field = "VmHWM:" if peak else "VmRSS:"
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} of process {pid}")


def anonymous_bytes(pid: int) -> int:
    """Resident memory without mapped files: pages of the LMDB file are the system's cache."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"no RssAnon of process {pid}")


def open_files_limit(pid: int, most: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))


# --- Bytes --------------------------------------------------------------------------------------------------


def short(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return bytes((len(data),)) + data


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def table(**entries: str | int) -> bytes:
    """A field table's inside: long strings and long integers. `_` in a name stands for `-`."""
    pieces = []
    for name, value in entries.items():
        pieces.append(short(name.replace("_", "-")))
        pieces.append(b"S" + long(value.encode()) if isinstance(value, str) else b"l" + struct.pack(">q", value))
    return b"".join(pieces)


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return _HEAD.pack(kind, channel, len(payload)) + payload + end


def method(channel: int, class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    return _METHOD.pack(1, channel, 4 + len(arguments), class_id, method_id) + arguments + b"\xce"


def header(channel: int, body_bytes: int, properties: bytes = TRANSIENT, class_id: int = 60) -> bytes:
    return frame(2, channel, _CONTENT.pack(class_id, 0, body_bytes) + properties)


def bodies(channel: int, body: bytes, frame_max: int = 131_072) -> bytes:
    step = frame_max - 8
    return b"".join([frame(3, channel, body[at : at + step]) for at in range(0, len(body), step)])


def publish_method(channel: int, exchange: str, key: str, mandatory: bool = False, immediate: bool = False) -> bytes:
    bits = bytes((mandatory | immediate << 1,))
    return method(channel, 60, 40, b"\0\0" + short(exchange) + short(key) + bits)


def publish(
    channel: int,
    exchange: str,
    key: str,
    body: bytes,
    properties: bytes = TRANSIENT,
    mandatory: bool = False,
    frame_max: int = 131_072,
) -> bytes:
    return (
        publish_method(channel, exchange, key, mandatory)
        + header(channel, len(body), properties)
        + bodies(channel, body, frame_max)
    )


def ack(channel: int, tag: int, multiple: bool = False) -> bytes:
    return method(channel, 60, 80, struct.pack(">QB", tag, multiple))


def nack(channel: int, tag: int, multiple: bool = False, requeue: bool = True) -> bytes:
    return method(channel, 60, 120, struct.pack(">QB", tag, multiple | requeue << 1))


def channel_open(channel: int) -> bytes:
    return method(channel, 20, 10, b"\0")


def channel_close(channel: int) -> bytes:
    return method(channel, 20, 40, struct.pack(">H", 200) + short("bye") + b"\0\0\0\0")


def channel_close_ok(channel: int) -> bytes:
    return method(channel, 20, 41)


def connection_close() -> bytes:
    return method(0, 10, 50, struct.pack(">H", 200) + short("bye") + b"\0\0\0\0")


def connection_close_ok() -> bytes:
    return method(0, 10, 51)


def queue_declare(
    channel: int, name: str, durable: bool = True, passive: bool = False, arguments: bytes = b""
) -> bytes:
    bits = bytes((passive | durable << 1,))
    return method(channel, 50, 10, b"\0\0" + short(name) + bits + long(arguments))


def queue_delete(channel: int, name: str) -> bytes:
    return method(channel, 50, 40, b"\0\0" + short(name) + b"\0")


def queue_purge(channel: int, name: str) -> bytes:
    return method(channel, 50, 30, b"\0\0" + short(name) + b"\0")


def queue_bind(channel: int, name: str, exchange: str, key: str) -> bytes:
    return method(channel, 50, 20, b"\0\0" + short(name) + short(exchange) + short(key) + b"\0" + long(b""))


def exchange_declare(
    channel: int, name: str, kind: str, durable: bool = True, passive: bool = False, arguments: bytes = b""
) -> bytes:
    bits = bytes((passive | durable << 1,))
    return method(channel, 40, 10, b"\0\0" + short(name) + short(kind) + bits + long(arguments))


def exchange_delete(channel: int, name: str) -> bytes:
    return method(channel, 40, 20, b"\0\0" + short(name) + b"\0")


def basic_qos(channel: int, count: int, of_channel: bool = False) -> bytes:
    return method(channel, 60, 10, struct.pack(">IHB", 0, count, of_channel))


def basic_consume(channel: int, queue: str, tag: str = "c", no_ack: bool = False) -> bytes:
    return method(channel, 60, 20, b"\0\0" + short(queue) + short(tag) + bytes((no_ack << 1,)) + long(b""))


def basic_get(channel: int, queue: str, no_ack: bool = True) -> bytes:
    return method(channel, 60, 70, b"\0\0" + short(queue) + bytes((no_ack,)))


def confirm_select(channel: int) -> bytes:
    return method(channel, 85, 10, b"\0")


def start_ok(user: str = "guest", password: str = "guest") -> bytes:
    response = f"\0{user}\0{password}".encode()
    return method(0, 10, 11, long(b"") + short("PLAIN") + long(response) + short("en_US"))


def tune_ok(channel_max: int = 2047, frame_max: int = 131_072, heartbeat: int = 0) -> bytes:
    return method(0, 10, 31, struct.pack(">HIH", channel_max, frame_max, heartbeat))


def connection_open(vhost: str = "/") -> bytes:
    return method(0, 10, 40, short(vhost) + b"\0\0")


# --- Events -------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """What came: a method with its content, if it has one. `key` is (class id, method id)."""

    channel: int
    key: tuple[int, int]
    arguments: bytes
    body: bytes = b""

    @property
    def code(self) -> int:
        """The reply code of a close or a return."""
        return int.from_bytes(self.arguments[:2], "big")

    @property
    def text(self) -> str:
        return self.arguments[3 : 3 + self.arguments[2]].decode("utf-8", "replace")

    @property
    def tag(self) -> int:
        """The delivery tag of a deliver, get-ok, ack or nack."""
        at = 1 + self.arguments[0] if self.key == DELIVER else 0
        return int.from_bytes(self.arguments[at : at + 8], "big")

    @property
    def redelivered(self) -> bool:
        at = 9 + self.arguments[0] if self.key == DELIVER else 8
        return bool(self.arguments[at] & 1)

    @property
    def multiple(self) -> bool:
        return bool(self.arguments[8] & 1)

    @property
    def count(self) -> int:
        """The message count of queue.declare-ok, purge-ok or delete-ok."""
        at = 1 + self.arguments[0] if self.key == DECLARE_OK else 0
        return int.from_bytes(self.arguments[at : at + 4], "big")


START = (10, 10)
TUNE = (10, 30)
OPEN_OK = (10, 41)
CONNECTION_CLOSE = (10, 50)
CONNECTION_CLOSE_OK = (10, 51)
CHANNEL_OPEN_OK = (20, 11)
CHANNEL_CLOSE = (20, 40)
CHANNEL_CLOSE_OK = (20, 41)
EXCHANGE_DECLARE_OK = (40, 11)
EXCHANGE_DELETE_OK = (40, 21)
DECLARE_OK = (50, 11)
BIND_OK = (50, 21)
PURGE_OK = (50, 31)
DELETE_OK = (50, 41)
QOS_OK = (60, 11)
CONSUME_OK = (60, 21)
RETURN = (60, 50)
DELIVER = (60, 60)
GET_OK = (60, 71)
GET_EMPTY = (60, 72)
ACK = (60, 80)
NACK = (60, 120)
CONFIRM_OK = (85, 11)
_WITH_CONTENT = frozenset({RETURN, DELIVER, GET_OK})


class Closed(ConnectionError):
    """The broker ended the stream."""


class Peer:
    """One connection. `heard`: events that `expect` passed over. Use as a context manager, or `close`."""

    def __init__(
        self,
        port: int,
        channels: int = 1,
        *,
        handshake: bool = True,
        timeout: float = WAIT_SECONDS_MAX,
        frame_max: int = 131_072,
        heartbeat: int = 0,
        receive_bytes: int = 0,
        send_bytes: int = 0,
    ) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if send_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard: list[Event] = []
        self._rest = b""
        self._events: list[Event] = []
        self._unfinished: dict[int, tuple[Event, list[bytes], int]] = {}
        if handshake:
            self.send(PROTOCOL_HEADER)
            self.expect(START)
            self.send(start_ok() + tune_ok(frame_max=frame_max, heartbeat=heartbeat) + connection_open())
            self.expect(OPEN_OK)
            for channel in range(1, channels + 1):
                self.call(channel_open(channel), CHANNEL_OPEN_OK)
            self.heard.clear()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> list[Event]:
        """What there is, at least one event unless only parts came. Closed: the end of the stream."""
        if self._events:
            events, self._events = self._events, []
            return events
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError as error:
            raise Closed(str(error)) from None
        if not data:
            raise Closed("end of stream")
        return self._scan(data)

    def next(self) -> Event:
        """The next event."""
        while not self._events:
            self._events = self.receive()
        return self._events.pop(0)

    def expect(self, *keys: tuple[int, int]) -> Event:
        """The next event with one of these keys; others before it go to `heard`, but a close is an error."""
        while True:
            event = self.next()
            if event.key in keys:
                return event
            assert event.key not in (CONNECTION_CLOSE, CHANNEL_CLOSE), f"{event.code} {event.text}"
            self.heard.append(event)

    def call(self, data: bytes, key: tuple[int, int]) -> Event:
        self.send(data)
        return self.expect(key)

    def declare(self, name: str, **options: object) -> Event:
        return self.call(queue_declare(1, name, **options), DECLARE_OK)  # type: ignore[arg-type]

    def ready(self, name: str) -> int:
        return self.call(queue_declare(1, name, passive=True), DECLARE_OK).count

    def confirm(self, count: int) -> None:
        """Waits until `count` publishes of this channel, since confirm.select, are confirmed."""
        while True:
            event = self.expect(ACK)
            if event.tag >= count:
                return

    def expect_close(self, code: int) -> Event:
        """connection.close with this code, which is answered, and then the end."""
        event = self.next()
        while event.key != CONNECTION_CLOSE:
            event = self.next()
        assert event.code == code, f"{event.code} {event.text}"
        self.send(connection_close_ok())
        self.expect_end()
        return event

    def end(self) -> bytes:
        """All bytes until the broker closes, however it does."""
        data = self._rest
        try:
            while piece := self.socket.recv(1 << 18):
                data += piece
        except ConnectionError:
            pass
        return data

    def expect_end(self) -> None:
        """The stream ends, and nothing but `heard` events come before."""
        try:
            while True:
                self.heard.append(self.next())
        except Closed:
            pass

    def _scan(self, data: bytes) -> list[Event]:
        buffer = self._rest + data
        pos, end = 0, len(buffer)
        events: list[Event] = []
        while end - pos >= 8:
            kind, channel, size = _HEAD.unpack_from(buffer, pos)
            stop = pos + 8 + size
            if stop > end:
                break
            assert buffer[stop - 1] == 0xCE, f"the broker's frame does not end: {buffer[pos:stop][:60]!r}"
            self._take(kind, channel, buffer[pos + 7 : stop - 1], events)
            pos = stop
        self._rest = buffer[pos:]
        return events

    def _take(self, kind: int, channel: int, payload: bytes, events: list[Event]) -> None:
        if kind == 1:
            assert channel not in self._unfinished, "a method in the middle of a content"
            key = (payload[0] << 8 | payload[1], payload[2] << 8 | payload[3])
            event = Event(channel, key, payload[4:])
            if key in _WITH_CONTENT:
                self._unfinished[channel] = (event, [], -1)
            else:
                events.append(event)
        elif kind in (2, 3):
            event, pieces, left = self._unfinished[channel]
            if kind == 2:
                assert left == -1, "a second content header"
                left = _CONTENT.unpack_from(payload)[2]
            else:
                assert left >= len(payload), "more body than announced"
                pieces.append(payload)
                left -= len(payload)
            if left:
                self._unfinished[channel] = (event, pieces, left)
            else:
                del self._unfinished[channel]
                events.append(event._replace(body=b"".join(pieces)))
        else:
            assert kind == 8, f"frame type {kind}"


def drain(port: int, queue: str) -> list[Event]:
    """Takes all messages of a queue, for good: when this returns, the acks are durable."""
    with Peer(port) as peer:
        peer.send(confirm_select(1))
        peer.expect(CONFIRM_OK)
        count = peer.ready(queue)
        events: list[Event] = []
        peer.send(basic_consume(1, queue))
        while len(events) < count:
            events += [event for event in peer.receive() if event.key == DELIVER]
        if events:
            peer.send(ack(1, events[-1].tag, multiple=True))
        # A confirm comes after the commit that has what came before it.
        peer.send(publish(1, "", "there is no such queue", b"", PERSISTENT))
        peer.confirm(1)
        assert peer.ready(queue) == 0
        return events


def fill(port: int, queue: str, payloads: Iterable[bytes], properties: bytes = PERSISTENT) -> int:
    """Publishes to a queue and waits for the confirms. Returns how many."""
    with Peer(port) as peer:
        peer.call(confirm_select(1), CONFIRM_OK)
        chunk: list[bytes] = []
        size = count = confirmed = 0
        for body in payloads:
            chunk.append(publish(1, "", queue, body, properties))
            size += len(chunk[-1])
            count += 1
            if size > 1 << 20:
                peer.send(b"".join(chunk))
                chunk, size = [], 0
                while count - confirmed > 50_000:
                    confirmed = max(confirmed, peer.expect(ACK).tag)
        peer.send(b"".join(chunk))
        if confirmed < count:
            peer.confirm(count)
        return count
