"""TLS between a socket and a connection's protocol.

asyncio has this, too. It keeps 256 KB for each connection to receive in, though, and tells nobody of a connection
before its handshake is done. Here all connections share the server's buffer, half handshakes are counted like other
connections that are being opened, and the rest is what OpenSSL does by itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, Protocol, cast

from pabal.model.limits import HANDSHAKE_SECONDS_MAX
from pabal.server.pace import Slices
from pabal.server.tls import ssl_reason

_WRITE_BYTES: Final = 256 * 1024
_JOINED_BYTES: Final = 64 * 1024
_ANSWER_BYTES_MAX: Final = 64 * 1024
"""What TLS itself may have to answer (key updates) before the peer sends data."""


class Inner(Protocol):
    """The protocol that is spoken inside: an asyncio.BufferedProtocol which receives in the server's buffer."""

    @property
    def opening(self) -> bool: ...
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def drop(self, why: str) -> None: ...


class TlsConnection(asyncio.BufferedProtocol, asyncio.Transport):
    """To the socket's transport a protocol, to the protocol inside a transport. `received`: where all connections
    receive, cipher and plain text. `log`: called with the peer and what happened."""

    __slots__ = (
        "_answered_bytes",
        "_closing",
        "_deadline",
        "_established",
        "_incoming",
        "_inner",
        "_log",
        "_outgoing",
        "_paused",
        "_peer",
        "_received",
        "_slices",
        "_ssl",
        "_transport",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        inner: Inner,
        received: memoryview,
        log: Callable[[str, str], None],
        slices: Slices,
    ) -> None:
        super().__init__()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._inner = inner
        self._received = received
        self._log = log
        self._slices = slices
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle
        self._peer = "?"
        self._established = False
        self._closing = False
        self._paused = False
        self._answered_bytes = 0

    @property
    def opening(self) -> bool:
        """See listeners.Guest."""
        return not self._closing and (not self._established or self._inner.opening)

    def drop(self, why: str) -> None:
        """See listeners.Guest."""
        if self._established:
            self._inner.drop(why)
        else:
            self._refuse(why)

    # --- From the socket ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple) and address:
            self._peer = f"{address[0]}:{address[1]}"
        late = f"TLS handshake not finished within {HANDSHAKE_SECONDS_MAX} s"
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS_MAX, self._refuse, late)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._inner.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._received[:nbytes])
        if self._established:
            self._hand_in()
        elif self._slices.spent and not self._closing:
            self._transport.pause_reading()
            self._slices.wait(self, stranger=True)
        else:
            self._shake_hands()

    def next_slice(self) -> None:
        """See pace.Waiting."""
        if self.is_closing():
            return
        try:
            self._transport.resume_reading()
            self._shake_hands()
        except Exception as error:  # ours: it ends this connection, as it would from asyncio, and not the turn
            self._log(self._peer, f"internal error, connection closed: {error!r}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        if self._established:
            self._inner.connection_lost(exc)
        elif not self._closing:
            self._log(self._peer, "closed by the client during the TLS handshake")
        self._closing = True
        del self._inner, self._ssl, self._incoming, self._outgoing  # the first refers to this object

    def pause_writing(self) -> None:
        if self._established:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._established:
            self._inner.resume_writing()

    def _shake_hands(self) -> None:
        if self._closing:
            return
        begun = perf_counter()
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
        except ssl.SSLError as error:
            self._send()  # the alert that says why
            self._refuse(f"TLS handshake failed: {ssl_reason(error)}")
        else:
            self._deadline.cancel()
            self._established = True
            self._send()
            self._inner.connection_made(self)
        self._slices.did(0, perf_counter() - begun, True)
        if self._established:
            self._hand_in()

    def _refuse(self, why: str) -> None:
        if not self._closing:
            self._closing = True
            self._log(self._peer, f"refused: {why}")
            self._transport.close()

    def _hand_in(self) -> None:
        """Gives what was received to the protocol inside, as much at once as there is room for."""
        while not self._paused and not self._closing:
            buffer = self._inner.get_buffer(-1)
            filled = 0
            ended = False
            failure: ssl.SSLError | None = None
            try:
                while filled < len(buffer) and not ended:
                    read = self._ssl.read(len(buffer) - filled, buffer[filled:])
                    filled += read  # type: ignore[operator]
                    ended = not read
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                failure = error
            full = filled == len(buffer)
            if filled:
                self._answered_bytes = 0
                self._inner.buffer_updated(filled)
            if self._outgoing.pending:
                self._answered_bytes += self._outgoing.pending
                self._send()
            if failure is not None or self._answered_bytes > _ANSWER_BYTES_MAX:
                why = ssl_reason(failure) if failure is not None else "too many key updates"
                self._log(self._peer, f"closed: TLS: {why}")
                self.abort()
            if ended:
                self.close()
            if not full:
                return

    def _send(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    # --- From the protocol inside ---------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        view = memoryview(data)
        try:
            for at in range(0, len(view), _WRITE_BYTES):
                piece = view[at : at + _WRITE_BYTES]
                while piece:
                    piece = piece[self._ssl.write(piece) :]
                self._send()
        except ssl.SSLError as error:
            self._log(self._peer, f"closed: TLS: {ssl_reason(error)}")
            self.abort()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Small pieces are joined, since each write makes a record of its own."""
        small: list[bytes | bytearray | memoryview[Any]] = []
        small_bytes = 0
        for piece in list_of_data:
            if len(piece) < _JOINED_BYTES:
                small.append(piece)
                small_bytes += len(piece)
            if small and (len(piece) >= _JOINED_BYTES or small_bytes >= _JOINED_BYTES):
                self.write(b"".join(small))
                small.clear()
                small_bytes = 0
            if len(piece) >= _JOINED_BYTES:
                self.write(piece)
        if small:
            self.write(b"".join(small))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            with suppress(ssl.SSLError):  # the peer's own end of the stream is not waited for
                self._ssl.unwrap()
            self._send()
            self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        if self._ssl.pending() or self._incoming.pending:
            asyncio.get_running_loop().call_soon(self._hand_in)

    def is_reading(self) -> bool:
        return not self._paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._ssl if name == "ssl_object" else self._transport.get_extra_info(name, default)
