"""An AMQP 0-9-1 client just big enough to load a broker: frames, the handshake, a few methods.

It speaks on one channel and over a blocking socket. What has to be fast is in `publisher.py` and in
`consumer.py`, which work on this connection's socket and buffer; what is here may cost what it likes.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from shapes import long_string, short_string, table
from spec import LoadError

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_OVERHEAD_BYTES = 8
CHANNEL = 1

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_BASIC = 60
_START, _TUNE, _OPEN_OK = (10, 10), (10, 30), (10, 41)
_ACK_HEAD, _SINGLE_ACK_END = struct.pack(">BHIHH", METHOD, CHANNEL, 13, _BASIC, 80), b"\x00\xce"
_CONNECTION_CLOSE, _CHANNEL_CLOSE, _BASIC_CANCEL = (10, 50), (20, 40), (60, 30)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame: type, channel, size, payload, frame end."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([FRAME_END])


def method(class_id: int, method_id: int, arguments: bytes, channel: int = CHANNEL) -> bytes:
    """One method frame."""
    return frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)


def publish_frames(
    exchange: str, routing_key: str, properties: tuple[int, bytes], body: bytes, frame_bytes_max: int
) -> tuple[bytes, int]:
    """All frames of one publish.

    Args:
        exchange: its name.
        routing_key: as a string.
        properties: flags and the encoded properties.
        body: of any size.
        frame_bytes_max: as agreed upon with the broker.

    Returns:
        The bytes, and the offset at which the body begins in them.
    """
    start = method(_BASIC, 40, b"\x00\x00" + short_string(exchange) + short_string(routing_key) + b"\x00")
    flags, values = properties
    start += frame(HEADER, CHANNEL, struct.pack(">HHQH", _BASIC, 0, len(body), flags) + values)
    step = frame_bytes_max - FRAME_OVERHEAD_BYTES
    pieces = [frame(BODY, CHANNEL, body[at : at + step]) for at in range(0, len(body), step)]
    return start + b"".join(pieces), len(start) + 7


class Connection:
    """A connection with one open channel.

    Args:
        port: TCP port.
        host: where the broker listens.
        timeout_s: seconds without any byte after which an operation fails.

    Raises:
        LoadError: no connection, a refused login, a broken handshake.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 20.0) -> None:
        self.buffer = bytearray()
        self.frame_bytes_max = 4096
        self.version = "?"
        self._timeout_s = timeout_s
        try:
            self.sock = socket.create_connection((host, port), timeout_s)
        except OSError as error:
            raise LoadError(f"no connection to {host}:{port}: {error}") from error
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open()
        except BaseException:
            self.sock.close()
            raise

    def _open(self) -> None:
        self.send(_PROTOCOL_HEADER)
        self.version = _version_of(self.expect(*_START))
        capabilities = {
            "publisher_confirms": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "authentication_failure_close": True,
        }
        client = table({"product": "Pabal benchmarks", "capabilities": capabilities})
        login = short_string("PLAIN") + long_string(b"\x00guest\x00guest") + short_string("en_US")
        self.send(method(10, 11, client + login, 0))
        channels_max, frame_bytes_max, _ = struct.unpack(">HIH", self.expect(*_TUNE)[:8])
        self.frame_bytes_max = frame_bytes_max or 131_072
        self.send(method(10, 31, struct.pack(">HIH", channels_max, self.frame_bytes_max, 0), 0))
        self.send(method(10, 40, short_string("/") + b"\x00\x00", 0))
        self.expect(*_OPEN_OK)
        self.call(20, 10, b"\x00", 11)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. When the broker has hung up, says why if it told."""
        try:
            self.sock.sendall(data)
        except TimeoutError as error:
            raise LoadError(f"the broker took nothing in for {self._timeout_s:.0f} s") from error
        except OSError as error:
            with contextlib.suppress(OSError):
                while True:  # A connection.close may still be waiting to be read: it is the better message.
                    self.read_frame()
            raise LoadError(f"the broker hung up: {error}") from error

    def fill(self) -> None:
        """Wait for bytes and add them to the buffer."""
        chunk = bytearray(65_536)
        size = self.receive_into(memoryview(chunk))
        self.buffer += memoryview(chunk)[:size]

    def receive_into(self, view: memoryview) -> int:
        """Wait for bytes and put them into `view`.

        Returns:
            How many, at least one.
        """
        try:
            try:
                size = self.sock.recv_into(view)
            except TimeoutError:
                size = self._receive_at_once(view)  # The socket may have waited for more than there is.
        except BlockingIOError:
            raise LoadError(f"no byte from the broker for {self._timeout_s:.0f} s") from None
        except OSError as error:
            raise LoadError(f"the broker hung up: {error}") from error
        if not size:
            raise LoadError("the broker closed the connection without a word")
        return size

    def _receive_at_once(self, view: memoryview) -> int:
        self.sock.setblocking(False)
        try:
            return self.sock.recv_into(view)
        finally:
            self.sock.settimeout(self._timeout_s)

    def read_frame(self) -> tuple[int, bytes]:
        """Read one whole frame.

        Returns:
            Its type, and all of its bytes from header to frame end.

        Raises:
            LoadError: it closes the channel, the connection or the consumer, or it is no frame.
        """
        while len(self.buffer) < 7:
            self.fill()
        kind, _, size = struct.unpack_from(">BHI", self.buffer)
        if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
            raise LoadError(f"not an AMQP 0-9-1 frame: {bytes(self.buffer[:16])!r}")
        while len(self.buffer) < size + FRAME_OVERHEAD_BYTES:
            self.fill()
        whole = bytes(self.buffer[: size + FRAME_OVERHEAD_BYTES])
        if whole[-1] != FRAME_END:
            raise LoadError(f"a frame of type {kind} does not end in 0xCE")
        del self.buffer[: len(whole)]
        if kind == METHOD:
            _raise_if_closing(whole)
        return kind, whole

    def expect(self, class_id: int, method_id: int) -> bytes:
        """Read up to this method, passing over others.

        Returns:
            Its arguments.
        """
        wanted = struct.pack(">HH", class_id, method_id)
        while True:
            kind, whole = self.read_frame()
            if kind == METHOD and whole[7:11] == wanted:
                return whole[11:-1]

    def call(self, class_id: int, method_id: int, arguments: bytes, reply_id: int) -> bytes:
        """Send a method and wait for its reply, of the same class.

        Returns:
            The reply's arguments.
        """
        self.send(method(class_id, method_id, arguments))
        return self.expect(class_id, reply_id)

    def declare(self, queue: str, *, durable: bool = False, passive: bool = False) -> int:
        """Declare a queue, or look whether it is there.

        Returns:
            Messages ready in it.
        """
        flags = passive | durable << 1
        reply = self.call(50, 10, b"\x00\x00" + short_string(queue) + bytes([flags]) + table({}), 11)
        (ready,) = struct.unpack_from(">I", reply, 1 + reply[0])
        return int(ready)

    def purge(self, queue: str) -> None:
        """Empty a queue of its ready messages."""
        self.call(50, 30, b"\x00\x00" + short_string(queue) + b"\x00", 31)

    def delete(self, queue: str) -> None:
        """Delete a queue with all that is in it."""
        self.call(50, 40, b"\x00\x00" + short_string(queue) + b"\x00", 41)

    def declare_exchange(self, exchange: str, kind: str) -> None:
        """Declare a transient exchange of a type."""
        self.call(40, 10, b"\x00\x00" + short_string(exchange) + short_string(kind) + b"\x00" + table({}), 11)

    def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange."""
        self.call(40, 20, b"\x00\x00" + short_string(exchange) + b"\x00", 21)

    def bind(self, queue: str, exchange: str, routing_key: str, arguments: bytes) -> None:
        """Bind a queue to an exchange; `arguments` is an encoded table."""
        names = short_string(queue) + short_string(exchange) + short_string(routing_key)
        self.call(50, 20, b"\x00\x00" + names + b"\x00" + arguments, 21)

    def select_confirms(self) -> None:
        """Have every publish confirmed from here on."""
        self.call(85, 10, b"\x00", 11)

    def consume(self, queue: str, *, prefetch: int, consumer_tag: str = "c") -> None:
        """Start a consumer.

        Args:
            queue: where from.
            prefetch: messages that may be unacknowledged at once; 0 for automatic acknowledgement.
            consumer_tag: its name.
        """
        if prefetch:
            self.call(_BASIC, 10, struct.pack(">IHB", 0, prefetch, 0), 11)
        flags = 0 if prefetch else 2
        arguments = b"\x00\x00" + short_string(queue) + short_string(consumer_tag) + bytes([flags]) + table({})
        self.call(_BASIC, 20, arguments, 21)

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge this delivery and all before it."""
        self.send(method(_BASIC, 80, struct.pack(">QB", delivery_tag, 1)))

    def ack_each(self, first: int, last: int) -> None:
        """Acknowledge the deliveries from `first` to `last`, each by itself."""
        head, end = _ACK_HEAD, _SINGLE_ACK_END
        self.send(b"".join([head + tag.to_bytes(8) + end for tag in range(first, last + 1)]))

    def close(self) -> None:
        """Close channel and connection in order, so that the broker has taken in all that was sent."""
        try:
            self.call(20, 40, struct.pack(">H", 200) + short_string("") + b"\x00" * 4, 41)
            self.send(method(10, 50, struct.pack(">H", 200) + short_string("") + b"\x00" * 4, 0))
            self.expect(10, 51)
        finally:
            self.sock.close()


def _raise_if_closing(whole: bytes) -> None:
    ids = struct.unpack_from(">HH", whole, 7)
    if ids == _BASIC_CANCEL:
        raise LoadError("the broker cancelled the consumer")
    if ids in (_CONNECTION_CLOSE, _CHANNEL_CLOSE):
        what = "connection" if ids == _CONNECTION_CLOSE else "channel"
        (code,) = struct.unpack_from(">H", whole, 11)
        text = whole[14 : 14 + whole[13]].decode(errors="replace")
        raise LoadError(f"the broker closed the {what}: {code} {text}")


def _version_of(start: bytes) -> str:
    """The broker's version in its server-properties. Looked for, not parsed: it is only shown."""
    _, found, after = start.partition(b"\x07versionS")
    if not found or len(after) < 4:
        return "?"
    (size,) = struct.unpack_from(">I", after)
    return after[4 : 4 + size].decode(errors="replace")
