"""The debug log and taps: a line for each frame received (`<`) and sent (`>`), each state (`=`), each error (`!`).

They read the bytes beside the session, which knows nothing of it. Never a secret: long strings (SASL responses and
secrets are such) are told by their sizes, and so are bodies unless somebody who may asks for more; addresses of
direct reply-to by their beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
_CONTENT: Final = (FRAME_HEADER, FRAME_BODY)

STATE: Final = "state"
NAMES: Final = frozenset(
    {
        *(method.name for method in METHODS.values()),
        *(method.name.partition(".")[2] for method in METHODS.values()),
        "header",
        "body",
        "heartbeat",
        STATE,
    }
)
"""What `Selection.names` may name: methods with or without their class ("basic.publish", "publish"), the frames of
contents, heartbeats, and the states of the connection."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which lines somebody wants. `channels`: the frames of these alone, if there are any. `names`: likewise, see
    NAMES; the content that belongs to a method comes with it. `body_bytes`: how much to show of each body."""

    channels: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    body_bytes: int = 0


_ALL: Final = Selection()


class Trace:
    """One connection's. `write` is called with each line. `room` is asked before one is made: who has none gets the
    next one that there is room for."""

    def __init__(
        self,
        write: Callable[[str], None],
        selection: Selection = _ALL,
        room: Callable[[], bool] | None = None,
    ) -> None:
        self._write = write
        self._in = _Direction("<", write, selection, room)
        self._out = _Direction(">", write, selection, room)
        self._room = room
        self._shows_states = not selection.names or STATE in selection.names
        self._state = ""

    def begin(self, began: bool, rest: bytes | None) -> None:
        """In the middle of a connection's life. `began`: frames passed already, in both directions. `rest`: what was
        received and is not acted on yet, from the beginning of a frame on; None when that is not known any more."""
        self._in.began = self._out.began = began
        if rest is None:
            self._in.lost = True
        else:
            self._in.read(rest)

    def received(self, data: bytes) -> None:
        self._in.read(data)

    def sent(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._out.read(piece)

    def state(self, state: str) -> None:
        """The state that the connection is in now: a line if it is another."""
        if state != self._state:
            self._state = state
            self.note(state)

    def note(self, what: str) -> None:
        """Something of the connection that is neither frame nor event."""
        if self._shows_states and (self._room is None or self._room()):
            self._write(f"= {what}")

    def event(self, event: str) -> None:
        """One that is logged at any level."""
        self._write(self.mark(event))

    def mark(self, event: str) -> str:
        """The line of such an event."""
        return f"= {event}" if event.startswith(("opened", "closed by the client")) else f"! {event}"


class _Direction:
    """The bytes of one direction, in whatever pieces they come."""

    def __init__(
        self, mark: str, write: Callable[[str], None], selection: Selection, room: Callable[[], bool] | None
    ) -> None:
        self.began = False
        self.lost = False
        self._mark = mark
        self._write = write
        self._room = room
        self._channels = selection.channels
        self._names = selection.names
        self._body_bytes = selection.body_bytes
        self._rest = b""
        self._skip = 0  # of a frame that was told of before all of it was there
        self._followed: set[int] = set()  # channels whose last method was one of the names
        self._body_left: dict[int, int] = {}  # how much of the body that passes is still to be shown, by channel

    def read(self, data: bytes) -> None:
        """Writes a line for each frame that is complete now, or that is not looked into."""
        if self.lost:
            return
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        buffer = self._rest + data[skipped:]
        pos = 0
        if not self.began and buffer:
            if b"AMQP".startswith(buffer[:4]) or buffer.startswith(b"AMQP"):
                if len(buffer) < 8:
                    self._rest = buffer
                    return
                self._tell("protocol header " + "-".join(str(octet) for octet in buffer[4:8]))
                pos = 8
            self.began = True
        while len(buffer) - pos >= _HEAD.size:
            kind, channel, size = _HEAD.unpack_from(buffer, pos)
            start, stop = pos + _HEAD.size, pos + size + FRAME_OVERHEAD_BYTES
            if kind == FRAME_BODY or size > _READ_BYTES_MAX:
                shown = 0
                if kind == FRAME_BODY and self._body_bytes:
                    shown = min(size, self._body_left.get(channel, self._body_bytes))
                    if start + shown > len(buffer):
                        break
                if self._takes(kind, channel, buffer, start):
                    self._tell(f"{channel} {_sized(kind, size, buffer[start : start + shown])}")
                if shown:
                    self._body_left[channel] = self._body_left.get(channel, self._body_bytes) - shown
            elif stop > len(buffer):
                break
            elif buffer[stop - 1] != FRAME_END:
                self._tell(f"{channel} no frame: its end is missing; what follows is not shown")
                self.lost = True
                return
            else:
                if kind == FRAME_HEADER and self._body_bytes:
                    self._body_left[channel] = self._body_bytes
                if self._takes(kind, channel, buffer, start):
                    self._tell(f"{channel} {_describe(kind, buffer[start : stop - 1])}")
            pos = stop
        self._skip += max(0, pos - len(buffer))
        self._rest = buffer[pos:]

    def _tell(self, line: str) -> None:
        self._write(f"{self._mark} {line}")

    def _takes(self, kind: int, channel: int, buffer: bytes, start: int) -> bool:
        """Whether this frame is to be shown, and there is room for it."""
        if self._channels and channel not in self._channels:
            return False
        if self._names and not self._is_named(kind, channel, buffer, start):
            return False
        return self._room is None or self._room()

    def _is_named(self, kind: int, channel: int, buffer: bytes, start: int) -> bool:
        names = self._names
        if kind == FRAME_METHOD:
            method = METHODS.get(int.from_bytes(buffer[start : start + 4], "big"))
            if method is not None and (method.name in names or method.name.partition(".")[2] in names):
                self._followed.add(channel)
                return True
            self._followed.discard(channel)
            return False
        if kind in _CONTENT:
            return channel in self._followed or ("header" if kind == FRAME_HEADER else "body") in names
        return kind == FRAME_HEARTBEAT and "heartbeat" in names


def _sized(kind: int, size: int, beginning: bytes) -> str:
    if kind != FRAME_BODY:
        return f"frame of type {kind}, {size} bytes"
    if not beginning:
        return f"body {size} bytes"
    return f"body {size} bytes {_readable(beginning)}{'…' if len(beginning) < size else ''}"


def _readable(data: bytes) -> str:
    """As text if it is UTF-8, of which the last character may be cut."""
    for end in range(len(data), max(len(data) - 4, 0), -1):
        try:
            return repr(data[:end].decode())
        except UnicodeDecodeError:
            continue
    return repr(data)


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
