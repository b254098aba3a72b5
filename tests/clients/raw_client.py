"""An AMQP 0-9-1 peer that does only what it is told, frame by frame, for what polite clients never send.

Frames are encoded and decoded with pika's classes; the order of things is the test's own.
"""

from __future__ import annotations

import socket
from types import TracebackType

from pika import frame, spec

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
NO_FRAME = (0, None)


class RawClient:
    """One socket, blocking, every wait bounded by `timeout_seconds`."""

    def __init__(self, host: str, port: int, timeout_seconds: float = 10.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, channel: int, method: object) -> None:
        self.send_bytes(frame.Method(channel, method).marshal())

    def publish(
        self,
        channel: int,
        method: spec.Basic.Publish,
        body: bytes = b"",
        properties: spec.BasicProperties | None = None,
    ) -> None:
        """One message in at most one body frame."""
        header = frame.Header(channel, len(body), properties or spec.BasicProperties())
        data = frame.Method(channel, method).marshal() + header.marshal()
        self.send_bytes(data + frame.Body(channel, body).marshal() if body else data)

    def receive_bytes(self) -> bytes:
        """What comes next; empty at the end of the stream, however it was ended."""
        try:
            return self.socket.recv(1 << 20)
        except ConnectionResetError:
            return b""

    def receive(self) -> frame.Frame | None:
        """The next frame that is no heartbeat; None when the peer closed the socket."""
        while True:
            used, decoded = frame.decode_frame(self.buffer) if self.buffer else NO_FRAME
            if decoded is not None:
                self.buffer = self.buffer[used:]
                if isinstance(decoded, frame.Heartbeat):
                    continue
                return decoded
            data = self.receive_bytes()
            if not data:
                return None
            self.buffer += data

    def expect(self, method_class: type) -> object:
        """The next frame, which must be a method of this class; returns the method."""
        received = self.receive()
        if received is None:
            raise ConnectionResetError("the peer closed the connection")
        method = getattr(received, "method", received)
        assert isinstance(method, method_class), f"expected {method_class.__name__}, got {method!r}"
        return method

    def receive_content(self) -> tuple[spec.BasicProperties, bytes]:
        """The content header and the whole body, in however many frames it comes."""
        header = self.receive()
        assert isinstance(header, frame.Header), header
        body = b""
        while len(body) < header.body_size:
            part = self.receive()
            assert isinstance(part, frame.Body), part
            body += part.fragment
        assert len(body) == header.body_size
        return header.properties, body

    def start(self) -> spec.Connection.Start:
        self.send_bytes(PROTOCOL_HEADER)
        return self.expect(spec.Connection.Start)  # type: ignore[return-value]

    def start_ok(
        self, user: str = "guest", password: str = "guest", capabilities: dict[str, bool] | None = None
    ) -> None:
        response = f"\x00{user}\x00{password}"
        properties = {"product": "raw client", "capabilities": capabilities or {}}
        self.send(0, spec.Connection.StartOk(properties, "PLAIN", response, "en_US"))

    def tune(self) -> spec.Connection.Tune:
        return self.expect(spec.Connection.Tune)  # type: ignore[return-value]

    def handshake(
        self,
        channel_max: int = 0,
        frame_max: int = 131072,
        heartbeat: int = 0,
        vhost: str = "/",
        capabilities: dict[str, bool] | None = None,
    ) -> spec.Connection.Tune:
        """Everything up to connection.open-ok; returns what the server had proposed."""
        self.start()
        self.start_ok(capabilities=capabilities)
        proposal = self.tune()
        self.send(0, spec.Connection.TuneOk(channel_max or proposal.channel_max, frame_max, heartbeat))
        self.send(0, spec.Connection.Open(vhost))
        self.expect(spec.Connection.OpenOk)
        return proposal

    def open_channel(self, number: int) -> None:
        self.send(number, spec.Channel.Open())
        self.expect(spec.Channel.OpenOk)

    def close_connection(self) -> None:
        self.send(0, spec.Connection.Close(200, "bye", 0, 0))
        self.expect(spec.Connection.CloseOk)
