"""The debug log and taps: a line for each frame received (`<`) and sent (`>`), each state (`=`), each error (`!`).

They read the bytes beside the session, which knows nothing of it. Never a secret: long strings (SASL responses and
secrets are such) are told by their sizes, and so are bodies unless somebody who may asks for more; addresses of
direct reply-to by their beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, Protocol

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


class Budget(Protocol):
    """How much of a connection a trace may look at, so that the connection goes on as if nobody did. What comes when
    there is nothing left of it is not even looked at: the trace goes on at a frame of which the session knows that
    it begins there."""

    lines_left: int
    frames_left: int
    """To be counted down: lines that are told, frames that are looked at."""

    def refill(self) -> bool:
        """Whether there is something left of both now."""

    def leave_out(self, size: int) -> None:
        """So many bytes were not looked at."""


class Trace:
    """One connection's. `write` is called with each line. Without a `budget` all is told."""

    def __init__(
        self, write: Callable[[str], None], selection: Selection = _ALL, budget: Budget | None = None
    ) -> None:
        self._write = write
        self._in = _Direction("<", write, selection, budget)
        self._out = _Direction(">", write, selection, budget)
        self._budget = budget
        self._unread: Callable[[], bytes | None] | None = None
        self._shows_states = not selection.names or STATE in selection.names
        self._state = ""

    def begin(self, began: bool, unread: Callable[[], bytes | None]) -> None:
        """In the middle of a connection's life. `began`: frames passed already, in both directions. `unread`: says
        what was received and is not acted on yet, from the beginning of a frame on; None when that is not known any
        more."""
        self._in.began = self._out.began = began
        self._unread = unread
        rest = unread()
        if rest is None:
            self._in.lost = True
        elif self._budget is None or self._budget.refill():
            self._in.read(rest)

    def received(self, data: bytes) -> None:
        """To be called before the session is given it."""
        if self._budget is not None and not self._budget.refill():
            self._in.suspend(len(data))
            return
        if self._in.suspended and self._unread is not None:
            self._in.resume(self._unread())
        self._in.read(data)

    def sent(self, pieces: Sequence[bytes]) -> None:
        """Whole frames."""
        if self._budget is not None and not self._budget.refill():
            self._out.suspend(sum(map(len, pieces)))
            return
        if self._out.suspended:
            self._out.resume(b"")
        for piece in pieces:
            self._out.read(piece)

    def state(self, state: str) -> None:
        """The state that the connection is in now: a line if it is another."""
        if state != self._state:
            self._state = state
            self.note(state)

    def note(self, what: str) -> None:
        """Something of the connection that is neither frame nor event."""
        if not self._shows_states:
            return
        if self._budget is not None:
            if not self._budget.refill():
                return
            self._budget.lines_left -= 1
        self._write(f"= {what}")

    def event(self, event: str) -> None:
        """One that is logged at any level."""
        self._write(self.mark(event))

    def mark(self, event: str) -> str:
        """The line of such an event."""
        return f"= {event}" if event.startswith(("opened", "closed by the client")) else f"! {event}"


class _Direction:
    """The bytes of one direction, in whatever pieces they come."""

    def __init__(self, mark: str, write: Callable[[str], None], selection: Selection, budget: Budget | None) -> None:
        self.began = False
        self.lost = False
        self.suspended = False
        """Something was left out: what comes next is to begin where a frame does, after `resume`."""
        self._mark = mark
        self._write = write
        self._budget = budget
        self._full = False
        self._muted = False
        self._channels = selection.channels
        self._names = selection.names
        self._body_bytes = selection.body_bytes
        self._rest = b""
        self._skip = 0  # of a frame that was told of before all of it was there
        self._followed: set[int] = set()  # channels whose last method was one of the names
        self._body_left: dict[int, int] = {}  # how much of the body that passes is still to be shown, by channel

    def suspend(self, size: int) -> None:
        """So many bytes are not looked at."""
        self.suspended = True
        if self._budget is not None:
            self._budget.leave_out(size)

    def resume(self, rest: bytes | None) -> None:
        """`rest`: what came before and is not acted on, from the beginning of a frame on. Of its frames was told, or
        they were left out."""
        self.suspended = self._full = False
        self._rest = b""
        self._skip = 0
        self._followed.clear()
        self._body_left.clear()
        self.lost = rest is None
        if rest:
            self._muted = True
            self.read(rest)
            self._muted = False

    def read(self, data: bytes) -> None:
        """Writes a line for each frame that is complete now, or that is not looked into."""
        if self.lost:
            return
        if self.suspended:
            self.suspend(len(data))
            return
        budget = self._budget
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
            if budget is not None and not self._muted:
                budget.frames_left -= 1
                if self._full or budget.frames_left < 0:
                    self.suspend(min(len(buffer) - pos, len(data)))
                    return
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
        if not self._muted:
            self._write(f"{self._mark} {line}")

    def _takes(self, kind: int, channel: int, buffer: bytes, start: int) -> bool:
        """Whether this frame is to be shown."""
        if self._muted or (self._channels and channel not in self._channels):
            return False
        if self._names and not self._is_named(kind, channel, buffer, start):
            return False
        if self._budget is not None:
            self._budget.lines_left -= 1
            self._full = self._budget.lines_left <= 0  # that was the last one for now
        return True

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
