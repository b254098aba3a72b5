"""A socket and its session: bytes in both directions, and back-pressure."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, cast

from pabal.broker.clients import Link
from pabal.model.errors import StoreError
from pabal.model.limits import (
    BULK_BYTES_MIN,
    CLOSE_SECONDS_MAX,
    OUTPUT_BYTES_HIGH,
    OUTPUT_BYTES_LOW,
)
from pabal.server.pace import Pace
from pabal.server.tap import Tap
from pabal.server.tls import certificate_name, encryption
from pabal.session.amqp091.client import Amqp091Client
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.trace import Trace

if TYPE_CHECKING:
    from pabal.server.server import Server

_JOINED_BYTES_MAX = 256 * 1024
_OPENING = ("header", "start", "verifying", "tune", "opening")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def printable(text: str) -> str:
    """For one line of the log, whatever names there are in it."""
    return text.translate(_CONTROLS)


def _link(transport: asyncio.BaseTransport) -> Link:
    ends: list[tuple[str, int]] = []
    for which in ("peername", "sockname"):
        address = transport.get_extra_info(which)
        known = isinstance(address, tuple) and len(address) >= 2
        ends.append((str(address[0]).removeprefix("::ffff:"), int(address[1])) if known else ("?", 0))
    ssl_object = transport.get_extra_info("ssl_object")
    return Link(*ends[0], *ends[1], encryption(ssl_object) if ssl_object is not None else None)


class Connection(asyncio.BufferedProtocol):
    """One client's connection. `make_session` is called when it is made, with whether the peer is on this
    machine."""

    __slots__ = (
        "__weakref__",
        "_closed_at_ms",
        "_lost",
        "_make_session",
        "_pace",
        "_reading_paused",
        "_server",
        "_taps",
        "_traces",
        "_transport",
        "_turn",
        "_turn_bytes",
        "_unread",
        "_waits_for_slice",
        "_writing_paused",
        "certificate_name",
        "client",
        "link",
        "peer",
        "session",
    )

    def __init__(self, server: Server, make_session: Callable[[Connection, bool], Amqp091Session]) -> None:
        self._server = server
        self._make_session = make_session
        self._transport: asyncio.Transport
        self.session: Amqp091Session
        self.client: Amqp091Client
        self.peer = "?"
        self.certificate_name = ""
        """The user that the peer's certificate stands for, if it showed one."""
        self.link = Link("?", 0, "?", 0)
        self._traces: tuple[Trace, ...] = ()
        """Of the debug log, and of those who tap this connection."""
        self._taps: tuple[Tap, ...] = ()
        if server.log.isEnabledFor(logging.DEBUG):
            self._traces = (Trace(self._debug),)
        self._writing_paused = False
        self._reading_paused = False
        self._closed_at_ms = 0
        self._turn = -1
        self._turn_bytes = 0  # read in that turn
        self._pace = Pace()
        self._waits_for_slice = False
        self._unread = b""
        """Received, and to be acted on when it is this connection's turn."""
        self._lost = ""
        """Its socket is closed, and how."""

    # --- From asyncio ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=OUTPUT_BYTES_HIGH, low=OUTPUT_BYTES_LOW)
        handle = transport.get_extra_info("socket")
        if handle is not None and handle.family in (socket.AF_INET, socket.AF_INET6):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = transport.get_extra_info("peername")
        loopback = False
        if isinstance(address, tuple) and address:
            self.peer = f"{address[0]}:{address[1]}"
            loopback = address[0] == "::1" or address[0].removeprefix("::ffff:").startswith("127.")
        connection = transport.get_extra_info("ssl_object")
        if connection is not None and self._server.certificates is not None:
            self.certificate_name = certificate_name(connection, self._server.certificates.login_from)
        self.link = _link(transport)
        self._server.begin_turn()
        self.session = self._make_session(self, loopback)
        self.client = self.session.client
        self.client.link = self.link
        self._server.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        share, most = self._server.share(), self._pace.slice_bytes
        return share[:most] if most else share

    def buffer_updated(self, nbytes: int) -> None:
        server = self._server
        data = bytes(server.received[:nbytes])
        link = self.link
        link.received += 1
        link.received_bytes += nbytes
        slices = server.slices
        if (slices.spent and self._stranger) or (nbytes > BULK_BYTES_MIN and slices.full):
            self._unread += data
            self._wait_for_slice()
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        server = self._server
        if not server.in_turn:
            server.begin_turn()
        if self._turn != server.turn_count:
            self._turn = server.turn_count
            self._turn_bytes = len(data)
        else:
            self._turn_bytes += len(data)
        if self._traces:
            for trace in self._traces:
                trace.received(data)
        pace = self._pace
        clock = pace.clock
        stranger = self._stranger
        begun = clock()
        try:
            self.session.receive_data(data)
        except Exception as error:
            self._failed(error)
        nbytes, seconds = len(data), clock() - begun
        asks = pace.asks(nbytes, seconds)
        if asks:
            pace.weigh(nbytes, seconds, not self.session.blocked, server.now_ms, server.slices.crowded)
        if asks or stranger:
            server.slices.did(nbytes, seconds, stranger, pace)
        self.after_input()

    @property
    def _stranger(self) -> bool:
        """See server.pace."""
        return self._pace.heavy or self.session.state in _OPENING

    def _guarded(self, action: Callable[[], None]) -> None:
        """An error of ours while one connection is served ends that connection; one of the store ends the broker."""
        try:
            action()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StoreError):
            self._server.fatal(error)
            return
        self._server.log.error("%s: internal error, connection closed", self.peer, exc_info=error)
        try:
            self.session.fail_internally()
        except StoreError as failure:
            self._server.fatal(failure)
        except Exception as failure:
            # What it held is in doubt now; what is on disk is not: as an error of ours between connections.
            self._server.log.error("internal error", exc_info=failure)
            self._server.fatal(StoreError(f"stopped after an internal error: {failure!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = f": {exc}" if exc else " without saying so"
        self.session.output.congested = True  # its consumers get nothing any more
        if self._waits_for_slice or self._server.slices.spent:
            self._server.ending += 1
            self._wait_for_slice()
        else:
            self._end()

    def _end(self) -> None:
        server = self._server
        begun = perf_counter()
        server.begin_turn()
        state = self.session.state
        if state not in ("closing", "closed"):  # else there was a line already
            # Who never said who he is only looked whether somebody is there: health checks do that all day long.
            level = logging.DEBUG if state in ("header", "start") else logging.INFO
            self.log(f"closed by the client{self._lost}", level)
        server.remove(self)
        self._guarded(self.session.connection_lost)
        for tap in self._taps:
            tap.trace.state(self.session.state)
            tap.end("the connection has ended")
        server.slices.did(0, perf_counter() - begun, True)
        self._lost = ""
        self._traces = self._taps = ()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.session.output.congested = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._unblock()

    # --- Taps -----------------------------------------------------------------------------------------------

    def tap(self, tap: Tap) -> None:
        """It sees what passes from now on."""
        self._taps += (tap,)
        self._traces += (tap.trace,)
        self.session.begin_trace(tap.trace)

    def untap(self, tap: Tap) -> None:
        self._taps = tuple(each for each in self._taps if each is not tap)
        self._traces = tuple(each for each in self._traces if each is not tap.trace)

    # --- From the turn --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Sends what the session has to say."""
        session = self.session
        pieces = session.output.take(self._server.now_ms)
        if self._traces:
            for trace in self._traces:
                trace.sent(pieces)
                trace.state(session.state)
        transport = self._transport
        if transport.is_closing():
            return
        if pieces:
            size = sum(map(len, pieces))
            link = self.link
            link.sent += 1
            link.sent_bytes += size
            if len(pieces) == 1:
                transport.write(pieces[0])
            elif size <= _JOINED_BYTES_MAX:
                transport.write(b"".join(pieces))
            else:
                transport.writelines(pieces)
        if session.closed:
            self._close()
        elif not self._writing_paused and session.output.drained():
            self._unblock()
        elif self._reading_paused:
            self.after_input()

    def _unblock(self) -> None:
        self._server.begin_turn()
        self._guarded(self.session.unblock)
        self.after_input()

    def heed_alarms(self) -> None:
        self._guarded(self.session.heed_alarms)
        self.after_input()

    def after_input(self) -> None:
        """Closes, stops reading or reads on, as the session's state asks for."""
        session = self.session
        server = self._server
        for trace in self._traces:
            trace.state(session.state)
        if session.closed:
            server.turn.writes(self)
        elif server.overloaded and not server.turn.waits_for_room:
            self._pause_reading()
            server.after_commit[self] = None
        elif session.blocked:
            self._pause_reading()
        elif self._waits_for_slice:
            pass
        elif 0 < self._pace.slice_bytes <= self._turn_bytes and self._turn == server.turn_count:
            self._wait_for_slice()
        elif self._turn_bytes >= len(server.share()) and self._turn == server.turn_count:
            self._pause_reading()
            server.after_turn.append(self)
        elif self._reading_paused:
            self._resume_reading()

    def _wait_for_slice(self) -> None:
        self._pause_reading()
        if not self._waits_for_slice:
            self._waits_for_slice = True
            self._server.slices.wait(self, stranger=bool(self._lost) or self._stranger)

    def next_slice(self) -> None:
        """See pace.Waiting."""
        self._waits_for_slice = False
        if self._unread:
            self._guarded(self._take_unread)
        if self._lost:
            self._server.ending -= 1
            self._end()
        elif not self._waits_for_slice:
            self._guarded(self.after_input)

    def _take_unread(self) -> None:
        data, self._unread = self._unread, b""
        self._take(data)

    @property
    def opening(self) -> bool:
        """See admission.Guest."""
        return not hasattr(self, "session") or self.session.state in _OPENING

    def drop(self, why: str) -> None:
        """See admission.Guest."""
        if hasattr(self, "session"):
            self.log(f"closed: {why}")
            self._guarded(self.session.connection_lost)
            self._transport.abort()

    def last_bytes(self) -> int:
        """How much was read when it was read last."""
        return self._turn_bytes

    def tick(self, now_ms: int, stood_still: bool) -> None:
        """Once a second: heartbeats and deadlines. After a standstill no peer is to blame for its silence."""
        self.link.pending_bytes = self._transport.get_write_buffer_size()
        if self.session.closed:
            if not self._closed_at_ms:
                self._server.turn.writes(self)  # closes it, behind what is still to be sent
            elif now_ms - self._closed_at_ms > CLOSE_SECONDS_MAX * 1000:
                self._transport.abort()
        else:
            if stood_still or self._server.overloaded or self._waits_for_slice:
                self.session.excuse_silence()
            if not (self._waits_for_slice and self.opening):  # it may have said in time what it should
                self._guarded(lambda: self.session.tick(now_ms))
            self.after_input()

    def _resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()
            for trace in self._traces:
                trace.note("read on")

    def abort(self) -> None:
        self._transport.abort()

    def log(self, event: str, level: int = logging.INFO) -> None:
        for tap in self._taps:
            tap.trace.event(event)
        if len(self._traces) > len(self._taps):
            event = self._traces[0].mark(event)  # a line among those of the frames
        session = self.session
        vhost = session.vhost.name if session.vhost is not None else ""
        event = printable(event)
        fields = {"event": event, "connection": self.peer, "user": session.user, "vhost": vhost}
        self._server.log.log(level, "%s %s", self.peer, event, extra=fields)

    def _debug(self, line: str) -> None:
        self._server.log.debug("%s %s", self.peer, printable(line))

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()
            for trace in self._traces:
                trace.note("not read")

    def _close(self) -> None:
        if not self._closed_at_ms:
            self._closed_at_ms = self._server.now_ms
            self._transport.close()
