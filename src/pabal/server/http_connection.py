"""A connection of the HTTP API: uvicorn's, but one that does not wait for ever for who is slow."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from pabal.model.limits import HTTP_UNUSED_SECONDS_MIN


class HttpConnection(H11Protocol):
    """`limits`: connections at once, seconds for the head of a request, seconds in which a client may take nothing of
    its answer."""

    def __init__(self, *arguments: Any, limits: tuple[int, float, float], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._connections_max, self._head_seconds, self._stalled_seconds = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled_timer: asyncio.TimerHandle | None = None
        self._unused_since = 0.0  # on the loop's clock; 0: there is a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # So `send` of the next piece waits until the system has taken the one before. With 0 asyncio's TLS never
        # goes on.
        transport.set_write_buffer_limits(high=1, low=0)
        if len(self.connections) > self._connections_max and not self._make_room():
            transport.abort()
            return
        self._unused_since = self.loop.time()
        self._await_head()

    def _make_room(self) -> bool:
        """Ends the connection that has been without a request for longest, so that who only connects keeps nobody
        out. Returns whether there was one."""
        unused = [each for each in self.connections if isinstance(each, HttpConnection) and each._unused_since]
        longest = min(unused, key=lambda each: each._unused_since, default=None)
        if longest is None or self.loop.time() - longest._unused_since < HTTP_UNUSED_SECONDS_MIN:
            return False
        longest._unused_since = 0.0
        longest.transport.abort()
        return True

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self.transport.abort)

    def _stop(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._await_head()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop(self._head_timer)
            self._head_timer = None
            self._unused_since = 0.0

    def on_response_complete(self) -> None:
        self._stop(self._head_timer)
        self._head_timer = None
        self._unused_since = self.loop.time()
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:  # the next request was here already
            self._unused_since = 0.0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop(self._stalled_timer)
        self._stalled_timer = self.loop.call_later(self._stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._stalled_timer)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_timer)
        self._stop(self._stalled_timer)
        super().connection_lost(exc)
