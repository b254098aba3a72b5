"""A NATS client just big enough to load a server: core publish and subscribe, and JetStream."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from typing import Any

from spec import LoadError

END = b"\r\n"
_PING, _PONG = b"PING\r\n", b"PONG\r\n"
_CONTROL = re.compile(rb"\+OK|PONG|INFO .*")


class NatsConnection:
    """A connection to a NATS server.

    Args:
        port: TCP port on this machine.
        timeout_s: seconds without any byte after which an operation fails.

    Attributes:
        info: what the server says of itself.
        buffer: bytes received and not yet looked at.

    Raises:
        LoadError: no connection, or not NATS.
    """

    def __init__(self, port: int, timeout_s: float = 20.0) -> None:
        self.buffer = bytearray()
        self._timeout_s = timeout_s
        try:
            self.sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        except OSError as error:
            raise LoadError(f"no connection to 127.0.0.1:{port}: {error}") from error
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = self.read_line()
            if not line.startswith(b"INFO "):
                raise LoadError(f"not a NATS server: {line[:40]!r}")
            self.info: dict[str, Any] = json.loads(line[5:])
            options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
            self.send(b"CONNECT " + json.dumps(options).encode() + END)
            self.flush()
        except BaseException:
            self.sock.close()
            raise

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""
        try:
            self.sock.sendall(data)
        except TimeoutError as error:
            raise LoadError(f"the server took nothing in for {self._timeout_s:.0f} s") from error
        except OSError as error:
            raise LoadError(f"the server hung up: {error} {bytes(self.buffer[-200:])!r}") from error

    def fill(self) -> None:
        """Wait for bytes and add them to the buffer."""
        try:
            chunk = self.sock.recv(262_144)
        except TimeoutError:
            raise LoadError(f"no byte from the server for {self._timeout_s:.0f} s") from None
        except OSError as error:
            raise LoadError(f"the server hung up: {error}") from error
        if not chunk:
            raise LoadError("the server closed the connection without a word")
        self.buffer += chunk

    def read_line(self) -> bytes:
        """Read one line that is not a ping, without its end."""
        while True:
            while (end := self.buffer.find(END)) < 0:
                self.fill()
            line = bytes(self.buffer[:end])
            del self.buffer[: end + 2]
            if not self.is_control(line):
                return line

    def is_control(self, line: bytes) -> bool:
        """Whether a line is a ping, which is answered here.

        Raises:
            LoadError: it is an error.
        """
        if line.startswith(b"-ERR"):
            raise LoadError(f"the server says {line.decode(errors='replace')}")
        if line == b"PING":
            self.send(_PONG)
            return True
        return False

    def read_message(self) -> tuple[bytes, bytes]:
        """Read the next message, passing over other lines.

        Returns:
            Its first line and its body, headers in front if it has any.
        """
        while True:
            line = self.read_line()
            if line.startswith((b"MSG ", b"HMSG ")):
                size = int(line.rpartition(b" ")[2])
                while len(self.buffer) < size + 2:
                    self.fill()
                body = bytes(self.buffer[:size])
                del self.buffer[: size + 2]
                return line, body
            if not _CONTROL.fullmatch(line):
                raise LoadError(f"not a line of NATS: {line[:60]!r}")

    def flush(self) -> None:
        """Wait until the server has taken in all that was sent. No message may be under way."""
        self.send(_PING)
        if (line := self.read_line()) != b"PONG":
            raise LoadError(f"expected PONG, got {line[:80]!r}")

    def subscribe(self, subject: str, number: int) -> None:
        """Have messages of a subject sent here."""
        self.send(f"SUB {subject} {number}\r\n".encode())

    def request(self, subject: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API for something. No message may be under way.

        Raises:
            LoadError: the answer is an error.
        """
        body = json.dumps(content).encode() if content is not None else b""
        self.send(b"SUB _INBOX.api 99\r\n" + publish_line(subject, body, "_INBOX.api"))
        answer: dict[str, Any] = json.loads(self.read_message()[1])
        self.send(b"UNSUB 99\r\n")
        if "error" in answer:
            raise LoadError(f"{subject}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Have everything taken in, then hang up."""
        with contextlib.closing(self.sock):
            self.flush()


def publish_line(subject: str, body: bytes, reply: str = "") -> bytes:
    """One whole publish."""
    return f"PUB {subject} {reply + ' ' if reply else ''}{len(body)}\r\n".encode() + body + END
