"""Who takes messages over HTTP makes room on a full disk: that must not wait for room."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

import pytest

from pabal.server.open_store import open_store
from pabal.server.server import Server
from pabal.server.settings import Settings

SECONDS_MAX = 10
TAKE = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}


async def post(port: int, path: str, body: dict[str, Any]) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    token = base64.b64encode(b"guest:guest").decode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {token}\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    try:
        answer = await asyncio.wait_for(reader.read(), SECONDS_MAX)
        return json.loads(answer.partition(b"\r\n\r\n")[2])
    finally:
        writer.close()


def test_taking_does_not_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        settings = Settings(memory=True, port=0)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        assert server.http is not None
        server.begin_turn()
        queue, _ = server.broker.vhosts["/"].declare_queue("q", True, False, False, {}, None)
        publish = "/api/exchanges/%2F/amq.default/publish"
        message = {
            "routing_key": "q",
            "properties": {"delivery_mode": 2},
            "payload": "x",
            "payload_encoding": "string",
        }
        assert await post(server.http.port, publish, message) == {"routed": True}

        waiting: list[Any] = []
        monkeypatch.setattr(server.turn, "_run_commit", lambda *commit: waiting.append(commit))
        published = asyncio.create_task(post(server.http.port, publish, message))
        async with asyncio.timeout(SECONDS_MAX):
            while not waiting:
                await asyncio.sleep(0.01)
        assert [taken["payload"] for taken in await post(server.http.port, "/api/queues/%2F/q/get", TAKE)] == ["x"]
        assert (queue.ready, queue.leased) == (1, 0)
        assert not published.done()

        monkeypatch.undo()
        server._run_commit(*waiting.pop())
        assert await published == {"routed": True}
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())
