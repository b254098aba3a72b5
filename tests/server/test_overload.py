"""When more waits for the disk than should, a thousand connections must not be read a quarter of a megabyte each."""

from __future__ import annotations

import asyncio
import logging

from test_internal_errors import Client, until

from pabal.model.limits import TURN_BYTES_OVERLOADED_MAX, UNSAVED_BYTES_MAX
from pabal.server.open_store import open_store
from pabal.server.server import Server
from pabal.server.settings import Settings

UNFINISHED = b"\x01\x00\x00\x00\x01\x00\x00" + bytes(50_000)
"""The beginning of a frame: to be received, and nothing to be done with it."""


def test_connections_give_little_while_the_disk_is_behind() -> None:
    async def run() -> None:
        settings = Settings(memory=True, port=0)
        store = open_store(settings)
        server = Server(settings, store, logging.getLogger("pabal"))
        await server.start()
        clients = [await Client.connect(server) for _ in range(3)]
        await until(lambda: not server.turn.committing and not server.in_turn)
        for connection in server._connections:
            connection._pace.slice_bytes = 0  # known to be little work
        store.journal.unsaved_bytes = UNSAVED_BYTES_MAX + 1
        for client in clients:
            client.writer.write(UNFINISHED)
        await until(lambda: len(server.after_commit) == len(clients))
        assert [c.last_bytes() for c in server._connections] == [TURN_BYTES_OVERLOADED_MAX] * len(clients)

        store.journal.unsaved_bytes = 0
        server._committed(lambda _: None, None)
        rest = len(UNFINISHED) - TURN_BYTES_OVERLOADED_MAX
        await until(lambda: [c.last_bytes() for c in server._connections] == [rest] * len(clients))
        assert not server.after_commit
        for client in clients:
            client.writer.close()
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())
