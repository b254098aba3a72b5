"""An answer of the HTTP API that is made while it is sent, for as long as its client stays."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from pabal.management.node import Stream


class Streamed:
    """`head`: status and headers. `stream` is closed when the client has gone, at the latest. Of a slow client it
    notices only that nobody asks for the next piece."""

    def __init__(self, head: Response, stream: Stream) -> None:
        self._head = head
        self._stream = stream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "HEAD":
            self._stream.close()
        headers = [(name, value) for name, value in self._head.raw_headers if name != b"content-length"]
        gone = asyncio.get_running_loop().create_task(self._close_when_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self._head.status_code, "headers": headers})
            while piece := await self._stream.next():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._stream.close()

    async def _close_when_gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.close()
