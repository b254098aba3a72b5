"""The debug log is the wire: a line for each frame received (`<`) and sent (`>`), each state (`=`), each error (`!`).

It reads the bytes beside the session, which knows nothing of it. Never a secret: long strings (SASL responses and
secrets are such) and bodies are told by their sizes, addresses of direct reply-to by their beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Final

from pabal.session.amqp091.replies import PSEUDO_QUEUE, is_reply_name
from pabal.wire.amqp091.errors import WireError
from pabal.wire.amqp091.methods import (
    CONNECTION_START,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD_BYTES,
    METHODS,
    Method,
    decode_arguments,
)

_HEAD: Final = Struct(">BHI")
_BODY_SIZE: Final = Struct(">Q")
_BODY_SIZE_AT: Final = 4
_VALUE_CHARACTERS_MAX: Final = 60
_READ_BYTES_MAX: Final = 256 * 1024
"""Larger frames are told by their sizes alone, as bodies are."""


class Trace:
    """One connection's. `write` is called with each line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._in = _Direction()
        self._out = _Direction()
        self._state = ""

    def received(self, data: bytes) -> None:
        for line in self._in.read(data):
            self._write(f"< {line}")

    def sent(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            for line in self._out.read(piece):
                self._write(f"> {line}")

    def state(self, state: str) -> None:
        """The state that the connection is in now: a line if it is another."""
        if state != self._state:
            self._state = state
            self._write(f"= {state}")

    def mark(self, event: str) -> str:
        """The line of an event that is logged at any level."""
        return f"= {event}" if event.startswith(("opened", "closed by the client")) else f"! {event}"


class _Direction:
    """The bytes of one direction, in whatever pieces they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0  # of a frame that was told of before all of it was there
        self._began = False
        self._lost = False

    def read(self, data: bytes) -> Iterator[str]:
        """A line for each frame that is complete now, or that is not looked into."""
        if self._lost:
            return
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        buffer = self._rest + data[skipped:]
        pos = 0
        if not self._began and buffer:
            if b"AMQP".startswith(buffer[:4]) or buffer.startswith(b"AMQP"):
                if len(buffer) < 8:
                    self._rest = buffer
                    return
                yield "protocol header " + "-".join(str(octet) for octet in buffer[4:8])
                pos = 8
            self._began = True
        while len(buffer) - pos >= _HEAD.size:
            kind, channel, size = _HEAD.unpack_from(buffer, pos)
            start, stop = pos + _HEAD.size, pos + size + FRAME_OVERHEAD_BYTES
            if kind == FRAME_BODY or size > _READ_BYTES_MAX:
                yield f"{channel} {'body' if kind == FRAME_BODY else f'frame of type {kind},'} {size} bytes"
            elif stop > len(buffer):
                break
            elif buffer[stop - 1] != FRAME_END:
                yield f"{channel} no frame: its end is missing; what follows is not shown"
                self._lost = True
                return
            else:
                yield f"{channel} {_describe(kind, buffer[start : stop - 1])}"
            pos = stop
        self._skip += max(0, pos - len(buffer))
        self._rest = buffer[pos:]


def _describe(kind: int, payload: bytes) -> str:
    if kind == FRAME_METHOD:
        method = METHODS.get(int.from_bytes(payload[:4], "big"))
        return f"unknown method, {len(payload)} bytes" if method is None else _describe_method(method, payload)
    if kind == FRAME_HEADER and len(payload) >= _BODY_SIZE_AT + _BODY_SIZE.size:
        return f"header of a body of {_BODY_SIZE.unpack_from(payload, _BODY_SIZE_AT)[0]} bytes"
    return "heartbeat" if kind == FRAME_HEARTBEAT else f"frame of type {kind}, {len(payload)} bytes"


def _describe_method(method: Method, payload: bytes) -> str:
    try:
        values = decode_arguments(method, payload)
    except WireError as error:
        return f"{method.name} {error.text}"
    of_connection = method.class_id == CONNECTION_START.class_id
    shown = [
        f"{name}={_show(value, of_connection)}" for name, value in zip(method.argument_names, values, strict=True)
    ]
    return " ".join([method.name, *shown])


def _show(value: object, names_only: bool) -> str:
    """Of long strings the size; of what a client and the server say of themselves the names alone."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        inner = ", ".join(name if names_only else f"{name}: {_show(each, False)}" for name, each in value.items())
        return _cut(f"{{{inner}}}")
    if is_reply_name(str(value)):  # who knows the rest of it may write there
        return repr(f"{PSEUDO_QUEUE}…")
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"
