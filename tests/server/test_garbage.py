"""What connections leave behind is found, also when they lived long."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from test_internal_errors import until

from broker_process import free_port
from pabal.server import garbage
from pabal.server.connection import Connection
from pabal.server.garbage import Garbage
from pabal.server.open_store import open_store
from pabal.server.server import Server
from pabal.server.settings import Settings
from pabal.server.tls_connection import TlsConnection
from pabal.session.amqp091.connection import Amqp091Session
from robustness import peers as p


class Knot:
    """Something in a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Garbage]:
    thresholds = gc.get_threshold()
    collector = Garbage(0)
    collector.begin()
    yield collector
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_the_old_are_looked_through_when_there_may_be_many_and_not_often(collector: Garbage) -> None:
    gc.collect()
    knot = Knot()
    gc.collect(1)  # it is old now
    seen = weakref.ref(knot)
    del knot
    collector.tidy(garbage._BETWEEN_MS)
    assert seen() is not None, "hardly anything has become old"
    for _ in range(garbage._OLD_LOOKS_MIN):
        gc.collect(1)
    collector.tidy(garbage._BETWEEN_MS - 1)
    assert seen() is not None, "not yet"
    collector.tidy(garbage._BETWEEN_MS)
    assert seen() is None


@pytest.mark.parametrize("how", ["plain", "tls", "wrong password", "not AMQP", "half TLS"])
def test_a_connection_that_has_ended_is_gone_at_once(how: str, tmp_path: Path) -> None:
    """Whoever comes and goes all day long leaves nothing for the collector."""
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    opening = {"wrong password": p.start_ok("guest", "wrong"), "not AMQP": b"", "half TLS": b""}.get(
        how, p.start_ok() + p.tune_ok() + p.connection_open() + p.channel_open(1) + p.queue_declare(1, "q")
    )
    header = {"not AMQP": b"GET / HTTP/1.1\r\n\r\n", "half TLS": b"\x16\x03\x01\x02\x00"}.get(how, p.PROTOCOL_HEADER)

    async def visit(server: Server, tls_port: int) -> None:
        port = tls_port if how in ("tls", "half TLS") else server.listeners.all[0].port
        options = {"ssl": context, "server_hostname": "localhost"} if how == "tls" else {}
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        writer.write(header)
        if how != "half TLS":
            await reader.readexactly(8)
        writer.write(opening)
        await asyncio.sleep(0.2)
        writer.close()

    async def run() -> None:
        tls_port = free_port()
        settings = Settings(memory=True, port=0, http=False, tls_certificate=str(certificate), tls_port=tls_port)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        await visit(server, tls_port)  # what the first leaves for good
        await until(lambda: not server._connections)
        await asyncio.sleep(0.1)
        gc.collect()
        gc.disable()
        try:
            await visit(server, tls_port)
            await until(lambda: not server._connections)
            await asyncio.sleep(0.1)
            server.listeners.admission.tidy()
            kinds = (Connection, TlsConnection, Amqp091Session)
            left = [each for each in gc.get_objects() if isinstance(each, kinds)]
            assert not left, [gc.get_referrers(each) for each in left]
        finally:
            gc.enable()
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())
