"""An error of ours while one connection is served ends that connection, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pabal.model.errors import StoreError
from pabal.server.connection import Connection
from pabal.server.open_store import open_store
from pabal.server.server import Server
from pabal.server.settings import Settings

HEADER = b"AMQP\x00\x00\x09\x01"
DEADLINE_SECONDS = 10


class Breaking:
    """A session of which one method fails, the first time it is called."""

    def __init__(self, session: Any, method: str, error: Exception) -> None:
        self.session = session
        self._broken = method
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name != self._broken:
            return getattr(self.session, name)
        self._broken = ""

        def fail(*_: object) -> None:
            raise self._error

        return fail


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: Server) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", server.listeners.all[0].port))
        client.writer.write(HEADER)
        await client.reader.readexactly(7)
        return client


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not true():
            await asyncio.sleep(0.01)


async def break_one(server: Server, method: str, error: Exception) -> tuple[Client, Connection, Breaking]:
    client = await Client.connect(server)
    [connection] = server._connections
    breaking = Breaking(connection.session, method, error)
    connection.session = breaking  # type: ignore[assignment]
    return client, connection, breaking


def serve(act: Callable[[Server], Any]) -> Server:
    """Runs `act` against a server; its connections are to be gone afterwards. The server then."""

    async def run() -> Server:
        settings = Settings(memory=True, port=0)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        try:
            await act(server)
            await until(lambda: server.failure or not server._connections)
        finally:
            server.stop("the test is over")
            await server._shut_down()
        return server

    return asyncio.run(run())


def test_a_tick_that_fails_ends_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def act(server: Server) -> None:
        client, _, _ = await break_one(server, "tick", RuntimeError("planted"))
        other = await Client.connect(server)
        await until(lambda: client.reader.at_eof() or client.reader._buffer)  # type: ignore[attr-defined]
        async with asyncio.timeout(DEADLINE_SECONDS):
            await client.reader.read()
        ticked = server._ticked_ms
        await until(lambda: server._ticked_ms > ticked)
        assert len(server._connections) == 1
        other.writer.close()

    assert serve(act).failure is None
    assert "planted" in caplog.text


def test_the_end_of_a_connection_that_fails_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def act(server: Server) -> None:
        client, _, breaking = await break_one(server, "connection_lost", RuntimeError("planted"))
        client.writer.close()
        await until(lambda: not server._connections)
        assert breaking.session.closed

    assert serve(act).failure is None
    assert "planted" in caplog.text


@pytest.mark.parametrize("method", ["tick", "connection_lost", "receive_data"])
def test_an_error_of_the_store_stops_the_broker(method: str) -> None:
    async def act(server: Server) -> None:
        client, _, _ = await break_one(server, method, StoreError("planted"))
        if method == "connection_lost":
            client.writer.close()
        elif method == "receive_data":
            client.writer.write(b"\x00")
        await until(lambda: server.failure)
        client.writer.close()

    assert str(serve(act).failure) == "planted"
