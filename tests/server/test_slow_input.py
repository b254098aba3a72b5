"""Connections whose bytes are much work are read in slices, few of them a turn, and all of them to the end."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from pathlib import Path

import pytest
import trustme
from pika import spec
from test_internal_errors import HEADER, Client, until

from broker_process import free_port
from clients.raw_client import RawClient
from pabal.model.limits import (
    BULK_SECONDS,
    BUSY_SECONDS,
    CROWD_MIN,
    CROWD_MS,
    HEAVY_SECONDS,
    HEAVY_SECONDS_MAX,
    HEAVY_SHARE,
    LIGHT_SECONDS,
    SLOW_BYTES_FIRST,
    SLOW_BYTES_MIN,
    SLOW_SECONDS,
    STRANGERS_SECONDS,
    STRANGERS_SECONDS_CROWD,
    TURN_BYTES_MAX,
)
from pabal.model.message import Envelope
from pabal.server import connection as module
from pabal.server import pace
from pabal.server.connection import Connection
from pabal.server.open_store import open_store
from pabal.server.pace import Pace, Slices
from pabal.server.server import Server
from pabal.server.settings import Settings
from pabal.server.tls_connection import TlsConnection

UNFINISHED = b"\x01\x00\x00\x00\x01\x00\x00" + bytes(60_000)
"""The beginning of a frame: to be received, and nothing to be done with it."""
CLIENTS = 5


@pytest.mark.parametrize("answers", [False, True])
def test_work_is_shared_out(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    """`answers`: there is something to be sent after each piece, as mostly."""
    clock = [0.0]
    work_seconds = [0.05]

    def thread_time() -> float:
        clock[0] += work_seconds[0]
        return clock[0]

    monkeypatch.setattr(pace, "CROWD_MIN", 1000)
    monkeypatch.setattr(pace, "thread_time", thread_time)
    monkeypatch.setattr(pace, "perf_counter", lambda: thread_time())
    monkeypatch.setattr(module, "perf_counter", pace.perf_counter)
    in_a_turn: Counter[int] = Counter()
    taken: Counter[Connection] = Counter()
    take = Connection._take

    def slowly(connection: Connection, data: bytes) -> None:
        taken[connection] += len(data)
        in_a_turn[connection._server.turn_count] += 1
        assert len(data) <= SLOW_BYTES_FIRST
        take(connection, data)
        if answers:
            connection._server.turn.writes(connection)

    async def run() -> None:
        settings = Settings(memory=True, port=0, http=False)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        clients = [await Client.connect(server) for _ in range(CLIENTS)]
        monkeypatch.setattr(Connection, "_take", slowly)
        for client in clients:
            client.writer.write(UNFINISHED)
        await until(lambda: len(taken) == CLIENTS and set(taken.values()) == {len(UNFINISHED)})
        assert set(in_a_turn.values()) == {1}
        assert {connection._pace.slice_bytes for connection in server._connections} == {SLOW_BYTES_MIN}
        monkeypatch.setattr(Connection, "_take", take)

        work_seconds[0] = 0.0
        for client in clients:
            client.writer.write(bytes(4 * TURN_BYTES_MAX))
        await until(lambda: {connection._pace.slice_bytes for connection in server._connections} == {0})
        for client in clients:
            client.writer.close()
        await until(lambda: not server._connections)
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())


def test_what_was_received_before_the_end_is_acted_on_when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait for their slice, and are gone by then."""
    monkeypatch.setattr(Slices, "did", lambda slices, *_: setattr(slices, "spent", True))
    taken: list[bytes] = []
    take = Connection._take

    def noted(connection: Connection, data: bytes) -> None:
        taken.append(data)
        take(connection, data)

    monkeypatch.setattr(Connection, "_take", noted)

    async def run() -> None:
        settings = Settings(memory=True, port=0, http=False)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        clients = [await Client.connect(server) for _ in range(CLIENTS)]
        taken.clear()
        [connection, *_] = server._connections
        connection._wait_for_slice()
        connection._unread = b"the last words"
        connection.abort()
        await until(lambda: connection not in server._connections)
        assert taken == [b"the last words"]
        for client in clients:
            client.writer.close()
        await until(lambda: not server._connections)
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())


def consume(port: int) -> RawClient:
    """A consumer of the queue q for which handing over is settling."""
    client = RawClient("127.0.0.1", port)
    client.handshake()
    client.open_channel(1)
    client.send(1, spec.Queue.Declare(queue="q"))
    client.expect(spec.Queue.DeclareOk)
    client.send(1, spec.Basic.Consume(queue="q", no_ack=True))
    client.expect(spec.Basic.ConsumeOk)
    return client


def test_who_is_gone_is_handed_nothing_while_its_end_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        settings = Settings(memory=True, port=0, http=False)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        client = await asyncio.get_running_loop().run_in_executor(None, consume, server.listeners.all[0].port)
        [connection] = server._connections
        vhost = server.broker.vhosts["/"]
        with monkeypatch.context() as nobody_is_served:
            nobody_is_served.setattr(Slices, "serve", lambda *_: False)
            connection._wait_for_slice()
            client.socket.close()
            connection.abort()
            await until(lambda: connection._lost)
            assert server.ending == 1
            server.begin_turn()
            vhost.publish(Envelope("", "q", False, None, server._container), [b"kept"], 4)
            await until(lambda: not server.in_turn)
            assert vhost.queues["q"].ready == 1
        server.begin_turn()
        await until(lambda: not server._connections)
        assert server.ending == 0
        assert vhost.queues["q"].ready == 1
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())


def test_a_tls_handshake_waits_and_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Strangers have always had their part of the turn."""
    monkeypatch.setattr(Slices, "did", lambda slices, *_: setattr(slices, "spent", True))
    waited: list[object] = []
    wait = Slices.wait

    def noted(slices: Slices, connection: TlsConnection, stranger: bool) -> None:
        waited.append(connection)
        wait(slices, connection, stranger)

    monkeypatch.setattr(Slices, "wait", noted)
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def run() -> None:
        port = free_port()
        settings = Settings(memory=True, port=0, http=False, tls_certificate=str(certificate), tls_port=port)
        server = Server(settings, open_store(settings), logging.getLogger("pabal"))
        await server.start()
        server.slices.spent = True
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost"
            )
            writer.write(HEADER)
            assert (await reader.readexactly(1)) == b"\x01"
        assert any(isinstance(each, TlsConnection) for each in waited)
        writer.close()
        await until(lambda: not server._connections)
        server.stop("the test is over")
        await server._shut_down()

    asyncio.run(run())


def measured_pace() -> Pace:
    """Of a connection that is measured by the processor's time."""
    measured = Pace()
    measured.weigh(1, 1.0, True, 0)
    return measured


def test_a_slice_is_worth_so_much_work() -> None:
    slow = Pace()
    slow.weigh(1024, SLOW_SECONDS, True, 0)
    assert slow.slice_bytes == 512
    slow.weigh(100, SLOW_SECONDS / 100, True, 0)
    assert slow.slice_bytes == 512, "less than a slice shows nothing"
    slow.weigh(512, SLOW_SECONDS / 100, False, 0)
    assert slow.slice_bytes == 512, "nor what nothing was done with"
    slow.weigh(512, SLOW_SECONDS / 100, True, 0)
    assert slow.slice_bytes == 1024


def test_small_work_is_not_weighed() -> None:
    known = Pace()
    assert known.asks(SLOW_BYTES_FIRST, 0.0), "a whole slice: it may get a larger one"
    assert not known.asks(100, LIGHT_SECONDS / 2)
    assert known.asks(100, LIGHT_SECONDS * 2)


def test_who_sends_much_is_not_slow_for_that() -> None:
    busy = measured_pace()
    busy.slice_bytes = 0
    busy.weigh(100_000, BUSY_SECONDS / 2, True, 0)
    assert busy.slice_bytes == 0
    busy.weigh(100_000, BUSY_SECONDS, True, 0)
    assert (busy.slice_bytes, busy.heavy) == (50_000, False)


def test_who_gives_much_work_is_heavy_for_a_while() -> None:
    client = Pace()
    client.weigh(100, 4 * HEAVY_SECONDS, True, 0)
    assert not client.heavy, "another process may have run: it is measured by the processor's time from now on"
    now_ms = 0
    for _ in range(2000):
        now_ms += 1
        client.weigh(100, LIGHT_SECONDS + HEAVY_SHARE / 10_000, True, now_ms * 5)
        assert not client.heavy
    now_ms *= 5
    client.weigh(100, 4 * HEAVY_SECONDS, True, now_ms)
    assert client.heavy
    client.weigh(100, 0.0, True, now_ms + int(1000 * 2 * HEAVY_SECONDS / HEAVY_SHARE))
    assert client.heavy
    client.weigh(100, 0.0, True, now_ms + int(1000 * 5 * HEAVY_SECONDS / HEAVY_SHARE))
    assert not client.heavy


def test_cheap_requests_in_between_hide_nothing() -> None:
    client = Pace()
    for now_ms in range(0, 20, 2):
        client.weigh(100, 4 * HEAVY_SECONDS, True, now_ms)
        client.weigh(8, 0.0, True, now_ms + 1)
    assert client.heavy


def test_the_heavy_are_forgiven() -> None:
    client = measured_pace()
    client.weigh(100, 60.0, True, 0)
    assert client.heavy
    client.weigh(100, 0.0, True, int(1000 * HEAVY_SECONDS_MAX / HEAVY_SHARE))
    assert not client.heavy


class Standing:
    """Waits in a line; `work`: bytes and seconds that its slice takes."""

    def __init__(self, slices: Slices, served: list[str], name: str, nbytes: int, seconds: float) -> None:
        self.slices, self.served, self.name, self.work = slices, served, name, (nbytes, seconds)

    def next_slice(self) -> None:
        self.served.append(self.name)
        self.slices.did(*self.work, self.name.startswith("stranger"))


def test_strangers_and_the_others_wait_in_lines_of_their_own() -> None:
    """However many strangers there are, who sends much waits only for those that do so too."""
    served: list[str] = []
    slices = Slices(lambda: None)
    for number in range(20):
        slices.wait(Standing(slices, served, f"stranger {number}", 100, 2 * STRANGERS_SECONDS), stranger=True)
    for number in range(2):
        slices.wait(Standing(slices, served, f"other {number}", 10**6, 2 * BULK_SECONDS), stranger=False)
    assert slices.waiting == 22
    assert slices.serve(0)
    assert served == ["stranger 0", "other 0"]
    assert slices.serve(1)
    assert served[2:] == ["stranger 1", "other 1"]
    while slices.serve(2):
        pass
    assert len(served) == 22


def test_turns_are_shorter_for_a_while_when_there_is_a_crowd() -> None:
    slices = Slices(lambda: None)
    slices.serve(CROWD_MS)
    few = [Pace() for _ in range(CROWD_MIN - 1)]
    for one in few * 3:
        slices.did(100, STRANGERS_SECONDS, True, one)
    assert not slices.crowded, "the same few"
    slices.serve(CROWD_MS)
    slices.did(10**6, BULK_SECONDS / 2, False, Pace())
    assert not slices.full
    slices.did(100, STRANGERS_SECONDS_CROWD, True, Pace())
    assert slices.crowded
    slices.serve(CROWD_MS)
    slices.did(10**6, BULK_SECONDS / 2, False)
    assert slices.full
    slices.did(100, STRANGERS_SECONDS_CROWD * 1.5, True)
    assert slices.spent
    slices.serve(2 * CROWD_MS)
    assert slices.crowded, "until the end of the next period"
    slices.serve(3 * CROWD_MS)
    assert not slices.crowded


def test_in_a_crowd_slices_are_worth_half_as_much() -> None:
    slow = measured_pace()
    slow.slice_bytes = 1024
    slow.weigh(1024, SLOW_SECONDS / 2, True, 0)
    assert slow.slice_bytes == 1024
    slow.weigh(1024, SLOW_SECONDS / 2, True, 0, crowded=True)
    assert slow.slice_bytes == 512
