"""A tap: somebody watches a connection's frames, over HTTP, without anybody else noticing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pabal.model.limits import (
    TAP_BYTES_MAX,
    TAP_FRAMES_PER_SECOND_MAX,
    TAP_LINES_PER_SECOND_MAX,
    TAP_QUIET_SECONDS,
    TAPS_MAX,
)
from pabal.session.amqp091.trace import NAMES, Selection, Trace

if TYPE_CHECKING:
    from pabal.server.connection import Connection

_WINDOW_MS: Final = 100
_GATHER_SECONDS: Final = 1.0
"""How long to count what is left out before it is told, when there are no lines to tell it with."""
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_KINDS: Final = {"<": "received", ">": "sent", "=": "state", "!": "error"}


class Tap:
    """Its lines, from the connection's trace to who reads them. Neither a connection with very much to tell nor a
    slow reader costs more than so much: beyond the limits of lines and frames a second, and while there is no room
    in TAP_BYTES_MAX, nothing is looked at; a line says how many bytes that were.

    `as_json`: each line an object. `clock`: the time of the turn, in ms since the epoch. `closed`: called once, when
    it is at its end."""

    def __init__(
        self, selection: Selection, as_json: bool, clock: Callable[[], int], closed: Callable[[Tap], None]
    ) -> None:
        self.lines_left = self.frames_left = 0
        self.trace = Trace(self._take, selection, self)
        self._form = _as_json if as_json else _as_text
        self._clock = clock
        self._closed = closed
        self._lines: list[bytes] = []
        self._bytes = 0
        self._left_out = 0
        self._window = 0
        self._ended = False
        self._news = asyncio.Event()

    # --- In -------------------------------------------------------------------------------------------------

    def refill(self) -> bool:
        """See session.amqp091.trace.Budget."""
        window = self._clock() // _WINDOW_MS
        if window != self._window:
            self._window = window
            self.lines_left = TAP_LINES_PER_SECOND_MAX * _WINDOW_MS // 1000
            self.frames_left = TAP_FRAMES_PER_SECOND_MAX * _WINDOW_MS // 1000
        return self.lines_left > 0 and self.frames_left > 0 and self._bytes <= TAP_BYTES_MAX

    def leave_out(self, size: int) -> None:
        """Likewise."""
        if not self._left_out:
            self._news.set()
        self._left_out += size

    def _take(self, line: str) -> None:
        if (
            not self._ended and self._bytes <= 2 * TAP_BYTES_MAX
        ):  # errors nobody asks for: there is some room for them
            self._tell_what_is_missing()
            self._add(line)

    def _tell_what_is_missing(self) -> None:
        if self._left_out:
            size, self._left_out = self._left_out, 0
            self._add(f"= {size} bytes left out: more than a tap may take")

    def _add(self, line: str) -> None:
        data = self._form(self._clock(), line.translate(_CONTROLS))
        self._lines.append(data)
        self._bytes += len(data)
        self._news.set()

    def end(self, why: str) -> None:
        """There will be no more. The last line says why."""
        if not self._ended:
            self._tell_what_is_missing()
            self._add(f"= end: {why}")
            self.close()

    # --- Out ------------------------------------------------------------------------------------------------

    async def next(self) -> bytes:
        """The lines that there are, as soon as there are some; b"" at the end. When there were none for a while, an
        empty one: only who is written to can be noticed to have gone."""
        while not self._bytes:
            if self._ended:
                return b""
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), _GATHER_SECONDS if self._left_out else TAP_QUIET_SECONDS)
            except TimeoutError:
                if not self._left_out:
                    return b"\n"
                self._tell_what_is_missing()
        lines, self._lines = self._lines, []
        self._bytes = 0
        return b"".join(lines)

    def close(self) -> None:
        """Nobody reads it any more, or nothing comes any more."""
        if not self._ended:
            self._ended = True
            self._news.set()
            self._closed(self)


class Taps:
    """All there are. `clock`: see Tap."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._open: dict[Tap, tuple[Connection, Callable[[], bool]]] = {}

    def open(
        self, connection: Connection, selection: Selection, as_json: bool, may_watch: Callable[[], bool]
    ) -> Tap | None:
        """`may_watch`: asked once a second; it ends when that says no. None: there are too many already. ValueError:
        there is nothing of such a name to be shown."""
        for name in sorted(selection.names - NAMES):
            raise ValueError(f"there is nothing called '{name}' to be shown")
        if len(self._open) >= TAPS_MAX:
            return None
        tap = Tap(selection, as_json, self._clock, self._forget)
        self._open[tap] = connection, may_watch
        connection.tap(tap)
        return tap

    def _forget(self, tap: Tap) -> None:
        opened = self._open.pop(tap, None)
        if opened is not None:
            opened[0].untap(tap)

    def tick(self) -> None:
        """Once a second."""
        for tap, (_, may_watch) in list(self._open.items()):
            if not may_watch():
                tap.end("you may not see this any more")

    def end(self, why: str) -> None:
        for tap in list(self._open):
            tap.end(why)


def _as_text(at_ms: int, line: str) -> bytes:
    return f"{_time(at_ms)} {line}\n".encode("utf-8", "backslashreplace")


def _as_json(at_ms: int, line: str) -> bytes:
    mark, _, text = line.partition(" ")
    told: dict[str, object] = {"time": _time(at_ms), "kind": _KINDS[mark]}
    if mark in "<>":
        number, _, rest = text.partition(" ")
        if number.isdigit():
            told["channel"] = int(number)
            text = rest
        told["frame"] = text.partition(" ")[0]
    elif text.startswith("end: "):
        told["kind"] = "end"
        text = text.removeprefix("end: ")
    told["text"] = text
    return json.dumps(told).encode() + b"\n"


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
