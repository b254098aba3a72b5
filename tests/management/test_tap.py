"""Tapping a connection: its frames as they pass, over HTTP and by `pabal tap`, of a real broker and a real client."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import pytest
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import AMQPError, ChannelClosedByBroker

from broker_process import SOURCE, BrokerProcess
from clients.pika_client import cut, open_connection
from clients.raw_client import RawClient
from management.http_client import Api

SECONDS_MAX = 10.0


class Lines:
    """An answer of the tap, read on a thread: `got` grows."""

    def __init__(self, api: Api, name: str, query: str = "", accept: str = "*/*") -> None:
        self._connection = http.client.HTTPConnection(api.broker.host, api.port, timeout=30)
        path = f"/api/pabal/connections/{quote(name, safe='')}/tap?{query}"
        self._connection.request("GET", path, headers={**api.headers, "accept": accept})
        self.answer = self._connection.getresponse()
        self.got: list[str] = []
        self.over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while line := self.answer.readline():
            self.got.append(line.decode().rstrip("\n"))
        self.over = True

    def frames(self) -> list[str]:
        """Without the times."""
        return [line.partition(" ")[2] for line in self.got]

    def until(self, part: str) -> None:
        wait(lambda: any(part in line for line in self.got), lambda: f"{part!r} is missing in {self.got}")

    def until_over(self) -> None:
        wait(lambda: self.over, lambda: f"not over: {self.got}")


def wait(condition: Any, otherwise: Any = lambda: "in vain") -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)


def name_of(api: Api, own: str) -> str:
    found: list[str] = []

    def look() -> bool:
        rows = api.get("/connections").value
        found[:] = [row["name"] for row in rows if row["client_properties"].get("connection_name") == own]
        return bool(found)

    wait(look)
    return found[0]


@contextmanager
def client(broker: BrokerProcess, own: str) -> Iterator[BlockingConnection]:
    connection = open_connection(broker, client_properties={"connection_name": own})
    try:
        yield connection
    finally:
        if connection.is_open:
            with suppress(AMQPError):
                connection.close()


def test_what_passes(api: Api) -> None:
    with client(api.broker, "passes") as connection:
        channel = connection.channel()
        lines = Lines(api, name_of(api, "passes"))
        assert lines.answer.status == 200
        assert lines.answer.getheader("content-type") == "text/plain; charset=utf-8"
        lines.until("= open")
        channel.queue_declare("tapped")
        channel.basic_publish("", "tapped", b"top secret")
        channel.basic_get("tapped", auto_ack=True)
        lines.until("> 1 body")
        connection.close()
        lines.until_over()
    assert lines.frames() == [
        "= open",
        "< 1 queue.declare queue='tapped' passive=False durable=False exclusive=False auto_delete=False "
        "no_wait=False arguments={}",
        "> 1 queue.declare-ok queue='tapped' message_count=0 consumer_count=0",
        "< 1 basic.publish exchange='' routing_key='tapped' mandatory=False immediate=False",
        "< 1 header of a body of 10 bytes",
        "< 1 body 10 bytes",
        "< 1 basic.get queue='tapped' no_ack=True",
        "> 1 basic.get-ok delivery_tag=1 redelivered=False exchange='' routing_key='tapped' message_count=0",
        "> 1 header of a body of 10 bytes",
        "> 1 body 10 bytes",
        "< 1 channel.close reply_code=200 reply_text='Normal shutdown' class_id=0 method_id=0",
        "> 1 channel.close-ok",
        "< 0 connection.close reply_code=200 reply_text='Normal shutdown' class_id=0 method_id=0",
        "= closed by the client",
        "= closed",
        "> 0 connection.close-ok",
        "= end: the connection has ended",
    ]


def test_objects_bodies_and_a_selection(api: Api) -> None:
    with client(api.broker, "selected") as connection:
        channel = connection.channel()
        channel.queue_declare("selected")
        lines = Lines(api, name_of(api, "selected"), "only=publish,state&channel=1&bodies=3", "application/json, */*")
        assert lines.answer.getheader("content-type") == "application/x-ndjson"
        lines.until('"open"')
        channel.basic_publish("", "selected", b"secret")
        channel.basic_get("selected", auto_ack=True)
        lines.until("body 6 bytes")
        cut(connection)
        lines.until_over()
    told = [json.loads(line) for line in lines.got]
    assert all(len(line.pop("time")) == len("2026-01-02T03:04:05.678Z") for line in told)
    assert told == [
        {"kind": "state", "text": "open"},
        {
            "kind": "received",
            "channel": 1,
            "frame": "basic.publish",
            "text": "basic.publish exchange='' routing_key='selected' mandatory=False immediate=False",
        },
        {"kind": "received", "channel": 1, "frame": "header", "text": "header of a body of 6 bytes"},
        {"kind": "received", "channel": 1, "frame": "body", "text": "body 6 bytes 'sec'…"},
        {"kind": "state", "text": "closed by the client without saying so"},
        {"kind": "state", "text": "closed"},
        {"kind": "end", "text": "the connection has ended"},
    ]


def test_from_before_the_handshake_without_the_password(api: Api) -> None:
    with RawClient(api.broker.host, api.broker.port) as raw:
        wait(lambda: any(not row["user"] for row in api.get("/connections").value))
        name = next(row["name"] for row in api.get("/connections").value if not row["user"])
        lines = Lines(api, name, "bodies=100")
        lines.until("= header")
        raw.handshake()
        raw.close_connection()
        lines.until_over()
    assert lines.frames()[1] == "< protocol header 0-0-9-1"
    assert any(line.startswith("> 0 connection.start version_major=0") for line in lines.frames())
    assert "= opened vhost '/' as user 'guest'" in lines.frames()
    assert not [line for line in lines.got if "\\x00guest" in line or "'guest\\x00" in line]


def test_who_may(api: Api) -> None:
    api.put("/users/looks", {"password": "p", "tags": "monitoring"})
    api.put("/users/is", {"password": "p", "tags": "management"})
    with client(api.broker, "who may"):
        name = name_of(api, "who may")
        monitor, user = Api(api.broker, "looks", "p"), Api(api.broker, "is", "p")
        path = f"/pabal/connections/{quote(name, safe='')}/tap"
        assert user.get(path).status == 401
        refused = monitor.get(f"{path}?bodies=1")
        assert (refused.status, refused.value["reason"]) == (401, "Not administrator user")
        assert Lines(monitor, name).answer.status == 200
        assert Lines(api, name, "bodies=1").answer.status == 200
        assert (
            api.get(f"{path}?only=publish,nonsense").value["reason"]
            == "there is nothing called 'nonsense' to be shown"
        )
        for query in ("bodies=-1", "bodies=65537", "bodies=x", "channel=x", "channel=65536"):
            assert api.get(f"{path}?{query}").status == 400, query
        assert api.call("HEAD", path).status == 200
        assert api.get("/pabal/connections/nobody/tap").status == 404


def test_it_ends_for_who_may_no_more(api: Api) -> None:
    api.put("/users/deleted", {"password": "p", "tags": "monitoring"})
    api.put("/users/lowered", {"password": "p", "tags": "administrator"})
    with client(api.broker, "watched"):
        name = name_of(api, "watched")
        deleted = Lines(Api(api.broker, "deleted", "p"), name)
        lowered = Lines(Api(api.broker, "lowered", "p"), name)
        bodies = Lines(Api(api.broker, "lowered", "p"), name, "bodies=9")
        api.put("/users/lowered", {"password": "p", "tags": "monitoring"})
        api.call("DELETE", "/users/deleted")
        for lines in (deleted, bodies):
            lines.until("= end: you may not see this any more")
            lines.until_over()
        assert not lowered.over, "without bodies it is for who may monitor"


def test_an_error_is_marked(api: Api) -> None:
    with client(api.broker, "errs") as connection:
        channel = connection.channel()
        lines = Lines(api, name_of(api, "errs"), "only=ack")
        with pytest.raises(ChannelClosedByBroker):
            channel.queue_purge("missing")
        lines.until("! channel 1 closed: NOT_FOUND - no queue 'missing' in vhost '/'")
    assert lines.frames()[0][0] == "!" and not [line for line in lines.frames() if line[0] in "<>"]


def test_a_reader_that_does_not_read_holds_nobody_up(own_broker: BrokerProcess) -> None:
    """The connection goes on, the broker's memory does not grow, and what was left out is told."""
    api = Api(own_broker)
    with client(own_broker, "busy") as connection:
        channel = connection.channel()
        name = name_of(api, "busy")
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((own_broker.host, api.port))
        head = f"GET /api/pabal/connections/{quote(name, safe='')}/tap?bodies=60000 HTTP/1.1\r\nhost: x\r\n"
        slow.sendall(f"{head}authorization: {api.headers['authorization']}\r\n\r\n".encode())
        wait(lambda: b"200 OK" in slow.recv(100, socket.MSG_PEEK))
        quick = Lines(api, name, "only=ack")
        before = resident_bytes(own_broker.pid)
        for _ in range(2000):
            channel.basic_publish("", "nowhere", b"x" * 60_000)  # 120 MB to show
        channel.queue_declare("still served")
        assert resident_bytes(own_broker.pid) - before < 30_000_000
        shown = b""
        slow.settimeout(SECONDS_MAX)
        while b"left out" not in shown[-4096:]:
            shown = shown[-4096:] + slow.recv(65_536)
        slow.close()
        connection.close()
        quick.until_over()


def test_very_much_is_counted_instead(own_broker: BrokerProcess) -> None:
    api = Api(own_broker)
    with client(own_broker, "much") as connection:
        channel = connection.channel()
        lines = Lines(api, name_of(api, "much"), "only=publish")
        for _ in range(10_000):
            channel.basic_publish("", "nowhere", b"x")
        channel.queue_declare("done")
        connection.close()
        lines.until_over()
    left_out = sum(int(line.split()[1]) for line in lines.frames() if "left out" in line)
    frames = [line for line in lines.frames() if line[0] in "<>"]
    publish, header, body = (
        "< 1 basic.publish exchange='' routing_key='nowhere' mandatory=False immediate=False",
        "< 1 header of a body of 1 bytes",
        "< 1 body 1 bytes",
    )
    assert set(frames) == {publish, header, body}, "after something is left out a frame begins where one does"
    seen = frames.count(publish) * 26 + frames.count(header) * 22 + frames.count(body) * 9
    assert left_out > 0 and 0.95 < (seen + left_out) / (10_000 * (26 + 22 + 9)) < 1.05
    assert lines.frames()[-1] == "= end: the connection has ended"


def test_who_goes_away_takes_the_tap_off(own_broker: BrokerProcess) -> None:
    """There may be 32 taps at once, so more than that one after the other show that none is left."""
    api = Api(own_broker)
    with client(own_broker, "visited"):
        name = name_of(api, "visited")
        for _ in range(80):
            visitor = Lines(api, name)
            assert visitor.answer.status == 200, "no room for another tap"
            visitor.until("= open")
            visitor.answer.fp.raw._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            visitor.until_over()
        taps = [Lines(api, name) for _ in range(33)]
        wait(lambda: [tap.answer.status for tap in taps].count(200) == 32)
        assert taps[-1].answer.status == 503
        own_broker.stop()
        for tap in taps[:-1]:
            tap.until("= end: the broker stops")


# --- pabal tap -----------------------------------------------------------------------------------------------


def start_command(api: Api, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "PYTHONUNBUFFERED": "1",
        "PABAL_URL": f"http://guest:guest@{api.broker.host}:{api.port}",
    }
    command = [sys.executable, "-m", "pabal", "tap", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(command: subprocess.Popen[str]) -> str:
    assert command.stdout is not None
    return command.stdout.readline()


def test_the_command(own_broker: BrokerProcess) -> None:
    api = Api(own_broker)
    none = start_command(api)
    assert none.communicate(timeout=20)[1].strip() == "pabal: there is no connection" and none.returncode == 1
    with client(own_broker, "one") as one:
        alone = start_command(api)  # needs no name
        assert first_line(alone).endswith(" = open\n")
        with client(own_broker, "two"):
            which = start_command(api)
            said = which.communicate(timeout=20)[1]
            assert which.returncode == 2 and "2 connections are there: which one?" in said
            assert name_of(api, "one") in said and name_of(api, "two") in said
            by_prefix = start_command(api, "--json", name_of(api, "two").partition(" ")[0])
            assert json.loads(first_line(by_prefix))["text"] == "open"
            wrong = start_command(api, "one", "--only", "nonsense")
            assert "nothing called 'nonsense'" in wrong.communicate(timeout=20)[1] and wrong.returncode == 1
        one.close()
        assert alone.communicate(timeout=20)[0].endswith(" = the connection has ended\n") and alone.returncode == 0
        told = by_prefix.communicate(timeout=20)[0].splitlines()
        assert json.loads(told[-1])["kind"] == "end" and by_prefix.returncode == 0


def test_the_command_says_when_the_broker_is_gone(own_broker: BrokerProcess) -> None:
    api = Api(own_broker)
    with client(own_broker, "killed"):
        command = start_command(api, "killed")
        first_line(command)
        own_broker.kill()
        said = command.communicate(timeout=20)[1]
    assert command.returncode == 3 and "ended before the connection did" in said


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096
