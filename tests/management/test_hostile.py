"""Clients that are slow, greedy or rude: each costs only itself."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from clients.raw_client import RawClient
from management.http_client import Api
from pabal.model import limits

SLOW_SECONDS = limits.HTTP_HEADER_SECONDS_MAX + 10


@contextlib.contextmanager
def connected(api: Api) -> Iterator[socket.socket]:
    with socket.create_connection((api.broker.host, api.port), timeout=SLOW_SECONDS) as client:
        yield client


def answer(client: socket.socket) -> bytes:
    """All until it is closed."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65_536):
            received += piece
    return received


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    head = f"PUT /api/queues/%2F/x HTTP/1.1\r\nHost: x\r\nAuthorization: {api.headers['authorization']}\r\n"
    with connected(api) as client:
        client.sendall(f"{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with contextlib.suppress(OSError):
            for _ in range(limits.HTTP_BODY_BYTES_MAX // 0x100000 + 2):
                client.sendall(piece)
            client.sendall(b"0\r\n\r\n")
        assert b"Exceeded HTTP request body size limit" in answer(client)
    assert api.get("/whoami").status == 200


def test_who_may_not_come_in_sends_no_body(api: Api) -> None:
    """It is answered before its body is read."""
    with connected(api) as client:
        client.sendall(b"POST /api/definitions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        client.settimeout(5)
        assert client.recv(65_536).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /api/whoami HTTP/1.1\r\nHost:",
        b"GET /api/" + b"x" * limits.HTTP_HEADER_BYTES_MAX + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
        b"AMQP\x00\x00\x09\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["silent", "half", "long line", "many headers", "amqp", "tls", "nul"],
)
def test_what_is_no_request_ends_in_time(api: Api, sent: bytes) -> None:
    with connected(api) as client:
        with contextlib.suppress(OSError):
            client.sendall(sent)
        began = time.monotonic()
        received = answer(client)
        assert time.monotonic() - began < SLOW_SECONDS
        assert not received or received.startswith(b"HTTP/1.1 4")
    assert api.get("/whoami").status == 200


def test_who_only_connects_keeps_nobody_out(api: Api) -> None:
    with contextlib.ExitStack() as crowd:
        for number in range(limits.HTTP_CONNECTIONS_MAX + 50):
            client = crowd.enter_context(connected(api))
            with contextlib.suppress(OSError):
                client.sendall(b"GET /api/who" if number % 2 else b"")
        began = time.monotonic()
        api.wait_until_ready()
        assert time.monotonic() - began < limits.HTTP_HEADER_SECONDS_MAX / 2
        for _ in range(20):
            assert api.get("/whoami").status == 200


def test_the_broker_serves_while_many_ask(api: Api) -> None:
    """Wrong passwords by the hundred, long lists: AMQP goes on."""
    api.put("/vhosts/many", {})
    for number in range(200):
        api.put(f"/queues/many/q{number}", {})
    intruder = Api(api.broker, "guest", "wrong")
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(intruder.get, "/overview") for _ in range(60)]
        asked += [pool.submit(api.get, "/queues/many") for _ in range(60)]
        slowest = 0.0
        while not all(each.done() for each in asked):
            began = time.monotonic()
            with RawClient(api.broker.host, api.broker.port) as client:
                client.start()
            slowest = max(slowest, time.monotonic() - began)
        replies = [each.result() for each in asked]
    assert {reply.status for reply in replies} == {200, 401}
    assert all(len(reply.value) == 200 for reply in replies if reply.status == 200)
    assert slowest < 2.0
    api.delete("/vhosts/many")


def test_paths_as_they_must_not_be(api: Api) -> None:
    for path in ("/%", "/%zz", "/..%2f..%2fetc", "/queues/%00", "/queues/%ff%fe", "/queues/%2F/" + "x" * 300):
        assert api.get(path).status == 404, path
    assert api.put("/queues/%2F/" + "x" * 256, {}).status == 400
    assert api.put("/queues/%2F/%ff", {}).status in (201, 204, 400)
    assert api.get("/definitions").status == 200
    api.delete("/queues/%2F/%ff")
    for bad in ("sort=%00", "sort=a.b.c.d", "columns=,,", "columns=a..b", "page=1&name=(&use_regex=true", "x"):
        assert api.get(f"/queues?{bad}").status in (200, 400), bad
    assert api.get("/nodes/x").status == 404
    assert api.get("/health/checks/port-listener/x").status == 400
    assert api.get(f"/health/checks/port-listener/{api.broker.port}").value == {
        "status": "ok",
        "port": api.broker.port,
    }
    assert api.get("/health/checks/protocol-listener/mqtt").status == 503
    assert api.get("/health/checks/certificate-expiration/1/weeks").value == {"status": "ok"}
    assert api.get("/health/checks/certificate-expiration/1/lustra").status == 400


def test_pages_elsewhere_may_not_ask_by_default(api: Api) -> None:
    headers = api.call("GET", "/whoami", origin="http://elsewhere.example").headers
    assert not any(name.startswith("access-control") for name in headers)


def test_a_search_that_never_ends_ends(api: Api) -> None:
    api.put("/queues/%2F/" + "a" * 60 + "!", {})
    began = time.monotonic()
    for name in ("(a%2B)%2B%24", "(a|aa)%2B%24"):
        assert api.get(f"/queues?page=1&use_regex=true&name={name}").value["items"] == []
    assert api.get("/queues?columns=" + ",".join(f"{n}.a" for n in range(8000))).status == 200
    assert time.monotonic() - began < 5
    api.delete("/queues/%2F/" + "a" * 60 + "!")


def test_pages_elsewhere_may_change_nothing(api: Api) -> None:
    """A form of any page can send text/plain, and the browser adds the password that it knows."""
    foreign: tuple[dict[str, str], ...] = (
        {"origin": "http://elsewhere.example"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1.elsewhere.example:{api.port}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    )
    for headers in foreign:
        reply = api.call(
            "POST", "/definitions", {"vhosts": [{"name": "forged"}]}, content_type="text/plain", **headers
        )
        assert reply.status == 403, headers
        assert api.call("DELETE", "/queues/%2F/none", **headers).status == 403
        assert api.call("GET", "/whoami", **headers).status == 200
    assert "forged" not in [vhost["name"] for vhost in api.get("/vhosts").value]
    for own in ({"origin": f"http://127.0.0.1:{api.port}"}, {"sec_fetch_site": "same-origin"}):
        assert api.call("POST", "/definitions", {}, **own).status == 204


def test_guest_does_not_come_by_a_name_that_others_may_give(api: Api) -> None:
    for host in ("elsewhere.example", f"elsewhere.example:{api.port}", "127.0.0.1.example", "elsewhere.example."):
        assert api.call("GET", "/whoami", host=host).status == 421, host
    for host in ("localhost", f"localhost:{api.port}", "[::1]:15672", "127.0.0.1", "broker", "mq.localhost", "["):
        assert api.call("GET", "/whoami", host=host).status == 200, host
    api.put("/users/anna", {"password": "secret", "tags": "management"})
    assert Api(api.broker, "anna", "secret").call("GET", "/whoami", host="elsewhere.example").status == 200
    api.delete("/users/anna")


def test_what_is_nested_too_deeply_or_too_large_a_number_is_refused(api: Api) -> None:
    deep: object = 1
    for _ in range(900):
        deep = {"a": deep}
    assert api.put("/global-parameters/deep", {"value": deep}).status == 400
    assert api.put("/policies/%2F/deep", {"pattern": deep, "definition": deep}).status == 400
    assert api.put("/users/deep", {"password": "x", "tags": ""}).status == 201
    assert api.put("/user-limits/deep/other", {"value": deep}).status == 400
    api.delete("/users/deep")
    assert api.post("/definitions", {"global_parameters": [{"name": "deep", "value": deep}]}).status == 400
    age = "9" * 4000
    assert api.get(f"/overview?lengths_age={age}&lengths_incr={age}").status == 200
    assert api.get("/definitions").status == 200


def test_names_with_any_character_have_a_path(api: Api) -> None:
    for name in ("a%0Ab", "a%0D%0Ab", "%2E%2E", "a%2Fb"):
        assert api.put(f"/queues/%2F/{name}", {}).status == 201, name
        assert api.get(f"/queues/%2F/{name}").status == 200, name
        assert api.delete(f"/queues/%2F/{name}").status == 204, name
    for method in ("PATCH", "TRACE", "get"):
        assert api.call(method, "/queues").status == 405


def test_a_body_of_millions_of_values_holds_nobody_up(api: Api) -> None:
    for body in (b'{"value":[' + b"[]," * 4_000_000 + b"1]}", b"[" * 1_000_000):
        began = time.monotonic()
        assert api.call("PUT", "/global-parameters/large", body).status == 400
        assert time.monotonic() - began < 2.0
    text = '{"a":[1,2,"\\"x"]},' * 100_000  # it is one value, whatever it looks like
    api.put("/queues/%2F/texts", {})
    assert api.publish("texts", text).value == {"routed": True}
    assert api.take("texts")[0]["payload"] == text
    api.delete("/queues/%2F/texts")


def test_a_request_with_two_ends_is_refused_and_nothing_after_it_read(api: Api) -> None:
    """Another request in its body, which a proxy let through as such (request smuggling)."""
    authorization = f"Host: localhost\r\nAuthorization: {api.headers['authorization']}\r\n"
    smuggled = f"GET /api/whoami HTTP/1.1\r\n{authorization}\r\n"
    ends = f"Content-Length: {5 + len(smuggled)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with connected(api) as client:
        client.sendall(f"POST /api/definitions HTTP/1.1\r\n{authorization}{ends}{smuggled}".encode())
        received = answer(client)
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1 ") == 1
