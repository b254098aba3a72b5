"""Connections whose bytes are much work are read in slices, a few of them a turn, and all of them to the end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from test_internal_errors import Client, until

from pabal.model.limits import SLOW_BYTES_MIN, SLOW_CONNECTIONS_A_TURN, TURN_BYTES_MAX
from pabal.server import connection as module
from pabal.server.connection import Connection
from pabal.server.open_store import open_store
from pabal.server.server import Server
from pabal.server.settings import Settings

UNFINISHED = b"\x01\x00\x00\x00\x01\x00\x00" + bytes(60_000)
"""The beginning of a frame: to be received, and nothing to be done with it."""


@pytest.mark.parametrize("answers", [False, True])
def test_work_is_shared_out(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    """`answers`: there is something to be sent after each piece, as mostly."""
    clock = [0.0]
    work_seconds = [0.05]

    def perf_counter() -> float:
        clock[0] += work_seconds[0]
        return clock[0]

    monkeypatch.setattr(module, "perf_counter", perf_counter)
    monkeypatch.setattr(module, "thread_time", lambda: perf_counter())
    in_a_turn: Counter[int] = Counter()
    received: Counter[Connection] = Counter()
    updated = Connection.buffer_updated

    def buffer_updated(connection: Connection, nbytes: int) -> None:
        received[connection] += nbytes
        in_a_turn[connection._server.turn_count] += 1
        assert nbytes <= SLOW_BYTES_MIN
        updated(connection, nbytes)
        if answers:
            connection._server.turn.writes(connection)

    async def run() -> None:
        settings = Settings(memory=True, port=0, http=False)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        clients = [await Client.connect(server) for _ in range(5)]
        for connection in server._connections:
            connection._slow_bytes = SLOW_BYTES_MIN
        monkeypatch.setattr(Connection, "buffer_updated", buffer_updated)
        for client in clients:
            client.writer.write(UNFINISHED)
        await until(lambda: len(received) == 5 and set(received.values()) == {len(UNFINISHED)})
        # In the first turn all five come at once, since nobody knew that they have something to say.
        assert sorted(in_a_turn.values())[-2] <= SLOW_CONNECTIONS_A_TURN
        monkeypatch.setattr(Connection, "buffer_updated", updated)

        work_seconds[0] = 0.0
        for client in clients:
            client.writer.write(bytes(4 * TURN_BYTES_MAX))
        await until(lambda: {connection._slow_bytes for connection in server._connections} == {0})
        for client in clients:
            client.writer.close()
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())
